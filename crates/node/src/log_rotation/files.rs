//! The files of one container's log: `0.log`, which is written, `0.log.<time>`, put aside last, `0.log.<time>.gz` before it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use jiff::Zoned;
use tokio_util::sync::CancellationToken;

use super::RotationError;

/// Go's `20060102-150405`.
const TIME: &str = "%Y%m%d-%H%M%S";
const COMPRESSED: &str = ".gz";
/// Being compressed, or about to be renamed by conmon.
const UNFINISHED: &str = ".tmp";
/// Bytes compressed at once.
const PIECE: usize = 128 << 10;

/// The name under which `log` is put aside at this time; local, as the kubelet's.
pub(super) fn aside(log: &Path, now: &Zoned) -> PathBuf {
    with_suffix(log, &format!(".{}", now.strftime(TIME)))
}

/// What was put aside and is not compressed, oldest first.
pub(crate) fn put_aside(log: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = beside(log)?;
    files.retain(|file| !ends_with(file, COMPRESSED) && !ends_with(file, UNFINISHED));
    Ok(files)
}

/// The names of all that was put aside, oldest first, whether it is compressed by now or not.
pub(crate) fn kept(log: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = beside(log)?;
    files.retain(|file| !ends_with(file, UNFINISHED));
    for file in &mut files {
        if ends_with(file, COMPRESSED) {
            file.set_extension("");
        }
    }
    // While a file is being compressed it is there twice.
    files.dedup();
    Ok(files)
}

/// Opens one of [`kept`]; one that is compressed is unpacked into a file without a name. Blocking.
pub(crate) fn open_kept(name: &Path) -> io::Result<File> {
    match File::open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut packed = GzDecoder::new(File::open(with_suffix(name, COMPRESSED))?);
    let mut unpacked = tempfile::tempfile_in(name.parent().unwrap_or(Path::new("/")))?;
    io::copy(&mut packed, &mut unpacked)?;
    unpacked.rewind()?;
    Ok(unpacked)
}

/// Clears what earlier work left unfinished, removes the oldest files so that with the one put aside next there are not too many,
/// and compresses the others.
pub(super) fn make_room(log: &Path, max_files: usize, end: &CancellationToken) -> Result<(), RotationError> {
    let all = beside(log).map_err(RotationError::file("list files beside", log))?;
    let (mut kept, unused): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|file| {
        let compressed = all.contains(&with_suffix(file, COMPRESSED));
        !ends_with(file, UNFINISHED) && (ends_with(file, COMPRESSED) || !compressed)
    });
    // The file that is written and the one that is put aside next.
    let excess = kept.len().saturating_sub(max_files.saturating_sub(2));
    let oldest = kept.drain(..excess);
    for file in unused.into_iter().chain(oldest) {
        fs::remove_file(&file).map_err(RotationError::file("remove", &file))?;
    }
    for file in kept.iter().filter(|file| !ends_with(file, COMPRESSED)) {
        compress(file, end)?;
    }
    Ok(())
}

fn compress(file: &Path, end: &CancellationToken) -> Result<(), RotationError> {
    let failed = |error| RotationError::file("compress", file)(error);
    let mut from = File::open(file).map_err(failed)?;
    let mode = from.metadata().map_err(failed)?.mode() & 0o7777;
    let unfinished = with_suffix(file, UNFINISHED);
    let to = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished).map_err(failed)?;
    to.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    let mut to = GzEncoder::new(to, Compression::default());
    let mut piece = vec![0; PIECE];
    let copied = loop {
        if end.is_cancelled() {
            break Err(RotationError::Ending);
        }
        match from.read(&mut piece).and_then(|read| to.write_all(&piece[..read]).map(|()| read)) {
            Ok(0) => break to.finish().map(drop).map_err(failed),
            Ok(_) => {}
            Err(error) => break Err(failed(error)),
        }
    };
    let done = copied.and_then(|()| fs::rename(&unfinished, with_suffix(file, COMPRESSED)).map_err(failed));
    if done.is_err() {
        // What cannot be removed now is cleared before the next rotation.
        let _ = fs::remove_file(&unfinished);
        return done;
    }
    fs::remove_file(file).map_err(failed)
}

/// All files named `<log>.…`, in the order of their names: oldest first.
fn beside(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else { return Ok(Vec::new()) };
    let prefix = format!("{name}.");
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

fn ends_with(path: &Path, suffix: &str) -> bool {
    path.to_str().is_some_and(|path| path.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files beside `0.log` after room was made.
    fn after(files: &[&str], max_files: usize) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(dir.path().join(file), *file).unwrap();
        }
        let log = dir.path().join("0.log");
        make_room(&log, max_files, &CancellationToken::new()).unwrap();
        let mut names: Vec<String> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn room_is_made_as_the_kubelet_makes_it() {
        let now = "2026-01-31T15:45:00[UTC]".parse().unwrap();
        assert_eq!(aside(Path::new("/l/0.log"), &now), Path::new("/l/0.log.20260131-154500"));
        let files = ["0.log", "0.log.20260101-000000.gz", "0.log.20260102-000000", "1.log", "10.log.20260101-000000", "0.log.tmp"];
        let others = ["10.log.20260101-000000", "1.log"];
        for (max_files, expected) in [
            (5, &["0.log", "0.log.20260101-000000.gz", "0.log.20260102-000000.gz"][..]),
            (4, &["0.log", "0.log.20260101-000000.gz", "0.log.20260102-000000.gz"]),
            (3, &["0.log", "0.log.20260102-000000.gz"]),
            (2, &["0.log"]),
        ] {
            let mut expected: Vec<&str> = expected.iter().chain(&others).copied().collect();
            expected.sort_unstable();
            assert_eq!(after(&files, max_files), expected, "{max_files}");
        }
        // Cut short after the compressed file had its name, and before.
        let cut = ["0.log.20260101-000000", "0.log.20260101-000000.gz", "0.log.20260102-000000", "0.log.20260102-000000.tmp"];
        assert_eq!(after(&cut, 5), ["0.log.20260101-000000.gz", "0.log.20260102-000000.gz"]);
    }

    #[test]
    fn compressed_files_keep_content_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("0.log.20260101-000000");
        let text = "2026-01-01T00:00:00Z stdout F line\n".repeat(50_000);
        fs::write(&file, &text).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        make_room(&dir.path().join("0.log"), 5, &CancellationToken::new()).unwrap();
        let compressed = with_suffix(&file, ".gz");
        assert_eq!(fs::metadata(&compressed).unwrap().mode() & 0o7777, 0o640);
        let mut read = String::new();
        flate2::read::GzDecoder::new(File::open(&compressed).unwrap()).read_to_string(&mut read).unwrap();
        assert!(read == text && !file.exists());
    }

    #[test]
    fn work_that_is_given_up_leaves_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("0.log.20260101-000000");
        fs::write(&file, "text").unwrap();
        let end = CancellationToken::new();
        end.cancel();
        assert!(matches!(make_room(&dir.path().join("0.log"), 5, &end), Err(RotationError::Ending)));
        assert_eq!(beside(&dir.path().join("0.log")).unwrap(), [file]);
    }
}
