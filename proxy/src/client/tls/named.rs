//! A server's own certificate in a CA bundle.
//!
//! `openssl req -x509` and many appliances make a server's certificate that calls itself an authority. As a root it is
//! useless, since TLS libraries do not accept an authority as a server. It would also vouch for anything that its key
//! signs. So it is trusted by name: this very certificate, for the names and the time that it states, and nothing else.

use std::sync::Arc;

use rustls::{
    CertificateError, Error,
    client::{
        WebPkiServerVerifier,
        danger::{ServerCertVerified, ServerCertVerifier as _},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName};

/// Whether a certificate is a server's although it calls itself an authority: it names a host, it is self-signed, and
/// it does not state that it signs others.
pub(super) fn is_a_servers_own(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return false;
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names_a_host = names.is_some_and(|names| {
        let host = |name: &GeneralName<'_>| {
            matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_))
        };
        names.value.general_names.iter().any(host)
    });
    let signs = certificate.key_usage().ok().flatten();
    let signs_others = signs.is_some_and(|usage| usage.value.key_cert_sign());
    calls_itself_an_authority(&certificate)
        && certificate.subject() == certificate.issuer()
        && names_a_host
        && !signs_others
}

fn calls_itself_an_authority(certificate: &X509Certificate<'_>) -> bool {
    let constraints = certificate.basic_constraints().ok().flatten();
    constraints.is_some_and(|constraints| constraints.value.ca)
}

/// Trusts `servers` by name, and certificates for which `others` vouch.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) servers: Vec<CertificateDer<'static>>,
    /// `None` if there is no root, so that no other certificate is trusted.
    pub(super) others: Option<Arc<WebPkiServerVerifier>>,
}

impl Named {
    /// Whether the certificate that a server showed is trusted.
    pub(super) fn verify(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.servers.contains(shown) {
            return match &self.others {
                Some(others) => others.verify_server_cert(shown, intermediates, name, ocsp, now),
                None => Err(CertificateError::UnknownIssuer.into()),
            };
        }
        let unreadable = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let parsed = webpki::EndEntityCert::try_from(shown).map_err(unreadable)?;
        parsed
            .verify_is_valid_for_subject_name(name)
            .map_err(|_| CertificateError::NotValidForName)?;
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(shown) else {
            return Err(CertificateError::BadEncoding.into());
        };
        let (validity, now) = (certificate.validity(), now.as_secs() as i64);
        if now < validity.not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > validity.not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        Ok(ServerCertVerified::assertion())
    }
}
