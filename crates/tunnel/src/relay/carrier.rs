//! One connection: packets of a UDP socket in a stream, and back.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::beside::Beside;

/// No packet of WireGuard's is longer: the largest link has 9000 bytes.
const LONGEST: usize = 16 * 1024;
/// Packets that wait are written together, up to about so many bytes.
const BURST: usize = 16 * 1024;
/// Whoever takes nothing for so long is gone.
const STUCK: Duration = Duration::from_secs(15);

/// How long nothing may come from WireGuard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until it sends its first packet.
    pub(super) first: Duration,
    /// From then on, after each.
    pub(super) then: Duration,
}

/// Carries both ways until that ends, and why it did. `beside`: is given a copy of what goes into the stream.
pub(super) async fn carry(stream: TcpStream, socket: &UdpSocket, patience: Patience, beside: Option<&Beside>) -> io::Error {
    // Packets do not wait for others.
    if let Err(error) = stream.set_nodelay(true) {
        return error;
    }
    let (read, write) = stream.into_split();
    tokio::select! {
        Err(ended) = inward(read, socket) => ended,
        Err(ended) = outward(write, socket, patience, beside) => ended,
    }
}

async fn inward(read: OwnedReadHalf, socket: &UdpSocket) -> io::Result<()> {
    let mut read = BufReader::with_capacity(BURST, read);
    let mut packet = Vec::new();
    loop {
        let length = usize::from(read.read_u16().await?);
        if !(1..=LONGEST).contains(&length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a packet of {length} bytes")));
        }
        packet.resize(length, 0);
        read.read_exact(&mut packet).await?;
        // Where nobody hears it for a moment, it is lost as on the way.
        let _ = socket.send(&packet).await;
    }
}

async fn outward(mut write: OwnedWriteHalf, socket: &UdpSocket, patience: Patience, beside: Option<&Beside>) -> io::Result<()> {
    let (mut packet, mut frames) = (vec![0; LONGEST], Vec::new());
    let mut until = Instant::now() + patience.first;
    loop {
        let length = match timeout_at(until, socket.recv(&mut packet)).await {
            Ok(Ok(length)) => length,
            // Of a packet sent before: WireGuard is away.
            Ok(Err(_)) => continue,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "WireGuard has nothing to say on it")),
        };
        until = Instant::now() + patience.then;
        frames.clear();
        push(&mut frames, packet.get(..length), beside);
        while frames.len() < BURST
            && let Ok(length) = socket.try_recv(&mut packet)
        {
            push(&mut frames, packet.get(..length), beside);
        }
        timeout(STUCK, write.write_all(&frames)).await??;
    }
}

fn push(frames: &mut Vec<u8>, packet: Option<&[u8]>, beside: Option<&Beside>) {
    if let Some(packet) = packet
        && let Ok(length @ 1..) = u16::try_from(packet.len())
    {
        if let Some(beside) = beside {
            beside.copy(packet);
        }
        frames.extend(length.to_be_bytes());
        frames.extend(packet);
    }
}
