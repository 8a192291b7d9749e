//! What Services cost: cold load, changes, memory. Makes a network namespace of its own; needs root.
//!
//! `cargo run --release -p kube-pet-net --example services -- 100 1000 10000`; `--list` prints the table of 3 Services for `nft`.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use kube_pet_host::mounts;
use kube_pet_host::namespaces::{self, Kind};
use kube_pet_net::services::{Address, Config, Forward, Frontend, Network, Protocol, Rule, ServiceTable};
use kube_pet_net::tables::{OwnChanges, Repaired};

type Failure = Box<dyn std::error::Error>;

const ENDPOINTS: u32 = 3;
const CHANGES: u32 = 2000;

fn main() -> Result<(), Failure> {
    let _group = Group::enter();
    let folder = tempfile::tempdir()?;
    let netns = folder.path().join("net");
    namespaces::create(&[(Kind::Net, &netns)], || Ok(()))?;
    let done = namespaces::run_in_netns(&netns, || run(&netns).map_err(|e| e.to_string()));
    mounts::unmount_below(folder.path())?;
    done??;
    Ok(())
}

fn run(netns: &Path) -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--list") {
        ServiceTable::open(config(), OwnChanges::default())?.reconcile(&example())?;
        println!("nsenter --net={} nft list ruleset", netns.display());
        std::thread::sleep(Duration::from_secs(3600));
        return Ok(());
    }
    println!("Services  load ms  kernel MB  RSS MB  endpoint p50/p99 us  service p50/p99 us  start again ms");
    for count in arguments.iter().map(|a| a.parse::<u32>()) {
        measure(count?)?;
    }
    Ok(())
}

fn config() -> Config {
    let pods = Network { address: Ipv4Addr::new(10, 128, 0, 0).into(), prefix: 24 };
    Config {
        table: "kube-pet".into(),
        pod_links: "kp".into(),
        local_pods: vec![pods],
        masquerade_except: Some(vec![pods]),
        node_addresses: None,
        loopback: false,
        rank: 0,
    }
}

fn address(base: u32, number: u32) -> IpAddr {
    Ipv4Addr::from_bits(base + number).into()
}

fn frontend(number: u32) -> Frontend {
    Frontend { address: Address::Ip(address(0x0a60_0001, number)), protocol: Protocol::Tcp, port: 80 }
}

fn rule(first: u32) -> Rule {
    let endpoints = (0..ENDPOINTS).map(|i| SocketAddr::new(address(0x0a81_0001, first + i), 8080)).collect();
    Rule::Forward(Forward { endpoints, ..Forward::default() })
}

/// One of everything.
fn example() -> BTreeMap<Frontend, Rule> {
    let Rule::Forward(forward) = rule(0) else { return BTreeMap::new() };
    let everything = Forward {
        inside: Some(vec![SocketAddr::new(address(0x0a80_0001, 1), 8080)]),
        masquerade: true,
        affinity: Some(Duration::from_secs(10800)),
        sources: vec![Network { address: address(0xc633_6400, 0), prefix: 24 }],
        ..forward
    };
    BTreeMap::from([(frontend(0), rule(0)), (frontend(1), Rule::Reject), (frontend(2), Rule::Forward(everything))])
}

fn measure(count: u32) -> Result<(), Failure> {
    let before = kernel_bytes();
    let mut table = ServiceTable::open(config(), OwnChanges::default())?;
    let rules: BTreeMap<Frontend, Rule> = (0..count).map(|n| (frontend(n), rule(n * ENDPOINTS))).collect();
    let resident = resident_bytes();
    let start = Instant::now();
    table.reconcile(&rules)?;
    let load = start.elapsed();
    let (kernel, grown) = (kernel_bytes().saturating_sub(before), resident_bytes().saturating_sub(resident));
    let mut endpoint = Vec::new();
    for n in 0..CHANGES {
        let mut changed = rule((n % count) * ENDPOINTS);
        if let Rule::Forward(forward) = &mut changed
            && let Some(one) = forward.endpoints.first_mut()
        {
            one.set_ip(address(0x0ac0_0001, n));
        }
        endpoint.push(timed(&mut table, &[(frontend(n % count), Some(changed))])?);
    }
    let mut service = Vec::new();
    for n in 0..CHANGES {
        let new = frontend(100_000 + n / 2);
        service.push(timed(&mut table, &[(new, (n % 2 == 0).then(|| rule(n)))])?);
    }
    let desired = table.rules().clone();
    let start = Instant::now();
    let again = ServiceTable::open(config(), OwnChanges::default())?.reconcile(desired)?;
    let again_in = start.elapsed();
    if again != Repaired::default() {
        return Err(format!("a second start changed something: {again:?}").into());
    }
    table.remove()?;
    let millis = |d: Duration| d.as_secs_f64() * 1000.0;
    let mega = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{count:8}  {:7.1}  {:9.2}  {:6.1}  {:>19}  {:>18}  {:14.1}",
        millis(load),
        mega(kernel),
        mega(grown),
        percentiles(&mut endpoint),
        percentiles(&mut service),
        millis(again_in)
    );
    Ok(())
}

fn timed(table: &mut ServiceTable, change: &[(Frontend, Option<Rule>)]) -> Result<Duration, Failure> {
    let start = Instant::now();
    table.apply(change)?;
    Ok(start.elapsed())
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len() - 1)).map_or(0, Duration::as_micros);
    format!("{}/{}", at(50), at(99))
}

/// The kernel's memory that this process is charged for, where cgroup v1 counts it; else the whole machine's, with all that others do.
fn kernel_bytes() -> u64 {
    let charged = fs::read_to_string(Path::new(GROUP).join("memory.kmem.usage_in_bytes"));
    charged.ok().and_then(|text| text.trim().parse().ok()).unwrap_or_else(|| field("/proc/meminfo", "SUnreclaim:"))
}

/// A cgroup of its own, until the end.
struct Group;

const GROUP: &str = "/sys/fs/cgroup/memory/kube-pet-example";

impl Group {
    fn enter() -> Self {
        if Path::new(GROUP).parent().is_some_and(|root| root.join("cgroup.procs").exists()) && fs::create_dir_all(GROUP).is_ok() {
            let _ = fs::write(Path::new(GROUP).join("cgroup.procs"), std::process::id().to_string());
        }
        Self
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write("/sys/fs/cgroup/memory/cgroup.procs", std::process::id().to_string());
        let _ = fs::remove_dir(GROUP);
    }
}

fn resident_bytes() -> u64 {
    field("/proc/self/status", "VmRSS:")
}

fn field(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
