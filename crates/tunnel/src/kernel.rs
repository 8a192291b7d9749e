//! The kernel's WireGuard, by generic netlink. The interface outlives this process: the next one takes it over with its sessions.

mod messages;
mod socket;

use std::collections::BTreeSet;

use kube_pet_rules::Network;

use crate::device::{Change, DeviceError, DeviceStatus, Implementation, Settings, Wireguard};
use crate::keys::PublicKey;
use socket::GenericSocket;

pub(crate) struct KernelDevice {
    name: String,
    socket: GenericSocket,
}

impl KernelDevice {
    /// Of an interface that is there.
    pub(crate) fn open(name: &str) -> Result<Self, DeviceError> {
        let failed = |source| DeviceError::System { doing: "asking the kernel for its WireGuard", source };
        Ok(Self { name: name.to_owned(), socket: GenericSocket::open().map_err(failed)? })
    }
}

impl Wireguard for KernelDevice {
    fn implementation(&self) -> Implementation {
        Implementation::Kernel
    }

    fn configure(&mut self, settings: &Settings) -> Result<(), DeviceError> {
        let status = self.status()?;
        let mut due: Vec<_> = messages::configure(&self.name, settings, &status).into_iter().collect();
        if status.public_key != Some(settings.private_key.public()) {
            due.extend(messages::wake(&self.name, &status));
        }
        for message in due {
            self.socket.change(message).map_err(|source| refused("setting up the tunnel's interface", source))?;
        }
        Ok(())
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), DeviceError> {
        for change in changes {
            let message = messages::change(&self.name, change);
            self.socket.change(message).map_err(|source| refused("changing a peer of the tunnel", source))?;
        }
        Ok(())
    }

    fn accept(&mut self, _: &PublicKey, _: &BTreeSet<Network>) {}

    fn status(&mut self) -> Result<DeviceStatus, DeviceError> {
        let messages = self.socket.dump(messages::get(&self.name)).map_err(|source| refused("reading the tunnel's interface", source))?;
        Ok(messages::status(messages))
    }
}

/// An interface that is not there any more is to be made again.
fn refused(doing: &'static str, source: std::io::Error) -> DeviceError {
    let gone = source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error());
    if gone { DeviceError::Gone } else { DeviceError::System { doing, source } }
}
