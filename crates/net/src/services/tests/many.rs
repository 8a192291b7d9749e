//! Many endpoints, many numbers of them, more than one table.

use super::*;

#[test]
fn netns_hundreds_of_endpoints() {
    let net = Net::new();
    let mut table = net.table(config());
    let frontend = vip(VIP, Protocol::Tcp, 80);
    let ports = 9000..9150;
    ports.clone().for_each(|port| net.serve("pod1", "pod1", port));
    let many: Vec<SocketAddr> = ports.map(|port| at(POD1, port)).collect();
    table.reconcile(&desired(&[(frontend, forward(&many))])).unwrap();
    assert_eq!(net.answers("outside", at(VIP, 80)), set(["pod1 198.51.100.7"]));
    table.apply(&[(frontend, Some(forward(&many[1..])))]).unwrap();
    assert_eq!(net.answers("outside", at(VIP, 80)), set(["pod1 198.51.100.7"]));
    assert_eq!(table.repair().unwrap(), Repaired::default());
}

/// The sets that were made when needed.
fn made(table: &mut ServiceTable) -> usize {
    kernel::read(&mut table.table, &table.config).unwrap().expect("the table is as it was made").made.len()
}

#[test]
fn netns_numbers_of_endpoints_that_nobody_has_any_more_leave_nothing_behind() {
    let net = Net::new();
    let mut table = net.table(config());
    let frontends = [vip(VIP, Protocol::Tcp, 80), node_port(30001)];
    let rule = |count: u16, seconds: u64| {
        let endpoints = (0..count).map(|n| at(if n % 2 == 0 { POD1 } else { POD2 }, 8080 + n / 2)).collect();
        Rule::Forward(Forward { endpoints, affinity: Some(Duration::from_secs(seconds)), ..Forward::default() })
    };
    table.reconcile(&BTreeMap::new()).unwrap();
    let mut most = 0;
    for count in (1..120).rev() {
        let changes = frontends.map(|frontend| (frontend, Some(rule(count, 600 + u64::from(count)))));
        table.apply(&changes).unwrap();
        most = most.max(table.made.len());
    }
    assert!(most <= SPARE + 4, "{most} of 476");
    table.apply(&frontends.map(|frontend| (frontend, Some(rule(2, 600))))).unwrap();
    assert_eq!(table.verify().unwrap(), Condition::Intact);
    for target in [at(VIP, 80), at(NODE, 30001)] {
        assert_eq!(net.answers("outside", target).len(), 1, "the client is remembered");
    }
    // A start, and every repair, leaves none.
    let rules = table.rules().clone();
    let mut again = net.table(config());
    assert_eq!(again.reconcile(rules).unwrap(), Repaired::default());
    assert_eq!(made(&mut again), 4, "one for two endpoints and one for the time, of each kind");
    let both: BTreeSet<_> = ["pod1", "node", "outside"].iter().flat_map(|from| net.answers(from, at(VIP, 80))).collect();
    assert!(!both.is_empty());
    again.apply(&frontends.map(|frontend| (frontend, Some(forward(&[at(POD1, 8080), at(POD2, 8080)]))))).unwrap();
    for target in [at(VIP, 80), at(NODE, 30001)] {
        assert_eq!(net.answers("outside", target).len(), 2);
    }
    assert_eq!(again.repair().unwrap(), Repaired::default());
    assert_eq!(made(&mut again), 2);
}

#[test]
fn netns_of_two_tables_the_one_with_the_lower_rank_is_asked_first() {
    let net = Net::new();
    let first = Config { table: "kube-pet-first".into(), ..config() };
    let second = Config { table: "kube-pet-second".into(), rank: 1, ..config() };
    let load =
        |config: &Config, pod| net.table(config.clone()).reconcile(&desired(&[(node_port(30001), forward(&[at(pod, 8080)]))])).unwrap();
    for order in [[(&first, POD1), (&second, POD2)], [(&second, POD2), (&first, POD1)]] {
        for (config, pod) in order {
            load(config, pod);
        }
        assert_eq!(net.answers("outside", at(NODE, 30001)), set(["pod1 198.51.100.7"]));
        net.table(first.clone()).remove().unwrap();
        assert_eq!(net.answers("outside", at(NODE, 30001)), set(["pod2 198.51.100.7"]));
        net.table(second.clone()).remove().unwrap();
    }
}
