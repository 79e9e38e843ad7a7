//! Fakes of what clouds give an identity by: metadata servers, token servers, and the registries' own exchanges; and of what
//! they list of repositories.
//!
//! Each is strict: a request that the real server would not take, or that no documented client sends, is refused and
//! noted; [`CloudServer::assert_exact`] fails on it. They are written from the documented exchanges, and were never seen
//! beside the real ones.

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
