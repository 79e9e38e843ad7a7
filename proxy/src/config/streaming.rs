//! `[streaming]`: layers that the container runtime mounts instead of unpacking them.

use std::path::PathBuf;

use super::error::ConfigError;
use super::said::Section;
use super::value::{self, Pattern};

/// The prefix of a Kubernetes namespace in `never`.
const NAMESPACE: &str = "namespace:";

/// `[streaming]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streaming {
    /// Whether layers are offered, and how.
    pub mode: Mode,
    /// The directory where the runtime looks for layers: one of containerd's `layer_content_caches`.
    pub directory: PathBuf,
    /// The socket of the holder, which mounts layers that are not whole here yet.
    pub holder: PathBuf,
    /// Images that are never offered.
    pub never: Vec<Never>,
    /// Whether larder also offers layers that not every client of this node may read.
    pub private: bool,
    /// An image is offered if one of its layers has at least this many bytes, compressed.
    pub min_layer: u64,
}

/// The choice in `streaming.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// No layer is offered.
    #[default]
    Off,
    /// Layers are offered once they are whole on this node.
    Ready,
    /// The same, and layers that are not whole here yet are offered too, by indexes that members give each other.
    Lazy,
}

/// One entry of `streaming.never`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Never {
    /// Images of these repositories: a pattern over `registry/repository`.
    Repositories(Pattern),
    /// Images that a pod of this Kubernetes namespace uses, according to the watcher: `namespace:NAME`.
    Namespace(String),
}

impl Default for Streaming {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            directory: PathBuf::from("/var/lib/larder-layers"),
            holder: PathBuf::from("/run/larder-hold/socket"),
            never: vec![Never::Namespace("kube-system".to_owned())],
            private: false,
            min_layer: 16 << 20,
        }
    }
}

impl Never {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix(NAMESPACE) {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if name.is_empty() || name.len() > 63 || !name.chars().all(plain) {
                return Err(
                    "a namespace is written as Kubernetes has it, such as \"namespace:kube-system\""
                        .to_owned(),
                );
            }
            return Ok(Self::Namespace(name.to_owned()));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "*.-_:/[]".contains(c);
        let Some((registry, repository)) = text.split_once('/') else {
            return Err(
                "write a pattern over registry and repository, such as \"ghcr.io/team/*\" or \"*/nginx\", or \"namespace:kube-system\""
                    .to_owned(),
            );
        };
        if registry.is_empty() || repository.is_empty() || !text.chars().all(fits) {
            return Err(
                "a pattern is REGISTRY/REPOSITORY in which `*` stands for anything, such as \"ghcr.io/team/*\"; without a tag"
                    .to_owned(),
            );
        }
        let registry = super::name::canonical_pattern(registry);
        Ok(Self::Repositories(Pattern::new(format!(
            "{registry}/{repository}"
        ))))
    }

    /// The entry as in the file.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Repositories(pattern) => pattern.as_str().to_owned(),
            Self::Namespace(name) => format!("{NAMESPACE}{name}"),
        }
    }
}

impl Mode {
    const WORDS: [(&'static str, Self); 3] = [
        ("off", Self::Off),
        ("ready", Self::Ready),
        ("lazy", Self::Lazy),
    ];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Ready => "ready",
            Self::Lazy => "lazy",
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let word = Self::WORDS.iter().find(|(word, _)| *word == text);
        word.map(|(_, mode)| *mode)
            .ok_or_else(|| "write \"off\", \"ready\" or \"lazy\"".to_owned())
    }
}

pub(super) fn streaming(mut said: Section<'_, '_>) -> Result<Streaming, ConfigError> {
    let default = Streaming::default();
    let streaming = Streaming {
        mode: said.text("mode", Mode::parse)?.unwrap_or(default.mode),
        directory: said
            .text("directory", value::absolute_path)?
            .unwrap_or(default.directory),
        holder: said
            .text("holder", value::absolute_path)?
            .unwrap_or(default.holder),
        never: said.texts("never", Never::parse)?.unwrap_or(default.never),
        private: said.flag("private")?.unwrap_or(default.private),
        min_layer: said
            .quantity("min_layer", value::bytes)?
            .unwrap_or(default.min_layer),
    };
    said.finish()?;
    Ok(streaming)
}
