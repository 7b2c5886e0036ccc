//! The few facts about X.509 certificates that rustls does not tell.

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The `tls-server-end-point` hash (RFC 5929): by the hash of the certificate's signature, or
/// SHA-256 where that is MD5 or SHA-1. Signatures without one, like Ed25519, have none.
pub(super) fn end_point_hash(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let certificate = Certificate::from_der(der).ok()?;
    let algorithm = &certificate.signature_algorithm;
    let hash = match algorithm.oid {
        RSA_PSS => {
            // RSASSA-PSS-params: [0] { hash algorithm }, SHA-1 if absent.
            let parameters = algorithm.parameters.as_ref()?.to_der().ok()?;
            pss_hash(&parameters)
        }
        other => other,
    };
    match hash {
        MD5_RSA | SHA1_RSA | SHA1_ECDSA | SHA1 | SHA256_RSA | SHA256_ECDSA | SHA256 => {
            Some(Sha256::digest(der).to_vec())
        }
        SHA384_RSA | SHA384_ECDSA | SHA384 => Some(Sha384::digest(der).to_vec()),
        SHA512_RSA | SHA512_ECDSA | SHA512 => Some(Sha512::digest(der).to_vec()),
        _ => None,
    }
}

/// Whether the certificate is valid now.
pub(super) fn check_dates(der: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let certificate = Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
    let validity = certificate.tbs_certificate.validity;
    let seconds = now.as_secs();
    if seconds < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet);
    }
    if seconds > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired);
    }
    Ok(())
}

/// Whether the certificate has no alternative names, and its common name is `host`. Old, and still
/// what many private authorities issue; libpq accepts it too.
pub(super) fn common_name_matches(der: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(certificate) = Certificate::from_der(der) else { return false };
    let tbs = &certificate.tbs_certificate;
    let names_of_host = match tbs.get::<SubjectAltName>() {
        Ok(Some((_, names))) => names
            .0
            .iter()
            .any(|name| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_))),
        Ok(None) => false,
        Err(_) => true,
    };
    if names_of_host {
        return false;
    }
    tbs.subject
        .0
        .iter()
        .flat_map(|relative| relative.0.iter())
        .filter(|attribute| attribute.oid == COMMON_NAME)
        .any(|attribute| {
            std::str::from_utf8(attribute.value.value()).is_ok_and(|name| matches(name, host))
        })
}

/// Equal but for case, or `*.` in place of the first label.
fn matches(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((label, rest))) => {
            !label.is_empty()
                && domain.contains('.')
                && domain.eq_ignore_ascii_case(rest)
                && host.parse::<std::net::IpAddr>().is_err()
        }
        _ => false,
    }
}

/// The hash named first in RSASSA-PSS parameters.
fn pss_hash(parameters: &[u8]) -> ObjectIdentifier {
    // SEQUENCE { [0] { SEQUENCE { OID … } } … }: five headers of two bytes each before the OID's
    // content, all lengths short.
    match parameters {
        [0x30, _, 0xA0, _, 0x30, _, 0x06, length, rest @ ..] => rest
            .get(..usize::from(*length))
            .and_then(|oid| ObjectIdentifier::from_bytes(oid).ok())
            .unwrap_or(UNKNOWN),
        [0x30, _, 0xA0, ..] => UNKNOWN,
        _ => SHA1,
    }
}

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

const COMMON_NAME: ObjectIdentifier = oid("2.5.4.3");
const UNKNOWN: ObjectIdentifier = oid("0.0.0");
const MD5_RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.4");
const SHA1_RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.5");
const SHA256_RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.11");
const SHA384_RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.12");
const SHA512_RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.13");
const RSA_PSS: ObjectIdentifier = oid("1.2.840.113549.1.1.10");
const SHA1_ECDSA: ObjectIdentifier = oid("1.2.840.10045.4.1");
const SHA256_ECDSA: ObjectIdentifier = oid("1.2.840.10045.4.3.2");
const SHA384_ECDSA: ObjectIdentifier = oid("1.2.840.10045.4.3.3");
const SHA512_ECDSA: ObjectIdentifier = oid("1.2.840.10045.4.3.4");
const SHA1: ObjectIdentifier = oid("1.3.14.3.2.26");
const SHA256: ObjectIdentifier = oid("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = oid("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = oid("2.16.840.1.101.3.4.2.3");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_one_label() {
        for (pattern, host, fits) in [
            ("pg.example.org", "PG.example.ORG", true),
            ("*.example.org", "pg.example.org", true),
            ("*.example.org", "a.pg.example.org", false),
            ("*.example.org", "example.org", false),
            ("*.org", "example.org", false),
            ("*.0.0.1", "127.0.0.1", false),
        ] {
            assert_eq!(matches(pattern, host), fits, "{pattern} {host}");
        }
    }

    #[test]
    fn rubbish_is_no_certificate() {
        let rubbish = CertificateDer::from(vec![0x30, 0x82, 0xFF, 0xFF, 1, 2, 3]);
        assert_eq!(end_point_hash(&rubbish), None);
        assert!(!common_name_matches(&rubbish, ""));
        assert!(check_dates(&rubbish, UnixTime::now()).is_err());
    }

    #[test]
    fn the_hash_of_pss_parameters() {
        let sha384 = [
            0x30, 0x0F, 0xA0, 0x0D, 0x30, 0x0B, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03,
            0x04, 0x02, 0x02,
        ];
        assert_eq!(pss_hash(&sha384), SHA384);
        assert_eq!(pss_hash(&[0x30, 0]), SHA1);
        assert_eq!(pss_hash(&sha384[..10]), UNKNOWN);
    }
}
