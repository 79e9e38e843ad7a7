//! This node's labels: from the configuration, and from a file in the form of the downward API.

use std::collections::BTreeMap;

use crate::config::Warm;

/// A longer file does not hold labels.
const LONGEST: u64 = 256 << 10;

/// This node's labels (blocking). Those of the file take precedence. If the file cannot be read, returns the reason
/// too.
pub fn of_node(warm: &Warm) -> (BTreeMap<String, String>, Option<String>) {
    let mut labels = warm.labels.clone();
    let Some(file) = &warm.labels_file else {
        return (labels, None);
    };
    let read = std::fs::File::open(file).and_then(|file| {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(file, LONGEST), &mut text)?;
        Ok(text)
    });
    match read {
        Ok(text) => {
            labels.extend(parse(&text));
            (labels, None)
        }
        Err(error) => (labels, Some(format!("{}: {error}", file.display()))),
    }
}

/// `key="value"`, one per line. The value is quoted as Go does it.
fn parse(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (key, value) = line.split_once('=')?;
        // Labels contain no character that Go and JSON quote differently.
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.to_owned());
        Some((key.trim().to_owned(), value))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_the_file_go_before_those_of_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("labels");
        std::fs::write(&file, "pool=\"labs\"\na.b/c=\"\"\nplain=x\n\nnonsense\n").unwrap();
        let mut warm = Warm {
            labels: BTreeMap::from([("pool".into(), "base".into()), ("zone".into(), "1".into())]),
            labels_file: Some(file),
            ..Warm::default()
        };
        let (labels, trouble) = of_node(&warm);
        let labels: Vec<_> = labels
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            labels,
            [
                ("a.b/c", ""),
                ("plain", "x"),
                ("pool", "labs"),
                ("zone", "1")
            ]
        );
        assert_eq!(trouble, None);
        warm.labels_file = Some("/nowhere".into());
        let (labels, trouble) = of_node(&warm);
        assert_eq!(labels["pool"], "base");
        assert!(trouble.is_some());
    }
}
