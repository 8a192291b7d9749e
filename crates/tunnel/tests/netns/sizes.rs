//! Packets that are too large.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use kube_pet_net::tables::OwnChanges;
use kube_pet_net::tunnel_table::{TunnelRules, TunnelTable};
use kube_pet_rules::Network;
use kube_pet_tunnel::Implementation;
use kube_pet_tunnel::mtu::{GATEWAY, Prober};

use crate::world::{CLOUD, CLOUD_OUTSIDE, End, HOME, POD, WORKER, World, eventually};

/// No message about sizes reaches anybody.
fn black_hole(world: &World) {
    silence(world, &["home", "cloud", "internet", "nat"]);
}

/// These places send no message about sizes.
fn silence(world: &World, places: &[&str]) {
    for place in places {
        world.nft(place, "table ip hole { chain out { type filter hook output priority 0; icmp type destination-unreachable drop; }; }");
    }
}

fn clamp(world: &World, end: &End<'_>) {
    let rules = TunnelRules { link: end.config.link.name.clone(), masquerade: Vec::new(), remembered: Vec::new() };
    world.within(end.place, || {
        let mut table = TunnelTable::open("kp-tunnel", OwnChanges::default()).unwrap();
        assert!(table.ensure(&rules).unwrap());
        assert!(!table.ensure(&rules).unwrap(), "it is there already");
    });
}

#[test]
fn netns_tcp_between_machines_behind_the_ends_fits_although_nobody_tells_them() {
    let world = World::new();
    black_hole(&world);
    let (cloud, home) = world.pair();
    clamp(&world, &home);
    clamp(&world, &cloud);
    world.converse("pod", "worker", WORKER).transfer(1 << 20).unwrap();
    world.converse("worker", "pod", POD).transfer(1 << 20).unwrap();
}

#[test]
fn netns_a_way_that_is_narrower_than_the_tunnel_carries_it_all_the_same() {
    let world = World::new();
    black_hole(&world);
    world.run("internet", "ip link set internet-cloud mtu 1300");
    world.run("cloud", "ip link set cloud-internet mtu 1300");
    let (_cloud, _home) = world.pair();
    world.converse("home", "cloud", CLOUD).transfer(1 << 20).unwrap();
    world.converse("cloud", "home", HOME).transfer(1 << 20).unwrap();
}

#[test]
fn netns_masquerading_shows_the_cloud_one_machine_only() {
    let world = World::new();
    let (cloud, _home) = world.pair();
    // The worker has no way back.
    world.run("worker", "ip route del default");
    let rules =
        TunnelRules { link: cloud.config.link.name.clone(), masquerade: vec!["10.99.0.0/16".parse().unwrap()], remembered: Vec::new() };
    let mut table = world.within("cloud", || TunnelTable::open("kp-tunnel", OwnChanges::default()).unwrap());
    world.within("cloud", || table.ensure(&rules).unwrap());
    assert_eq!(world.converse("pod", "worker", WORKER).peer.ip().to_string(), "10.98.0.1");
    let other = TunnelRules { masquerade: Vec::new(), ..rules };
    assert!(world.within("cloud", || table.ensure(&other).unwrap()), "other rules replace the table");
    assert!(world.within("cloud", || table.remove().unwrap()));
}

/// Lets the home's end find out for itself what the way takes, as the agent does.
fn discover(world: &World) -> (End<'_>, End<'_>, Prober) {
    discover_at(world, GATEWAY[0])
}

/// Asks there.
fn discover_at(world: &World, gateway: IpAddr) -> (End<'_>, End<'_>, Prober) {
    let (mut cloud, mut home) = (world.end("cloud"), world.end("home"));
    cloud.config.link.answers = GATEWAY.into();
    cloud.knows(&home, None);
    home.knows(&cloud, Some(CLOUD_OUTSIDE));
    home.peers.get_mut(&cloud.key()).unwrap().allowed.insert(Network::single(gateway));
    cloud.apply();
    home.apply();
    (cloud, home, Prober::new(None))
}

/// Seconds of an agent's life, or until this size is in use.
fn live(world: &World, home: &mut End<'_>, prober: &mut Prober, seconds: u32, until: impl Fn(Option<u16>) -> bool) -> Option<u16> {
    for _ in 0..seconds {
        let seen = home.whole_status().peers;
        let (link, peers) = (&mut home.config.link, &home.peers);
        world.within("home", || prober.look(link, peers, &seen));
        home.apply();
        if until(prober.size(&home.config.link)) {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    prober.size(&home.config.link)
}

/// A datagram that may be cut in pieces, if it must.
pub(crate) fn datagram(world: &World, (from, to): (&str, &str), target: &str, bytes: usize) -> bool {
    let server = world.within(to, || UdpSocket::bind((target, 0)).unwrap());
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let client = world.within(from, || UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    let sent = client.send_to(&vec![7; bytes], server.local_addr().unwrap());
    sent.is_ok() && server.recv(&mut vec![0; 2 * bytes]).is_ok_and(|length| length == bytes)
}

/// TCP both ways, and datagrams that are larger than the way: by the machine itself, and by a pod, which learns it from the first one.
fn everything_passes(world: &World) {
    world.converse("home", "cloud", CLOUD).transfer(1 << 20).unwrap();
    world.converse("cloud", "home", HOME).transfer(1 << 20).unwrap();
    world.converse("pod", "worker", WORKER).transfer(1 << 20).unwrap();
    world.converse("worker", "pod", POD).transfer(1 << 20).unwrap();
    eventually("a large datagram", || datagram(world, ("home", "cloud"), CLOUD, 1400));
    eventually("a pod's large datagram", || datagram(world, ("pod", "worker"), WORKER, 1400));
}

#[test]
fn netns_a_way_that_loses_large_packets_without_a_word_is_found_and_passed() {
    let world = World::new();
    silence(&world, &["internet", "nat"]);
    world.nft("internet", "table ip narrow { chain forward { type filter hook forward priority 0; ip length > 1360 drop; }; }");
    let (mut cloud, mut home, mut prober) = discover(&world);
    clamp(&world, &home);
    clamp(&world, &cloud);
    world.talk("home", "cloud", CLOUD);
    assert!(!datagram(&world, ("home", "cloud"), CLOUD, 1350), "nobody knows it yet");
    let found = live(&world, &mut home, &mut prober, 20, |size| size.is_some()).unwrap();
    // An IPv4 and a UDP header, and 32 bytes of WireGuard.
    assert!((1293..=1300).contains(&found), "{found}");
    everything_passes(&world);
    let route = world.run("home", "ip route show table 19280 10.98.0.0/16");
    assert!(route.contains(&format!("mtu lock {found}")), "{route}");

    // The other way: the cloud is told, and a datagram from there is cut, too.
    assert!(!datagram(&world, ("worker", "pod"), POD, 1350));
    let pods: Network = "10.99.7.0/24".parse().unwrap();
    cloud.config.link.mtus.insert(pods, u32::from(found));
    cloud.apply();
    eventually("a datagram to a pod", || datagram(&world, ("worker", "pod"), POD, 1350));
    // Only the way up is narrow now. What is asked is not cut by the home itself: what it has found stays.
    world.run("internet", "nft delete table ip narrow");
    let up = "iifname internet-nat ip length > 1360 drop";
    world.nft("internet", &format!("table ip narrow {{ chain forward {{ type filter hook forward priority 0; {up}; }}; }}"));
    let mut again = Prober::new(Some(found));
    assert_eq!(live(&world, &mut home, &mut again, 9, |size| size.is_none()), Some(found));
    // The machine itself is still answered in all sizes: the way has become wider.
    world.run("internet", "nft delete table ip narrow");
    let mut again = Prober::new(Some(found));
    assert_eq!(live(&world, &mut home, &mut again, 20, |size| size.is_none()), None);
    let route = world.run("home", "ip route show table 19280 10.98.0.0/16");
    assert!(!route.contains("mtu"), "{route}");
}

#[test]
fn netns_a_way_that_loses_fragments_is_found_and_passed() {
    let world = World::new();
    silence(&world, &["internet", "nat"]);
    world.run("internet", "ip link set internet-cloud mtu 1400");
    world.run("cloud", "ip link set cloud-internet mtu 1400");
    for (place, link) in [("cloud", "cloud-internet"), ("nat", "nat-internet")] {
        // Before anybody puts them together.
        let drop = format!("iifname {link} ip frag-off & 0x3fff != 0 drop");
        world.nft(place, &format!("table ip pieces {{ chain early {{ type filter hook prerouting priority -450; {drop}; }}; }}"));
    }
    let (cloud, mut home, mut prober) = discover(&world);
    clamp(&world, &home);
    clamp(&world, &cloud);
    world.talk("home", "cloud", CLOUD);
    let found = live(&world, &mut home, &mut prober, 20, |size| size.is_some()).unwrap();
    // 60 less than the way takes; the kernel's WireGuard fills packets up to a multiple of 16 first.
    let most = match home.implementation() {
        Implementation::Userspace => 1340,
        Implementation::Kernel => 1328,
    };
    assert!((most - 7..=most).contains(&found), "{found}");
    everything_passes(&world);
}

#[test]
fn netns_a_line_that_loses_a_tenth_of_all_packets_keeps_its_size() {
    let world = World::new();
    world.nft("internet", "table ip lossy { chain forward { type filter hook forward priority 0; numgen random mod 10 == 0 drop; }; }");
    let (_cloud, mut home, _) = discover(&world);
    for search in 0..6 {
        let mut prober = Prober::new(None);
        assert_eq!(live(&world, &mut home, &mut prober, 5, |size| size.is_some()), None, "search {search}");
    }
}

#[test]
fn netns_a_network_of_ipv6_only_is_asked_too() {
    let world = World::new();
    silence(&world, &["internet", "nat"]);
    world.nft("internet", "table ip narrow { chain forward { type filter hook forward priority 0; ip length > 1360 drop; }; }");
    let (_cloud, mut home, mut prober) = discover_at(&world, GATEWAY[1]);
    let found = live(&world, &mut home, &mut prober, 20, |size| size.is_some()).unwrap();
    assert!((1293..=1300).contains(&found), "{found}");
    let route = world.run("home", "ip -6 route show table 19280 fd99::/64");
    assert!(route.contains(&format!("mtu lock {found}")), "{route}");
    world.run("internet", "nft delete table ip narrow");
    let mut again = Prober::new(Some(found));
    assert_eq!(live(&world, &mut home, &mut again, 20, |size| size.is_none()), None);
    let route = world.run("home", "ip -6 route show table 19280 fd99::/64");
    assert!(!route.contains("mtu lock"), "{route}");
}

#[test]
fn netns_a_machine_that_has_moved_asks_anew() {
    let world = World::new();
    silence(&world, &["internet", "nat"]);
    let (mut cloud, mut home, mut prober) = discover(&world);
    // A gateway need not have an address of its own. What it says by itself does not come from the one that is asked.
    cloud.config.link.addresses.clear();
    cloud.apply();
    let route = world.run("cloud", &format!("ip route get {HOME}"));
    assert!(route.contains(" src 203.0.113.2 ") || route.contains(" src 10.98.0.1 "), "{route}");
    // Wide, and settled: the next confirmation is a minute away.
    assert_eq!(live(&world, &mut home, &mut prober, 4, |size| size.is_some()), None);
    world.nft("internet", "table ip narrow { chain forward { type filter hook forward priority 0; ip length > 1360 drop; }; }");
    world.run("home", "ip addr del 192.168.1.10/24 dev home-nat");
    world.run("home", "ip addr add 192.168.1.11/24 dev home-nat");
    world.run("home", "ip route replace default via 192.168.1.1");
    let found = live(&world, &mut home, &mut prober, 20, |size| size.is_some());
    assert!(found.is_some_and(|found| (1293..=1300).contains(&found)), "{found:?}");
}
