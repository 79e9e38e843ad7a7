//! Certificates of members: one authority for a cluster, and identities under it, right and wrong ones.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DEFAULT_VERSIONS, RootCertStore, ServerConfig};

/// The name in every member's certificate.
pub const MEMBER: &str = "larder-peer";

/// Signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    ca_pem: String,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new authority, which no node trusts yet.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "the members' authority");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            ca_pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The authority that members trust, in PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A member's certificate.
    pub fn member(&self) -> Identity {
        self.named(MEMBER)
    }

    /// A member's certificate that has expired.
    pub fn expired(&self) -> Identity {
        self.until(MEMBER, 2021)
    }

    /// A certificate of this DNS name.
    pub fn named(&self, name: &str) -> Identity {
        self.until(name, 2200)
    }

    /// A member's certificate that expires after so long.
    pub fn ending_in(&self, left: Duration) -> Identity {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let end = now.expect("a time after 1970") + left;
        self.signed(MEMBER, |params| {
            params.not_after = date_time_ymd(1970, 1, 1) + end;
        })
    }

    fn until(&self, name: &str, year: i32) -> Identity {
        self.signed(name, |params| {
            params.not_after = date_time_ymd(year, 1, 1);
        })
    }

    fn signed(&self, name: &str, end: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = date_time_ymd(2020, 1, 1);
        end(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        }
    }

    /// A server that shows `identity` and wants a certificate of this authority.
    pub fn server(&self, identity: &Identity) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots(), Arc::clone(&provider));
        let verifier = verifier.build().expect("a verifier");
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(DEFAULT_VERSIONS)
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(identity.chain(), identity.key());
        Arc::new(config.expect("a certificate and its key"))
    }

    /// A client that trusts this authority and shows `identity`, if it has one.
    pub fn client(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(DEFAULT_VERSIONS)
            .expect("versions")
            .with_root_certificates(self.roots());
        Arc::new(match identity {
            Some(identity) => config
                .with_client_auth_cert(identity.chain(), identity.key())
                .expect("a certificate and its key"),
            None => config.with_no_client_auth(),
        })
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("an authority");
        Arc::new(roots)
    }
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Identity {
    certificate_pem: String,
    key_pem: String,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    /// Writes `ca.pem`, `cert.pem` and `key.pem` into `dir`, as `tls` in `[cluster]` names them.
    pub fn write(&self, authority: &Authority, dir: &Path) {
        let files = [
            ("ca.pem", authority.ca_pem()),
            ("cert.pem", &self.certificate_pem),
            ("key.pem", &self.key_pem),
        ];
        for (name, text) in files {
            fs::write(dir.join(name), text).expect("a PEM file");
            let mode = fs::Permissions::from_mode(if name == "key.pem" { 0o600 } else { 0o644 });
            fs::set_permissions(dir.join(name), mode).expect("a mode");
        }
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()))
    }
}
