//! The socket to families of generic netlink.

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_DUMP, ParseableParametrized};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_packet_wireguard::WireguardMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use rustix::io::Errno;

/// A dump that changes while it is read is read again.
const DUMPS: usize = 10;

pub(super) struct GenericSocket {
    socket: Socket,
    sequence: u32,
    family: u16,
}

impl GenericSocket {
    /// Talks to WireGuard; not found if the kernel has none.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut this = Self { socket, sequence: 0, family: 0 };
        let name = GenlCtrlAttrs::FamilyName(WireguardMessage::family_name().to_owned());
        let (found, _) = this.request(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] }, NLM_F_ACK)?;
        let number = |nla: &GenlCtrlAttrs| if let GenlCtrlAttrs::FamilyId(id) = nla { Some(*id) } else { None };
        this.family = found.iter().flat_map(|ctrl| &ctrl.nlas).find_map(number).ok_or(Errno::NOENT)?;
        Ok(this)
    }

    pub(super) fn change(&mut self, message: WireguardMessage) -> io::Result<()> {
        self.request(message, NLM_F_ACK).map(drop)
    }

    pub(super) fn dump(&mut self, message: WireguardMessage) -> io::Result<Vec<WireguardMessage>> {
        for _ in 0..DUMPS {
            let (messages, interrupted) = self.request(message.clone(), NLM_F_DUMP)?;
            if !interrupted {
                return Ok(messages);
            }
        }
        Err(Errno::INTR.into())
    }

    fn request<F>(&mut self, payload: F, flags: u16) -> io::Result<(Vec<F>, bool)>
    where
        F: GenlFamily + Emitable + Debug + ParseableParametrized<[u8], GenlHeader>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = GenlMessage::from_payload(payload);
        message.set_resolved_family_id(self.family);
        let (replies, interrupted) = kube_pet_net::exchange(&self.socket, self.sequence, message, flags)?;
        Ok((replies.into_iter().map(|message| message.payload).collect(), interrupted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kernel has the family that tells of the others: the framing of requests, answers and errors is the same for WireGuard.
    #[test]
    fn a_family_that_the_kernel_has_is_found_and_one_that_it_has_not_is_an_error() {
        let mut socket = Socket::new(NETLINK_GENERIC).unwrap();
        socket.bind_auto().unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        let mut generic = GenericSocket { socket, sequence: 0, family: 0 };
        let mut ask = |name: &str| {
            let name = GenlCtrlAttrs::FamilyName(name.to_owned());
            generic.request(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] }, NLM_F_ACK)
        };
        let (found, _) = ask("nlctrl").unwrap();
        assert!(found[0].nlas.contains(&GenlCtrlAttrs::FamilyId(16)), "{found:?}");
        assert_eq!(ask("no-such-family").unwrap_err().raw_os_error(), Some(Errno::NOENT.raw_os_error()));
    }
}
