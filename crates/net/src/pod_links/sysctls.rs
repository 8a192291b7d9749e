//! Settings of links and of forwarding.

use std::fs;
use std::io;
use std::path::Path;

use super::PodLinkError;

/// Routers forward. Written only where it is off: turning it on resets other settings of all interfaces.
pub(crate) fn ensure_forwarding(ipv6: bool) -> Result<(), PodLinkError> {
    if !sysctl_is("ipv4/ip_forward", "1") {
        sysctl("ipv4/ip_forward", "1")?;
    }
    if ipv6 && !sysctl_is("ipv6/conf/all/forwarding", "1") {
        // A router ignores other routers' announcements unless told otherwise: the node must not lose its own default route.
        for entry in fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
            let file = format!("ipv6/conf/{}/accept_ra", entry.file_name().to_string_lossy());
            if sysctl_is(&file, "1") {
                sysctl(&file, "2")?;
            }
        }
        sysctl("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

fn sysctl_is(file: &str, value: &str) -> bool {
    fs::read_to_string(Path::new("/proc/sys/net").join(file)).is_ok_and(|now| now.trim() == value)
}

/// Sets a sysctl of the calling thread's network namespace. One that is not there is left out: a kernel without IPv6.
pub(crate) fn sysctl(file: &str, value: &str) -> Result<(), PodLinkError> {
    let path = Path::new("/proc/sys/net").join(file);
    let written = fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    match written {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(PodLinkError::Sysctl { path, source }),
        Ok(()) => Ok(()),
    }
}
