//! `docs/schemas`: the JSON on which scripts may rely.

use std::path::Path;

use serde_json::Value;

/// Panics, naming the place, unless the JSON matches `docs/schemas/NAME.json`.
pub fn assert_schema(json: &Value, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas");
    let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).expect("a schema");
    let schema: Value = serde_json::from_str(&text).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a valid schema");
    let errors: Vec<_> = validator
        .iter_errors(json)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}\n{json:#}");
}
