//! The files of configMap and secret volumes.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath};

use super::FieldError;

/// The mode of files whose volume names none. The API server fills it in; static pods may come without.
pub const DEFAULT_MODE: i32 = 0o644;

/// One file of a volume: what it contains and who may read it.
#[derive(Clone, PartialEq, Eq)]
pub struct FileProjection {
    /// The content.
    pub data: Vec<u8>,
    /// The permission bits.
    pub mode: u32,
    /// The owner; root when none is given.
    pub user: Option<u32>,
}

/// Contents stay out of logs: any of them may be a secret.
impl fmt::Debug for FileProjection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileProjection")
            .field("bytes", &self.data.len())
            .field("mode", &format_args!("{:o}", self.mode))
            .field("user", &self.user)
            .finish()
    }
}

/// Files by their path within the volume.
pub type Payload = BTreeMap<String, FileProjection>;

/// Why a volume's files cannot be computed. The texts are the kubelet's.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// `items` names a key that the ConfigMap lacks.
    #[error("configmap references non-existent config key: {key}")]
    NoSuchConfigKey {
        /// The key.
        key: String,
    },
    /// `items` names a key that the Secret lacks.
    #[error("references non-existent secret key: {key}")]
    NoSuchSecretKey {
        /// The key.
        key: String,
    },
    /// A ConfigMap that is not optional does not exist.
    #[error("configmap \"{name}\" not found")]
    NoSuchConfigMap {
        /// Its name.
        name: String,
    },
    /// A Secret that is not optional does not exist.
    #[error("secret \"{name}\" not found")]
    NoSuchSecret {
        /// Its name.
        name: String,
    },
    /// A projected service-account token was not fetched.
    #[error("failed to fetch token: none was issued for {path}")]
    NoToken {
        /// The token's file.
        path: String,
    },
    /// A ClusterTrustBundle that is not optional does not exist.
    #[error("while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"{name}\" not found")]
    NoSuchTrustBundle {
        /// Its name.
        name: String,
    },
    /// No ClusterTrustBundle is selected by a source that is not optional.
    #[error("combination of signerName and labelSelector matched zero ClusterTrustBundles")]
    NoTrustBundles,
    /// A source says nothing of which ClusterTrustBundles it wants.
    #[error("ClusterTrustBundle projection requires either name or signerName to be set")]
    NoChoiceOfTrustBundles,
    /// A downward API item cannot be computed.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A certificate was not fetched.
    #[error("credential bundle is not issued yet")]
    NoCertificate,
    /// A file's path is empty.
    #[error("invalid path: must not be empty: \"\"")]
    EmptyPath,
    /// A file's path starts at the root.
    #[error("invalid path: must be relative path: {path}")]
    AbsolutePath {
        /// The path.
        path: String,
    },
    /// A file's path is over 4,096 bytes.
    #[error("invalid path: must be less than or equal to 4096 characters")]
    LongPath,
    /// A file's path leaves the volume.
    #[error("invalid path: must not contain '..': {path}")]
    Backstep {
        /// The path.
        path: String,
    },
    /// One part of a file's path is over 255 bytes.
    #[error("invalid path: filenames must be less than or equal to 255 characters")]
    LongName,
    /// A file's path starts with `..`, which is reserved for the volume's own folders.
    #[error("invalid path: must not start with '..': {path}")]
    Reserved {
        /// The path.
        path: String,
    },
    /// Several sources of one projected volume failed.
    #[error("[{}]", join(.0))]
    Several(Vec<PayloadError>),
}

fn join(errors: &[PayloadError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl PayloadError {
    /// One error for all of `errors`, as the kubelet words it; `None` for none.
    pub fn aggregate(mut errors: Vec<PayloadError>) -> Option<PayloadError> {
        match errors.len() {
            0 | 1 => errors.pop(),
            _ => Some(Self::Several(errors)),
        }
    }
}

/// The mode of a file: its own, or the volume's, or [`DEFAULT_MODE`].
pub(super) fn mode_bits(own: Option<i32>, default: Option<i32>) -> u32 {
    own.or(default).unwrap_or(DEFAULT_MODE).unsigned_abs() & 0o7777
}

/// The files of a ConfigMap. `None` for `config_map` is a missing one: an error unless `optional`.
///
/// # Errors
/// A ConfigMap or a key that is missing and not optional.
pub fn config_map_payload(
    name: &str,
    config_map: Option<&ConfigMap>,
    items: &[KeyToPath],
    default_mode: Option<i32>,
    optional: bool,
) -> Result<Payload, PayloadError> {
    let Some(config_map) = config_map else {
        return if optional { Ok(Payload::new()) } else { Err(PayloadError::NoSuchConfigMap { name: name.to_owned() }) };
    };
    // The two maps never share a key: the API server sees to it.
    let text = config_map.data.iter().flatten().map(|(key, value)| (key, value.as_bytes()));
    let binary = config_map.binary_data.iter().flatten().map(|(key, value)| (key, value.0.as_slice()));
    let contents: BTreeMap<&String, &[u8]> = binary.chain(text).collect();
    key_payload(&contents, items, default_mode, optional, |key| PayloadError::NoSuchConfigKey { key })
}

/// The files of a Secret. `None` for `data` is a missing Secret: an error unless `optional`.
///
/// # Errors
/// A Secret or a key that is missing and not optional.
pub fn secret_payload(
    name: &str,
    data: Option<&BTreeMap<String, ByteString>>,
    items: &[KeyToPath],
    default_mode: Option<i32>,
    optional: bool,
) -> Result<Payload, PayloadError> {
    let Some(data) = data else {
        return if optional { Ok(Payload::new()) } else { Err(PayloadError::NoSuchSecret { name: name.to_owned() }) };
    };
    let contents: BTreeMap<&String, &[u8]> = data.iter().map(|(key, value)| (key, value.0.as_slice())).collect();
    key_payload(&contents, items, default_mode, optional, |key| PayloadError::NoSuchSecretKey { key })
}

fn key_payload(
    contents: &BTreeMap<&String, &[u8]>,
    items: &[KeyToPath],
    default_mode: Option<i32>,
    optional: bool,
    missing: impl Fn(String) -> PayloadError,
) -> Result<Payload, PayloadError> {
    if items.is_empty() {
        let mode = mode_bits(None, default_mode);
        let file = |data: &[u8]| FileProjection { data: data.to_vec(), mode, user: None };
        return Ok(contents.iter().map(|(key, data)| ((*key).clone(), file(data))).collect());
    }
    let mut payload = Payload::new();
    for item in items {
        match contents.get(&item.key) {
            Some(data) => {
                let mode = mode_bits(item.mode, default_mode);
                payload.insert(item.path.clone(), FileProjection { data: data.to_vec(), mode, user: None });
            }
            None if optional => {}
            None => return Err(missing(item.key.clone())),
        }
    }
    Ok(payload)
}

/// Whether a file may be written at `path` within its volume.
///
/// # Errors
/// The kubelet's reason why not.
pub fn validate_payload_path(path: &str) -> Result<(), PayloadError> {
    if path.is_empty() {
        return Err(PayloadError::EmptyPath);
    }
    if path.starts_with('/') {
        return Err(PayloadError::AbsolutePath { path: path.to_owned() });
    }
    if path.len() > 4096 {
        return Err(PayloadError::LongPath);
    }
    for name in path.split('/') {
        if name == ".." {
            return Err(PayloadError::Backstep { path: path.to_owned() });
        }
        if name.len() > 255 {
            return Err(PayloadError::LongName);
        }
    }
    // `..data` and its time-stamped folders are the volume's own.
    if path.starts_with("..") {
        return Err(PayloadError::Reserved { path: path.to_owned() });
    }
    Ok(())
}
