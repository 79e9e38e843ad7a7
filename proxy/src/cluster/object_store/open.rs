//! Makes the store's clients from the configuration.

use std::{
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use object_store::{
    ClientConfigKey, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    local::LocalFileSystem,
    path::Path,
};
use url::Url;

use super::connector::Connector;
use crate::{
    client::{Client, Reach, Route, Tls},
    config,
};

/// What is wrong with `[cluster.object_store]`, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL.
    #[error("[cluster.object_store] `url`: {0}")]
    Url(String),
    /// An option that the store's client does not know.
    #[error("[cluster.object_store] `options`: {kind} has no option `{name}`; {fix}")]
    Option {
        kind: &'static str,
        name: String,
        fix: &'static str,
    },
    /// A secret in the file.
    #[error(
        "[cluster.object_store] `options`: `{name}` is a secret: give it in the environment instead"
    )]
    Secret { name: String },
    /// Options and environment do not make a client.
    #[error("[cluster.object_store]: {why}; check `options` and the environment")]
    Invalid { why: String },
}

/// The store's two clients: one for reads, for which a reader waits, and one for what is written behind.
#[derive(Debug)]
pub(super) struct Backend {
    /// Tries once.
    pub(super) reads: Arc<dyn ObjectStore>,
    /// Tries again, with patience.
    pub(super) writes: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
}

/// How long a request of each kind may take until the head of its response.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    pub(super) read: Duration,
    pub(super) write: Duration,
    /// How a write is tried again.
    pub(super) retry: RetryConfig,
}

impl Backend {
    pub(super) fn open(
        config: &config::ObjectStore,
        client: &Arc<Client>,
        patience: &Patience,
    ) -> Result<Self, OpenError> {
        let url = Url::parse(&config.url).map_err(|e| OpenError::Url(e.to_string()))?;
        if url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(OpenError::Url(
                "write the bucket and a prefix alone; secrets belong into the environment".into(),
            ));
        }
        if url.scheme() == "file" {
            return Self::directory(config, &url);
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(OpenError::Url("the bucket's name is missing".into()));
        }
        let prefix = Path::from_url_path(url.path()).map_err(|e| OpenError::Url(e.to_string()))?;
        let route = Route {
            reach: Reach::Named,
            tls: Tls {
                ca: config.options.get("ca").map(PathBuf::from),
                skip_verify: false,
                client: None,
            },
        };
        let connector = |patience| Connector {
            client: Arc::clone(client),
            route: route.clone(),
            patience,
        };
        let once = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        let parts = Parts {
            config,
            reads: (connector(patience.read), once),
            writes: (connector(patience.write), patience.retry.clone()),
        };
        let (reads, writes) = match url.scheme() {
            "s3" => parts.s3()?,
            "gs" => parts.gcs()?,
            _ => parts.azure()?,
        };
        Ok(Self {
            reads,
            writes,
            prefix,
        })
    }

    fn directory(config: &config::ObjectStore, url: &Url) -> Result<Self, OpenError> {
        if let Some(name) = config.options.keys().next() {
            return Err(OpenError::Option {
                kind: "a directory",
                name: name.clone(),
                fix: "leave it out",
            });
        }
        let path = url
            .to_file_path()
            .map_err(|()| OpenError::Url("write file:///DIR".into()))?;
        let missing = |why: &dyn std::fmt::Display| {
            OpenError::Url(format!("{}: {why}; make or mount it first", path.display()))
        };
        // The directory is never made here: if its file system is not mounted, it would fill the disk beneath.
        if !FilePath::is_dir(&path) {
            return Err(missing(&"no such directory"));
        }
        let store = LocalFileSystem::new_with_prefix(&path)
            .map_err(|e| missing(&e))?
            .with_fsync(true);
        let store: Arc<dyn ObjectStore> = Arc::new(store);
        Ok(Self {
            reads: Arc::clone(&store),
            writes: store,
            prefix: Path::default(),
        })
    }

    /// Where `parts`, each without a slash, lie in the bucket.
    pub(super) fn path<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Path {
        let mut path = self.prefix.clone();
        for part in parts {
            path = path.join(part);
        }
        path
    }
}

type Pair = (Arc<dyn ObjectStore>, Arc<dyn ObjectStore>);

struct Parts<'a> {
    config: &'a config::ObjectStore,
    reads: (Connector, RetryConfig),
    writes: (Connector, RetryConfig),
}

/// Both clients of one provider. They share the credentials, so that a credential that a patient write has fetched is
/// there for the next read.
macro_rules! pair {
    ($parts:expr, $builder:expr) => {{
        let (connector, retry) = $parts.writes;
        let writes = $builder
            .clone()
            .with_http_connector(connector)
            .with_retry(retry)
            .build()
            .map_err(|e| invalid(&e))?;
        let (connector, retry) = $parts.reads;
        let reads = $builder
            .with_credentials(Arc::clone(writes.credentials()))
            .with_http_connector(connector)
            .with_retry(retry)
            .build()
            .map_err(|e| invalid(&e))?;
        Ok((Arc::new(reads), Arc::new(writes)))
    }};
}

impl Parts<'_> {
    fn s3(self) -> Result<Pair, OpenError> {
        let mut builder = AmazonS3Builder::from_env();
        for (name, value) in self.options() {
            let key = key::<AmazonS3ConfigKey>("S3", name)?;
            match key {
                AmazonS3ConfigKey::SecretAccessKey | AmazonS3ConfigKey::Token => {
                    return Err(secret(name));
                }
                AmazonS3ConfigKey::Encryption(_) if name.contains("customer_key") => {
                    return Err(secret(name));
                }
                AmazonS3ConfigKey::Bucket => return Err(bucket("S3", name)),
                AmazonS3ConfigKey::Client(key) => own(key, "S3", name)?,
                _ => {}
            }
            builder = builder.with_config(key, value);
        }
        let builder = builder
            .with_url(&self.config.url)
            .with_client_options(plain_http());
        pair!(self, builder)
    }

    fn gcs(self) -> Result<Pair, OpenError> {
        let mut builder = GoogleCloudStorageBuilder::from_env();
        for (name, value) in self.options() {
            let key = key::<GoogleConfigKey>("GCS", name)?;
            match key {
                GoogleConfigKey::ServiceAccountKey | GoogleConfigKey::BearerToken => {
                    return Err(secret(name));
                }
                GoogleConfigKey::Bucket => return Err(bucket("GCS", name)),
                GoogleConfigKey::Client(key) => own(key, "GCS", name)?,
                _ => {}
            }
            builder = builder.with_config(key, value);
        }
        let builder = builder
            .with_url(&self.config.url)
            .with_client_options(plain_http());
        pair!(self, builder)
    }

    fn azure(self) -> Result<Pair, OpenError> {
        let mut builder = MicrosoftAzureBuilder::from_env();
        for (name, value) in self.options() {
            let key = key::<AzureConfigKey>("Azure", name)?;
            match key {
                AzureConfigKey::AccessKey
                | AzureConfigKey::ClientSecret
                | AzureConfigKey::SasKey
                | AzureConfigKey::Token
                | AzureConfigKey::FabricSessionToken
                | AzureConfigKey::EncryptionKey => return Err(secret(name)),
                AzureConfigKey::ContainerName => return Err(bucket("Azure", name)),
                AzureConfigKey::Client(key) => own(key, "Azure", name)?,
                _ => {}
            }
            builder = builder.with_config(key, value);
        }
        let builder = builder
            .with_url(&self.config.url)
            .with_client_options(plain_http());
        pair!(self, builder)
    }

    /// The options of the provider's client, without larder's own `ca`.
    fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.config
            .options
            .iter()
            .filter(|(name, _)| *name != "ca")
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

fn key<K: std::str::FromStr>(kind: &'static str, name: &str) -> Result<K, OpenError> {
    name.parse().map_err(|_| OpenError::Option {
        kind,
        name: name.to_owned(),
        fix: "docs/object-store.md shows what there is",
    })
}

/// Allows plain HTTP: the scheme of the endpoint decides, as everywhere in larder.
fn plain_http() -> ClientOptions {
    ClientOptions::new().with_allow_http(true)
}

/// Refuses options of the provider's HTTP client, which larder does not use.
fn own(key: ClientConfigKey, kind: &'static str, name: &str) -> Result<(), OpenError> {
    match key {
        ClientConfigKey::AllowHttp => Ok(()),
        _ => Err(OpenError::Option {
            kind,
            name: name.to_owned(),
            fix: "larder uses its own HTTP client; `ca` names a CA bundle, and proxies come from the environment",
        }),
    }
}

fn secret(name: &str) -> OpenError {
    OpenError::Secret {
        name: name.to_owned(),
    }
}

fn bucket(kind: &'static str, name: &str) -> OpenError {
    OpenError::Option {
        kind,
        name: name.to_owned(),
        fix: "the bucket stands in `url`",
    }
}

/// The client's own message, unless it may quote what the environment holds.
fn invalid(error: &object_store::Error) -> OpenError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let why = if cause.is::<serde_json::Error>() || cause.is::<std::str::Utf8Error>() {
        "a credential cannot be read".to_owned()
    } else {
        cause.to_string()
    };
    OpenError::Invalid { why }
}
