//! Files without a place on any disk, for programs that want a path.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};

/// A file in memory. Programs started by this process do not inherit it; root opens it by its [path](Self::path).
#[derive(Debug)]
pub struct MemoryFile(File);

impl MemoryFile {
    /// Makes one; `name` is only for people who look at `/proc/<pid>/fd`.
    ///
    /// # Errors
    /// The kernel's, for example when no file descriptor is left.
    pub fn new(name: &str, content: &[u8]) -> io::Result<Self> {
        let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
        file.write_all_at(content, 0)?;
        Ok(Self(file))
    }

    /// Where another process finds it for as long as this value lives, if it sees this process's `/proc`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }

    /// What is in it now, up to `limit` bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn content(&self, limit: usize) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.0.metadata()?.len()).map_or(limit, |length| length.min(limit));
        let mut content = vec![0; length];
        let mut read = 0;
        while read < length {
            match self.0.read_at(&mut content[read..], read as u64)? {
                0 => break,
                count => read += count,
            }
        }
        content.truncate(read);
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_read_and_write_it_by_its_path() {
        let file = MemoryFile::new("test", b"hello").unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), b"hello");
        std::fs::write(file.path(), b"12").unwrap();
        assert_eq!(file.content(100).unwrap(), b"12");
        assert_eq!(file.content(1).unwrap(), b"1");
        let path = file.path();
        drop(file);
        assert!(std::fs::read(path).is_err());
    }
}
