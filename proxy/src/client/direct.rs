//! Connections without a proxy: to other members, and to the Kubernetes API.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use rustls::pki_types::ServerName;

use super::{
    connect::{Connector, ProxyRules},
    exchange::{Pool, SendError, exchange, pooled},
    reach::Reach,
    tls::{TlsError, bundle},
};

/// How long a connection is kept while it is not used. Members are near, so a new one takes little time, and many
/// connections together keep much memory.
const IDLE: Duration = Duration::from_secs(15);

/// Connections without a proxy, to any address, since the configuration lists their targets.
#[derive(Clone, Debug)]
pub struct Direct(Pool);

impl Direct {
    /// Plain connections, or TLS with this configuration and this name of the other side.
    pub fn new(
        tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
        connect_timeout: Duration,
    ) -> Self {
        let connector = Connector::new(Reach::Named, Arc::new(ProxyRules::none()), connect_timeout);
        let (config, name) = match tls {
            Some((config, name)) => (rustls::ClientConfig::clone(&config), Some(name)),
            None => (trusting_none(), None),
        };
        let builder = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http();
        let connector = match name {
            Some(name) => builder
                .with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name))
                .enable_http1()
                .wrap_connector(connector),
            None => builder.enable_http1().wrap_connector(connector),
        };
        Self(pooled(connector, IDLE))
    }

    /// Sends `request` and waits for the head of the response. The caller sets the time limit.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, SendError> {
        exchange(&self.0, request).await
    }
}

/// The TLS configuration of plain connections. It trusts no server.
fn trusting_none() -> rustls::ClientConfig {
    trusting_roots(rustls::RootCertStore::empty())
}

/// A TLS configuration that trusts only the CAs of this file.
///
/// # Errors
/// The file cannot be read, or has no certificate.
pub fn trusting(ca: &Path) -> Result<rustls::ClientConfig, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in bundle(ca)? {
        roots.add(certificate)?;
    }
    Ok(trusting_roots(roots))
}

fn trusting_roots(roots: rustls::RootCertStore) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
