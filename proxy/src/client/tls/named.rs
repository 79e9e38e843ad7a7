//! A server's own certificate in a CA bundle.
//!
//! `openssl req -x509` and many appliances make a server's certificate that calls itself an authority. As a root it is of no
//! use, since TLS libraries do not take an authority for a server, and it would vouch for whatever its key signs. So it is
//! trusted by name: that very certificate, for the names and the time that it states, and nothing else.

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

/// Whether this is a server's certificate and no authority's, although it calls itself one: it names a host, it is signed
/// by itself, and it does not say that it signs others.
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

/// Believes `servers` by name, and what `others` vouch for.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) servers: Vec<CertificateDer<'static>>,
    /// `None` where there is no root: no other certificate is believed.
    pub(super) others: Option<Arc<WebPkiServerVerifier>>,
}

impl Named {
    /// Whether the certificate that a server has shown is believed.
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
