//! Which servers TLS trusts: by the system's roots, by an upstream's own CA bundle, or all if the operator says so.
//! Also the certificate that larder shows.

mod named;
mod verifier;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    client::danger::ServerCertVerifier,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::config::Endpoint;

/// The TLS side of a route.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Tls {
    /// A PEM bundle that is trusted beside the system's roots.
    pub ca: Option<PathBuf>,
    /// Trust any certificate (`insecure_skip_verify`).
    pub skip_verify: bool,
    /// What larder shows if a server asks for a certificate.
    pub client: Option<ClientFiles>,
}

/// A client's certificate, with its chain, and its key, in PEM.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ClientFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Tls {
    /// The TLS settings of an endpoint in the configuration.
    pub fn of(endpoint: &Endpoint) -> Self {
        Self {
            ca: endpoint.ca.clone(),
            skip_verify: endpoint.insecure_skip_verify,
            client: endpoint.client.as_ref().map(|client| ClientFiles {
                cert: client.cert.clone(),
                key: client.key.clone(),
            }),
        }
    }

    /// The same settings, without a client's certificate.
    #[must_use]
    pub fn without_client(self) -> Self {
        Self {
            client: None,
            ..self
        }
    }

    /// The files that these settings name.
    pub fn files(&self) -> Vec<&Path> {
        let own = self.client.iter();
        let own = own.flat_map(|own| [own.cert.as_path(), own.key.as_path()]);
        self.ca.as_deref().into_iter().chain(own).collect()
    }
}

/// Changes when a file is written or replaced; `None` while the file cannot be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp(Option<(u64, u64, i64, i64)>);

impl Stamp {
    pub fn of(path: &Path) -> Self {
        Self(fs::metadata(path).ok().map(|seen| {
            let (inode, length) = (seen.ino(), seen.len());
            (inode, length, seen.mtime(), seen.mtime_nsec())
        }))
    }

    pub fn of_all(paths: &[&Path]) -> Vec<Self> {
        paths.iter().map(|path| Self::of(path)).collect()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the CA bundle {path} cannot be read: {why}")]
    Ca { path: PathBuf, why: String },
    #[error("the client's certificate {path} cannot be used: {why}")]
    Client { path: PathBuf, why: String },
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

#[derive(Debug)]
pub struct Roots(RootCertStore);

impl Roots {
    /// The system's certificates. `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured.
    pub fn load() -> Self {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some of the system's certificates cannot be read; look at the files below /etc/ssl, or name a `ca` for each upstream");
        }
        let (good, _) = roots.add_parsable_certificates(found.certs);
        if good == 0 {
            tracing::warn!(
                "the system has no certificate roots: https upstreams need `ca` in the configuration"
            );
        }
        Self(roots)
    }

    pub fn client_config(&self, tls: &Tls) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let verifier: Arc<dyn ServerCertVerifier> = if tls.skip_verify {
            verifier::of_anyone(provider)
        } else {
            let mut roots = self.0.clone();
            let mut servers = Vec::new();
            let ca = tls.ca.as_deref().map(bundle).transpose()?;
            for certificate in ca.into_iter().flatten() {
                if named::is_a_servers_own(&certificate) {
                    servers.push(certificate);
                } else {
                    roots.add(certificate)?;
                }
            }
            verifier::of(roots, servers, provider)?
        };
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        match &tls.client {
            None => Ok(builder.with_no_client_auth()),
            Some(files) => {
                let (chain, key) = shown(files)?;
                let failed = |error: rustls::Error| TlsError::Client {
                    path: files.cert.clone(),
                    why: error.to_string(),
                };
                builder.with_client_auth_cert(chain, key).map_err(failed)
            }
        }
    }
}

/// The certificates of a CA bundle, at least one.
pub(super) fn bundle(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates(path).map_err(|why| TlsError::Ca {
        path: path.to_owned(),
        why,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| error.to_string())?;
    if found.is_empty() {
        return Err("it holds no certificate in PEM".to_owned());
    }
    Ok(found)
}

/// The client's certificate chain and key. An error names the file, never its content.
fn shown(
    files: &ClientFiles,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let failed = |path: &Path, why: String| TlsError::Client {
        path: path.to_owned(),
        why,
    };
    let chain = certificates(&files.cert).map_err(|why| failed(&files.cert, why))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| failed(&files.key, error.to_string()))?;
    Ok((chain, key))
}
