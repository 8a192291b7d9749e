//! Keys of Curve25519, as WireGuard's tools write them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519;
use kube_pet_host::files::{FileError, read_limited, write_durable};

/// Bytes of a key.
const LENGTH: usize = 32;
/// A file of a key is shorter.
const MOST: u64 = 1024;

/// The secret half. Shown by nothing, wiped when it is given up.
#[derive(Clone)]
pub struct PrivateKey(pub(crate) x25519::StaticSecret);

/// The public half, which names a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; LENGTH]);

/// Not 32 bytes in base64.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a WireGuard key: 32 bytes in base64 are wanted")]
pub struct InvalidKey;

/// There is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system gives no random bytes.
    #[error("making a key: {source}")]
    Random {
        /// Its answer.
        #[source]
        source: std::io::Error,
    },
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds something else. It is left alone: who put it there may want it back.
    #[error("{path}: {source}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: InvalidKey,
    },
}

impl PrivateKey {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = [0; LENGTH];
        let mut rest: &mut [u8] = &mut bytes;
        while !rest.is_empty() {
            let got = rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty());
            let got = got.map_err(|e| KeyError::Random { source: e.into() })?;
            rest = rest.get_mut(got..).unwrap_or_default();
        }
        Ok(Self(bytes.into()))
    }

    /// The one of the file; a new one, written there for its owner only, if there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, is no key, or cannot be written.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::File(error)) if error.is_not_found() => Self::create(path),
            other => other,
        }
    }

    /// The one of the file.
    ///
    /// # Errors
    /// When the file cannot be read or is no key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = read_limited(path, MOST)?;
        let invalid = |source| KeyError::Invalid { path: path.into(), source };
        decode(text.trim_ascii()).map(|bytes| Self(bytes.into())).map_err(invalid)
    }

    /// A new one, written to the file in the place of another that may be there.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let key = Self::generate()?;
        key.store(path)?;
        Ok(key)
    }

    /// Writes it to the file, for its owner only, in the place of another that may be there.
    ///
    /// # Errors
    /// When it cannot be written; then the other one is still there.
    pub fn store(&self, path: &Path) -> Result<(), KeyError> {
        Ok(write_durable(path, format!("{}\n", STANDARD.encode(self.0.as_bytes())).as_bytes(), 0o600)?)
    }

    /// Its other half.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519::PublicKey::from(&self.0).to_bytes())
    }

    pub(crate) fn bytes(&self) -> [u8; LENGTH] {
        self.0.to_bytes()
    }
}

impl PublicKey {
    pub(crate) fn bytes(&self) -> [u8; LENGTH] {
        self.0
    }
}

impl From<[u8; LENGTH]> for PublicKey {
    fn from(bytes: [u8; LENGTH]) -> Self {
        Self(bytes)
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        decode(text.as_bytes()).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

fn decode(text: &[u8]) -> Result<[u8; LENGTH], InvalidKey> {
    STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(InvalidKey)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_only_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = PrivateKey::load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let found = PrivateKey::load_or_create(&path).unwrap();
        assert_eq!(found.public(), made.public());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!format!("{made:?}").contains(text.trim()));
        assert_ne!(PrivateKey::create(&path).unwrap().public(), made.public());
    }

    #[test]
    fn what_is_no_key_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "something else").unwrap();
        assert!(matches!(PrivateKey::load_or_create(&path), Err(KeyError::Invalid { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "something else");
        assert_eq!("AAAA".parse::<PublicKey>(), Err(InvalidKey));
    }

    /// The pair of Alice in RFC 7748, 6.1.
    #[test]
    fn the_public_half_is_the_one_that_others_compute() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n").unwrap();
        let public = PrivateKey::load(&path).unwrap().public();
        assert_eq!(public.to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
        assert_eq!(public.to_string().parse(), Ok(public));
    }
}
