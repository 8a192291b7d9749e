//! What a folder takes up on its disk.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What a folder and everything in it takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of disk blocks, not of contents: a file with holes counts what it has, a tiny one a whole block.
    pub bytes: u64,
    /// Files, folders and other entries.
    pub inodes: u64,
}

/// Counts a folder, like `du -x`: stays on its file system, and counts a file with several names once. Takes about 2 µs for each
/// entry that the kernel has in memory; call it from a blocking thread.
///
/// # Errors
/// The folder itself cannot be read. What vanishes or cannot be read within it is not counted.
pub fn disk_usage(folder: &Path) -> io::Result<DiskUsage> {
    let own = fs::symlink_metadata(folder)?;
    let device = own.dev();
    let mut usage = DiskUsage::default();
    let mut several_names = HashSet::new();
    let mut count = |entry: &fs::Metadata| {
        if entry.is_dir() || entry.nlink() < 2 || several_names.insert(entry.ino()) {
            usage.bytes = usage.bytes.saturating_add(entry.blocks().saturating_mul(512));
            usage.inodes += 1;
        }
    };
    count(&own);
    let mut folders: Vec<PathBuf> = if own.is_dir() { vec![folder.to_owned()] } else { Vec::new() };
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != device {
                continue;
            }
            count(&metadata);
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_file_count_once_and_holes_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let empty = disk_usage(folder.path()).unwrap();
        assert_eq!(empty.inodes, 1);
        fs::create_dir(folder.path().join("in")).unwrap();
        let file = folder.path().join("in/file");
        fs::write(&file, vec![1; 100_000]).unwrap();
        fs::hard_link(&file, folder.path().join("other")).unwrap();
        fs::File::create(folder.path().join("holes")).unwrap().set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("link")).unwrap();
        let usage = disk_usage(folder.path()).unwrap();
        assert_eq!(usage.inodes, 5, "folder, in, file, holes, link");
        let added = usage.bytes - empty.bytes;
        assert!((100_000..200_000).contains(&added), "{added}");
        assert!(disk_usage(&folder.path().join("none")).is_err());
    }
}
