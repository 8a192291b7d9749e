//! Terminals of processes in containers, as OCI runtimes hand them over.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};

/// Where an OCI runtime sends the master of the terminal that it has made (`--console-socket`). The socket's file goes with it.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens at `path`, in a folder that only root may enter; within a tokio runtime.
    ///
    /// # Errors
    /// The system's: a path of more than 107 bytes, a folder that is not there.
    pub fn bind(path: PathBuf) -> io::Result<Self> {
        Ok(Self { listener: UnixListener::bind(&path)?, path })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the terminal. Cancel-safe until somebody has connected.
    ///
    /// # Errors
    /// The system's, and when whoever connects sends no file descriptor.
    pub async fn receive(&self) -> io::Result<Terminal> {
        let (stream, _) = self.listener.accept().await?;
        Terminal::new(stream.async_io(Interest::READABLE, || descriptor(&stream)).await?)
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The descriptor in the next message.
fn descriptor(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // The runtime sends a name with it, which nobody needs.
    let mut name = [0; 256];
    recvmsg(stream, &mut [io::IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the message holds no terminal"))
}

/// The master of a terminal. While it or its reader lives, the processes at the terminal are not hung up on.
#[derive(Debug)]
pub struct Terminal {
    master: OwnedFd,
}

impl Terminal {
    /// A new one: its master, and the end that a process has. Blocking, but not for long.
    ///
    /// # Errors
    /// The system's: all terminals are in use.
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        Ok((Self::new(master)?, slave))
    }

    fn new(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Self { master })
    }

    /// What is shown on it.
    ///
    /// # Errors
    /// When no file descriptor is left.
    pub fn reader(&self) -> io::Result<TerminalReader> {
        // tokio's pipes read and write whatever can be polled.
        Ok(TerminalReader(pipe::Receiver::from_owned_fd_unchecked(self.master.try_clone()?)?))
    }

    /// What is typed on it. Dropping it types nothing: a terminal's input has no end.
    ///
    /// # Errors
    /// When no file descriptor is left.
    pub fn writer(&self) -> io::Result<pipe::Sender> {
        pipe::Sender::from_owned_fd_unchecked(self.master.try_clone()?)
    }

    /// Sets its size in characters; the processes at it get SIGWINCH.
    ///
    /// # Errors
    /// The kernel's.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        Ok(tcsetwinsize(&self.master, Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 })?)
    }
}

/// Reads a terminal until no process has it open any more, which Linux tells by `EIO`.
#[derive(Debug)]
pub struct TerminalReader(pipe::Receiver);

impl AsyncRead for TerminalReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.0).poll_read(cx, buf)) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Poll::Ready(Ok(())),
            other => Poll::Ready(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream as StdStream;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use rustix::termios::tcgetwinsize;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn terminal() -> (OwnedFd, OwnedFd) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        (master, rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap())
    }

    #[tokio::test]
    async fn a_terminal_comes_over_the_socket_and_ends_with_its_last_process() {
        let dir = tempfile::tempdir().unwrap();
        let socket = ConsoleSocket::bind(dir.path().join("c.sock")).unwrap();
        let (master, slave) = terminal();
        let path = socket.path().to_owned();
        let runtime = std::thread::spawn(move || {
            let stream = StdStream::connect(path).unwrap();
            let descriptors = [master.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
            sendmsg(&stream, &[io::IoSlice::new(b"/dev/pts/0")], &mut control, SendFlags::empty()).unwrap();
        });
        let terminal = socket.receive().await.unwrap();
        runtime.join().unwrap();
        terminal.resize(120, 40).unwrap();
        let size = tcgetwinsize(&slave).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (120, 40));
        let (mut reader, mut writer) = (terminal.reader().unwrap(), terminal.writer().unwrap());
        writer.write_all(b"typed\n").await.unwrap();
        let mut read = [0; 32];
        let count = rustix::io::read(&slave, &mut read).unwrap();
        assert_eq!(&read[..count], b"typed\n");
        rustix::io::write(&slave, b"shown").unwrap();
        drop((slave, writer));
        let mut shown = Vec::new();
        reader.read_to_end(&mut shown).await.unwrap();
        assert!(shown.ends_with(b"shown"), "{shown:?}");
        drop(socket);
        assert!(!dir.path().join("c.sock").exists());
    }

    #[tokio::test]
    async fn whoever_sends_no_terminal_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let socket = ConsoleSocket::bind(dir.path().join("c.sock")).unwrap();
        let mut stream = UnixStream::connect(socket.path()).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(socket.receive().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
