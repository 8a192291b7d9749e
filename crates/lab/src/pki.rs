//! The cluster's certificates and keys.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

/// A folder with one authority and what it has signed: `<name>.crt` and `<name>.key`.
pub struct Pki {
    dir: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    /// Makes a new authority, named `kubernetes`, in `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("kubernetes", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let pki = Self { dir: dir.to_owned(), authority };
        pki.write("ca.crt", &pki.authority.pem())?;
        pki.write("ca.key", &pki.authority.key().serialize_pem())?;
        let accounts = KeyPair::generate()?;
        pki.write("sa.key", &accounts.serialize_pem())?;
        pki.write("sa.pub", &accounts.public_key_pem())?;
        Ok(pki)
    }

    /// The authority's certificate, PEM.
    pub fn ca(&self) -> String {
        self.authority.pem()
    }

    /// Signs a server certificate for these names and addresses.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn server(&self, name: &str, alternatives: &[String]) -> Result<()> {
        let mut params = CertificateParams::new(alternatives.to_vec())?;
        params.distinguished_name = subject(name, None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(name, params).map(drop)
    }

    /// Signs a client certificate.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn client(&self, name: &str, user: &str, group: Option<&str>) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(name, params)
    }

    fn sign(&self, name: &str, mut params: CertificateParams) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate()?;
        let identity = Identity { certificate: params.signed_by(&key, &self.authority)?.pem(), key: key.serialize_pem() };
        self.write(&format!("{name}.crt"), &identity.certificate)?;
        self.write(&format!("{name}.key"), &identity.key)?;
        Ok(identity)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        write_secret(&self.dir.join(name), text)
    }
}

/// A client certificate with its key, both PEM.
pub struct Identity {
    certificate: String,
    key: String,
}

fn subject(name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization);
    }
    subject
}

/// The URL at which everybody reaches the lab's API server.
pub fn server_url(address: Ipv4Addr) -> String {
    format!("https://{address}:6443")
}

/// A kubeconfig with a client certificate inside. JSON is YAML.
pub fn certificate_kubeconfig(server: &str, ca: &str, identity: &Identity) -> String {
    kubeconfig(
        server,
        ca,
        &json!({
            "client-certificate-data": encoded(&identity.certificate),
            "client-key-data": encoded(&identity.key),
        }),
    )
}

/// A kubeconfig with a bearer token inside.
pub fn token_kubeconfig(server: &str, ca: &str, token: &str) -> String {
    kubeconfig(server, ca, &json!({ "token": token }))
}

fn kubeconfig(server: &str, ca: &str, user: &serde_json::Value) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority-data": encoded(ca)}}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    });
    format!("{config:#}\n")
}

fn encoded(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Writes a file that only root may read.
///
/// # Errors
/// When it cannot be written.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}
