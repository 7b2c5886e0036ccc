//! Verifying a server's certificate as far as `sslmode` asks.

use super::certificate;
use crate::postgres::conninfo::SslMode;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// Whose certificates are accepted.
pub(super) enum Trust {
    /// Anyone's: only the encryption is wanted.
    Anyone,
    /// Those signed by an authority, and the very certificates of the root file: a self-signed
    /// server certificate may serve as its own root.
    Authorities {
        /// The authorities.
        roots: RootCertStore,
        /// The certificates of the file, byte for byte.
        exact: Vec<CertificateDer<'static>>,
    },
}

/// Accepts certificates by [`Trust`] and, in `verify-full`, by name.
#[derive(Debug)]
pub(super) struct Verifier {
    verifies: bool,
    checks_name: bool,
    chain: Option<Arc<WebPkiServerVerifier>>,
    exact: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(super) fn new(
        trust: Trust,
        mode: SslMode,
        provider: Arc<CryptoProvider>,
    ) -> Result<Verifier, String> {
        let checks_name = mode == SslMode::VerifyFull;
        let Trust::Authorities { roots, exact } = trust else {
            return Ok(Verifier {
                verifies: false,
                checks_name,
                chain: None,
                exact: vec![],
                provider,
            });
        };
        let chain = if roots.is_empty() {
            None
        } else {
            let builder =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            Some(builder.build().map_err(|error| error.to_string())?)
        };
        Ok(Verifier { verifies: true, checks_name, chain, exact, provider })
    }

    /// `Ok` if the chain holds; the name may be wrong.
    fn chain_verdict(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.exact.iter().any(|known| known.as_ref() == end_entity.as_ref()) {
            return certificate::check_dates(end_entity, now).map_err(Error::InvalidCertificate);
        }
        let Some(chain) = &self.chain else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        match chain.verify_server_cert(end_entity, intermediates, name, &[], now) {
            // The name is compared last, so all else is well.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.verifies {
            self.chain_verdict(end_entity, intermediates, name, now)?;
        }
        if self.checks_name {
            let parsed = ParsedCertificate::try_from(end_entity);
            let by_alternative_names =
                parsed.and_then(|parsed| rustls::client::verify_server_name(&parsed, name));
            if let Err(error) = by_alternative_names
                && !certificate::common_name_matches(end_entity, &name.to_str())
            {
                return Err(error);
            }
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
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
