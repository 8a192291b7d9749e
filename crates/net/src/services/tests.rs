//! Real packets through real tables, between namespaces that the tests make themselves.

mod leftovers;
mod loopback;
mod many;
mod overtaken;
mod property;
mod refused;

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::elements::{Lane, To};
use super::*;
use crate::nft::batch::Batch;
use crate::pod_links::tests::{Scene, ip};

const POD1: &str = "10.9.0.5";
const POD2: &str = "10.9.0.6";
const VIP: &str = "10.96.0.20";
const NODE: &str = "192.0.2.10";
const OUTSIDE: &str = "198.51.100.7";

fn config() -> Config {
    Config {
        table: "kube-pet-test".into(),
        pod_links: "kp".into(),
        local_pods: vec![network("10.9.0.0", 24), network("fd00:9::", 64)],
        masquerade_except: None,
        node_addresses: None,
        loopback: false,
        rank: 0,
    }
}

fn network(text: &str, prefix: u8) -> Network {
    Network { address: ip(text), prefix }
}

fn vip(text: &str, protocol: Protocol, port: u16) -> Frontend {
    Frontend { address: Address::Ip(ip(text)), protocol, port }
}

fn node_port(port: u16) -> Frontend {
    Frontend { address: Address::Node(Family::V4), protocol: Protocol::Tcp, port }
}

fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(text), port)
}

fn forward(endpoints: &[SocketAddr]) -> Rule {
    Rule::Forward(Forward { endpoints: endpoints.to_vec(), ..Forward::default() })
}

fn desired(rules: &[(Frontend, Rule)]) -> BTreeMap<Frontend, Rule> {
    rules.iter().cloned().collect()
}

/// A node with two pods, and a machine outside; in each pod a server that tells its name and whom it sees.
struct Net {
    scene: Scene,
}

impl Net {
    fn new() -> Self {
        let scene = Scene::new();
        scene.give_node(ip(NODE));
        scene.give_node(ip("2001:db8::10"));
        scene.default_route("up0", ip(NODE));
        scene.default_route("up1", ip("2001:db8::10"));
        scene.link("pod1", "kpaaaaaaaaaa", &[ip(POD1), ip("fd00:9::5")]).unwrap();
        scene.link("pod2", "kpbbbbbbbbbb", &[ip(POD2), ip("fd00:9::6")]).unwrap();
        scene.link("outside", "outside", &[ip(OUTSIDE), ip("2001:db8:7::7")]).unwrap();
        let net = Self { scene };
        for pod in ["pod1", "pod2"] {
            net.serve(pod, pod, 8080);
        }
        net
    }

    fn within<T: Send>(&self, place: &str, inside: impl FnOnce() -> T + Send) -> T {
        self.scene.within(place, inside)
    }

    fn table(&self, config: Config) -> ServiceTable {
        self.within("node", || ServiceTable::open(config, OwnChanges::default()).unwrap())
    }

    fn serve(&self, place: &str, name: &str, port: u16) {
        let listener = self.within(place, || TcpListener::bind(("::", port)).unwrap());
        let name = name.to_owned();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let peer = stream.peer_addr().unwrap().ip().to_canonical();
                let _ = io::Write::write_all(&mut stream, format!("{name} {peer}").as_bytes());
            }
        });
    }

    /// Who answers at the address, and whom he sees.
    fn ask(&self, from: &str, to: SocketAddr) -> io::Result<String> {
        self.ask_for(from, to, Duration::from_secs(10))
    }

    fn ask_for(&self, from: &str, to: SocketAddr, patience: Duration) -> io::Result<String> {
        let mut stream = self.within(from, || TcpStream::connect_timeout(&to, patience))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn answers(&self, from: &str, to: SocketAddr) -> BTreeSet<String> {
        (0..20).map(|_| self.ask(from, to).unwrap()).collect()
    }

    fn refused(&self, from: &str, to: SocketAddr) -> bool {
        self.ask(from, to).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    }

    fn dropped(&self, from: &str, to: SocketAddr) -> bool {
        self.ask_for(from, to, Duration::from_millis(700)).is_err_and(|e| e.kind() == io::ErrorKind::TimedOut)
    }
}

fn set<const N: usize>(of: [&str; N]) -> BTreeSet<String> {
    of.into_iter().map(str::to_owned).collect()
}

#[test]
fn netns_a_cluster_ip_leads_to_its_endpoints_from_everywhere() {
    let net = Net::new();
    let mut table = net.table(config());
    for (address, pods, own, outside) in
        [(VIP, [POD1, POD2], NODE, OUTSIDE), ("fd00:96::20", ["fd00:9::5", "fd00:9::6"], "2001:db8::10", "2001:db8:7::7")]
    {
        let rules = desired(&[(vip(address, Protocol::Tcp, 80), forward(&pods.map(|p| at(p, 8080))))]);
        assert!(table.reconcile(&rules).is_ok());
        let target = at(address, 80);
        let seen = |from: &str| BTreeSet::from([format!("pod1 {from}"), format!("pod2 {from}")]);
        assert_eq!(
            net.answers("pod1", target),
            BTreeSet::from([format!("pod1 {own}"), format!("pod2 {}", pods[0])]),
            "itself: masqueraded"
        );
        assert_eq!(net.answers("node", target), seen(own));
        assert_eq!(net.answers("outside", target), seen(outside), "the sender is not hidden");
    }
}

#[test]
fn netns_a_node_port_hides_the_client_only_where_it_must() {
    let net = Net::new();
    let mut table = net.table(config());
    let (cluster, local, none) = (node_port(30001), node_port(30002), node_port(30003));
    let both = vec![at(POD1, 8080), at(POD2, 8080)];
    let rules = desired(&[
        (cluster, Rule::Forward(Forward { endpoints: both.clone(), masquerade: true, ..Forward::default() })),
        (local, Rule::Forward(Forward { endpoints: vec![at(POD1, 8080)], inside: Some(both.clone()), ..Forward::default() })),
        (none, Rule::Forward(Forward { endpoints: Vec::new(), inside: Some(both), ..Forward::default() })),
    ]);
    table.reconcile(&rules).unwrap();
    assert_eq!(net.answers("outside", at(NODE, 30001)), set(["pod1 192.0.2.10", "pod2 192.0.2.10"]));
    assert_eq!(net.answers("outside", at(NODE, 30002)), set(["pod1 198.51.100.7"]));
    assert_eq!(net.answers("node", at(NODE, 30002)), set(["pod1 192.0.2.10", "pod2 192.0.2.10"]), "the node itself may use all");
    assert_eq!(net.answers("pod2", at(NODE, 30002)).len(), 2);
    assert!(net.dropped("outside", at(NODE, 30003)));
    assert_eq!(net.answers("node", at(NODE, 30003)).len(), 2);
    let external = vip(NODE, Protocol::Tcp, 80);
    table.apply(&[(external, Some(forward(&[at(POD2, 8080)])))]).unwrap();
    assert!(net.ask("outside", at(NODE, 80)).is_ok() && net.ask("outside", at(NODE, 30001)).is_ok(), "an external IP that is the node's");
    net.serve("node", "node", 30004);
    assert_eq!(net.ask("outside", at(NODE, 30004)).unwrap(), "node 198.51.100.7", "other ports are the machine's");
}

#[test]
fn netns_node_ports_only_at_the_configured_addresses() {
    let net = Net::new();
    net.scene.give_node(ip("192.0.2.11"));
    let mut table = net.table(Config { node_addresses: Some(vec![network("192.0.2.11", 32)]), ..config() });
    table.reconcile(&desired(&[(node_port(30001), forward(&[at(POD1, 8080)]))])).unwrap();
    net.ask("outside", at("192.0.2.11", 30001)).unwrap();
    assert!(net.refused("outside", at(NODE, 30001)));
}

#[test]
fn netns_only_the_given_sources_may() {
    let net = Net::new();
    let mut table = net.table(config());
    let frontend = vip(VIP, Protocol::Tcp, 80);
    let rule =
        |sources: &[Network]| Rule::Forward(Forward { endpoints: vec![at(POD2, 8080)], sources: sources.to_vec(), ..Forward::default() });
    let within = [network("198.51.100.0", 24), network("198.51.100.7", 32), network("fd00::", 8)];
    table.reconcile(&desired(&[(frontend, rule(&within))])).unwrap();
    assert!(net.ask("outside", at(VIP, 80)).is_ok());
    assert!(net.dropped("pod1", at(VIP, 80)));
    table.apply(&[(frontend, Some(rule(&[network("203.0.113.0", 24)])))]).unwrap();
    assert!(net.dropped("outside", at(VIP, 80)));
    assert_eq!(table.repair().unwrap(), Repaired::default(), "ranges are read back as they were written");
}

#[test]
fn netns_a_client_stays_with_its_endpoint_until_that_is_gone() {
    let net = Net::new();
    let mut table = net.table(config());
    for (frontend, target) in [(vip(VIP, Protocol::Tcp, 80), at(VIP, 80)), (node_port(30001), at(NODE, 30001))] {
        let rule = |endpoints: &[SocketAddr]| {
            let affinity = Some(Duration::from_secs(1));
            Some(Rule::Forward(Forward { endpoints: endpoints.to_vec(), affinity, ..Forward::default() }))
        };
        table.apply(&[(frontend, rule(&[at(POD1, 8080), at(POD2, 8080)]))]).unwrap();
        let seen = net.answers("outside", target);
        assert_eq!(seen.len(), 1, "{seen:?}");
        let (stays, other) = if seen.contains("pod1 198.51.100.7") { (POD1, POD2) } else { (POD2, POD1) };
        table.apply(&[(frontend, rule(&[at(stays, 8080)]))]).unwrap();
        table.apply(&[(frontend, rule(&[at(stays, 8080), at(other, 8080)]))]).unwrap();
        assert_eq!(net.answers("outside", target), seen, "another endpoint does not take it away");
        table.apply(&[(frontend, rule(&[at(other, 8080)]))]).unwrap();
        assert_eq!(net.answers("outside", target).len(), 1);
        assert_ne!(net.answers("outside", target), seen);
        std::thread::sleep(Duration::from_millis(1300));
        table.apply(&[(frontend, rule(&[at(other, 8080), at(stays, 8080)]))]).unwrap();
        let later: BTreeSet<_> = (0..12)
            .map(|_| {
                std::thread::sleep(Duration::from_millis(1100));
                net.ask("outside", target).unwrap()
            })
            .collect();
        assert_eq!(later.len(), 2, "after the time it may be another one");
        assert_eq!(net.answers("outside", target).len(), 1);
        let free = Forward { endpoints: vec![at(POD1, 8080), at(POD2, 8080)], ..Forward::default() };
        table.apply(&[(frontend, Some(Rule::Forward(free)))]).unwrap();
        assert_eq!(net.answers("outside", target).len(), 2, "nobody is remembered any more");
        table.apply(&[(frontend, None)]).unwrap();
    }
}

#[test]
fn netns_udp_does_not_stay_with_an_endpoint_that_is_gone() {
    let net = Net::new();
    let mut table = net.table(config());
    for pod in ["pod1", "pod2"] {
        let socket = net.within(pod, || UdpSocket::bind(("0.0.0.0", 5353)).unwrap());
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut bytes) {
                let _ = socket.send_to(pod.as_bytes(), peer);
            }
        });
    }
    let frontend = vip(VIP, Protocol::Udp, 53);
    table.reconcile(&desired(&[(frontend, Rule::Drop)])).unwrap();
    let client = net.within("outside", || UdpSocket::bind(("0.0.0.0", 40000)).unwrap());
    client.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    // One socket, so one connection to the kernel.
    let ask = || {
        let mut bytes = [0; 64];
        client.send_to(b"?", at(VIP, 53)).unwrap();
        client.recv_from(&mut bytes).map(|(length, peer)| (String::from_utf8_lossy(&bytes[..length]).into_owned(), peer))
    };
    assert!(ask().is_err());
    table.apply(&[(frontend, Some(forward(&[at(POD1, 5353)])))]).unwrap();
    assert_eq!(ask().unwrap(), ("pod1".into(), at(VIP, 53)));
    table.apply(&[(frontend, Some(forward(&[at(POD2, 5353)])))]).unwrap();
    assert_eq!(ask().unwrap().0, "pod2");
    table.apply(&[(frontend, Some(Rule::Reject))]).unwrap();
    assert!(ask().is_err());
    table.apply(&[(frontend, Some(forward(&[at(POD1, 5353)])))]).unwrap();
    assert_eq!(ask().unwrap().0, "pod1");
}

#[test]
fn netns_pods_show_the_nodes_address_to_the_world_only() {
    let net = Net::new();
    let mut table = net.table(Config { masquerade_except: Some(vec![network("10.0.0.0", 8)]), ..config() });
    net.serve("outside", "outside", 9000);
    table.reconcile(&BTreeMap::new()).unwrap();
    assert_eq!(net.ask("pod1", at(OUTSIDE, 9000)).unwrap(), "outside 192.0.2.10");
    assert_eq!(net.ask("pod1", at(POD2, 8080)).unwrap(), "pod2 10.9.0.5");
    let mut table = net.table(config());
    assert!(table.reconcile(&BTreeMap::new()).unwrap().rebuilt, "another configuration");
    assert_eq!(net.ask("pod1", at(OUTSIDE, 9000)).unwrap(), "outside 10.9.0.5");
}

#[test]
fn netns_another_start_changes_nothing_and_what_others_did_is_put_right() {
    let net = Net::new();
    let rules = desired(&[
        (vip(VIP, Protocol::Tcp, 80), forward(&[at(POD1, 8080), at(POD2, 8080)])),
        (vip(VIP, Protocol::Tcp, 81), Rule::Reject),
        (vip("fd00:96::20", Protocol::Sctp, 80), forward(&[at("fd00:9::5", 8080)])),
        (node_port(30001), forward(&[at(POD1, 8080)])),
    ]);
    let mut first = net.table(config());
    assert!(first.reconcile(&rules).unwrap().rebuilt);
    assert_eq!(first.verify().unwrap(), Condition::Intact);
    let mut second = net.table(config());
    assert_eq!(second.reconcile(&rules).unwrap(), Repaired::default());
    assert_eq!(first.verify().unwrap(), Condition::Intact, "reading is no change");
    // Elements are taken away: the frontend's number of endpoints, and its first one.
    let key = frontend_key(&vip(VIP, Protocol::Tcp, 80));
    let lane = Lane { family: Family::V4, to: To::Address, inside: false };
    let mut batch = Batch::new("kube-pet-test");
    batch.delete(&Set::Count(lane, 2).name(), Element { key: &key, end: &[], value: &[] });
    batch.delete(&Set::Endpoints(lane).name(), Element { key: &endpoint_key(&key, 0), end: &[], value: &[] });
    first.table.socket.commit(batch).unwrap();
    assert!(net.dropped("outside", at(VIP, 80)));
    assert_eq!(second.verify().unwrap(), Condition::Touched);
    assert_eq!(second.repair().unwrap(), Repaired { rebuilt: false, added: 2, removed: 0 });
    assert!(net.ask("outside", at(VIP, 80)).is_ok());
    // The rules are.
    let mut batch = Batch::new("kube-pet-test");
    batch.flush_chain("prerouting");
    first.table.socket.commit(batch).unwrap();
    assert!(second.repair().unwrap().rebuilt);
    // Everything is.
    net.table(config()).remove().unwrap();
    assert_eq!(second.verify().unwrap(), Condition::Gone);
    let changes = [(vip(VIP, Protocol::Tcp, 82), Some(forward(&[at(POD2, 8080)])))];
    second.apply(&changes).unwrap();
    assert!(net.ask("outside", at(VIP, 80)).is_ok() && net.ask("outside", at(VIP, 82)).is_ok());
    net.table(config()).remove().unwrap();
    net.table(config()).remove().unwrap();
}

#[test]
fn netns_other_networks_of_own_pods_change_what_depends_on_them_only() {
    let net = Net::new();
    let rules = desired(&[(vip(VIP, Protocol::Tcp, 80), forward(&[at(POD1, 8080)])), (node_port(30001), forward(&[at(POD2, 8080)]))]);
    // As an agent that does not know them yet.
    let unknown = Config { local_pods: Vec::new(), ..config() };
    net.table(unknown.clone()).reconcile(&rules).unwrap();
    assert!(net.ask_for("pod1", at(VIP, 80), Duration::from_millis(700)).is_err(), "it sees itself, and answers itself");
    let mut table = net.table(config());
    assert_eq!(table.reconcile(&rules).unwrap(), Repaired { rebuilt: false, added: 2, removed: 0 }, "one for each pod that is an endpoint");
    assert_eq!(net.ask("pod1", at(VIP, 80)).unwrap(), "pod1 192.0.2.10");
    assert_eq!(net.table(config()).reconcile(&rules).unwrap(), Repaired::default());
    let one = Config { local_pods: vec![network(POD2, 32)], ..config() };
    assert_eq!(net.table(one).reconcile(&rules).unwrap(), Repaired { rebuilt: false, added: 0, removed: 1 });
    assert_eq!(net.table(unknown).reconcile(&rules).unwrap(), Repaired { rebuilt: false, added: 0, removed: 1 });
}

#[test]
fn netns_connections_are_remembered_as_long_as_by_kube_proxy() {
    let net = Net::new();
    let seconds = |name: &str| {
        net.within("node", || std::fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{name}")).unwrap())
    };
    for _ in 0..2 {
        net.within("node", || set_timeouts().unwrap());
        assert_eq!((seconds("close_wait").trim(), seconds("established").trim()), ("3600", "86400"));
    }
}

#[test]
fn endpoints_keep_their_places() {
    let e = |ports: &[u16]| ports.iter().map(|p| at(POD1, *p)).collect::<Vec<_>>();
    assert_eq!(keep_places(&e(&[1, 2, 3]), &e(&[3, 4, 1])), e(&[1, 4, 3]));
    assert_eq!(keep_places(&e(&[1, 2, 3, 4]), &e(&[4, 3])), e(&[4, 3]));
    assert_eq!(keep_places(&e(&[1, 2, 3]), &e(&[])), e(&[]));
    assert_eq!(keep_places(&e(&[]), &e(&[5, 6])), e(&[5, 6]));
    assert_eq!(keep_places(&e(&[1]), &e(&[9, 8, 1])), e(&[1, 9, 8]));
}
