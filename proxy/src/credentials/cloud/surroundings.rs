//! The variables that a cloud's webhook puts into the environment of a pod that has an identity.
//!
//! Only the named variables are read. The keys of an object store may stand in the same environment and are no identity
//! at a registry: `AWS_ACCESS_KEY_ID` and the like are never read.

use std::path::PathBuf;

use http::Uri;

use crate::config::{Cloud, CloudIdentity};

/// The variables that are set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    aws_role: Option<String>,
    aws_token_file: Option<PathBuf>,
    /// The URL of EKS Pod Identity's agent, and the file with the token for it.
    pub(super) aws_agent: Option<(String, PathBuf)>,
    azure_token_file: Option<PathBuf>,
    azure_client: Option<String>,
    azure_tenant: Option<String>,
    azure_authority: Option<Uri>,
}

impl Surroundings {
    /// Reads this process's environment.
    pub fn of_process() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let said = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| said(name).map(PathBuf::from);
        let agent = said("AWS_CONTAINER_CREDENTIALS_FULL_URI");
        Self {
            aws_role: said("AWS_ROLE_ARN"),
            aws_token_file: path("AWS_WEB_IDENTITY_TOKEN_FILE"),
            aws_agent: agent.zip(path("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")),
            azure_token_file: path("AZURE_FEDERATED_TOKEN_FILE"),
            azure_client: said("AZURE_CLIENT_ID"),
            azure_tenant: said("AZURE_TENANT_ID"),
            azure_authority: said("AZURE_AUTHORITY_HOST").and_then(|url| url.parse().ok()),
        }
    }

    /// An identity, completed from the environment. The configuration takes precedence.
    pub(super) fn complete(&self, identity: &CloudIdentity) -> CloudIdentity {
        let mut whole = identity.clone();
        let own_way = whole.key_file.is_some() || whole.metadata_endpoint.is_some();
        if whole.cloud == Cloud::Aws && !own_way {
            if whole.token_file.is_none() {
                whole.token_file.clone_from(&self.aws_token_file);
            }
            if whole.token_file.is_some() && whole.role.is_none() {
                whole.role.clone_from(&self.aws_role);
            }
        }
        if whole.cloud == Cloud::Azure && !own_way {
            if whole.token_file.is_none() {
                whole.token_file.clone_from(&self.azure_token_file);
            }
            if whole.token_file.is_some() {
                let said = |own: &mut Option<String>, given: &Option<String>| {
                    if own.is_none() {
                        own.clone_from(given);
                    }
                };
                said(&mut whole.client_id, &self.azure_client);
                said(&mut whole.tenant_id, &self.azure_tenant);
                if whole.token_endpoint.is_none() {
                    whole.token_endpoint.clone_from(&self.azure_authority);
                }
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(variables: &[(&str, &str)]) -> Surroundings {
        Surroundings::of(|name| {
            let mut variables = variables.iter();
            let found = variables.find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn what_is_said_goes_before_the_environment() {
        let irsa = surroundings(&[
            ("AWS_ROLE_ARN", "arn:env"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/env/token"),
            ("AWS_ACCESS_KEY_ID", "AKIA"),
            ("AWS_SECRET_ACCESS_KEY", "the object store's"),
        ]);
        assert!(!format!("{irsa:?}").contains("AKIA"));
        let aws = CloudIdentity::of(Cloud::Aws);
        let complete = |identity: &CloudIdentity| {
            let whole = irsa.complete(identity);
            let file = whole.token_file.map(|file| file.display().to_string());
            (file, whole.role)
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(complete(&aws), (text("/env/token"), text("arn:env")));
        let role = CloudIdentity {
            role: text("arn:said"),
            ..aws.clone()
        };
        assert_eq!(complete(&role), (text("/env/token"), text("arn:said")));
        let file = CloudIdentity {
            token_file: Some("/said".into()),
            ..aws.clone()
        };
        assert_eq!(complete(&file), (text("/said"), text("arn:env")));
        let key = CloudIdentity {
            key_file: Some("/key".into()),
            ..aws.clone()
        };
        assert_eq!(complete(&key), (None, None));
        let node = CloudIdentity {
            metadata_endpoint: Some("http://127.0.0.1".parse().unwrap()),
            ..aws.clone()
        };
        assert_eq!(complete(&node), (None, None));
        assert_eq!(complete(&CloudIdentity::of(Cloud::Google)), (None, None));
        assert_eq!(
            surroundings(&[("AWS_ROLE_ARN", "")]),
            Surroundings::default()
        );
    }

    #[test]
    fn azures_webhook_says_all_of_a_workload_identity() {
        let webhook = surroundings(&[
            ("AZURE_FEDERATED_TOKEN_FILE", "/env/token"),
            ("AZURE_CLIENT_ID", "client"),
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us/"),
            ("AZURE_CLIENT_SECRET", "the object store's"),
        ]);
        assert!(!format!("{webhook:?}").contains("the object store's"));
        let azure = CloudIdentity::of(Cloud::Azure);
        let whole = webhook.complete(&azure);
        let expected = CloudIdentity {
            token_file: Some("/env/token".into()),
            client_id: Some("client".to_owned()),
            tenant_id: Some("tenant".to_owned()),
            token_endpoint: Some("https://login.microsoftonline.us/".parse().unwrap()),
            ..azure.clone()
        };
        assert_eq!(whole, expected);
        let own = CloudIdentity {
            client_id: Some("own".to_owned()),
            ..azure.clone()
        };
        assert_eq!(webhook.complete(&own).client_id.as_deref(), Some("own"));
        // A managed identity of the node is independent of the pod's application.
        let node = CloudIdentity {
            metadata_endpoint: Some("http://169.254.169.254".parse().unwrap()),
            ..azure
        };
        assert_eq!(webhook.complete(&node), node);
    }
}
