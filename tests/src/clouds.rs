//! Fakes of the cloud services that give an identity: metadata servers, token servers, and the registries' own
//! exchanges. Also fakes of the clouds' lists of repositories.
//!
//! Each is strict. It refuses and notes a request that the real server would not take, or that no documented client
//! sends; [`CloudServer::assert_exact`] fails on it. They are written from the documented exchanges, and were never
//! compared with the real servers.

mod aws;
mod azure;
mod google;
mod lists;
mod server;
mod sigv4;

pub use self::aws::{AwsSts, Ecr, EcrPassword, Imds, PodIdentity, Session, Trust, TrustedBy};
pub use self::azure::{AzureMetadata, Entra, EntraToken, acr_exchange, refresh_token};
pub use self::google::{GoogleKey, GoogleTokens, Metadata, Sts, token_of_pod};
pub use self::lists::{Gar, Images, Pushed};
pub use self::server::{Asked, CloudServer, Mood, Reply};
pub use self::sigv4::AwsKeys;
