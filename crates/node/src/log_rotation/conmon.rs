//! conmon's control pipe: a FIFO `ctl` in the container's bundle, lines of three numbers (conmon's `src/ctrl.c`; the same in all
//! versions from 2.0 on).

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// "Open the log again", whatever the two sizes are.
const REOPEN_LOG: &[u8] = b"2 0 0\n";

/// Why conmon cannot be told anything.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Nobody reads: the container has ended, or is being removed.
    #[error("nobody reads {path}: its container has ended")]
    Gone { path: PathBuf },
    #[error("{path} is not the control pipe of a container")]
    NoPipe { path: PathBuf },
    #[error("write to {path}: {source}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The open pipe; as long as it could be opened, conmon was there.
#[derive(Debug)]
pub(super) struct Control {
    path: PathBuf,
    pipe: File,
}

impl Control {
    pub(super) fn open(bundle: &Path) -> Result<Self, ControlError> {
        let path = bundle.join("ctl");
        let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The bits are those of open(2), which are few.
        let pipe = OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(&path);
        match pipe {
            Ok(pipe) if pipe.metadata().is_ok_and(|file| file.file_type().is_fifo()) => Ok(Self { path, pipe }),
            Ok(_) => Err(ControlError::NoPipe { path }),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) =>
            {
                Err(ControlError::Gone { path })
            }
            Err(source) => Err(ControlError::Write { path, source }),
        }
    }

    /// Sends the word; conmon follows it at its next turn. So short a line is written whole or not at all.
    pub(super) fn reopen_log(&self) -> Result<(), ControlError> {
        (&self.pipe).write_all(REOPEN_LOG).map_err(|source| ControlError::Write { path: self.path.clone(), source })
    }
}
