//! Volume contents that change all at once, in the layout that Kubernetes gives to ConfigMap, Secret, downward-API and
//! projected volumes:
//! ```text
//! volume/..2026_02_01_15_04_05.1234567890/…   the files
//! volume/..data      -> ..2026_02_01_15_04_05.1234567890
//! volume/name        -> ..data/name
//! ```
//! Exchanging the link `..data` changes all files in one step. The order of steps is that of Kubernetes'
//! `pkg/volume/util/atomic_writer.go`; in addition, what a crash left half-way is cleaned up by the next call.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;

/// One file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub struct ProjectedFile {
    /// The content.
    pub bytes: Vec<u8>,
    /// The permission bits, exactly.
    pub mode: u32,
    /// The owner; the agent's own user without.
    pub uid: Option<u32>,
}

impl std::fmt::Debug for ProjectedFile {
    /// Without the content: it may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes, mode, uid } = self;
        f.debug_struct("ProjectedFile").field("len", &bytes.len()).field("mode", &format_args!("{mode:o}")).field("uid", uid).finish()
    }
}

/// The files of a volume by their path within it.
pub type Payload = BTreeMap<String, ProjectedFile>;

/// Why a volume was not written.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A path that must not be in a volume: empty, absolute, too long, with `..`, or in conflict with another one.
    #[error("invalid path {path:?} for a file in a volume: {reason}")]
    InvalidPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The system refused a step.
    #[error("{doing} {path}: {source}")]
    Io {
        /// The step.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TreeError + use<> {
    let path = path.to_owned();
    move |source| TreeError::Io { doing, path, source }
}

/// Makes the folder `volume` (which exists) show exactly `payload`. Says whether anything was written. `finish` gets the
/// folder of new files before anyone can see them: the place to set a group. Safe to be killed at any moment, and to be called
/// again.
pub fn write(volume: &Path, payload: &Payload, finish: impl FnOnce(&Path) -> io::Result<()>) -> Result<bool, TreeError> {
    let payload = cleaned(payload)?;
    let data = volume.join(DATA);
    let current = current_folder(volume)?;
    let up_to_date = match &current {
        Some(current) => shows(&volume.join(current), &payload)?,
        None => false,
    };
    let current = if up_to_date {
        current
    } else {
        let fresh = new_folder(volume)?;
        let published = (|| {
            let folder = volume.join(&fresh);
            write_files(&folder, &payload)?;
            finish(&folder).map_err(at("setting the ownership of", &folder))?;
            let new_data = volume.join(NEW_DATA);
            remove_any(&new_data)?;
            symlink(&fresh, &new_data).map_err(at("making the link", &new_data))?;
            fs::rename(&new_data, &data).map_err(at("exchanging the link", &data))
        })();
        if let Err(error) = published {
            let _ = fs::remove_dir_all(volume.join(&fresh));
            return Err(error);
        }
        Some(fresh)
    };
    show(volume, &payload)?;
    remove_stale(volume, &payload, current.as_deref())?;
    Ok(!up_to_date)
}

/// The rules of `validatePath` in Kubernetes' atomic writer, and a check that no file is also a folder.
fn cleaned(payload: &Payload) -> Result<Payload, TreeError> {
    let mut clean = Payload::new();
    for (path, file) in payload {
        let invalid = |reason| TreeError::InvalidPath { path: path.clone(), reason };
        if path.is_empty() {
            return Err(invalid("it is empty"));
        }
        if path.starts_with('/') {
            return Err(invalid("it is absolute"));
        }
        if path.len() > MAX_PATH {
            return Err(invalid("it is longer than 4096 bytes"));
        }
        if path.contains('\0') {
            return Err(invalid("it has a null byte"));
        }
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return Err(invalid("it contains '..'"));
        }
        if parts.iter().any(|part| part.len() > MAX_NAME) {
            return Err(invalid("a name in it is longer than 255 bytes"));
        }
        match parts.first() {
            None => return Err(invalid("it names the volume itself")),
            Some(first) if first.starts_with("..") => return Err(invalid("it starts with '..'")),
            Some(_) => {}
        }
        clean.insert(parts.join("/"), file.clone());
    }
    for path in clean.keys() {
        for (at, _) in path.match_indices('/') {
            if clean.contains_key(&path[..at]) {
                return Err(TreeError::InvalidPath { path: path.clone(), reason: "another file of the volume has the name of its folder" });
            }
        }
    }
    Ok(clean)
}

/// The folder that `..data` leads to, if it is one of ours.
fn current_folder(volume: &Path) -> Result<Option<String>, TreeError> {
    let data = volume.join(DATA);
    match fs::read_link(&data) {
        Ok(target) => {
            let name = target.to_string_lossy().into_owned();
            // A link that leads elsewhere is replaced, never followed.
            Ok((name.starts_with("..") && name.len() > 2 && !name.contains('/') && volume.join(&name).is_dir()).then_some(name))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // A file or folder of that name: the rename will say what is wrong.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(at("reading the link", &data)(error)),
    }
}

/// Whether `folder` has exactly these files, with this content, mode and owner.
fn shows(folder: &Path, payload: &Payload) -> Result<bool, TreeError> {
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(relative) = folders.pop() {
        let path = folder.join(&relative);
        for entry in fs::read_dir(&path).map_err(at("listing", &path))? {
            let entry = entry.map_err(at("listing", &path))?;
            let relative = relative.join(entry.file_name());
            if entry.file_type().map_err(at("reading the type of", &entry.path()))?.is_dir() {
                folders.push(relative);
            } else {
                found.insert(relative.to_string_lossy().into_owned());
            }
        }
    }
    if found.len() != payload.len() || !found.iter().eq(payload.keys()) {
        return Ok(false);
    }
    for (name, file) in payload {
        let path = folder.join(name);
        let metadata = fs::symlink_metadata(&path).map_err(at("reading the mode of", &path))?;
        // A group setting adds bits to the mode: more than asked for is no reason to write.
        let fits = metadata.is_file()
            && metadata.len() == file.bytes.len() as u64
            && metadata.mode() & file.mode == file.mode
            && file.uid.is_none_or(|uid| metadata.uid() == uid);
        if !fits || fs::read(&path).map_err(at("reading", &path))? != file.bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn new_folder(volume: &Path) -> Result<String, TreeError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let stamp = timestamp(now.as_secs());
    let mut suffix = u64::from(now.subsec_nanos());
    loop {
        let name = format!("..{stamp}.{suffix}");
        let path = volume.join(&name);
        match DirBuilder::new().mode(0o755).create(&path) {
            Ok(()) => {
                // The umask must not take the others' access.
                fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(at("setting the mode of", &path))?;
                return Ok(name);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => suffix += 1,
            Err(error) => return Err(at("making the folder", &path)(error)),
        }
    }
}

/// `2006_01_02_15_04_05` in UTC (days to civil date after Howard Hinnant).
fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}_{month:02}_{day:02}_{:02}_{:02}_{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

fn write_files(folder: &Path, payload: &Payload) -> Result<(), TreeError> {
    let mut made = BTreeSet::new();
    for (name, file) in payload {
        let mut parent = folder.to_owned();
        let mut parts = name.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                break;
            }
            parent.push(part);
            if made.insert(parent.clone()) {
                fs::create_dir(&parent).map_err(at("making the folder", &parent))?;
                fs::set_permissions(&parent, Permissions::from_mode(0o755)).map_err(at("setting the mode of", &parent))?;
            }
        }
        let path = folder.join(name);
        // Nobody may read it before it has its final mode and owner.
        let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(at("making", &path))?;
        open.write_all(&file.bytes).map_err(at("writing", &path))?;
        if file.uid.is_some() {
            lchown(&path, file.uid, None).map_err(at("setting the owner of", &path))?;
        }
        // After the owner: changing that one clears bits.
        open.set_permissions(Permissions::from_mode(file.mode & 0o7777)).map_err(at("setting the mode of", &path))?;
    }
    Ok(())
}

fn first_parts(payload: &Payload) -> BTreeMap<&str, Option<u32>> {
    payload.iter().map(|(path, file)| (path.split('/').next().unwrap_or(path), file.uid)).collect()
}

/// The links that users see.
fn show(volume: &Path, payload: &Payload) -> Result<(), TreeError> {
    for (name, uid) in first_parts(payload) {
        let (link, target) = (volume.join(name), Path::new(DATA).join(name));
        match fs::read_link(&link) {
            Ok(present) if present == target => continue,
            Ok(_) => fs::remove_file(&link).map_err(at("removing the link", &link))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Not a link: left alone, as Kubernetes does (somebody wrote into the volume).
            Err(_) => continue,
        }
        symlink(&target, &link).map_err(at("making the link", &link))?;
        if uid.is_some() {
            lchown(&link, uid, None).map_err(at("setting the owner of", &link))?;
        }
    }
    Ok(())
}

/// Links to files that are gone, folders of older versions, and what a crash left behind.
fn remove_stale(volume: &Path, payload: &Payload, current: Option<&str>) -> Result<(), TreeError> {
    let wanted = first_parts(payload);
    for entry in fs::read_dir(volume).map_err(at("listing", volume))? {
        let entry = entry.map_err(at("listing", volume))?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with("..") {
            if name != DATA && current.is_some_and(|current| current != name) {
                remove_any(&path)?;
            }
        } else if !wanted.contains_key(&*name) && fs::read_link(&path).is_ok_and(|target| target.starts_with(DATA)) {
            fs::remove_file(&path).map_err(at("removing the link", &path))?;
        }
    }
    Ok(())
}

fn remove_any(path: &Path) -> Result<(), TreeError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("removing", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
