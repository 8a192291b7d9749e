//! What the agent keeps in files of JSON, for its next run.

use std::path::{Path, PathBuf};

use kube_pet_host::files::{self, FileError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// More than most of them have: what is larger is none of ours.
pub(crate) const MAX_BYTES: u64 = 1 << 20;

/// A file is not read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonFileError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is damaged: {source}", path.display())]
    Content {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the content of {} cannot be written as JSON: {source}", path.display())]
    Encode {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// What the file says, if it has no more than `max_bytes`; `None` if there is none. Blocking.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, max_bytes: u64) -> Result<Option<T>, JsonFileError> {
    match files::read_limited(path, max_bytes) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| JsonFileError::Content { path: path.to_owned(), source }),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Replaces the file as a whole; only root may read it. Blocking.
pub(crate) fn write(path: &Path, content: &impl Serialize) -> Result<(), JsonFileError> {
    Ok(files::write_atomic(path, &encode(path, content)?, 0o600)?)
}

/// [`write`], and it is on the disk when the machine loses its power.
pub(crate) fn write_durable(path: &Path, content: &impl Serialize) -> Result<(), JsonFileError> {
    Ok(files::write_durable(path, &encode(path, content)?, 0o600)?)
}

fn encode(path: &Path, content: &impl Serialize) -> Result<Vec<u8>, JsonFileError> {
    serde_json::to_vec(content).map_err(|source| JsonFileError::Encode { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    type Content = BTreeMap<String, u32>;

    #[test]
    fn a_file_is_there_or_not_or_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        assert!(read::<Content>(&path, MAX_BYTES).unwrap().is_none());
        let content = Content::from([("a".to_owned(), 1)]);
        for write in [write, write_durable] {
            write(&path, &content).unwrap();
            assert_eq!(read::<Content>(&path, MAX_BYTES).unwrap().unwrap(), content);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::write(&path, "{\"a\": ").unwrap();
        let error = read::<Content>(&path, MAX_BYTES).unwrap_err().to_string();
        assert!(error.contains("x.json is damaged: EOF"), "{error}");
        std::fs::write(&path, vec![b' '; 2 << 20]).unwrap();
        assert!(matches!(read::<Content>(&path, MAX_BYTES), Err(JsonFileError::File(FileError::TooLarge { .. }))));
    }
}
