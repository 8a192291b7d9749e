//! What the lab's homes are: NAT as it is met, of the kind that lets two homes meet and of the kind that does not.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kube_pet_lab::{Pet, PetOptions, eventually, machine::Machine, network::Nat};

use crate::harness::{SOON, lab};

/// Sockets on the internet, to which one socket behind the NAT sends.
const SERVERS: u16 = 8;

async fn socket(machine: &Machine, port: u16) -> Result<UdpSocket> {
    let socket = machine.in_network(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).await?.context("bind a socket")?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    Ok(socket)
}

/// Where each of the servers sees one and the same socket, which then is not reached by what it has not asked for.
async fn seen(nat: Nat, name: &str) -> Result<(BTreeSet<u16>, u16)> {
    let lab = lab().await?;
    if let Ok(left) = lab.existing_pet(name) {
        left.remove().await?;
    }
    let pet = Pet::create(&lab, PetOptions::new(name).behind(nat)).await?;
    let internet = lab.record().wire().control_plane();
    let client = socket(pet.machine(), 0).await?;
    let own = client.local_addr()?.port();
    let mut ports = BTreeSet::new();
    let mut buffer = [0; 16];
    let mut last = None;
    for _ in 0..SERVERS {
        let server = socket(lab.control_plane(), 0).await?;
        let to = SocketAddr::from((internet, server.local_addr()?.port()));
        let (_, from) = eventually(SOON, "a packet from behind the NAT", || {
            let (sent, got) = (client.send_to(b"out", to), server.recv_from(&mut [0; 16]));
            async move { sent.and(got).context("send and receive") }
        })
        .await?;
        ensure!(from.ip() == pet.address(), "{from} is not the router's address {}", pet.address());
        ports.insert(from.port());
        // It answers, and is heard.
        server.send_to(b"back", from)?;
        let (length, _) = client.recv_from(&mut buffer).context("the answer")?;
        ensure!(&buffer[..length] == b"back");
        last = Some(from);
    }
    let mapped = last.context("a mapping")?;
    let stranger = socket(lab.control_plane(), 0).await?;
    stranger.send_to(b"nobody asked", mapped)?;
    let heard = client.recv_from(&mut buffer);
    ensure!(heard.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "a stranger is let in: {heard:?}");
    pet.remove().await?;
    Ok((ports, own))
}

#[e2e]
async fn e2e_a_home_shows_one_port_to_all_and_a_symmetric_one_another_to_each() -> Result<()> {
    let (ports, own) = seen(Nat::Cone, "cone").await?;
    ensure!(ports == BTreeSet::from([own]), "{own} is seen as {ports:?}");
    let (ports, own) = seen(Nat::Symmetric, "symmetric").await?;
    ensure!(ports.len() >= usize::from(SERVERS) - 1, "{own} is seen as {ports:?} by {SERVERS} servers");
    Ok(())
}
