//! `[warm]` and its sets.

use std::collections::BTreeMap;

use larder_shared::RegistryName;

use super::{Page, quoted, said};
use crate::config::value::{Amount, time_text};
use crate::config::warm::LIST_BY;
use crate::config::{FromRepository, Newest, Warm, WarmSet, WarmSource};

impl Page {
    pub(super) fn warm(&mut self, warm: &Warm) {
        self.section("warm");
        self.text("refresh", time_text(warm.refresh));
        self.text("path", &warm.path);
        self.line(format_args!("expose = {}", warm.expose));
        self.text("max_size", warm.max_size);
        if let Some(rate) = warm.max_rate {
            self.text("max_rate", Amount::Bytes(rate));
        }
        self.line(format_args!("at_once = {}", warm.at_once));
        self.line(format_args!("labels = {}", table(&warm.labels)));
        if let Some(file) = &warm.labels_file {
            self.text("labels_file", file.display());
        }
        for (name, set) in &warm.sets {
            self.section(&format!("warm.sets.{}", quoted(name)));
            self.warm_set(set);
        }
    }

    fn warm_set(&mut self, set: &WarmSet) {
        self.line(format_args!("nodes = {}", table(&set.nodes)));
        self.list("platforms", set.platforms.iter());
        self.text("keep", time_text(set.keep));
        if let Some(size) = set.max_size {
            self.text("max_size", size);
        }
        let sources: Vec<_> = set.from.iter().map(source).collect();
        self.line(format_args!("from = [{}]", sources.join(", ")));
    }
}

fn table(words: &BTreeMap<String, String>) -> String {
    let words = words
        .iter()
        .map(|(key, value)| format!("{} = {}", quoted(key), quoted(value)));
    format!("{{ {} }}", words.collect::<Vec<_>>().join(", "))
}

fn list(key: &str, values: impl Iterator<Item = String>) -> String {
    let values: Vec<_> = values.map(quoted).collect();
    format!("{key} = [{}]", values.join(", "))
}

fn source(source: &WarmSource) -> String {
    let keys = match source {
        WarmSource::Repository(source) => repository(source),
        WarmSource::Images(images) => vec![list("images", images.iter().map(ToString::to_string))],
        WarmSource::Seen(seen) => vec![
            said("seen", time_text(seen.within)),
            format!("on = {}", seen.on),
            list("match", seen.only.iter().map(|one| one.as_str().to_owned())),
            list("skip", seen.skip.iter().map(|one| one.as_str().to_owned())),
        ],
    };
    format!("{{ {} }}", keys.join(", "))
}

fn repository(source: &FromRepository) -> Vec<String> {
    let by = LIST_BY.iter().find(|(_, by)| *by == source.list);
    let newest = source.newest.iter().map(|Newest { pattern, count }| {
        format!("{{ match = {}, count = {count} }}", quoted(pattern))
    });
    let newest: Vec<_> = newest.collect();
    // Without a dot or a port, the registry would be read as a part of the repository's name.
    let port = if RegistryName::is_plausible(source.registry.as_str()) {
        ""
    } else {
        ":443"
    };
    let name = format!("{}{port}/{}", source.registry, source.repository);
    let mut keys = vec![
        said("repository", name),
        said("list", by.map_or("auto", |(word, _)| word)),
        list("tags", source.tags.iter().map(ToString::to_string)),
        format!("newest = [{}]", newest.join(", ")),
        list("skip", source.skip.iter().map(ToString::to_string)),
    ];
    if let Some(age) = source.max_age {
        keys.push(said("max_age", time_text(age)));
    }
    keys
}
