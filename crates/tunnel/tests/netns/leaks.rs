//! What must not leave in plaintext.

use std::io;
use std::time::{Duration, Instant};

use crate::world::{CLOUD, World};

const SHORT: Duration = Duration::from_millis(700);

/// How many packets for the cluster the home's router has seen.
fn seen(world: &World) -> u64 {
    let rules = world.run("nat", "nft list chain ip leak forward");
    let number = rules.split("packets ").nth(1).unwrap().split(' ').next().unwrap();
    number.parse().unwrap()
}

#[test]
fn netns_nothing_of_the_cluster_leaves_in_plaintext() {
    let world = World::new();
    world.nft("nat", "table ip leak { chain forward { type filter hook prerouting priority -300; ip daddr 10.98.0.0/15 counter; }; }");
    let (_cloud, mut home) = world.pair();
    world.talk("home", "cloud", CLOUD);
    home.lose_link();
    for address in [CLOUD, "10.99.0.77"] {
        let error = world.try_converse_to("home", address).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable), "{address}: {error}");
    }
    assert!(world.try_converse_to("pod", "10.98.0.5").is_err());
    assert_eq!(seen(&world), 0);
    // Back, and then told to go: now the machine's other ways hold, and the counter proves that it counts.
    home.apply();
    world.talk("home", "cloud", CLOUD);
    home.close();
    assert!(world.try_converse_to("home", CLOUD).is_err());
    assert!(seen(&world) > 0);
    assert_eq!(world.run("home", "ip rule").lines().count(), 3);
}

#[test]
fn netns_what_is_behind_no_peer_is_refused_while_the_tunnel_is_up() {
    let world = World::new();
    world.nft("nat", "table ip leak { chain forward { type filter hook prerouting priority -300; ip daddr 10.98.0.0/15 counter; }; }");
    let (mut cloud, mut home) = world.pair();
    let key = cloud.key();
    world.talk("home", "cloud", CLOUD);
    home.peers.get_mut(&key).unwrap().allowed = crate::world::nets(&["10.99.0.1/32"]);
    home.apply();
    cloud.apply();
    world.talk("home", "cloud", CLOUD);
    assert_eq!(world.try_converse_to("home", "10.98.0.5").unwrap_err().kind(), io::ErrorKind::HostUnreachable);
    assert_eq!(seen(&world), 0);
}

#[test]
fn netns_routes_and_addresses_that_somebody_takes_away_come_back() {
    let world = World::new();
    let (_cloud, mut home) = world.pair();
    world.talk("home", "cloud", CLOUD);
    let [routes, address] = ["ip route show table 19280", "ip -4 addr show dev kp-tunnel"].map(|shown| world.run("home", shown));
    world.run("home", "ip route flush table 19280");
    world.run("home", "ip addr flush dev kp-tunnel");
    let begun = Instant::now();
    while world.run("home", "ip route show table 19280") != routes || world.run("home", "ip -4 addr show dev kp-tunnel") != address {
        assert!(begun.elapsed() < Duration::from_secs(20), "they are still gone");
        std::thread::sleep(SHORT);
        home.tick();
    }
    world.talk("home", "cloud", CLOUD);
}

/// Nobody may say that it is somebody else.
#[test]
fn netns_a_peer_cannot_send_from_addresses_that_are_not_its_own() {
    let world = World::new();
    let (_cloud, home) = world.pair();
    world.talk("home", "cloud", CLOUD);
    world.run("home", "ip addr add 10.99.0.66/32 dev kp-tunnel");
    let bound = world.within("home", || {
        use std::net::{SocketAddr, UdpSocket};
        let socket = UdpSocket::bind("10.99.0.66:0").unwrap();
        socket.connect(SocketAddr::new(CLOUD.parse().unwrap(), 7)).unwrap();
        socket
    });
    let server = world.within("cloud", || std::net::UdpSocket::bind((CLOUD, 7)).unwrap());
    server.set_read_timeout(Some(SHORT)).unwrap();
    bound.send(b"let me in").unwrap();
    assert!(server.recv(&mut [0; 16]).is_err());
    drop(home);
}

impl World {
    /// Whether a connection to a port where nobody listens, or anything else, is the answer.
    fn try_converse_to(&self, from: &str, address: &str) -> io::Result<()> {
        let target = std::net::SocketAddr::new(address.parse().unwrap(), 9);
        self.within(from, || std::net::TcpStream::connect_timeout(&target, SHORT)).map(drop)
    }
}
