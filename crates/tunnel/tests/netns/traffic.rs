//! Machines that reach each other, whatever happens to others.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kube_pet_tunnel::{Peer, PrivateKey};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::world::{CLOUD, CLOUD_OUTSIDE, End, HOME, OTHER, POD, WORKER, World, eventually, nets};

#[test]
fn netns_a_machine_behind_nat_and_the_cloud_reach_each_other() {
    let world = World::new();
    let (_cloud, _home) = world.pair();
    world.talk("home", "cloud", CLOUD);
    world.talk("cloud", "home", HOME);
    world.talk("cloud", "home", "fd99::2");
    assert_eq!(world.converse("worker", "pod", POD).peer.ip().to_string(), WORKER, "nobody's address is translated");
    assert_eq!(world.converse("pod", "worker", WORKER).peer.ip().to_string(), POD);
}

/// The NAT of this test forgets what was not used for 3 s.
#[test]
fn netns_keepalives_hold_the_way_in_open() {
    let world = World::new();
    world.run("nat", "sysctl -qw net.netfilter.nf_conntrack_udp_timeout=3 net.netfilter.nf_conntrack_udp_timeout_stream=3");
    let (mut cloud, mut home) = world.pair();
    let other = cloud.key();
    home.peers.get_mut(&other).unwrap().keepalive = 1;
    home.apply();
    let key = home.key();
    eventually("a handshake", || cloud.status(&key).last_handshake.is_some());
    let start = Instant::now();
    eventually("time in which the NAT forgets", || start.elapsed() > Duration::from_secs(5));
    assert!(world.try_converse("cloud", "home", HOME, Duration::from_secs(2)).is_ok());
}

/// Both are behind NAT: what one sends the other goes through the cloud.
#[test]
fn netns_two_homes_reach_each_other_through_the_cloud() {
    let world = World::new();
    let (mut cloud, _home) = world.pair();
    let mut other = world.end("other");
    cloud.knows(&other, None);
    other.knows(&cloud, Some(CLOUD_OUTSIDE));
    cloud.apply();
    other.apply();
    // The cloud must have heard of both.
    world.talk("other", "cloud", CLOUD);
    world.talk("home", "cloud", CLOUD);
    assert_eq!(world.converse("home", "other", OTHER).peer.ip().to_string(), HOME);
    assert_eq!(world.converse("other", "pod", POD).peer.ip().to_string(), OTHER);
}

/// A thousand packets in a second, numbered, while peers come and go at both ends: none is lost.
#[test]
fn netns_peers_that_come_and_go_cost_the_others_nothing() {
    let world = World::new();
    let (mut cloud, mut home) = world.pair();
    world.talk("home", "cloud", CLOUD);
    let server = world.within("cloud", || UdpSocket::bind((CLOUD, 0)).unwrap());
    server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    // A receiver that does not get the processor for a while loses nothing: who is looked at is the tunnel.
    setsockopt(&server, RcvBufForce, &(8 << 20)).unwrap();
    let client = world.within("home", || UdpSocket::bind((HOME, 0)).unwrap());
    client.connect(server.local_addr().unwrap()).unwrap();
    let key = cloud.key();
    let before = home.status(&key).last_handshake;
    let done = AtomicBool::new(false);
    let (sent, heard) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0_u32;
            let begun = Instant::now();
            while !done.load(Ordering::Relaxed) {
                client.send(&sent.to_be_bytes()).unwrap();
                sent += 1;
                let due = Duration::from_millis(sent.into());
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            sent
        });
        let receiver = scope.spawn(|| {
            let (mut heard, mut word) = (0_u32, [0; 4]);
            while server.recv(&mut word).is_ok() {
                heard += 1;
            }
            heard
        });
        for round in 0..20_u8 {
            for end in [&mut cloud, &mut home] {
                stranger(end, round);
                end.apply();
            }
        }
        done.store(true, Ordering::Relaxed);
        (sender.join().unwrap(), receiver.join().unwrap())
    });
    assert!(sent > 100, "{sent}");
    assert_eq!(heard, sent);
    assert_eq!(home.status(&key).last_handshake.map(seconds), before.map(seconds), "no new keys were needed");
}

/// Ten peers come, those of the round before go.
fn stranger(end: &mut End<'_>, round: u8) {
    end.peers.retain(|_, peer| !peer.allowed.iter().any(|network| network.to_string().starts_with("10.99.2")));
    for number in 0..10 {
        let allowed = nets(&[&format!("10.99.2{}.{}/32", round % 10, number)]);
        let endpoints = vec!["203.0.113.77:9".parse().unwrap()];
        end.peers.insert(PrivateKey::generate().unwrap().public(), Peer { endpoints, keepalive: 25, allowed, ..Peer::default() });
    }
}

fn seconds(at: std::time::SystemTime) -> u64 {
    at.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64().round() as u64 / 2
}

/// Lost without [`kube_pet_net::tunnel_links`]' mark: the cloud's own address lies in what goes through the tunnel.
#[test]
fn netns_a_tunnel_for_everything_does_not_go_through_itself() {
    let world = World::new();
    let (mut cloud, mut home) = world.pair();
    let key = cloud.key();
    home.peers.get_mut(&key).unwrap().allowed.extend(nets(&["0.0.0.0/0"]));
    home.apply();
    cloud.apply();
    world.talk("home", "cloud", CLOUD);
    world.run("internet", "ip route add 10.99.0.0/16 via 203.0.113.2");
    assert_eq!(world.converse("home", "internet", "203.0.113.1").peer.ip().to_string(), HOME);
}
