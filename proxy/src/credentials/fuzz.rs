//! Credentials that clients send, and files of credentials: see [`crate::fuzz`].

use super::Credential;
use super::docker::DockerConfig;
use super::file::Content;
use super::keyring::Image;

/// The text after `Basic`.
pub(crate) fn authorization(text: &str) {
    if let Some(credential) = Credential::from_basic(text) {
        assert!(credential.size() <= text.len());
        let shown = format!("{credential:?}");
        assert!(shown.ends_with("([secret])"), "{shown}");
    }
}

/// An answer of a cloud's server.
pub(crate) fn cloud_answers(bytes: &[u8]) {
    super::cloud::fuzz::answers(bytes);
}

/// Docker's config.json.
pub(crate) fn docker_config(bytes: &[u8]) {
    let file = Content {
        path: "config.json".into(),
        bytes: bytes.to_owned(),
    };
    let image = Image {
        registry: "registry.example:5000".parse().expect("a name"),
        repository: "team/app".parse().expect("a name"),
    };
    match DockerConfig::parse(&file) {
        Ok(config) => {
            let found = config.credentials(&image);
            let shown = format!("{found:?}");
            assert!(!shown.contains("hunter2"), "a secret in {shown}");
            for helper in config.helper(&image.registry).iter().chain(&config.store()) {
                assert!(!helper.contains('/'), "a path: {helper}");
            }
        }
        Err(error) => assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}"),
    }
}
