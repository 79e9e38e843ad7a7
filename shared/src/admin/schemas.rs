//! The schemas in `docs/schemas` are generated from the types, so the documents match the output.
//!
//! After an intended change, `LARDER_WRITE_SCHEMAS=1 cargo test -p larder-shared schemas` writes them anew. Fields may
//! be added; a field that scripts read must stay.

use std::{fs, path::Path};

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};

use super::{
    Acted, Blobs, ClusterStatus, Diagnosis, Explanation, Images, Layers, LogFilter, PulledImages,
    Status, TraceEvent, Upstreams, Verified,
};
use crate::{runtime::Report, warm::SetStatus};

fn schema<T: JsonSchema>() -> String {
    // The schema of what larder prints. A reader may also accept input that lacks fields.
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let schema = SchemaGenerator::new(settings).into_root_schema_for::<T>();
    let mut text = serde_json::to_string_pretty(&schema).expect("JSON");
    text.push('\n');
    text
}

#[test]
fn the_documented_schemas_are_those_of_the_types() {
    let schemas = [
        ("status", schema::<Status>()),
        ("peers", schema::<Option<ClusterStatus>>()),
        ("images", schema::<Images>()),
        ("blobs", schema::<Blobs>()),
        ("layers", schema::<Layers>()),
        ("upstreams", schema::<Upstreams>()),
        ("pull", schema::<PulledImages>()),
        ("acted", schema::<Acted>()),
        ("verify", schema::<Verified>()),
        ("explain", schema::<Explanation>()),
        ("trace", schema::<TraceEvent>()),
        ("doctor", schema::<Diagnosis>()),
        ("log", schema::<LogFilter>()),
        ("runtime", schema::<Report>()),
        ("warm", schema::<SetStatus>()),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas");
    for (name, schema) in schemas {
        let path = folder.join(format!("{name}.json"));
        if std::env::var_os("LARDER_WRITE_SCHEMAS").is_some() {
            fs::write(&path, &schema).expect("a schema");
        }
        let documented = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            documented == schema,
            "{} is not the schema of its type; see this test's module",
            path.display()
        );
    }
}
