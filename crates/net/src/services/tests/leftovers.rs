//! What others did, and what the kernel still remembers when the rules are right already.

use super::*;

fn udp_server(net: &Net, pod: &'static str) {
    let socket = net.within(pod, || UdpSocket::bind(("0.0.0.0", 5353)).unwrap());
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(pod.as_bytes(), peer);
        }
    });
}

/// Asks again and again from one socket, so over what is one connection to the kernel.
fn udp_client(net: &Net, to: SocketAddr) -> impl Fn() -> io::Result<String> {
    let client = net.within("outside", || UdpSocket::bind(("0.0.0.0", 40000)).unwrap());
    client.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    move || {
        let mut bytes = [0; 64];
        client.send_to(b"?", to)?;
        client.recv_from(&mut bytes).map(|(length, _)| String::from_utf8_lossy(&bytes[..length]).into_owned())
    }
}

/// Whether an ICMP echo request to the address is answered by it.
fn ping(net: &Net, from: &str, to: &str) -> bool {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket, sockopt};
    let SocketAddr::V4(target) = at(to, 0) else { panic!("{to} is not of IPv4") };
    let raw = net.within(from, || socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap());
    sockopt::set_socket_timeout(&raw, sockopt::Timeout::Recv, Some(Duration::from_millis(700))).unwrap();
    // Type 8, checksum, number 0x1234, the first one.
    sendto(&raw, &[8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1], SendFlags::empty(), &target).unwrap();
    let mut bytes = [0; 128];
    while let Ok((length, _)) = recv(&raw, &mut bytes, RecvFlags::empty()) {
        // Behind the IP header: an echo reply.
        if length >= 28 && bytes[12..16] == target.ip().octets() && bytes[20] == 0 {
            return true;
        }
    }
    false
}

#[test]
fn netns_the_node_answers_a_ping_to_a_service() {
    let net = Net::new();
    let mut table = net.table(config());
    table.reconcile(&desired(&[(vip(VIP, Protocol::Tcp, 80), forward(&[at(POD1, 8080)]))])).unwrap();
    for from in ["pod1", "node", "outside"] {
        assert!(ping(&net, from, VIP), "{from}");
    }
    assert!(!ping(&net, "pod1", "10.96.0.99"), "an address of no Service is not the node's");
}

#[test]
fn netns_a_change_does_not_hide_what_others_did() {
    let net = Net::new();
    let mut table = net.table(config());
    let mut other = net.table(config());
    let (first, second) = (vip(VIP, Protocol::Tcp, 80), vip(VIP, Protocol::Tcp, 81));
    table.reconcile(&desired(&[(first, forward(&[at(POD1, 8080)]))])).unwrap();
    let mut batch = Batch::new("kube-pet-test");
    batch.flush_chain("prerouting");
    other.table.socket.commit(batch).unwrap();
    table.apply(&[(second, Some(forward(&[at(POD2, 8080)])))]).unwrap();
    assert_eq!(table.verify().unwrap(), Condition::Touched);
    assert!(table.repair().unwrap().rebuilt);
    assert!(net.ask("outside", at(VIP, 80)).is_ok());
    assert_eq!(table.verify().unwrap(), Condition::Intact);
    // Nor does one that needs no change of the kernel.
    let mut batch = Batch::new("kube-pet-test");
    let lane = Lane { family: Family::V4, to: To::Address, inside: false };
    batch.delete(&Set::Count(lane, 1).name(), Element { key: &frontend_key(&first), end: &[], value: &[] });
    other.table.socket.commit(batch).unwrap();
    table.apply(&[(second, Some(forward(&[at(POD2, 8080)])))]).unwrap();
    assert_eq!(table.verify().unwrap(), Condition::Touched);
    assert_eq!(table.repair().unwrap(), Repaired { rebuilt: false, added: 1, removed: 0 });
}

#[test]
fn netns_a_table_that_sleeps_is_woken() {
    let net = Net::new();
    let mut table = net.table(config());
    table.reconcile(&desired(&[(vip(VIP, Protocol::Tcp, 80), forward(&[at(POD1, 8080)]))])).unwrap();
    let mut batch = Batch::new("kube-pet-test");
    batch.sleep();
    net.table(config()).table.socket.commit(batch).unwrap();
    assert!(net.ask("outside", at(VIP, 80)).is_err());
    assert_eq!(table.verify().unwrap(), Condition::Touched);
    assert!(table.repair().unwrap().rebuilt);
    assert!(net.ask("outside", at(VIP, 80)).is_ok());
}

#[test]
fn netns_a_start_forgets_clients_of_endpoints_that_went_meanwhile() {
    let net = Net::new();
    for (frontend, target) in [(vip(VIP, Protocol::Tcp, 80), at(VIP, 80)), (node_port(30001), at(NODE, 30001))] {
        let rule = |endpoints: &[SocketAddr]| {
            let affinity = Some(Duration::from_secs(600));
            desired(&[(frontend, Rule::Forward(Forward { endpoints: endpoints.to_vec(), affinity, ..Forward::default() }))])
        };
        net.table(config()).reconcile(&rule(&[at(POD1, 8080), at(POD2, 8080)])).unwrap();
        let seen = net.answers("outside", target);
        assert_eq!(seen.len(), 1);
        let (stays, other) = if seen.contains("pod1 198.51.100.7") { (POD1, POD2) } else { (POD2, POD1) };
        net.table(config()).reconcile(&rule(&[at(stays, 8080), at(other, 8080)])).unwrap();
        assert_eq!(net.answers("outside", target), seen, "a start alone changes nothing");
        net.table(config()).reconcile(&rule(&[at(other, 8080)])).unwrap();
        let answers = net.answers("outside", target);
        assert!(answers.len() == 1 && answers != seen, "{answers:?}");
    }
}

#[test]
fn netns_a_start_forgets_udp_connections_of_endpoints_that_went_meanwhile() {
    let net = Net::new();
    udp_server(&net, "pod1");
    udp_server(&net, "pod2");
    let frontend = vip(VIP, Protocol::Udp, 53);
    net.table(config()).reconcile(&desired(&[(frontend, forward(&[at(POD1, 5353)]))])).unwrap();
    let ask = udp_client(&net, at(VIP, 53));
    assert_eq!(ask().unwrap(), "pod1");
    net.table(config()).reconcile(&desired(&[(frontend, forward(&[at(POD2, 5353)]))])).unwrap();
    assert_eq!(ask().unwrap(), "pod2");
}

#[test]
fn netns_udp_to_a_port_of_the_node_from_before_there_was_a_service() {
    let net = Net::new();
    udp_server(&net, "pod1");
    let mut table = net.table(config());
    table.reconcile(&BTreeMap::new()).unwrap();
    let ask = udp_client(&net, at(NODE, 30053));
    assert!(ask().is_err());
    let frontend = Frontend { protocol: Protocol::Udp, ..node_port(30053) };
    net.within("node", || table.apply(&[(frontend, Some(forward(&[at(POD1, 5353)])))]).unwrap());
    assert_eq!(ask().unwrap(), "pod1");
}
