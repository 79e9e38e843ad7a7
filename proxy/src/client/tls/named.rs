//! A server's own certificate in a CA bundle.
//!
//! `openssl req -x509` and many appliances make a server's certificate that calls itself an authority. As a root it is of no
//! use, since TLS libraries do not take an authority for a server, and it would vouch for whatever its key signs. So it is
//! trusted by name: that very certificate, for the names and the time that it states, and nothing else.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
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

/// Believes what `roots` vouch for, and `servers` by name.
pub(super) fn verifier(
    roots: RootCertStore,
    servers: Vec<CertificateDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let others = if roots.is_empty() {
        None
    } else {
        let built =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        Some(
            built
                .build()
                .map_err(|error| Error::General(error.to_string()))?,
        )
    };
    Ok(match others {
        Some(others) if servers.is_empty() => others,
        others => Arc::new(Named {
            servers,
            others,
            provider: Arc::clone(provider),
        }),
    })
}

#[derive(Debug)]
struct Named {
    servers: Vec<CertificateDer<'static>>,
    /// Without any root there is nobody else to believe.
    others: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
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

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
