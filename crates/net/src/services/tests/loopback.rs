//! The node's loopback as one of its addresses, and that pods do not get to it.

use super::*;

#[test]
fn netns_the_loopback_leads_into_pods_where_it_is_one_of_the_nodes_addresses() {
    let net = Net::new();
    let mut table = net.table(Config { loopback: true, ..config() });
    let loopback = Frontend { address: Address::Ip(ip("127.0.0.1")), protocol: Protocol::Tcp, port: 8081 };
    table.reconcile(&desired(&[(node_port(8080), forward(&[at(POD1, 8080)])), (loopback, forward(&[at(POD1, 8080)]))])).unwrap();
    net.within("node", || crate::pod_links::answer_loopback("kpaaaaaaaaaa").unwrap());
    for port in [8080, 8081] {
        assert_eq!(net.ask("node", at("127.0.0.1", port)).unwrap(), "pod1 192.0.2.10");
    }
    assert!(net.refused("outside", at(NODE, 8081)), "only the loopback's");
    net.serve("node", "node", 9000);
    assert!(net.ask("node", at("127.0.0.1", 9000)).is_ok() && net.ask("node", at("::1", 9000)).is_ok());
}

#[test]
fn netns_the_nodes_own_servers_on_the_loopback_are_closed_to_pods() {
    let net = Net::new();
    // What lets answers from pods in lets everything to the loopback in.
    net.within("node", || crate::pod_links::answer_loopback("kpaaaaaaaaaa").unwrap());
    let server = net.within("node", || UdpSocket::bind(("127.0.0.1", 9000)).unwrap());
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let client = net.within("pod1", || {
        // A pod with the right to change its network can send there: its own loopback must not be in the way.
        crate::pod_links::tests::loopback_away();
        UdpSocket::bind((POD1, 0)).unwrap()
    });
    let arrives = || {
        client.send_to(b"?", at("127.0.0.1", 9000)).unwrap();
        server.recv_from(&mut [0; 8]).is_ok()
    };
    assert!(arrives(), "without the table");
    for (loopback, open) in [(true, false), (false, true)] {
        let mut table = net.table(Config { loopback, ..config() });
        table.reconcile(&BTreeMap::new()).unwrap();
        assert_eq!(arrives(), open);
    }
}
