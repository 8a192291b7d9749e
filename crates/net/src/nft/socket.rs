//! The socket to netfilter: batches, single requests, dumps.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::batch::{Batch, Writer};
use crate::netlink::message_length;

/// `nlmsghdr` and `nfgenmsg`.
const HEADERS: usize = 20;
/// A batch is one datagram: 10,000 Services are about 5 MB.
const BUFFER: usize = 64 << 20;
/// The kernel answers in milliseconds; this is the end of a wait that would have none.
const PATIENCE: Duration = Duration::from_secs(30);

/// A socket of `NETLINK_NETFILTER`, in the network namespace of the thread that opened it.
pub(crate) struct NetfilterSocket {
    socket: Socket,
    sequence: u32,
}

impl NetfilterSocket {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without the right to exceed the machine's limits the ordinary sizes must do.
        let fd = socket.as_fd();
        if sockopt::set_socket_send_buffer_size_force(fd, BUFFER).is_err() {
            sockopt::set_socket_send_buffer_size(fd, BUFFER)?;
        }
        if sockopt::set_socket_recv_buffer_size_force(fd, BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(fd, BUFFER)?;
        }
        sockopt::set_socket_timeout(fd, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 1 })
    }

    /// Does all of a batch, or nothing and says why not. Whether there was anything to do.
    pub(crate) fn commit(&mut self, batch: Batch<'_>) -> io::Result<bool> {
        let first = self.sequence;
        let Some((bytes, last)) = batch.finish(first) else { return Ok(false) };
        self.sequence = last.wrapping_add(2);
        self.send(&bytes)?;
        let mut failed = None;
        loop {
            let datagram = self.receive()?;
            for message in messages(&datagram) {
                if message.sequence < first || message.sequence > last.wrapping_add(1) || message.kind != NLMSG_ERROR {
                    continue;
                }
                failed = failed.or(message.error());
                // The begin's number: the batch as a whole was refused. A batch that the kernel could not commit is tried again by it.
                if message.sequence == first || message.sequence >= last {
                    return failed.map_or(Ok(true), Err);
                }
            }
        }
    }

    /// One request that changes something outside batches, or asks for one object: the messages that came before the answer.
    pub(crate) fn request(&mut self, kind: u16, flags: u16, family: u8, body: impl FnOnce(&mut Writer)) -> io::Result<Vec<Vec<u8>>> {
        self.ask(kind, flags | NLM_F_ACK, family, body).map(|(found, _)| found)
    }

    /// All objects: the attributes of each. What changes meanwhile is read again.
    pub(crate) fn dump(&mut self, kind: u16, family: u8, body: impl Fn(&mut Writer)) -> io::Result<Vec<Vec<u8>>> {
        for _ in 0..20 {
            match self.ask(kind, NLM_F_DUMP, family, &body) {
                Ok((found, false)) => return Ok(found),
                Ok((_, true)) => {}
                Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::INTR.into())
    }

    fn ask(&mut self, kind: u16, flags: u16, family: u8, body: impl FnOnce(&mut Writer)) -> io::Result<(Vec<Vec<u8>>, bool)> {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let mut writer = Writer::default();
        let start = writer.begin(kind, flags, family, 0);
        body(&mut writer);
        writer.end(start);
        let mut bytes = writer.bytes;
        if let Some(place) = bytes.get_mut(8..12) {
            place.copy_from_slice(&sequence.to_ne_bytes());
        }
        self.send(&bytes)?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            let datagram = self.receive()?;
            for message in messages(&datagram).filter(|m| m.sequence == sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_ERROR => return message.error().map_or(Ok((found, interrupted)), Err),
                    NLMSG_DONE => return Ok((found, interrupted)),
                    _ => found.push(message.attributes.to_vec()),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(bytes, 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(Errno::MSGSIZE.into()) }
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        self.socket.recv_from_full().map(|(datagram, _)| datagram)
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    /// What follows `nlmsghdr`.
    body: &'a [u8],
    attributes: &'a [u8],
}

impl Message<'_> {
    fn error(&self) -> Option<io::Error> {
        let code = i32::from_ne_bytes(self.body.get(..4)?.try_into().ok()?);
        (code != 0).then(|| io::Error::from_raw_os_error(code.wrapping_neg()))
    }
}

fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = message_length(datagram)?;
        let (one, _) = datagram.split_at(length);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        let number = |at: usize| one.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
        let sequence = one.get(8..12).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes)?;
        Some(Message {
            kind: number(4)?,
            flags: number(6)?,
            sequence,
            body: one.get(16..).unwrap_or_default(),
            attributes: one.get(HEADERS..).unwrap_or_default(),
        })
    })
}
