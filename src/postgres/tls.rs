//! TLS towards a PostgreSQL server, with libpq's meaning of `sslmode` and its files.

mod certificate;
mod verifier;

use super::conninfo::{ConnInfo, SslMode, TlsVersion};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use verifier::{Trust, Verifier};

/// Opens TLS on a connected socket; `name` is the host as the user named it. The error is the reason.
pub(super) async fn connect(
    info: &ConnInfo,
    name: &str,
    socket: TcpStream,
) -> Result<TlsStream<TcpStream>, String> {
    let config = client_config(info)?;
    let server_name = match ServerName::try_from(name.to_owned()) {
        Ok(server_name) => server_name,
        Err(_) if info.ssl_mode == SslMode::VerifyFull => {
            return Err(format!("{name:?} is no host name a certificate could be for"));
        }
        Err(_) => socket.peer_addr().map_err(|error| error.to_string())?.ip().into(),
    };
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(server_name, socket).await.map_err(|error| error.to_string())
}

/// What SCRAM binds to: the server certificate's hash. `None` if its signature algorithm has none.
pub(super) fn server_end_point(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    let (_, session) = stream.get_ref();
    certificate::end_point_hash(session.peer_certificates()?.first()?)
}

fn client_config(info: &ConnInfo) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: Vec<_> = rustls::ALL_VERSIONS
        .iter()
        .copied()
        .filter(|version| {
            let version = match version.version {
                rustls::ProtocolVersion::TLSv1_2 => TlsVersion::Tls12,
                _ => TlsVersion::Tls13,
            };
            (info.ssl_min_version..=info.ssl_max_version).contains(&version)
        })
        .collect();
    let verifier = Verifier::new(trust(info)?, info.ssl_mode, provider.clone())?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match client_certificate(info)? {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
        }
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = info.ssl_sni;
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
}

/// Whom to trust. Like libpq, every mode verifies against a root certificate that exists, and only
/// the two strongest insist that it does.
fn trust(info: &ConnInfo) -> Result<Trust, String> {
    if info.ssl_root_cert.as_deref() == Some("system") {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err("the system has no trusted certificates (package ca-certificates?)".into());
        }
        return Ok(Trust::Authorities { roots, exact: Vec::new() });
    }
    let file = match &info.ssl_root_cert {
        Some(file) => Some(PathBuf::from(file)).filter(|file| file.exists()),
        None => info.default_file("root.crt"),
    };
    let Some(file) = file else {
        if info.ssl_mode >= SslMode::VerifyCa {
            let wanted = info.ssl_root_cert.as_deref().unwrap_or("~/.postgresql/root.crt");
            return Err(format!(
                "the root certificate file {wanted} does not exist, and this sslmode needs one \
                 (or sslrootcert=system)"
            ));
        }
        return Ok(Trust::Anyone);
    };
    let exact = certificates(&file)?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(exact.iter().cloned());
    Ok(Trust::Authorities { roots, exact })
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(info: &ConnInfo) -> Result<Option<Identity>, String> {
    let file = match &info.ssl_cert {
        Some(file) => file.clone(),
        None => match info.default_file("postgresql.crt") {
            Some(file) => file,
            None => return Ok(None),
        },
    };
    let key_file = info
        .ssl_key
        .clone()
        .or_else(|| info.default_file("postgresql.key"))
        .ok_or_else(|| format!("there is a certificate, {}, but no sslkey", file.display()))?;
    check_key_mode(&key_file)?;
    let key = PrivateKeyDer::from_pem_file(&key_file)
        .map_err(|error| format!("no private key in {}: {error}", key_file.display()))?;
    Ok(Some((certificates(&file)?, key)))
}

/// libpq's rule: nobody but the owner, or also the group if root owns it.
fn check_key_mode(file: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(file)
        .map_err(|error| format!("cannot read private key {}: {error}", file.display()))?;
    let forbidden = if metadata.uid() == 0 { 0o027 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(format!(
            "private key {} may be read by others; its mode must be 0600, or 0640 if root owns it",
            file.display()
        ));
    }
    Ok(())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bad = |error| format!("cannot read certificates in {}: {error}", file.display());
    let found = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(bad)?;
    if found.is_empty() {
        return Err(format!("there is no certificate in {}", file.display()));
    }
    Ok(found)
}
