//! Real packets through real tables, between namespaces that the tests make themselves.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use kube_pet_rules::Protocol;

use super::*;
use crate::pod_links::tests::{Scene, ip};

const POD1: &str = "10.9.0.5";
const POD1_V6: &str = "fd00:9::5";
const POD2: &str = "10.9.0.6";
const POD2_V6: &str = "fd00:9::6";
const NODE: &str = "192.0.2.10";
const NODE_V6: &str = "2001:db8::10";
const OUTSIDE: &str = "198.51.100.7";
const OUTSIDE_V6: &str = "2001:db8:7::7";
const LINK1: &str = "kpaaaaaaaaaa";
const LINK2: &str = "kpbbbbbbbbbb";
const TABLE: &str = "kube-pet-test";

/// Long enough for a packet, and for one that is sent again.
const PATIENCE: Duration = Duration::from_millis(400);

/// A node with two pods and a machine outside, all of which answer on TCP and UDP 80, and the node and the outside, too.
struct Net(Scene);

impl Net {
    fn new() -> Self {
        let scene = Scene::new();
        scene.give_node(ip(NODE));
        scene.give_node(ip(NODE_V6));
        scene.link("pod1", LINK1, &[ip(POD1), ip(POD1_V6)]).unwrap();
        scene.link("pod2", LINK2, &[ip(POD2), ip(POD2_V6)]).unwrap();
        scene.link("outside", "outside", &[ip(OUTSIDE), ip(OUTSIDE_V6)]).unwrap();
        let net = Self(scene);
        for place in ["pod1", "pod2", "outside", "node"] {
            for port in [80, 81] {
                net.serve(place, port);
            }
        }
        net
    }

    fn table(&self) -> PolicyTable {
        self.0.within("node", || PolicyTable::open(TABLE, OwnChanges::default()).unwrap())
    }

    fn serve(&self, place: &str, port: u16) {
        let (tcp, udp) = self.0.within(place, || (TcpListener::bind(("::", port)).unwrap(), UdpSocket::bind(("::", port)).unwrap()));
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut bytes = [0; 4];
                    while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
                });
            }
        });
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((length, peer)) = udp.recv_from(&mut bytes) {
                let _ = udp.send_to(&bytes[..length], peer);
            }
        });
    }

    fn tcp(&self, from: &str, to: &str, port: u16) -> bool {
        self.connect(from, to, port).is_some_and(|mut stream| echoes(&mut stream))
    }

    fn connect(&self, from: &str, to: &str, port: u16) -> Option<TcpStream> {
        let to = SocketAddr::new(ip(to), port);
        let stream = self.0.within(from, || TcpStream::connect_timeout(&to, PATIENCE)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(stream)
    }

    fn udp(&self, from: &str, to: &str, port: u16) -> bool {
        let socket = self.0.within(from, || UdpSocket::bind((if ip(to).is_ipv4() { "0.0.0.0" } else { "::" }, 0)).unwrap());
        asks(&socket, SocketAddr::new(ip(to), port))
    }
}

fn echoes(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut bytes).is_ok() && bytes == *b"ping"
}

fn asks(socket: &UdpSocket, to: SocketAddr) -> bool {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = [0; 64];
    socket.send_to(b"?", to).is_ok() && socket.recv_from(&mut bytes).is_ok()
}

fn isolated(direction: Direction, link: &str) -> [Element; 2] {
    [Element::Isolated { direction, link: link.into(), profile: 7 }, Element::Itself { link: link.into() }]
}

fn allowed(direction: Direction, first: &str, last: &str, ports: Ports) -> Element {
    Element::Allowed { direction, profile: 7, grant: Grant { first: ip(first), last: ip(last), ports } }
}

fn tcp(first: u16, last: u16) -> Ports {
    Ports::Of { protocol: Protocol::Tcp, first, last }
}

fn all(elements: impl IntoIterator<Item = Element>) -> BTreeSet<Element> {
    elements.into_iter().collect()
}

#[test]
fn netns_a_pod_that_is_isolated_receives_what_is_allowed_only() {
    let net = Net::new();
    let mut table = net.table();
    table.reconcile(&all(isolated(Direction::Ingress, LINK1))).unwrap();
    for pod in [POD1, POD1_V6] {
        for from in ["pod2", "outside"] {
            assert!(!net.tcp(from, pod, 80) && !net.udp(from, pod, 80), "{from} → {pod}");
        }
        assert!(net.tcp("node", pod, 80) && net.udp("node", pod, 80), "the node probes its pods");
        assert!(net.tcp("pod1", pod, 80), "itself");
    }
    for to in [POD2, POD2_V6, OUTSIDE, OUTSIDE_V6, NODE, NODE_V6] {
        assert!(net.tcp("pod1", to, 80) && net.udp("pod1", to, 80), "what it sends, and the answers: {to}");
    }
    assert!(net.tcp("outside", POD2, 80), "others are not");
    for (pod, peer) in [(POD1, POD2), (POD1_V6, POD2_V6)] {
        table.apply(&[(allowed(Direction::Ingress, peer, peer, Ports::All), true)]).unwrap();
        assert!(net.tcp("pod2", pod, 80) && net.udp("pod2", pod, 81));
        assert!(!net.tcp("outside", pod, 80));
        table
            .apply(&[
                (allowed(Direction::Ingress, peer, peer, Ports::All), false),
                (allowed(Direction::Ingress, peer, peer, tcp(80, 80)), true),
            ])
            .unwrap();
        assert!(net.tcp("pod2", pod, 80) && !net.tcp("pod2", pod, 81) && !net.udp("pod2", pod, 80));
    }
}

#[test]
fn netns_ranges_of_addresses_and_ports() {
    let net = Net::new();
    let mut table = net.table();
    let udp = Ports::Of { protocol: Protocol::Udp, first: 0, last: 65535 };
    for (pod, below, peer, above, far, outside) in [
        (POD1, "10.9.0.0", POD2, "10.9.0.7", "10.9.0.255", OUTSIDE),
        (POD1_V6, "fd00:9::", POD2_V6, "fd00:9::7", "fd00:9::ffff", OUTSIDE_V6),
    ] {
        let isolated = isolated(Direction::Ingress, LINK1);
        let with = |more: &[Element]| all(isolated.iter().chain(more).cloned());
        let before = if ip(peer).is_ipv4() { "10.9.0.5" } else { "fd00:9::5" };
        // All but the peer, and all.
        table
            .reconcile(&with(&[
                allowed(Direction::Ingress, below, before, Ports::All),
                allowed(Direction::Ingress, above, far, Ports::All),
            ]))
            .unwrap();
        assert!(!net.tcp("pod2", pod, 80));
        table.reconcile(&with(&[allowed(Direction::Ingress, below, far, Ports::All)])).unwrap();
        assert!(net.tcp("pod2", pod, 80) && net.udp("pod2", pod, 80) && !net.tcp("outside", pod, 80));
        table
            .reconcile(&with(&[allowed(Direction::Ingress, below, far, tcp(79, 80)), allowed(Direction::Ingress, outside, outside, udp)]))
            .unwrap();
        assert!(net.tcp("pod2", pod, 80) && !net.tcp("pod2", pod, 81) && !net.udp("pod2", pod, 80));
        assert!(net.udp("outside", pod, 80) && net.udp("outside", pod, 81) && !net.tcp("outside", pod, 80));
        assert_eq!(table.repair().unwrap(), Repaired::default(), "read back as written");
    }
}

#[test]
fn netns_a_pod_that_is_isolated_sends_what_is_allowed_only() {
    let net = Net::new();
    let mut table = net.table();
    table.reconcile(&all(isolated(Direction::Egress, LINK1))).unwrap();
    for to in [NODE, NODE_V6] {
        assert!(net.tcp("pod1", to, 80) && net.udp("pod1", to, 80), "its own node: {to}");
    }
    for to in [POD2, POD2_V6, OUTSIDE, OUTSIDE_V6] {
        assert!(!net.tcp("pod1", to, 80) && !net.udp("pod1", to, 80), "{to}");
    }
    for pod in [POD1, POD1_V6] {
        for from in ["pod2", "outside", "node"] {
            assert!(net.tcp(from, pod, 80) && net.udp(from, pod, 80), "what it receives, and its answers: {from} → {pod}");
        }
        assert!(net.tcp("pod1", pod, 80), "itself");
    }
    for to in [POD2, POD2_V6, OUTSIDE_V6] {
        table.apply(&[(allowed(Direction::Egress, to, to, tcp(80, 81)), true)]).unwrap();
        assert!(net.tcp("pod1", to, 81) && !net.udp("pod1", to, 81), "{to}");
    }
    // Both sides must agree.
    table.apply(&isolated(Direction::Ingress, LINK2).map(|element| (element, true))).unwrap();
    assert!(!net.tcp("pod1", POD2, 80));
    table.apply(&[(allowed(Direction::Ingress, POD1, POD1, tcp(80, 80)), true)]).unwrap();
    assert!(net.tcp("pod1", POD2, 80) && !net.tcp("pod1", POD2, 81));
}

#[test]
fn netns_a_change_ends_connections_that_are_not_allowed_any_more() {
    let net = Net::new();
    let mut table = net.table();
    let grant = allowed(Direction::Ingress, POD2, POD2, Ports::All);
    table.reconcile(&all(isolated(Direction::Ingress, LINK1).into_iter().chain([grant.clone()]))).unwrap();
    let mut stream = net.connect("pod2", POD1, 80).unwrap();
    let mut kept = net.connect("pod1", POD2, 80).unwrap();
    let socket = net.0.within("pod2", || UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    let to = SocketAddr::new(ip(POD1), 80);
    assert!(echoes(&mut stream) && echoes(&mut kept) && asks(&socket, to));
    table.apply(&[(grant.clone(), false)]).unwrap();
    assert!(!echoes(&mut stream) && !asks(&socket, to));
    assert!(echoes(&mut kept), "another direction");
    // What the called side sends by itself ends, too.
    let pod = net.0.within("pod1", || UdpSocket::bind((POD1, 90)).unwrap());
    let peer = net.0.within("pod2", || UdpSocket::bind((POD2, 90)).unwrap());
    let reaches = |from: &UdpSocket, to: &UdpSocket| {
        to.set_read_timeout(Some(PATIENCE)).unwrap();
        from.send_to(b"!", to.local_addr().unwrap()).unwrap();
        to.recv(&mut [0; 8]).is_ok()
    };
    table.apply(&[(grant.clone(), true)]).unwrap();
    assert!(reaches(&peer, &pod) && reaches(&pod, &peer));
    table.apply(&[(grant, false)]).unwrap();
    assert!(!reaches(&pod, &peer), "an answer to what is not allowed");
    // A pod is isolated while it talks.
    table.apply(&isolated(Direction::Egress, LINK1).map(|element| (element, true))).unwrap();
    assert!(!echoes(&mut kept));
}

#[test]
fn netns_another_start_changes_nothing_and_what_others_did_is_put_right() {
    let net = Net::new();
    let elements = all(isolated(Direction::Ingress, LINK1).into_iter().chain([
        allowed(Direction::Ingress, POD2, POD2, tcp(80, 80)),
        allowed(Direction::Ingress, POD2_V6, POD2_V6, Ports::All),
        allowed(Direction::Ingress, "10.0.0.0", "10.8.255.255", tcp(80, 90)),
    ]));
    let mut first = net.table();
    assert!(first.reconcile(&elements).unwrap().rebuilt);
    assert_eq!(first.verify().unwrap(), Condition::Intact);
    let mut second = net.table();
    assert_eq!(second.reconcile(&elements).unwrap(), Repaired::default());
    assert_eq!(first.verify().unwrap(), Condition::Intact, "reading is no change");
    // Without knowing what should be there: more can be added.
    let mut third = net.table();
    third.adopt().unwrap();
    assert!(
        third.isolates(LINK1, Direction::Ingress)
            && !third.isolates(LINK1, Direction::Egress)
            && !third.isolates(LINK2, Direction::Ingress)
    );
    third.apply(&isolated(Direction::Ingress, LINK2).map(|element| (element, true))).unwrap();
    assert!(net.tcp("pod2", POD1, 80) && !net.tcp("pod1", POD2, 80));
    assert_eq!(second.verify().unwrap(), Condition::Touched);
    assert_eq!(second.repair().unwrap(), Repaired { rebuilt: false, added: 0, removed: 2 });
    assert!(net.tcp("pod1", POD2, 80));
    // The rules are gone, then everything.
    let mut batch = Batch::new(TABLE);
    batch.flush_chain("forward");
    first.table.socket.commit(batch).unwrap();
    assert!(net.tcp("outside", POD1, 80));
    assert!(second.repair().unwrap().rebuilt);
    assert!(!net.tcp("outside", POD1, 80));
    assert!(first.remove().unwrap());
    assert_eq!(second.verify().unwrap(), Condition::Gone);
    second.apply(&[(allowed(Direction::Ingress, OUTSIDE, OUTSIDE, Ports::All), true)]).unwrap();
    assert!(net.tcp("outside", POD1, 80) && !net.tcp("pod2", POD1, 81));
    // A table that was not there can be adopted: nothing is isolated.
    assert!(second.remove().unwrap());
    third.adopt().unwrap();
    assert!(net.tcp("outside", POD1, 81));
}

/// Firewalls and people list all tables, and `nft` aborts at what it cannot read.
#[test]
#[expect(clippy::disallowed_methods, reason = "the program is what is tested")]
fn netns_the_program_nft_can_list_it() {
    let net = Net::new();
    let mut table = net.table();
    let range = allowed(Direction::Ingress, "10.0.0.0", "10.8.255.255", tcp(80, 90));
    table
        .reconcile(&all(isolated(Direction::Ingress, LINK1)
            .into_iter()
            .chain([range, allowed(Direction::Ingress, POD2, POD2, tcp(80, 80))])))
        .unwrap();
    let listed = net.0.within("node", || std::process::Command::new("nft").args(["list", "ruleset"]).output());
    let output = match listed {
        Ok(output) => output,
        Err(error) => return eprintln!("skipped: no program nft: {error}"),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{} {text} {}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(LINK1) && text.contains("10.0.0.0-10.8.255.255") && text.contains("@egress6-ranges"), "{text}");
}

/// Links change their profiles, and profiles what they allow.
fn change() -> impl Strategy<Value = (Element, bool)> {
    let direction = prop_oneof![Just(Direction::Ingress), Just(Direction::Egress)];
    let address = |last: u8, v6: bool| -> IpAddr { ip(&if v6 { format!("fd00::{last:x}") } else { format!("10.0.0.{last}") }) };
    // Ranges of one profile do not overlap, those of two may.
    let grant = move |(block, v6, ports): (u8, bool, u16), profile: u8| Grant {
        first: address(block * 16, v6),
        last: address(if ports < 3 { block * 16 } else { block * 16 + 5 + profile }, v6),
        ports: match ports {
            0 => Ports::All,
            1 => tcp(80, 80),
            2 => Ports::Of { protocol: Protocol::Udp, first: 80, last: 80 },
            3 => tcp(0, 65535),
            _ => Ports::Of { protocol: Protocol::Sctp, first: 5, last: 9 },
        },
    };
    let link = (0_u8..3).prop_map(|n| format!("kp{n}"));
    let element = prop_oneof![
        2 => (direction.clone(), link.clone(), 0_u32..3).prop_map(|(direction, link, profile)| Element::Isolated { direction, link: link.into(), profile }),
        1 => link.prop_map(|link| Element::Itself { link: link.into() }),
        4 => (direction, 0_u8..3, (0_u8..4, any::<bool>(), 0_u16..5)).prop_map(move |(direction, profile, what)| Element::Allowed {
            direction,
            profile: profile.into(),
            grant: grant(what, profile),
        }),
    ];
    (element, prop::bool::weighted(0.6))
}

#[test]
fn netns_any_changes_leave_what_a_fresh_load_would() {
    let net = Net::new();
    let run = || {
        let mut runner = TestRunner::new(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() });
        let batches = prop::collection::vec(prop::collection::vec(change(), 0..6), 1..12);
        runner.run(&batches, |batches| {
            let mut table = PolicyTable::open(TABLE, OwnChanges::default()).unwrap();
            table.reconcile(&BTreeSet::new()).unwrap();
            let mut wanted: BTreeSet<Element> = BTreeSet::new();
            for batch in &batches {
                // The last word on an element counts, as the compiler's changes have one only; and a link has one profile.
                let mut batch: BTreeMap<Element, bool> = batch.iter().cloned().collect();
                let isolated: Vec<Element> = batch.iter().filter(|(_, there)| **there).map(|(element, _)| element.clone()).collect();
                for element in isolated {
                    let Element::Isolated { direction, link, .. } = &element else { continue };
                    for profile in 0..3 {
                        let other = Element::Isolated { direction: *direction, link: link.clone(), profile };
                        let same = other == element;
                        batch.insert(other, same);
                    }
                }
                for (element, there) in &batch {
                    if *there {
                        wanted.insert(element.clone())
                    } else {
                        wanted.remove(element)
                    };
                }
                table.apply(&batch.into_iter().collect::<Vec<_>>()).unwrap();
                prop_assert_eq!(table.verify().unwrap(), Condition::Intact);
            }
            let mut fresh = PolicyTable::open(TABLE, OwnChanges::default()).unwrap();
            prop_assert_eq!(fresh.reconcile(&wanted).unwrap(), Repaired::default(), "the kernel has exactly this");
            prop_assert_eq!(fresh.wanted, table.wanted);
            Ok(())
        })
    };
    net.0.within("node", run).unwrap();
}
