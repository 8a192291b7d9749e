//! Packets that are too large.

use kube_pet_net::tables::OwnChanges;
use kube_pet_net::tunnel_table::{TunnelRules, TunnelTable};

use crate::world::{CLOUD, End, POD, WORKER, World};

/// No message about sizes reaches anybody.
fn black_hole(world: &World) {
    for place in ["home", "cloud", "internet", "nat"] {
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
    world.converse("cloud", "home", crate::world::HOME).transfer(1 << 20).unwrap();
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
