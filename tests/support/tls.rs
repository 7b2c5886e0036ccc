//! A throwaway certificate authority, with a certificate for a server and one for a client.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

use super::account::write_file;

/// Where the certificates and keys lie, in PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The authority that both sides trust.
    pub ca: PathBuf,
    /// The server's certificate, for `localhost` and 127.0.0.1.
    pub server_certificate: PathBuf,
    /// The server's key.
    pub server_key: PathBuf,
    /// A client's certificate, for the role named when it was made.
    pub client_certificate: PathBuf,
    /// The client's key.
    pub client_key: PathBuf,
}

impl Tls {
    /// Makes everything anew in `directory`; the client certificate's common name is `role`.
    pub fn generate(directory: &Path, role: &str) -> Tls {
        let tls = Tls {
            ca: directory.join("ca.crt"),
            server_certificate: directory.join("server.crt"),
            server_key: directory.join("server.key"),
            client_certificate: directory.join("client.crt"),
            client_key: directory.join("client.key"),
        };
        let (ca_key, ca) = (KeyPair::generate().unwrap(), ca_params());
        write_file(&tls.ca, &ca.self_signed(&ca_key).unwrap().pem());
        let issuer = Issuer::new(ca, ca_key);

        let mut server = leaf("localhost", ExtendedKeyUsagePurpose::ServerAuth);
        let names = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]);
        server.subject_alt_names = names.unwrap().subject_alt_names;
        sign(server, &issuer, &tls.server_certificate, &tls.server_key);

        let client = leaf(role, ExtendedKeyUsagePurpose::ClientAuth);
        sign(client, &issuer, &tls.client_certificate, &tls.client_key);
        tls
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn leaf(common_name: &str, purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.extended_key_usages = vec![purpose];
    params
}

fn sign(params: CertificateParams, issuer: &Issuer<'_, KeyPair>, certificate: &Path, key: &Path) {
    let pair = KeyPair::generate().unwrap();
    write_file(certificate, &params.signed_by(&pair, issuer).unwrap().pem());
    write_file(key, &pair.serialize_pem());
}
