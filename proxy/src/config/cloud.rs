//! A cloud's identity as a source of credentials: `credentials = { identity = "google", … }`.

use std::path::PathBuf;

use http::Uri;

use super::endpoint::Endpoint;
use super::error::ConfigError;
use super::said::Section;
use super::value;
use super::words::joined;

/// The clouds whose identity larder can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cloud {
    /// Google Cloud: Artifact Registry, and the `gcr.io` names that it serves.
    Google,
    /// AWS: Elastic Container Registry, private and public.
    Aws,
    /// Azure Container Registry.
    Azure,
}

impl Cloud {
    pub(super) const WORDS: [(&str, Self); 3] = [
        ("google", Self::Google),
        ("aws", Self::Aws),
        ("azure", Self::Azure),
    ];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Google => "google",
            Self::Aws => "aws",
            Self::Azure => "azure",
        }
    }

    /// The keys that this cloud knows besides `identity`.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Google => &[
                "key_file",
                "token_file",
                "audience",
                "metadata_endpoint",
                "token_endpoint",
                "api_endpoint",
            ],
            Self::Aws => &[
                "key_file",
                "token_file",
                "role",
                "metadata_endpoint",
                "token_endpoint",
                "api_endpoint",
            ],
            Self::Azure => &[
                "token_file",
                "client_id",
                "tenant_id",
                "audience",
                "metadata_endpoint",
                "token_endpoint",
            ],
        }
    }
}

/// An identity that a cloud gives to this pod or node, or that a key file or a projected token stands for. The keys in
/// the file decide which.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CloudIdentity {
    /// Key `identity`.
    pub cloud: Cloud,
    /// Keys that the cloud has issued: Google's JSON, or AWS's credentials file.
    pub key_file: Option<PathBuf>,
    /// A projected service account token, which is rotated.
    pub token_file: Option<PathBuf>,
    /// The audience of the token that is exchanged.
    pub audience: Option<String>,
    /// The role to assume; AWS's ARN.
    pub role: Option<String>,
    /// The application, or the managed identity.
    pub client_id: Option<String>,
    /// The directory (tenant) of the application.
    pub tenant_id: Option<String>,
    /// The metadata server, in place of the cloud's own.
    pub metadata_endpoint: Option<Uri>,
    /// The token server, in place of the cloud's own.
    pub token_endpoint: Option<Uri>,
    /// The API of ECR or of Artifact Registry, in place of the cloud's own.
    pub api_endpoint: Option<Uri>,
}

/// All keys of all clouds, besides `identity`.
const KEYS: [&str; 9] = [
    "key_file",
    "token_file",
    "audience",
    "role",
    "client_id",
    "tenant_id",
    "metadata_endpoint",
    "token_endpoint",
    "api_endpoint",
];

impl CloudIdentity {
    /// An identity with the key `identity` alone.
    pub fn of(cloud: Cloud) -> Self {
        Self {
            cloud,
            key_file: None,
            token_file: None,
            audience: None,
            role: None,
            client_id: None,
            tenant_id: None,
            metadata_endpoint: None,
            token_endpoint: None,
            api_endpoint: None,
        }
    }

    /// Every key that is set, with its value as the file has it.
    pub fn said(&self) -> Vec<(&'static str, String)> {
        let path = |path: &PathBuf| path.display().to_string();
        let url = |url: &Uri| url.to_string().trim_end_matches('/').to_owned();
        let said = [
            ("identity", Some(self.cloud.as_str().to_owned())),
            ("key_file", self.key_file.as_ref().map(path)),
            ("token_file", self.token_file.as_ref().map(path)),
            ("audience", self.audience.clone()),
            ("role", self.role.clone()),
            ("client_id", self.client_id.clone()),
            ("tenant_id", self.tenant_id.clone()),
            (
                "metadata_endpoint",
                self.metadata_endpoint.as_ref().map(url),
            ),
            ("token_endpoint", self.token_endpoint.as_ref().map(url)),
            ("api_endpoint", self.api_endpoint.as_ref().map(url)),
        ];
        let given = said.into_iter();
        given
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }
}

/// Reads `identity` and the keys beside it; `None` if the table has no `identity`.
pub(super) fn identity(said: &mut Section<'_, '_>) -> Result<Option<CloudIdentity>, ConfigError> {
    let url = |text: &str| Endpoint::parse(text).map(|endpoint| endpoint.url);
    let cloud = said.choice("identity", &Cloud::WORDS)?;
    let key_file = said.text("key_file", value::absolute_path)?;
    let token_file = said.text("token_file", value::absolute_path)?;
    let audience = said.text("audience", value::word)?;
    let role = said.text("role", value::word)?;
    let client_id = said.text("client_id", value::word)?;
    let tenant_id = said.text("tenant_id", value::word)?;
    let metadata_endpoint = said.text("metadata_endpoint", |text| {
        let url = url(text)?;
        if url.scheme_str() == Some("http") {
            Ok(url)
        } else {
            Err("a metadata server speaks plain HTTP: write \"http://…\"".to_owned())
        }
    })?;
    let token_endpoint = said.text("token_endpoint", url)?;
    let api_endpoint = said.text("api_endpoint", url)?;
    let Some(cloud) = cloud else {
        return match KEYS.iter().find(|key| said.says(key)) {
            Some(key) => Err(said.wrong(key, "it goes with `identity`: add that key")),
            None => Ok(None),
        };
    };
    let foreign = |key: &&&str| said.says(key) && !cloud.keys().contains(key);
    if let Some(key) = KEYS.iter().find(foreign) {
        let (cloud, keys) = (cloud.as_str(), joined(cloud.keys(), "`", "`"));
        return Err(said.wrong(
            key,
            format!("{cloud} has no use for it: beside `identity` it knows {keys}"),
        ));
    }
    let ways = ["key_file", "token_file", "metadata_endpoint"];
    let mut ways = ways.iter().filter(|key| said.says(key));
    if let (Some(first), Some(second)) = (ways.next(), ways.next()) {
        return Err(said.wrong(
            second,
            format!("`{first}` is another way to an identity: keep one of the two"),
        ));
    }
    if cloud == Cloud::Google {
        for (key, partner) in [("token_file", "audience"), ("audience", "token_file")] {
            if said.says(key) && !said.says(partner) {
                return Err(said.wrong(key, format!("it goes with `{partner}`: add that key")));
            }
        }
    }
    Ok(Some(CloudIdentity {
        cloud,
        key_file,
        token_file,
        audience,
        role,
        client_id,
        tenant_id,
        metadata_endpoint,
        token_endpoint,
        api_endpoint,
    }))
}
