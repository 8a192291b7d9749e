//! Two homes behind translating routers, a machine in the cloud with another one behind it, and the internet between them.
//!
//! ```text
//! pod ── home ── nat ──┐
//! 10.99.7.5            ├── internet ── cloud ── worker
//!       other ── nat2 ─┘             203.0.113.2   10.98.0.5
//! ```
//! In the tunnel cloud is 10.99.0.1 and fd99::1, home 10.99.0.2 and fd99::2, other 10.99.0.3.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube_pet_host::mounts;
use kube_pet_host::namespaces::{Kind, create, run_in_netns};
use kube_pet_net::tunnel_links::{Mark, TunnelLink};
use kube_pet_rules::Network;
use kube_pet_tunnel::{Config, Endpoint, Implementation, Mode, Paths, Peer, PrivateKey, PublicKey, Settings, Tunnel};

pub(crate) const PORT: u16 = 51820;
pub(crate) const CLOUD: &str = "10.99.0.1";
pub(crate) const HOME: &str = "10.99.0.2";
pub(crate) const OTHER: &str = "10.99.0.3";
pub(crate) const WORKER: &str = "10.98.0.5";
pub(crate) const POD: &str = "10.99.7.5";
pub(crate) const CLOUD_OUTSIDE: &str = "203.0.113.2:51820";
pub(crate) const MARK: Mark = Mark { value: 0x4b50_0000, mask: 0xffff_0000 };
const PLACES: [&str; 8] = ["internet", "cloud", "worker", "nat", "home", "pod", "nat2", "other"];

pub(crate) struct World(tempfile::TempDir);

impl World {
    pub(crate) fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        for place in PLACES {
            create(&[(Kind::Net, &world.path(place))], || Ok(())).unwrap();
            world.run(place, "ip link set lo up");
            world.run(place, "sysctl -qw net.ipv4.ip_forward=1");
        }
        world.wire("internet", "203.0.113.1/24", "cloud", "203.0.113.2/24");
        world.wire("internet", "198.51.100.1/24", "nat", "198.51.100.2/24");
        world.wire("internet", "192.0.2.1/24", "nat2", "192.0.2.2/24");
        world.wire("nat", "192.168.1.1/24", "home", "192.168.1.10/24");
        world.wire("nat2", "192.168.2.1/24", "other", "192.168.2.10/24");
        world.wire("home", "10.99.7.1/32", "pod", "10.99.7.5/32");
        world.wire("cloud", "10.98.0.1/24", "worker", "10.98.0.5/24");
        for (place, router) in [
            ("cloud", "203.0.113.1"),
            ("nat", "198.51.100.1"),
            ("nat2", "192.0.2.1"),
            ("home", "192.168.1.1"),
            ("other", "192.168.2.1"),
            ("worker", "10.98.0.1"),
        ] {
            world.run(place, &format!("ip route add default via {router}"));
        }
        world.run("home", "ip route add 10.99.7.5 dev home-pod");
        world.run("pod", "ip route add 10.99.7.1 dev pod-home");
        world.run("pod", "ip route add default via 10.99.7.1");
        for (nat, out) in [("nat", "nat-internet"), ("nat2", "nat2-internet")] {
            world.nft(
                nat,
                &format!("table ip nat {{ chain post {{ type nat hook postrouting priority 100; oifname {out} masquerade; }}; }}"),
            );
            world.nft(
                nat,
                &format!(
                    "table ip filter {{ chain forward {{ type filter hook forward priority 0; iifname {out} ct state new drop; }}; }}"
                ),
            );
        }
        world
    }

    fn path(&self, place: &str) -> PathBuf {
        self.0.path().join(place)
    }

    /// Links two places; a link is named after both ends, its own first.
    pub(crate) fn wire(&self, a: &str, a_address: &str, b: &str, b_address: &str) {
        let (near, far) = (format!("{a}-{b}"), format!("{b}-{a}"));
        let netns = self.path(b);
        self.run(a, &format!("ip link add {near} type veth peer name {far} netns {}", netns.display()));
        for (place, link, address) in [(a, near, a_address), (b, far, b_address)] {
            self.run(place, &format!("ip addr add {address} dev {link}"));
            self.run(place, &format!("ip link set {link} up"));
        }
    }

    pub(crate) fn within<T: Send>(&self, place: &str, inside: impl FnOnce() -> T + Send) -> T {
        run_in_netns(&self.path(place), inside).unwrap()
    }

    /// A program, in a place.
    #[allow(clippy::disallowed_methods, reason = "a test may look at the kernel with the system's own programs")]
    pub(crate) fn run(&self, place: &str, command: &str) -> String {
        let mut words = command.split(' ');
        let program = words.next().unwrap();
        let output = self.within(place, || std::process::Command::new(program).args(words).output().unwrap());
        assert!(output.status.success(), "{place}: {command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[allow(clippy::disallowed_methods, reason = "a test may look at the kernel with the system's own programs")]
    pub(crate) fn nft(&self, place: &str, rules: &str) {
        let output = self.within(place, || std::process::Command::new("nft").arg(rules).output().unwrap());
        assert!(output.status.success(), "{place}: {rules}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn end(&self, place: &'static str) -> End<'_> {
        End::new(self, place, PrivateKey::generate().unwrap())
    }

    /// Cloud and home, each other's peers.
    pub(crate) fn pair(&self) -> (End<'_>, End<'_>) {
        let (mut cloud, mut home) = (self.end("cloud"), self.end("home"));
        cloud.knows(&home, None);
        home.knows(&cloud, Some(CLOUD_OUTSIDE));
        cloud.apply();
        home.apply();
        (cloud, home)
    }

    /// Waits for a server at the address, and says a word to it.
    pub(crate) fn talk(&self, from: &str, to: &str, address: &str) {
        let mut conversation = self.converse(from, to, address);
        conversation.exchange(b"hello");
    }

    /// A connection that lasts. Whoever begins tries again: its first packets may be lost.
    pub(crate) fn converse(&self, from: &str, to: &str, address: &str) -> Conversation {
        self.try_converse(from, to, address, Duration::from_secs(20)).unwrap_or_else(|e| panic!("{from} to {address} at {to}: {e}"))
    }

    pub(crate) fn try_converse(&self, from: &str, to: &str, address: &str, patience: Duration) -> io::Result<Conversation> {
        let address: IpAddr = address.parse().unwrap();
        let listener = self.within(to, || TcpListener::bind((address, 0)))?;
        let target = listener.local_addr()?;
        let client = self.within(from, || TcpStream::connect_timeout(&target, patience))?;
        let (server, peer) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.set_nodelay(true)?;
        }
        Ok(Conversation { client, server, peer })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = mounts::unmount_below(self.0.path());
    }
}

/// Both ends of a TCP connection.
pub(crate) struct Conversation {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
    /// Who the server sees.
    pub(crate) peer: SocketAddr,
}

impl Conversation {
    /// There and back.
    pub(crate) fn exchange(&mut self, words: &[u8]) {
        for (from, to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            let (mut from, mut to): (&TcpStream, &TcpStream) = (from, to);
            from.write_all(words).unwrap();
            let mut heard = vec![0; words.len()];
            to.read_exact(&mut heard).unwrap();
            assert_eq!(heard, words);
        }
    }

    /// Many bytes to the server.
    pub(crate) fn transfer(&mut self, bytes: usize) -> io::Result<()> {
        let data: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
        let mut client = self.client.try_clone()?;
        client.set_write_timeout(Some(Duration::from_secs(20)))?;
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| client.write_all(&data));
            let mut heard = vec![0; bytes];
            let read = self.server.read_exact(&mut heard);
            if read.is_err() {
                let _ = self.client.shutdown(std::net::Shutdown::Both);
            }
            let written = writer.join().unwrap();
            read.and(written)?;
            assert_eq!(heard, data);
            Ok(())
        })
    }
}

/// One machine's end of the tunnel.
pub(crate) struct End<'a> {
    world: &'a World,
    pub(crate) place: &'static str,
    pub(crate) config: Config,
    pub(crate) peers: BTreeMap<PublicKey, Peer>,
    pub(crate) tunnel: Option<Tunnel>,
}

impl<'a> End<'a> {
    fn new(world: &'a World, place: &'static str, private_key: PrivateKey) -> Self {
        let (addresses, bypass): (&[&str], &[&str]) = match place {
            "cloud" => (&[CLOUD, "fd99::1"], &["10.98.0.0/24"]),
            "home" => (&[HOME, "fd99::2"], &["10.99.7.0/24"]),
            _ => (&[OTHER, "fd99::3"], &[]),
        };
        let link = TunnelLink {
            name: "kp-tunnel".into(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            answers: BTreeSet::new(),
            mtu: 1420,
            routes: BTreeSet::new(),
            mtus: BTreeMap::new(),
            guarded: nets(&["10.98.0.0/16", "10.99.0.0/16", "fd99::/64"]),
            bypass: nets(bypass),
            table: 19_280,
            mark: MARK,
            forward: true,
        };
        let listen_port = if place == "cloud" { PORT } else { 0 };
        let settings = Settings { private_key, listen_port, mark: MARK.value };
        Self { world, place, config: Config { link, settings, mode: mode() }, peers: BTreeMap::new(), tunnel: None }
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.config.settings.private_key.public()
    }

    /// Makes the other end a peer. Whoever knows where the other is keeps the way open.
    pub(crate) fn knows(&mut self, other: &End<'_>, endpoint: Option<&str>) {
        let allowed = match other.place {
            "cloud" => nets(&["10.98.0.0/16", "10.99.0.0/16", "fd99::/64"]),
            "home" => nets(&["10.99.0.2/32", "10.99.7.0/24", "fd99::2/128"]),
            _ => nets(&["10.99.0.3/32", "fd99::3/128"]),
        };
        let keepalive = if endpoint.is_some() { 25 } else { 0 };
        let endpoints = endpoint.into_iter().map(|e| e.parse::<Endpoint>().unwrap()).collect();
        let accepted = if other.place == "cloud" { allowed.clone() } else { BTreeSet::new() };
        self.peers.insert(other.key(), Peer { endpoints, keepalive, allowed, accepted, ..Peer::default() });
    }

    /// Opens the tunnel if it is not, and tells it what should be.
    pub(crate) fn apply(&mut self) {
        self.config.link.routes = self.peers.values().flat_map(|peer| peer.allowed.iter().copied()).collect();
        self.apply_with(BTreeMap::new());
    }

    /// With the peers of these paths, and routes of the paths' sizes.
    pub(crate) fn apply_narrowed(&mut self, paths: &Paths) {
        let link = &mut self.config.link;
        link.routes = self.peers.values().flat_map(|peer| peer.allowed.iter().copied()).collect();
        link.mtus.clear();
        paths.narrow(link);
        self.apply_with(paths.peers());
    }

    fn apply_with(&mut self, more: BTreeMap<PublicKey, Peer>) {
        let Self { world, place, config, peers, tunnel } = self;
        let peers = Arc::new(peers.iter().map(|(key, peer)| (*key, peer.clone())).chain(more).collect::<BTreeMap<_, _>>());
        world.within(place, || {
            if tunnel.is_none() {
                *tunnel = Some(Tunnel::open(config.clone()).unwrap());
            }
            tunnel.as_mut().unwrap().apply(&config.link, &config.settings, &peers).unwrap();
        });
    }

    pub(crate) fn tick(&mut self) {
        let Self { world, place, tunnel, .. } = self;
        world.within(place, || tunnel.as_mut().unwrap().tick().unwrap());
    }

    pub(crate) fn status(&mut self, of: &PublicKey) -> kube_pet_tunnel::PeerStatus {
        let Self { world, place, tunnel, .. } = self;
        world.within(place, || tunnel.as_mut().unwrap().status().unwrap().peers.remove(of).unwrap())
    }

    pub(crate) fn whole_status(&mut self) -> kube_pet_tunnel::Status {
        let Self { world, place, tunnel, .. } = self;
        world.within(place, || tunnel.as_mut().unwrap().status().unwrap())
    }

    /// Whose WireGuard it is.
    pub(crate) fn implementation(&mut self) -> Implementation {
        let Self { world, place, tunnel, .. } = self;
        world.within(place, || tunnel.as_mut().unwrap().status().unwrap().implementation)
    }

    /// The process ends, and the link is gone: with the process, or because somebody takes away the kernel's.
    pub(crate) fn lose_link(&mut self) {
        let outlives = self.implementation() == Implementation::Kernel;
        self.die();
        if outlives {
            self.world.run(self.place, &format!("ip link del {}", self.config.link.name));
        }
    }

    /// The process ends, without a word.
    pub(crate) fn die(&mut self) {
        let tunnel = self.tunnel.take();
        self.world.within(self.place, || drop(tunnel));
    }

    pub(crate) fn close(&mut self) {
        let tunnel = self.tunnel.take();
        self.world.within(self.place, || tunnel.unwrap().close().unwrap());
    }
}

/// Whose WireGuard the tests are about: the kernel's where it has one, unless `KUBE_PET_TUNNEL_MODE` says which.
fn mode() -> Mode {
    match std::env::var("KUBE_PET_TUNNEL_MODE").as_deref() {
        Err(_) => Mode::Auto,
        Ok("kernel") => Mode::Kernel,
        Ok("userspace") => Mode::Userspace,
        Ok(other) => panic!("KUBE_PET_TUNNEL_MODE={other}: kernel or userspace"),
    }
}

pub(crate) fn nets(texts: &[&str]) -> BTreeSet<Network> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
