//! `make bench-tunnel`: what goes through the tunnel and how fast, beside wireguard-go and beside plain links, by turns. The three ways have
//! the same hops: a machine on the internet, one that forwards, the cloud.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::seconds;
use crate::{
    builds::Builds,
    daemon::{Daemon, DaemonSpec},
    lab::{Lab, LabOptions},
    machine::Machine,
    network::{self, cloud},
    patience::eventually,
    pet::{self, Pet, PetOptions},
    process,
    progress::say,
    world,
};

const PORT: u16 = 9100;
const CHUNK: usize = 128 << 10;
/// The machine on the internet, in the network that the cloud's routes lead to the one that forwards.
const PLAIN: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 213, 1, 1);
/// As the PetNetwork's default.
const MTU: u16 = 1420;
const WIREGUARD: u16 = 51820;

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Turns.
    pub rounds: usize,
    /// How long each transfer takes.
    pub transfer: Duration,
    /// Round trips in each turn.
    pub trips: usize,
}

/// Runs everything in a lab of its own and prints the figures.
///
/// # Errors
/// When the lab or one of the ways does not work.
pub async fn run(plan: &Plan) -> Result<()> {
    let lab = Lab::start(LabOptions::new("bench-tunnel")).await?;
    serve(lab.control_plane()).await?;
    let cloud = world::cloud(&lab).await?;
    let pet = lab.pet(world::tunneled(PetOptions::new("pet"))).await?;
    pet.ready(world::READY).await?;
    let ways = [plain(&lab).await?, other(&lab).await?, own(&pet, &cloud.gateway.daemon)?];
    for way in &ways {
        eventually(Duration::from_secs(30), way.name, || way.round_trips(1)).await?;
    }
    let mut figures: Vec<Figures> = ways.iter().map(|_| Figures::default()).collect();
    for _ in 0..plan.rounds {
        for (way, figures) in ways.iter().zip(&mut figures) {
            let before = way.cpu();
            let sent = way.transfer(true, plan.transfer).await?;
            let received = way.transfer(false, plan.transfer).await?;
            let moved = (sent + received) * plan.transfer.as_secs_f64();
            figures.cpu.push(seconds(way.cpu().saturating_sub(before)) / moved * 1e9);
            figures.sent.push(sent);
            figures.received.push(received);
            figures.trips.extend(way.round_trips(plan.trips).await?);
        }
    }
    report(&ways, &mut figures);
    lab.stop().await
}

/// One of those that are compared.
struct Way {
    name: &'static str,
    client: Machine,
    /// The programs that the packets go through.
    programs: Vec<i32>,
}

#[derive(Default)]
struct Figures {
    /// Bytes a second.
    sent: Vec<f64>,
    received: Vec<f64>,
    /// Seconds of CPU for 10⁹ bytes.
    cpu: Vec<f64>,
    trips: Vec<f64>,
}

impl Way {
    fn cpu(&self) -> u64 {
        self.programs.iter().map(|pid| process::cpu_ticks(*pid)).sum()
    }

    /// Bytes a second of one TCP connection.
    async fn transfer(&self, up: bool, period: Duration) -> Result<f64> {
        let done = self.client.in_network(move || if up { send(period) } else { receive(period) }).await?;
        done.with_context(|| format!("a transfer by {}", self.name))
    }

    /// How long one byte takes there and back, in seconds.
    async fn round_trips(&self, count: usize) -> Result<Vec<f64>> {
        let done = self.client.in_network(move || ping(count)).await?;
        done.with_context(|| format!("round trips by {}", self.name))
    }
}

fn report(ways: &[Way], figures: &mut [Figures]) {
    say(format!(
        "\n  {:<24}{:>16}{:>16}{:>22}{:>22}{:>16}",
        "", "up, Mbit/s", "down, Mbit/s", "round trip p50, µs", "p99, µs", "CPU s per GB"
    ));
    let mut medians = Vec::new();
    for (way, figures) in ways.iter().zip(figures) {
        let Figures { sent, received, cpu, trips } = figures;
        let row = [at(sent, 50) * 8e-6, at(received, 50) * 8e-6, at(trips, 50) * 1e6, at(trips, 99) * 1e6, at(cpu, 50)];
        say(format!("  {:<24}{:>16.0}{:>16.0}{:>22.0}{:>22.0}{:>16.2}", way.name, row[0], row[1], row[2], row[3], row[4]));
        medians.push(row);
    }
    if let [plain, other, own] = medians.as_slice() {
        for (name, beside) in [("kube-pet / wireguard-go", other), ("kube-pet / plain links", plain)] {
            let ratio = |index: usize| own[index] / beside[index];
            say(format!("  {name:<24}{:>16.2}{:>16.2}{:>22.2}{:>22.2}", ratio(0), ratio(1), ratio(2), ratio(3)));
        }
    }
}

fn at(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

/// The agent's tunnel, and the gateway's.
fn own(pet: &Pet, gateway: &Daemon) -> Result<Way> {
    Ok(Way { name: "kube-pet", client: pet.machine().clone(), programs: vec![pet.agent()?.process.pid, gateway.process.pid] })
}

/// A machine on the wire, and its address.
async fn on_the_wire(lab: &Lab, name: &str) -> Result<(Machine, u8)> {
    // A `/run` of its own: there wireguard-go has its socket.
    let machine = Machine::boot(name, &lab.record().machine_dir(name), "mount -t tmpfs -o mode=755 run /run").await?;
    let number = pet::take_number(&lab.record().dir)?;
    network::attach(lab.record().wire(), lab.control_plane(), &machine, number).await?;
    Ok((machine, number))
}

/// A machine that forwards between wire and cloud, where `client` is behind it.
async fn forwarder(lab: &Lab, name: &str, client: Ipv4Addr) -> Result<(Machine, Ipv4Addr)> {
    let (machine, number) = on_the_wire(lab, name).await?;
    cloud::attach(lab.control_plane(), &machine, number, "cloud0").await?;
    machine.shell("sysctl -qw net.ipv4.ip_forward=1").await?;
    cloud::route_to_gateway(lab.control_plane(), &format!("{client}/32"), cloud::address(number)).await?;
    Ok((machine, lab.record().wire().pet(number)))
}

/// No tunnel.
async fn plain(lab: &Lab) -> Result<Way> {
    let (client, number) = on_the_wire(lab, "plain").await?;
    let (router, address) = forwarder(lab, "plain-router", PLAIN).await?;
    router.shell(&format!("ip route add {PLAIN} via {}", lab.record().wire().pet(number))).await?;
    client.shell(&format!("ip addr add {PLAIN}/32 dev lo && ip route add {} via {address} src {PLAIN}", cloud::NETWORK)).await?;
    Ok(Way { name: "plain links", client, programs: Vec::new() })
}

/// wireguard-go on both.
async fn other(lab: &Lab) -> Result<Way> {
    let (client, number) = on_the_wire(lab, "other").await?;
    let (router, address) = forwarder(lab, "other-router", OTHER).await?;
    let search = search()?;
    let (near, far) = (userspace_wireguard(lab, &client).await?, userspace_wireguard(lab, &router).await?);
    let from = lab.record().wire().pet(number);
    client
        .shell(&format!(
            "{search}; wg set wg0 peer {} allowed-ips {} endpoint {address}:{WIREGUARD} && ip addr add {OTHER}/32 dev wg0 && \
             ip link set wg0 mtu {MTU} up && ip route add {} dev wg0 src {OTHER}",
            far.1,
            cloud::NETWORK,
            cloud::NETWORK
        ))
        .await?;
    router
        .shell(&format!(
            "{search}; wg set wg0 peer {} allowed-ips {OTHER}/32 endpoint {from}:{WIREGUARD} && ip link set wg0 mtu {MTU} up && \
             ip route add {OTHER} dev wg0",
            near.1
        ))
        .await?;
    Ok(Way { name: "wireguard-go", client, programs: vec![near.0.process.pid, far.0.process.pid] })
}

/// Where `wg` is found.
fn search() -> Result<String> {
    Ok(format!("export PATH={}:$PATH", Builds::locate()?.bin().display()))
}

/// Starts wireguard-go with a key of its own; its public key.
async fn userspace_wireguard(lab: &Lab, machine: &Machine) -> Result<(Daemon, String)> {
    let spec = DaemonSpec {
        name: "wireguard-go".into(),
        argv: vec![Builds::locate()?.program("wireguard-go")?.display().to_string(), "-f".into(), "wg0".into()],
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        log: lab.record().log(&format!("{}-wireguard-go", machine.name)),
    };
    let daemon = Daemon::start(machine, spec).await?;
    let search = search()?;
    let script = format!(
        "{search}; umask 077; wg genkey > /run/key && wg set wg0 listen-port {WIREGUARD} private-key /run/key && wg pubkey < /run/key"
    );
    let public = eventually(Duration::from_secs(10), "wireguard-go takes a key", || machine.shell(&script)).await?;
    Ok((daemon, public.trim().to_owned()))
}

/// The cloud's end: does what the first byte of a connection asks for.
async fn serve(machine: &Machine) -> Result<()> {
    let listener = machine.in_network(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))).await?.context("listen")?;
    let answer = |mut connection: TcpStream| -> std::io::Result<()> {
        let (mut what, mut chunk) = ([0_u8; 1], vec![0_u8; CHUNK]);
        connection.set_nodelay(true)?;
        connection.read_exact(&mut what)?;
        match what[0] {
            b'u' => {
                let mut count = 0_u64;
                loop {
                    match connection.read(&mut chunk)? {
                        0 => break,
                        length => count += length as u64,
                    }
                }
                connection.write_all(&count.to_be_bytes())
            }
            b'd' => loop {
                connection.write_all(&chunk)?;
            },
            _ => loop {
                connection.read_exact(&mut what)?;
                connection.write_all(&what)?;
            },
        }
    };
    let serving = std::thread::Builder::new().name("server".into());
    serving
        .spawn(move || {
            for connection in listener.incoming().flatten() {
                // The client ends it, whenever it has enough.
                std::thread::spawn(move || answer(connection));
            }
        })
        .context("start the server's thread")
        .map(drop)
}

fn connect(what: u8) -> Result<TcpStream> {
    let mut connection = TcpStream::connect_timeout(&SocketAddr::from((cloud::ROUTER, PORT)), Duration::from_secs(5))?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    connection.write_all(&[what])?;
    Ok(connection)
}

fn send(period: Duration) -> Result<f64> {
    let (mut connection, chunk, begun) = (connect(b'u')?, vec![0_u8; CHUNK], Instant::now());
    while begun.elapsed() < period {
        connection.write_all(&chunk)?;
    }
    connection.shutdown(std::net::Shutdown::Write)?;
    let mut count = [0; 8];
    connection.read_exact(&mut count)?;
    // All of it has arrived by now.
    Ok(u64::from_be_bytes(count) as f64 / begun.elapsed().as_secs_f64())
}

fn receive(period: Duration) -> Result<f64> {
    let (mut connection, mut chunk, begun) = (connect(b'd')?, vec![0_u8; CHUNK], Instant::now());
    let mut count = 0;
    while begun.elapsed() < period {
        let length = connection.read(&mut chunk)?;
        ensure!(length > 0, "the server has ended the transfer");
        count += length;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

fn ping(count: usize) -> Result<Vec<f64>> {
    let mut connection = connect(b'p')?;
    let mut byte = [0_u8; 1];
    let mut trips = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        connection.write_all(&byte)?;
        connection.read_exact(&mut byte)?;
        trips.push(begun.elapsed().as_secs_f64());
    }
    Ok(trips)
}
