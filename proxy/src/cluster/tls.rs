//! How members know each other: mutual TLS with certificates of one CA that all hold the same name.
//!
//! Files are read again when they change, so that certificates can be rotated under a running larder. If a new
//! certificate cannot be used, the one before stays in force.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::WebPkiServerVerifier,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};

use larder_shared::{Algorithm, Hasher};

use crate::{
    coalesce::Coalesce,
    config::{MemberFiles, PeerTls},
    sys::{Calls, Hangs},
};

/// The files are looked at this often.
const EVERY: Duration = Duration::from_secs(10);

/// How many threads may read them at once, since the configuration may name other files meanwhile; and how long a
/// connection waits for that.
const AT_ONCE: usize = 4;
const WITHIN: Duration = Duration::from_secs(5);

/// Why this node has no TLS with members.
#[derive(Clone, Debug, thiserror::Error)]
#[error("[cluster] tls: {0}")]
pub struct MemberTlsError(String);

/// When certificates end, in Unix seconds; `None` where one does not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expires {
    /// That of the authority that ends first.
    pub ca: Option<i64>,
    pub member: Option<i64>,
}

/// Both sides of mutual TLS, as the files say now.
#[derive(Clone, Debug)]
pub struct MemberTls {
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
    /// The name for which the other side's certificate must be valid.
    pub name: ServerName<'static>,
    pub expires: Expires,
    /// Changes with the files.
    pub generation: u64,
}

impl MemberTls {
    /// Reads the files (blocking).
    pub fn load(files: &MemberFiles) -> Result<Self, MemberTlsError> {
        let generation = generation(files);
        let failed = |what: &str, why: String| MemberTlsError(format!("{what}: {why}"));
        let at = |path: &Path| path.display().to_string();
        let read = |path: &Path| {
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| failed(&at(path), error.to_string()))?;
            if certificates.is_empty() {
                return Err(failed(&at(path), "it holds no certificate in PEM".into()));
            }
            Ok(certificates)
        };
        let mut roots = RootCertStore::empty();
        let authorities = read(&files.ca)?;
        let ca = authorities.iter().filter_map(expiry).min();
        for certificate in authorities {
            roots
                .add(certificate)
                .map_err(|error| failed(&at(&files.ca), error.to_string()))?;
        }
        let chain = read(&files.cert)?;
        let member = chain.first().and_then(expiry);
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|error| failed(&at(&files.key), error.to_string()))?;
        let name = ServerName::try_from(files.name.clone())
            .map_err(|_| failed("name", format!("{:?} is no DNS name", files.name)))?;
        let (roots, provider) = (Arc::new(roots), provider());
        let tls = |error: &dyn std::fmt::Display| failed(&at(&files.cert), error.to_string());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| tls(&error))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| tls(&error))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| tls(&error))?;
        // A session that is resumed would outlive a rotation.
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| tls(&error))?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| tls(&error))?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(chain, key)
            .map_err(|error| tls(&error))?;
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            name,
            expires: Expires { ca, member },
            generation,
        })
    }

    /// Whether the certificate that a client has shown is a member's. Its chain was checked in the handshake.
    pub fn is_member(&self, certificate: Option<&CertificateDer<'_>>) -> bool {
        let Some(certificate) = certificate else {
            return false;
        };
        webpki::EndEntityCert::try_from(certificate)
            .is_ok_and(|shown| shown.verify_is_valid_for_subject_name(&self.name).is_ok())
    }
}

/// When a certificate ends, in Unix seconds.
fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// From when to when a certificate counts, in Unix seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    pub from: u64,
    pub until: u64,
}

/// How long the member's own certificate counts (blocking).
///
/// # Errors
/// The certificate is signed by another CA, or is not good for both sides of a connection.
pub fn validity(files: &MemberFiles) -> Result<Validity, MemberTlsError> {
    let failed = |why: String| MemberTlsError(format!("{}: {why}", files.cert.display()));
    let read = |path: &Path| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| MemberTlsError(format!("{}: {error}", path.display())))
    };
    let (chain, ca) = (read(&files.cert)?, read(&files.ca)?);
    let anchors: Vec<_> = ca
        .iter()
        .filter_map(|certificate| webpki::anchor_from_trusted_cert(certificate).ok())
        .collect();
    let own = chain.first().ok_or_else(|| failed("it is empty".into()))?;
    let own = webpki::EndEntityCert::try_from(own).map_err(|error| failed(error.to_string()))?;
    let at = |seconds: u64, usage: webpki::KeyUsage| {
        own.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &chain[1..],
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            usage,
            None,
            None,
        )
        .map(|_| ())
    };
    // The library tells a bound only in the error of a time that breaks it, so it is asked at the beginning and at the
    // end of all times.
    let client = webpki::KeyUsage::client_auth;
    let Err(webpki::Error::CertNotValidYet { not_before, .. }) = at(0, client()) else {
        return Err(failed("when it begins to count cannot be told".into()));
    };
    let Err(webpki::Error::CertExpired { not_after, .. }) = at(END_OF_TIMES, client()) else {
        return Err(failed("when it ends cannot be told".into()));
    };
    let validity = Validity {
        from: not_before.as_secs(),
        until: not_after.as_secs(),
    };
    for (usage, side) in [
        (client(), "client"),
        (webpki::KeyUsage::server_auth(), "server"),
    ] {
        match at(validity.from, usage) {
            // The rest of the chain may have begun later.
            Ok(()) | Err(webpki::Error::CertNotValidYet { .. }) => {}
            Err(error) => return Err(failed(format!("as a {side}'s: {error}"))),
        }
    }
    Ok(validity)
}

/// The last second of the year 9999, where X.509 ends.
const END_OF_TIMES: u64 = 253_402_300_799;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A number that changes with the content of the files.
fn generation(files: &MemberFiles) -> u64 {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(files.name.as_bytes());
    for path in [&files.ca, &files.cert, &files.key] {
        let content = fs::read(path).unwrap_or_default();
        hasher.update(&(content.len() as u64).to_le_bytes());
        hasher.update(&content);
    }
    let digest = hasher.finish();
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// What is in force, and when it was last compared with the files.
#[derive(Debug)]
struct Loaded {
    files: MemberFiles,
    tls: MemberTls,
    looked: Instant,
    /// A task is looking at the files now.
    looking: bool,
}

/// The member's side of TLS, as fresh as its files.
#[derive(Clone, Debug)]
pub struct Rotating {
    loaded: Arc<Mutex<Option<Loaded>>>,
    calls: Calls,
    reading: Coalesce<MemberFiles, Result<MemberTls, MemberTlsError>>,
}

impl Default for Rotating {
    fn default() -> Self {
        Self {
            loaded: Arc::default(),
            calls: Calls::new(AT_ONCE, WITHIN),
            reading: Coalesce::default(),
        }
    }
}

impl Rotating {
    /// What is in force for `tls`, `None` where it is off. The first call reads the files, and all callers wait for it.
    pub async fn current(&self, tls: &PeerTls) -> Result<Option<MemberTls>, MemberTlsError> {
        let PeerTls::Mutual(files) = tls else {
            return Ok(None);
        };
        if let Some(known) = self.known(files) {
            return Ok(Some(known));
        }
        // Boxed: nearly every request needs none of it.
        Box::pin(self.read(files)).await.map(Some)
    }

    async fn read(&self, files: &MemberFiles) -> Result<MemberTls, MemberTlsError> {
        let (rotating, calls, wanted) = (self.clone(), self.calls.clone(), files.clone());
        let read = async move {
            let loaded = calls.run(move || rotating.load(&wanted)).await;
            let late =
                || MemberTlsError("its files do not come: the disk does not answer".to_owned());
            loaded.unwrap_or_else(|Hangs| Err(late()))
        };
        let read = self.reading.run(files.clone(), read).await;
        let panicked = || Err(MemberTlsError("its files cannot be read".to_owned()));
        read.unwrap_or_else(panicked)
    }

    /// The same as far as it is known without reading a file. Every few seconds it has the files looked at again,
    /// without making the caller wait: what has changed is in force soon after.
    pub fn known(&self, files: &MemberFiles) -> Option<MemberTls> {
        let mut loaded = self.lock();
        let loaded = loaded.as_mut().filter(|l| l.files == *files)?;
        if loaded.looked.elapsed() >= EVERY && !loaded.looking {
            loaded.looked = Instant::now();
            loaded.looking = true;
            let (rotating, known) = (self.clone(), loaded.tls.generation);
            let files = files.clone();
            tokio::task::spawn_blocking(move || rotating.look(&files, known));
        }
        Some(loaded.tls.clone())
    }

    /// Reads the files, and puts them in force (blocking).
    fn load(&self, files: &MemberFiles) -> Result<MemberTls, MemberTlsError> {
        let tls = MemberTls::load(files)?;
        *self.lock() = Some(Loaded {
            files: files.clone(),
            tls: tls.clone(),
            looked: Instant::now(),
            looking: false,
        });
        Ok(tls)
    }

    /// Reads the files again if they have changed (blocking).
    fn look(&self, files: &MemberFiles, known: u64) {
        let new = (generation(files) != known).then(|| MemberTls::load(files));
        let mut loaded = self.lock();
        let Some(loaded) = loaded.as_mut().filter(|l| l.files == *files) else {
            return;
        };
        loaded.looking = false;
        match new {
            Some(Ok(new)) => {
                tracing::info!("the member's certificate was read again and is in force");
                loaded.tls = new;
            }
            Some(Err(error)) => {
                tracing::error!(%error, "the member's new certificate cannot be used, the one before stays in force; look at the files that the error names");
            }
            None => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
