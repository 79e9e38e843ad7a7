//! Translates a configuration of Cachemachine to a warm set of larder.

use std::collections::BTreeMap;

use larder_shared::RegistryName;
use serde::Deserialize;

/// The file of one set, as Cachemachine reads it.
#[derive(Deserialize, Debug)]
struct Cache {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    repomen: Vec<Repoman>,
}

#[derive(Deserialize, Debug)]
#[serde(tag = "type")]
enum Repoman {
    RubinRepoMan {
        #[serde(default = "docker_hub")]
        registry_url: String,
        repo: String,
        #[serde(flatten)]
        rubin: Rubin,
    },
    RubinRepoGar {
        registry_url: String,
        project_id: String,
        gar_repository: String,
        gar_image: String,
        #[serde(flatten)]
        rubin: Rubin,
    },
    SimpleRepoMan {
        images: Vec<Simple>,
    },
}

#[derive(Deserialize, Debug)]
struct Rubin {
    recommended_tag: String,
    num_releases: u32,
    num_weeklies: u32,
    num_dailies: u32,
    #[serde(default)]
    cycle: Option<u32>,
    #[serde(default)]
    alias_tags: Vec<String>,
}

#[derive(Deserialize, Debug)]
struct Simple {
    image_url: String,
}

/// The registry that Cachemachine uses if none is named.
fn docker_hub() -> String {
    "registry.hub.docker.com".to_owned()
}

/// The TOML for a file of Cachemachine, which holds an object or a list of them.
pub fn to_toml(text: &str) -> Result<String, String> {
    let said: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("this is not JSON: {error}"))?;
    let caches = match said {
        serde_json::Value::Array(caches) => caches,
        cache => vec![cache],
    };
    let mut toml = String::new();
    for cache in caches {
        let cache: Cache = serde_json::from_value(cache).map_err(|error| {
            format!(
                "this is not a configuration of Cachemachine, with `name` and `repomen`: {error}"
            )
        })?;
        if !toml.is_empty() {
            toml.push('\n');
        }
        toml.push_str(&set(&cache));
    }
    Ok(toml)
}

fn set(cache: &Cache) -> String {
    let name = quoted(&cache.name);
    let mut lines = vec![format!("[warm.sets.{name}]")];
    if !cache.labels.is_empty() {
        let labels = cache.labels.iter();
        let labels = labels.map(|(key, value)| format!("{} = {}", quoted(key), quoted(value)));
        lines.push(format!("nodes = {{ {} }}", joined(labels)));
    }
    for repoman in &cache.repomen {
        lines.push(format!("[[warm.sets.{name}.from]]"));
        match repoman {
            Repoman::RubinRepoMan {
                registry_url,
                repo,
                rubin,
            } => {
                lines.push(repository(registry_url, repo));
                lines.extend(chosen(rubin));
            }
            Repoman::RubinRepoGar {
                registry_url,
                project_id,
                gar_repository,
                gar_image,
                rubin,
            } => {
                let repo = format!("{project_id}/{gar_repository}/{gar_image}");
                lines.push(repository(registry_url, &repo));
                lines.extend(chosen(rubin));
            }
            Repoman::SimpleRepoMan { images } => {
                let images = images.iter().map(|image| quoted(&image.image_url));
                lines.push(format!("images = [{}]", joined(images)));
            }
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Docker Hub has a single name in larder.
fn repository(registry: &str, repo: &str) -> String {
    let registry = match registry {
        "registry.hub.docker.com" | "hub.docker.com" => "docker.io",
        other => other,
    };
    let known = registry.parse::<RegistryName>();
    let registry = known.map_or_else(|_| registry.to_owned(), |name| name.to_string());
    format!("repository = {}", quoted(&format!("{registry}/{repo}")))
}

fn chosen(rubin: &Rubin) -> Vec<String> {
    let mut tags = vec![&rubin.recommended_tag];
    for alias in &rubin.alias_tags {
        if !tags.contains(&alias) {
            tags.push(alias);
        }
    }
    // Tags of a cycle end with the cycle and a build.
    let cycle = match rubin.cycle {
        Some(cycle) => format!("_c{cycle:04}.#"),
        None => String::new(),
    };
    let rules = [
        ("r#_#_#", rubin.num_releases),
        ("w_#_#", rubin.num_weeklies),
        ("d_#_#_#", rubin.num_dailies),
    ];
    let rules = rules.iter().filter(|(_, count)| *count > 0);
    let rules = rules.map(|(pattern, count)| {
        let pattern = quoted(&format!("{pattern}{cycle}"));
        format!("{{ match = {pattern}, count = {count} }}")
    });
    let tags = tags.iter().map(|tag| quoted(tag));
    let mut lines = vec![format!("tags = [{}]", joined(tags))];
    let rules = joined(rules);
    if !rules.is_empty() {
        lines.push(format!("newest = [{rules}]"));
    }
    lines
}

fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, WarmSource};

    /// The example of Cachemachine's own documentation.
    const JUPYTER: &str = r#"{"name": "jupyter", "labels": {"pool": "labs"}, "repomen": [
        {"type": "RubinRepoMan", "repo": "lsstsqre/sciplat-lab", "recommended_tag": "recommended",
         "num_releases": 1, "num_weeklies": 2, "num_dailies": 0, "cycle": 20, "alias_tags": ["latest", "recommended"]},
        {"type": "RubinRepoGar", "registry_url": "us-central1-docker.pkg.dev", "project_id": "rubin",
         "location": "us-central1", "gar_repository": "sciplat", "gar_image": "sciplat-lab",
         "recommended_tag": "recommended", "num_releases": 1, "num_weeklies": 2, "num_dailies": 3},
        {"type": "SimpleRepoMan", "images": [{"name": "W", "image_url": "r.io/a:w_2023_07"}]}]}"#;

    #[test]
    fn a_file_of_cachemachine_becomes_a_set_that_can_be_read() {
        let toml = to_toml(JUPYTER).expect("TOML");
        assert_eq!(
            toml,
            r#"[warm.sets."jupyter"]
nodes = { "pool" = "labs" }
[[warm.sets."jupyter".from]]
repository = "docker.io/lsstsqre/sciplat-lab"
tags = ["recommended", "latest"]
newest = [{ match = "r#_#_#_c0020.#", count = 1 }, { match = "w_#_#_c0020.#", count = 2 }]
[[warm.sets."jupyter".from]]
repository = "us-central1-docker.pkg.dev/rubin/sciplat/sciplat-lab"
tags = ["recommended"]
newest = [{ match = "r#_#_#", count = 1 }, { match = "w_#_#", count = 2 }, { match = "d_#_#_#", count = 3 }]
[[warm.sets."jupyter".from]]
images = ["r.io/a:w_2023_07"]
"#
        );
        let config = Config::parse(&toml, Path::new("larder.toml")).expect("a configuration");
        let (name, set) = &config.warm.sets[0];
        assert_eq!((name.as_str(), set.from.len()), ("jupyter", 3));
        assert!(matches!(&set.from[2], WarmSource::Images(images) if images.len() == 1));
        let two = format!("[{JUPYTER}, {}]", JUPYTER.replace("jupyter", "other"));
        let config = Config::parse(&to_toml(&two).expect("TOML"), Path::new("larder.toml"));
        assert_eq!(config.expect("a configuration").warm.sets.len(), 2);
    }

    #[test]
    fn what_is_no_file_of_cachemachine_is_refused() {
        for (text, why) in [
            ("{", "not JSON"),
            ("{}", "missing field `name`"),
            (
                r#"{"name": "a", "repomen": [{"type": "Other"}]}"#,
                "unknown variant `Other`",
            ),
        ] {
            let error = to_toml(text).expect_err(text);
            assert!(error.contains(why), "{error}");
        }
    }
}
