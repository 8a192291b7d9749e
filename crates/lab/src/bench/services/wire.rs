//! Traffic through Services: a server that stands for every endpoint, and clients on the pets.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{command, machine::Machine, network::SERVICE_NETWORK};

/// All endpoints' addresses; every one of them is the control plane's machine, to which the pets' default route leads.
const ENDPOINTS: &str = "10.250.0.0/16";
/// Where the endpoints listen.
pub const ENDPOINT_PORT: u16 = 8080;
/// The Services' port.
pub const SERVICE_PORT: u16 = 80;
/// How long a connection may take that has a live endpoint.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long one is waited for that may have none yet: not always is that told, as the kernel limits how often it does.
const GLANCE: Duration = Duration::from_millis(20);

/// Endpoint number `number`.
pub fn endpoint(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 250, 0, 0)) + number)
}

/// Starts the server: it answers each connection with the address that it was made to.
///
/// # Errors
/// When the machine's network cannot be changed, or the port is taken.
pub async fn serve(machine: &Machine) -> Result<()> {
    let routes = format!("route add local {ENDPOINTS} dev lo\nroute add unreachable {SERVICE_NETWORK}\n");
    let mut ip = machine.enter_network();
    ip.args(["ip", "-batch", "-"]);
    // A ClusterIP that no proxy has taken is refused at once, and does not leave the lab.
    command::run_with_input(ip, &routes).await.context("route the endpoints")?;
    let listener = machine.in_network(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, ENDPOINT_PORT))).await?.context("listen")?;
    std::thread::Builder::new()
        .name("endpoints".into())
        .spawn(move || {
            for mut connection in listener.incoming().flatten() {
                if let Ok(SocketAddr::V4(own)) = connection.local_addr() {
                    let _ = connection.write_all(&own.ip().octets());
                }
            }
        })
        .context("start the endpoints' thread")?;
    Ok(())
}

/// Which endpoint answers behind a ClusterIP.
fn ask(service: Ipv4Addr, patience: Duration) -> Result<Ipv4Addr> {
    let mut connection = TcpStream::connect_timeout(&SocketAddr::from((service, SERVICE_PORT)), patience)?;
    connection.set_read_timeout(Some(patience))?;
    let mut octets = [0; 4];
    connection.read_exact(&mut octets)?;
    Ok(Ipv4Addr::from(octets))
}

/// When `service` is first answered by `wanted`, asked every millisecond from `machine`.
///
/// # Errors
/// When it is not within `limit`.
pub async fn answered_by(machine: &Machine, service: Ipv4Addr, wanted: Ipv4Addr, limit: Duration) -> Result<Instant> {
    machine
        .in_network(move || {
            let start = Instant::now();
            loop {
                let answer = ask(service, GLANCE);
                if answer.as_ref().is_ok_and(|endpoint| *endpoint == wanted) {
                    return Ok(Instant::now());
                }
                if start.elapsed() > limit {
                    bail!("{service} is not answered by {wanted} after {limit:?}: {answer:?}");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        })
        .await?
}

/// When all of `services` are answered from `machine`.
///
/// # Errors
/// When they are not within `limit`.
pub async fn all_answered(machine: &Machine, services: Vec<Ipv4Addr>, limit: Duration) -> Result<Instant> {
    machine
        .in_network(move || {
            let start = Instant::now();
            for service in services {
                while let Err(error) = ask(service, GLANCE) {
                    ensure!(start.elapsed() < limit, "{service} is not answered after {limit:?}: {error}");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Ok(Instant::now())
        })
        .await?
}

/// How long each of `count` connections through `service` takes, its first byte included.
///
/// # Errors
/// When one in twenty fails.
pub async fn connections(machine: &Machine, service: Ipv4Addr, count: usize) -> Result<Vec<Duration>> {
    machine
        .in_network(move || {
            let mut took = Vec::with_capacity(count);
            let mut failed = 0;
            while took.len() < count {
                let start = Instant::now();
                match ask(service, PATIENCE) {
                    Ok(_) => took.push(start.elapsed()),
                    // The kernel remembers for two minutes, without a translation, what was sent before the Service was there: a
                    // port that comes round again in this time meets that.
                    Err(_) if failed < count / 20 => failed += 1,
                    Err(error) => return Err(error.context(format!("{failed} of {count} connections failed"))),
                }
            }
            Ok(took)
        })
        .await?
}
