//! Whom TLS believes: the system's roots, an upstream's own CA bundle, or anyone if the operator says so.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

/// The TLS side of a route.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Tls {
    /// A PEM bundle that is believed beside the system's roots.
    pub ca: Option<PathBuf>,
    /// Believe any certificate (`insecure_skip_verify`).
    pub skip_verify: bool,
}

/// What differs once a CA bundle was written or replaced: no file for as long as it cannot be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp(Option<(u64, u64, i64, i64)>);

impl Stamp {
    pub fn of(path: &Path) -> Self {
        Self(fs::metadata(path).ok().map(|seen| {
            let (inode, length) = (seen.ino(), seen.len());
            (inode, length, seen.mtime(), seen.mtime_nsec())
        }))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the CA bundle {path} cannot be read: {why}")]
    Ca { path: PathBuf, why: String },
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

#[derive(Debug)]
pub struct Roots(RootCertStore);

impl Roots {
    /// The system's certificates (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured).
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
        if tls.skip_verify {
            return Ok(builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
                .with_no_client_auth());
        }
        let mut roots = self.0.clone();
        if let Some(path) = &tls.ca {
            let failed = |why: String| TlsError::Ca {
                path: path.clone(),
                why,
            };
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
            let mut added = 0;
            for certificate in certificates {
                roots.add(certificate.map_err(|e| failed(e.to_string()))?)?;
                added += 1;
            }
            if added == 0 {
                return Err(failed("it holds no certificate in PEM".to_owned()));
            }
        }
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

/// Believes every certificate but still checks that the peer holds its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
