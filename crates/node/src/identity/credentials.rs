//! Keys and certificates on disk, laid out as the kubelet does: one PEM file per certificate (chain, then key) and a
//! link `<prefix>-current.pem` to the one in use. Everything is mode 0600 and replaced atomically.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tracing::error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A failed operation on a stored key or certificate.
#[derive(Debug, Error)]
pub enum CredentialError {
    /// A file or folder could not be read, written, linked or moved.
    #[error("{doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A certificate or key is not usable.
    #[error("{origin}: {reason}")]
    Unusable {
        /// The file or request that it came from.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A key could not be made.
    #[error("generating an ECDSA P-256 key")]
    Generate(#[source] rcgen::Error),
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CredentialError {
    let path = path.to_owned();
    move |source| CredentialError::Io { doing, path, source }
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

impl Validity {
    /// The moment after `fraction` of the lifetime.
    pub(super) fn at(&self, fraction: f64) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        self.not_before.checked_add(life.mul_f64(fraction)).unwrap_or(self.not_after)
    }
}

/// A certificate chain with its key.
#[derive(Clone)]
pub(super) struct Credential {
    path: PathBuf,
    chain_pem: String,
    key_pem: String,
    common_name: Option<String>,
    validity: Validity,
    dns: Vec<String>,
    ips: Vec<IpAddr>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("path", &self.path)
            .field("common_name", &self.common_name)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// Checks that `pem` holds a chain and the key of its first certificate.
    pub(super) fn parse(origin: &str, path: PathBuf, pem: &str) -> Result<Self, CredentialError> {
        let unusable = |reason: String| CredentialError::Unusable { origin: origin.to_owned(), reason };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| unusable(format!("not valid PEM: {e}")))?;
        let leaf_der = chain.first().ok_or_else(|| unusable("holds no certificate".into()))?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| unusable("holds no private key".into()))?;
        let (_, leaf) = X509Certificate::from_der(leaf_der).map_err(|e| unusable(format!("not a valid certificate: {e}")))?;
        let pair = KeyPair::try_from(&key).map_err(|e| unusable(format!("unusable private key: {e}")))?;
        if leaf.public_key().raw != pair.subject_public_key_info() {
            return Err(unusable("the private key does not belong to the certificate".into()));
        }
        let (mut dns, mut ips) = (Vec::new(), Vec::new());
        if let Ok(Some(names)) = leaf.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => ips.extend(ip_address(bytes)),
                    _ => {}
                }
            }
        }
        Ok(Self {
            path,
            common_name: leaf.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok()).map(str::to_owned),
            validity: validity(&leaf),
            dns,
            ips,
            key_pem: pair.serialize_pem(),
            chain_pem: chain_pem(pem),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
    pub(super) fn chain_pem(&self) -> &str {
        &self.chain_pem
    }
    pub(super) fn key_pem(&self) -> &str {
        &self.key_pem
    }
    pub(super) fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }
    pub(super) fn validity(&self) -> Validity {
        self.validity
    }
    pub(super) fn dns(&self) -> &[String] {
        &self.dns
    }
    pub(super) fn ips(&self) -> &[IpAddr] {
        &self.ips
    }
    /// Chain and key as one file.
    fn bundle(&self) -> String {
        format!("{}{}", self.chain_pem, self.key_pem)
    }
}

/// The certificates of a PEM text without its other sections.
fn chain_pem(pem: &str) -> String {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut chain = String::new();
    let mut rest = pem;
    while let Some(begin) = rest.find(BEGIN) {
        let Some(end) = rest[begin..].find(END) else {
            break;
        };
        chain.push_str(&rest[begin..begin + end + END.len()]);
        chain.push('\n');
        rest = &rest[begin + end + END.len()..];
    }
    chain
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn validity(leaf: &X509Certificate<'_>) -> Validity {
    let second = |s| Timestamp::from_second(s).unwrap_or(Timestamp::UNIX_EPOCH);
    Validity { not_before: second(leaf.validity().not_before.timestamp()), not_after: second(leaf.validity().not_after.timestamp()) }
}

/// The validity of the first certificate of a PEM text.
pub(super) fn leaf_validity(pem: &[u8]) -> Option<Validity> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, leaf) = X509Certificate::from_der(&der).ok()?;
    Some(validity(&leaf))
}

/// The certificates of one kind (`<prefix>-…`) in the PKI folder.
#[derive(Debug)]
pub(super) struct CredentialStore {
    dir: PathBuf,
    prefix: &'static str,
}

impl CredentialStore {
    /// Opens the folder, making it if need be.
    pub(super) fn open(dir: &Path, prefix: &'static str) -> Result<Self, CredentialError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("creating the folder", dir))?;
        Ok(Self { dir: dir.to_owned(), prefix })
    }

    /// The link to the certificate in use.
    pub(super) fn current_path(&self) -> PathBuf {
        self.dir.join(format!("{}-current.pem", self.prefix))
    }

    fn pending_key_path(&self) -> PathBuf {
        self.dir.join(format!("{}-pending.key", self.prefix))
    }

    /// The certificate in use. An unusable file is reported and moved aside, which is `None` like a missing one.
    pub(super) fn load(&self) -> Result<Option<Credential>, CredentialError> {
        let path = self.current_path();
        let Some(pem) = read_or_set_aside(&path)? else {
            return Ok(None);
        };
        match Credential::parse(&path.display().to_string(), path.clone(), &pem) {
            Ok(credential) => Ok(Some(credential)),
            Err(cause) => {
                set_aside(&path, &cause.to_string())?;
                Ok(None)
            }
        }
    }

    /// The key of the request under way, made at its first use: a restart goes on with the same request.
    pub(super) fn pending_key(&self) -> Result<KeyPair, CredentialError> {
        let path = self.pending_key_path();
        if let Some(pem) = read_or_set_aside(&path)? {
            match KeyPair::from_pem(&pem) {
                Ok(key) => return Ok(key),
                Err(cause) => set_aside(&path, &format!("unusable private key: {cause}"))?,
            }
        }
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(CredentialError::Generate)?;
        write_private(&path, &key.serialize_pem())?;
        Ok(key)
    }

    /// Forgets the key of the request under way.
    pub(super) fn drop_pending_key(&self) -> Result<(), CredentialError> {
        let path = self.pending_key_path();
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("removing", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Makes `credential` the one in use: writes its file, then moves the link. The file before it stays as a
    /// fallback for a person; older ones are removed.
    pub(super) fn install(&self, credential: &Credential) -> Result<(), CredentialError> {
        let current = self.current_path();
        let previous = fs::read_link(&current).ok();
        let now = Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S").to_string();
        let mut name = format!("{}-{now}.pem", self.prefix);
        let mut suffix = 1;
        while self.dir.join(&name).exists() {
            suffix += 1;
            name = format!("{}-{now}-{suffix}.pem", self.prefix);
        }
        write_private(&self.dir.join(&name), &credential.bundle())?;
        let staged = self.dir.join(format!(".{}-current.tmp", self.prefix));
        let _ = fs::remove_file(&staged);
        symlink(&name, &staged).map_err(io_error("linking", &staged))?;
        fs::rename(&staged, &current).map_err(io_error("replacing the link", &current))?;
        self.remove_older(&[Some(PathBuf::from(name)), previous]);
        self.drop_pending_key()
    }

    fn remove_older(&self, keep: &[Option<PathBuf>]) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(text) = name.to_str() else { continue };
            // Only names that `install` makes: `<prefix>-<digit>….pem`.
            let ours = text
                .strip_prefix(self.prefix)
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && rest.ends_with(".pem"));
            let kept = keep.iter().flatten().any(|k| k.as_os_str() == name);
            if ours && !kept {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Reads a text file; a missing one is `None`, one that is not text is moved aside.
fn read_or_set_aside(path: &Path) -> Result<Option<String>, CredentialError> {
    match fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => {
                set_aside(path, "not a PEM file")?;
                Ok(None)
            }
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("reading", path)(e)),
    }
}

/// Moves an unusable file out of the way, keeping it for a person to look at.
fn set_aside(path: &Path, reason: &str) -> Result<(), CredentialError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".corrupt-{}", Timestamp::now().as_second()));
    let aside = PathBuf::from(aside);
    error!(path = %path.display(), moved_to = %aside.display(), reason, "unusable credential file; starting anew without it");
    fs::rename(path, &aside).map_err(io_error("moving aside", path))
}

/// Writes a file with mode 0600 atomically and durably.
pub(super) fn write_private(path: &Path, contents: &str) -> Result<(), CredentialError> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".tmp");
    let staged = PathBuf::from(staged);
    let _ = fs::remove_file(&staged);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(contents.as_bytes())?;
        file.sync_all()?;
        fs::rename(&staged, path)?;
        if let Some(dir) = path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(io_error("writing", path))
}
