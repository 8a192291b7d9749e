use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;

use kube_pet_core::ids::PodUid;
use kube_pet_core::services::{
    Address, Endpoint, Family, Frontend, HostPort, Protocol, Rule, Rules, Service, ServicePort, Slice, SlicePort,
};

use super::super::HostPorts;
use super::*;
use crate::config::NodeConfiguration;
use crate::kernel_tables::{Condition, SharedTable, TableError};
use crate::tunnel::Allocation;

/// What the fake kernel has, and how it behaves.
#[derive(Default)]
struct Kernel {
    rules: BTreeMap<Frontend, Rule>,
    /// The table's own idea of the rules.
    expected: BTreeMap<Frontend, Rule>,
    refuses: bool,
    reconciled: usize,
    opened: Vec<Networks>,
    /// Somebody changes other tables all the time.
    others_are_busy: bool,
    /// How long it takes to read all rules, and when that was done.
    reading: Duration,
    looks: Vec<Instant>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Kernel>>);

impl Fake {
    fn kernel(&self) -> std::sync::MutexGuard<'_, Kernel> {
        self.0.lock().unwrap()
    }

    fn open(&self) -> Open<Fake> {
        let fake = self.clone();
        Arc::new(move |networks| {
            fake.kernel().opened.push(networks.clone());
            Ok(fake.clone())
        })
    }

    fn has(&self, frontend: Frontend) -> Option<Rule> {
        self.kernel().rules.get(&frontend).cloned()
    }
}

impl Table for Fake {
    fn apply(&mut self, changes: &[(Frontend, Option<Rule>)]) -> Result<(), TableError> {
        let mut kernel = self.kernel();
        assert!(kernel.reconciled > 0, "the table is not known yet");
        if kernel.refuses {
            return Err(TableError::Refused);
        }
        for (frontend, rule) in changes.iter().cloned() {
            let Kernel { rules, expected, .. } = &mut *kernel;
            for map in [rules, expected] {
                match rule.clone() {
                    Some(rule) => drop(map.insert(frontend, rule)),
                    None => drop(map.remove(&frontend)),
                }
            }
        }
        Ok(())
    }

    fn reconcile(&mut self, rules: Rules) -> Result<usize, TableError> {
        let mut kernel = self.kernel();
        if kernel.refuses {
            return Err(TableError::Refused);
        }
        kernel.reconciled += 1;
        kernel.rules = rules.iter().map(|(frontend, rule)| (*frontend, rule)).collect();
        kernel.expected = kernel.rules.clone();
        Ok(0)
    }
}

impl SharedTable for Fake {
    fn verify(&mut self) -> Result<Condition, TableError> {
        let kernel = self.kernel();
        Ok(match kernel.rules.is_empty() && !kernel.expected.is_empty() {
            true => Condition::Gone,
            false if kernel.others_are_busy || kernel.rules != kernel.expected => Condition::Touched,
            false => Condition::Intact,
        })
    }

    fn repair(&mut self) -> Result<usize, TableError> {
        let reading = self.kernel().reading;
        tokio::runtime::Handle::current().block_on(tokio::time::advance(reading));
        let mut kernel = self.kernel();
        kernel.looks.push(Instant::now());
        let changed = kernel.rules != kernel.expected;
        kernel.rules = kernel.expected.clone();
        Ok(usize::from(changed))
    }
}

struct Bed {
    services: Fake,
    pods: Fake,
    host_ports: HostPorts,
    updates: mpsc::Sender<Update>,
    node: watch::Sender<Arc<NodeInfo>>,
    tunnel: watch::Sender<Option<Allocation>>,
}

/// A proxy that runs, in a cluster.
fn bed(host_ports: impl FnOnce(&HostPorts)) -> Bed {
    let (services, pods) = (Fake::default(), Fake::default());
    let (updates, rx) = mpsc::channel(16);
    let (node, node_rx) = watch::channel(Arc::new(NodeInfo::default()));
    let (handle, requests) = HostPorts::channel();
    host_ports(&handle);
    let mut config = NodeConfiguration::defaults("/");
    config.tunnel.enabled = true;
    let (tunnel, allocation) = watch::channel(Some(Allocation::default()));
    let parts = Parts {
        services: Some(services.open()),
        host_ports: pods.open(),
        updates: rx,
        commands: requests.0,
        node: node_rx,
        masquerade: Masquerade::new(&config, false, allocation),
        status: ProxyStatus::default(),
    };
    tokio::spawn(Proxy::new(parts).run());
    Bed { services, pods, host_ports: handle, updates, node, tunnel }
}

impl Bed {
    async fn send(&self, event: Event) {
        self.updates.send(Update::Changed(event, None)).await.unwrap();
    }

    async fn synced(&self) {
        self.updates.send(Update::ServicesSynced).await.unwrap();
        self.updates.send(Update::SlicesSynced).await.unwrap();
    }
}

/// With the clock standing still, time passes as soon as nothing else is to be done.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..100 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service() -> Event {
    Event::Service(Arc::new(Service {
        key: "ns/web".into(),
        created: 0,
        proxied: true,
        cluster_ips: [ip("10.96.0.1")].into(),
        external_ips: [].into(),
        load_balancer_ips: [].into(),
        source_ranges: [].into(),
        ports: [ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 }].into(),
        internal_local: false,
        external_local: false,
        affinity: None,
        health_check_port: None,
    }))
}

fn slice(address: &str, zone: Option<&str>) -> Event {
    Event::Slice(Slice {
        key: format!("ns/{address}").into(),
        service: "ns/web".into(),
        family: Family::V4,
        ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: [Endpoint {
            address: ip(address),
            local: false,
            ready: true,
            serving: true,
            terminating: false,
            for_node: None,
            for_zones: zone.map(Box::from).into_iter().collect(),
        }]
        .into(),
    })
}

const CLUSTER_IP: Frontend =
    Frontend { address: Address::Ip(IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1))), protocol: Protocol::Tcp, port: 80 };
const HOST_PORT: Frontend = Frontend { address: Address::Node(Family::V4), protocol: Protocol::Tcp, port: 8080 };

fn endpoints(rule: Option<Rule>) -> usize {
    match rule {
        Some(Rule::Forward(forward)) => forward.endpoints.len(),
        _ => 0,
    }
}

fn host_port() -> [HostPort; 1] {
    [HostPort { address: None, protocol: Protocol::Tcp, port: 8080, container_port: 80 }]
}

#[tokio::test(start_paused = true)]
async fn component_rules_of_an_earlier_run_stay_until_both_lists_are_complete() {
    let bed = bed(|_| {});
    bed.services.kernel().rules.insert(CLUSTER_IP, Rule::Drop);
    bed.send(service()).await;
    bed.updates.send(Update::ServicesSynced).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bed.services.has(CLUSTER_IP), Some(Rule::Drop));
    bed.send(slice("10.0.0.1", None)).await;
    bed.updates.send(Update::SlicesSynced).await.unwrap();
    eventually("programmed", || endpoints(bed.services.has(CLUSTER_IP)) == 1).await;
    bed.send(slice("10.0.0.2", None)).await;
    eventually("changed", || endpoints(bed.services.has(CLUSTER_IP)) == 2).await;
    assert_eq!(bed.services.kernel().reconciled, 1, "a change is not a comparison of everything");
}

#[tokio::test(start_paused = true)]
async fn component_what_somebody_else_changes_is_put_right() {
    let bed = bed(|_| {});
    bed.send(service()).await;
    bed.synced().await;
    eventually("programmed", || bed.services.has(CLUSTER_IP).is_some()).await;
    bed.services.kernel().rules.clear();
    let flushed = Instant::now();
    eventually("back", || bed.services.has(CLUSTER_IP).is_some()).await;
    assert!(flushed.elapsed() < Duration::from_secs(2), "{:?}", flushed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn component_others_who_change_their_tables_all_the_time_cost_little() {
    let bed = bed(|_| {});
    bed.send(service()).await;
    bed.send(slice("10.0.0.1", None)).await;
    bed.synced().await;
    eventually("programmed", || bed.services.has(CLUSTER_IP).is_some()).await;
    bed.services.kernel().reading = Duration::from_millis(300);
    bed.services.kernel().others_are_busy = true;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let looks = bed.services.kernel().looks.clone();
    assert!((15..=20).contains(&looks.len()), "{} looks of 0.3 s in two minutes", looks.len());
    assert!(looks.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(6)), "{looks:?}");
    // What they do to these rules is found at the next look, and that there are none any more at once.
    bed.services.kernel().rules.insert(CLUSTER_IP, Rule::Drop);
    let changed = Instant::now();
    eventually("put right", || endpoints(bed.services.has(CLUSTER_IP)) == 1).await;
    assert!(changed.elapsed() < Duration::from_secs(8), "{:?}", changed.elapsed());
    bed.services.kernel().rules.clear();
    let flushed = Instant::now();
    eventually("back", || bed.services.has(CLUSTER_IP).is_some()).await;
    assert!(flushed.elapsed() < Duration::from_secs(2), "{:?}", flushed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn component_after_a_refusal_everything_is_compared() {
    let bed = bed(|_| {});
    bed.send(service()).await;
    bed.synced().await;
    eventually("programmed", || bed.services.has(CLUSTER_IP).is_some()).await;
    bed.services.kernel().refuses = true;
    bed.send(slice("10.0.0.1", None)).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    bed.services.kernel().refuses = false;
    eventually("programmed", || endpoints(bed.services.has(CLUSTER_IP)) == 1).await;
    assert_eq!(bed.services.kernel().reconciled, 2);
}

#[tokio::test(start_paused = true)]
async fn component_host_ports_do_not_wait_for_the_cluster() {
    let adopted = PodUid::new("old");
    let bed = bed(|host_ports| {
        let ports = [HostPort { port: 9090, ..host_port()[0].clone() }];
        host_ports.adopt(&adopted, &[ip("10.244.0.9")], &ports);
    });
    let uid = PodUid::new("u1");
    bed.host_ports.set(&uid, &[ip("10.244.0.5")], &host_port()).await.unwrap();
    assert_eq!(endpoints(bed.pods.has(HOST_PORT)), 1);
    assert!(bed.pods.has(Frontend { port: 9090, ..HOST_PORT }).is_some(), "of an earlier run");
    assert_eq!(bed.services.kernel().reconciled, 0);
    bed.host_ports.set(&uid, &[], &[]).await.unwrap();
    assert_eq!(bed.pods.has(HOST_PORT), None);
}

#[tokio::test(start_paused = true)]
async fn component_a_pod_is_told_when_its_host_port_cannot_be_opened() {
    let bed = bed(|_| {});
    bed.pods.kernel().refuses = true;
    let uid = PodUid::new("u1");
    let error = bed.host_ports.set(&uid, &[ip("10.244.0.5")], &host_port()).await.unwrap_err();
    assert_eq!(error.to_string(), "programming the host ports of pod u1: the kernel refuses");
    bed.pods.kernel().refuses = false;
    bed.host_ports.set(&uid, &[ip("10.244.0.5")], &host_port()).await.unwrap();
    assert_eq!(endpoints(bed.pods.has(HOST_PORT)), 1);
}

#[tokio::test(start_paused = true)]
async fn component_the_nodes_zone_and_networks_are_followed() {
    let bed = bed(|_| {});
    bed.send(service()).await;
    bed.send(slice("10.0.0.1", Some("here"))).await;
    bed.send(slice("10.0.0.2", Some("there"))).await;
    bed.synced().await;
    eventually("programmed", || endpoints(bed.services.has(CLUSTER_IP)) == 2).await;
    let labels = [(ZONE.to_owned(), "here".to_owned())].into();
    bed.node.send_replace(Arc::new(NodeInfo { labels, pod_cidrs: vec!["10.244.1.0/24".into()], ..NodeInfo::default() }));
    eventually("close endpoints", || endpoints(bed.services.has(CLUSTER_IP)) == 1).await;
    let pods = Networks { pods: vec!["10.244.1.0/24".parse().unwrap()], ..Networks::default() };
    assert_eq!(bed.services.kernel().opened, [Networks::default(), pods.clone()]);
    // Only host ports' table masquerades what goes to the world, and to it the tunnel's networks do not belong.
    let networks = vec!["10.211.0.0/16".parse().unwrap()];
    bed.tunnel.send_replace(Some(Allocation { networks: networks.clone(), ..Allocation::default() }));
    let known = Networks { masquerade_except: Some(networks), ..pods.clone() };
    eventually("the tunnel's networks", || bed.pods.kernel().opened.last() == Some(&known)).await;
    assert_eq!(bed.services.kernel().opened.last(), Some(&pods));
}
