//! Ways that change.

use std::time::{Duration, Instant};

use kube_pet_tunnel::Implementation;

use crate::world::{CLOUD, CLOUD_OUTSIDE, HOME, World, eventually};

#[test]
fn netns_a_machine_that_gets_another_address_keeps_its_connections() {
    let world = World::new();
    let (mut cloud, mut home) = world.pair();
    let mut conversation = world.converse("home", "cloud", CLOUD);
    conversation.exchange(b"from here");
    let key = home.key();
    let before = cloud.status(&key).endpoint.unwrap();
    assert_eq!(before.ip().to_string(), "198.51.100.2");
    world.run("nat", "ip addr add 198.51.100.3/24 dev nat-internet");
    world.run("nat", "ip addr del 198.51.100.2/24 dev nat-internet");
    world.run("nat", "ip addr add 198.51.100.3/24 dev nat-internet");
    world.run("nat", "ip route replace default via 198.51.100.1");
    conversation.exchange(b"and from there");
    assert_eq!(cloud.status(&key).endpoint.unwrap().ip().to_string(), "198.51.100.3");
    // What the cloud has learnt stays, however often it is told the same.
    for _ in 0..3 {
        cloud.apply();
        home.apply();
    }
    assert_eq!(cloud.status(&key).endpoint.unwrap().ip().to_string(), "198.51.100.3");
    conversation.exchange(b"still");
}

#[test]
fn netns_a_way_that_works_stays_until_another_one_is_wanted() {
    let world = World::new();
    let (mut cloud, mut home) = world.pair();
    world.talk("home", "cloud", CLOUD);
    let key = home.key();
    let learnt = cloud.status(&key).endpoint;
    // The cloud is told of an address where nobody is: it has learnt better.
    cloud.peers.get_mut(&key).unwrap().endpoints = vec!["198.51.100.2:9".parse().unwrap()];
    for _ in 0..3 {
        cloud.apply();
        cloud.tick();
    }
    assert_eq!(cloud.status(&key).endpoint, learnt);
    // The home is told that the cloud has moved: it does not wait for silence.
    let other = cloud.key();
    home.peers.get_mut(&other).unwrap().endpoints = vec!["203.0.113.9:51820".parse().unwrap()];
    home.apply();
    assert_eq!(home.status(&other).endpoint, Some("203.0.113.9:51820".parse().unwrap()));
    world.run("cloud", "ip addr del 203.0.113.2/24 dev cloud-internet");
    world.run("cloud", "ip addr add 203.0.113.9/24 dev cloud-internet");
    world.run("cloud", "ip route replace default via 203.0.113.1");
    world.talk("home", "cloud", CLOUD);
}

#[test]
fn netns_the_second_endpoint_is_tried_when_the_first_does_not_answer() {
    let world = World::new();
    let (mut cloud, mut home) = (world.end("cloud"), world.end("home"));
    cloud.knows(&home, None);
    home.knows(&cloud, Some("203.0.113.9:51820"));
    let key = cloud.key();
    home.peers.get_mut(&key).unwrap().endpoints.push(CLOUD_OUTSIDE.parse().unwrap());
    cloud.apply();
    home.apply();
    let start = Instant::now();
    eventually("a handshake with the second", || {
        home.tick();
        home.status(&key).last_handshake.is_some()
    });
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    world.talk("cloud", "home", HOME);
}

#[test]
fn netns_a_name_is_looked_up() {
    let world = World::new();
    let (mut cloud, mut home) = (world.end("cloud"), world.end("home"));
    // Of all names this is the one that every machine knows; the cloud is where this home says it is.
    world.run("cloud", "ip addr add 127.0.0.2/8 dev lo");
    cloud.knows(&home, None);
    home.knows(&cloud, Some("localhost:51820"));
    cloud.apply();
    home.apply();
    let key = cloud.key();
    eventually("its address", || {
        home.tick();
        home.status(&key).endpoint.is_some()
    });
    assert!(home.status(&key).endpoint.unwrap().ip().is_loopback());
}

#[test]
fn netns_the_end_of_a_process_is_forgotten_by_the_next() {
    let world = World::new();
    let (mut cloud, mut home) = world.pair();
    world.talk("home", "cloud", CLOUD);
    let outlives = home.implementation() == Implementation::Kernel;
    home.die();
    // The kernel's goes on alone. The process's own is gone, and what should go through it is refused.
    assert_eq!(world.try_converse("home", "cloud", CLOUD, Duration::from_secs(5)).is_ok(), outlives);
    home.apply();
    world.talk("home", "cloud", CLOUD);
    cloud.die();
    cloud.apply();
    // The cloud knows no endpoint: the home begins, by what it sends.
    world.talk("home", "cloud", CLOUD);
    world.talk("cloud", "home", HOME);
}
