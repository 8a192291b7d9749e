//! Network links whose packets a program reads and writes.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

const DEVICE: &str = "/dev/net/tun";
/// `IFNAMSIZ`
const NAME: usize = 16;
/// `IFF_TUN | IFF_NO_PI`: IP packets, with nothing before them.
const FLAGS: i16 = 0x1001;
const TUNSETIFF: Opcode = opcode::write::<std::ffi::c_int>(b'T', 202);

/// The link could not be made.
#[derive(Debug, thiserror::Error)]
#[error("making the TUN link {name:?} by {DEVICE}: {source}")]
pub struct TunError {
    /// Its name.
    pub name: String,
    /// The system's answer: not found or no such device where the kernel has no TUN, busy where another program holds the link.
    #[source]
    pub source: io::Error,
}

/// `struct ifreq`, as far as it is used.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    flags: i16,
    rest: [u8; 22],
}

/// Makes a link of IP packets in the network namespace of the calling thread. One packet for each read and write, which do not wait; the
/// link is gone when the file is closed, also by the end of the process.
///
/// # Errors
/// When the kernel refuses, or the name is too long.
pub fn create(name: &str) -> Result<OwnedFd, TunError> {
    let failed = |source: io::Error| TunError { name: name.to_owned(), source };
    let mut request = Request { name: [0; NAME], flags: FLAGS, rest: [0; 22] };
    match request.name.get_mut(..name.len()) {
        Some(place) if name.len() < NAME && !name.is_empty() => place.copy_from_slice(name.as_bytes()),
        _ => return Err(failed(io::ErrorKind::InvalidInput.into())),
    }
    let file = open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).map_err(|e| failed(e.into()))?;
    attach(&file, request).map_err(failed)?;
    Ok(file)
}

#[allow(unsafe_code, reason = "the system's libraries have no safe call for this request")]
fn attach(file: &OwnedFd, request: Request) -> io::Result<()> {
    // SAFETY: `TUNSETIFF` reads and writes one `struct ifreq`, which has 40 bytes as `Request` does, and keeps no pointer to it.
    unsafe { ioctl(file, Setter::<TUNSETIFF, Request>::new(request)) }.map_err(io::Error::from)
}
