//! Requests to the kernel's routing tables over one socket.

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use tracing::debug;

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {object}: {source}")]
pub struct NetlinkError {
    /// What was asked for.
    pub doing: &'static str,
    /// The link, address or route.
    pub object: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl NetlinkError {
    /// Whether the kernel's answer was this one.
    pub fn is(&self, errno: Errno) -> bool {
        self.source.raw_os_error() == Some(errno.raw_os_error())
    }
    /// Whether the link is not there.
    pub fn is_no_device(&self) -> bool {
        self.is(Errno::NODEV)
    }
}

/// A socket to the kernel, in the network namespace of the thread that opened it.
pub(crate) struct RouteSocket {
    socket: Socket,
    sequence: u32,
}

impl RouteSocket {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let opened = (|| {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        })();
        let failed = |source| NetlinkError { doing: "opening", object: "a netlink socket".into(), source };
        opened.map(|socket| Self { socket, sequence: 0 }).map_err(failed)
    }

    /// Sends a change and waits for the kernel's answer.
    pub(crate) fn change(
        &mut self,
        doing: &'static str,
        object: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.request(message, NLM_F_ACK | flags).map(drop).map_err(|source| NetlinkError { doing, object: object.to_owned(), source })
    }

    /// One object. The kernel sends the object itself, or an error, as the only answer.
    pub(crate) fn get(
        &mut self,
        doing: &'static str,
        object: &str,
        message: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, NetlinkError> {
        let failed = |source| NetlinkError { doing, object: object.to_owned(), source };
        // With the acknowledgement, object and error end the same way.
        let (mut found, _) = self.request(message, NLM_F_ACK).map_err(failed)?;
        found.pop().ok_or_else(|| failed(Errno::NOENT.into()))
    }

    /// Everything of a table, as far as it can be understood.
    pub(crate) fn dump(&mut self, table: &'static str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        // A table that changes while it is read may lack entries: read it again.
        for _ in 0..10 {
            let failed = |source| NetlinkError { doing: "listing", object: table.to_owned(), source };
            let (messages, interrupted) = self.request(message.clone(), NLM_F_DUMP).map_err(failed)?;
            if !interrupted {
                return Ok(messages);
            }
        }
        Err(NetlinkError { doing: "listing", object: table.to_owned(), source: Errno::INTR.into() })
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        self.sequence = self.sequence.wrapping_add(1);
        exchange(&self.socket, self.sequence, message, flags)
    }
}

/// Sends a request of any of netlink's protocols, and reads what the kernel answers to it: the messages, and whether what they tell has
/// changed meanwhile, so that some may be missing. `flags` must ask for an acknowledgement or a dump: nothing else ends the answer.
/// Messages that are not understood are left out: a newer kernel's, of a kind that is not needed here.
///
/// # Errors
/// The kernel's own, or the socket's.
pub fn exchange<M>(socket: &Socket, sequence: u32, message: M, flags: u16) -> io::Result<(Vec<M>, bool)>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (mut replies, mut interrupted) = (Vec::new(), false);
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some(length) = message_length(rest) {
            let (one, tail) = rest.split_at(length);
            rest = tail.get(length.next_multiple_of(4) - length..).unwrap_or_default();
            let reply = match NetlinkMessage::<M>::deserialize(one) {
                Ok(reply) => reply,
                Err(error) => {
                    debug!(%error, "a netlink message is not understood");
                    continue;
                }
            };
            if reply.header.sequence_number != sequence {
                continue;
            }
            interrupted |= reply.header.flags & NLM_F_DUMP_INTR != 0;
            match reply.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok((replies, interrupted)),
                NetlinkPayload::InnerMessage(message) => replies.push(message),
                _ => {}
            }
        }
    }
}

/// The length of the first message, if it is whole.
pub(crate) fn message_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    (length >= 16 && length <= bytes.len()).then_some(length)
}
