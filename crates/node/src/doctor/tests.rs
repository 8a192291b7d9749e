use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::*;

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let files_of = Self { dir: tempfile::tempdir().unwrap() };
        for (path, text) in files {
            files_of.write(path, text);
        }
        files_of
    }
    fn write(&self, path: &str, text: &str) {
        let path = self.machine().path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fn machine(&self) -> Machine {
        Machine { root: self.dir.path().to_owned() }
    }
}

fn summary(findings: &[Finding]) -> Vec<(&str, Severity, bool)> {
    findings.iter().map(|finding| (finding.id, finding.severity, finding.fixable)).collect()
}

const HYBRID: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
    cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
    cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
    cgroup /sys/fs/cgroup/pids cgroup rw,relatime,pids 0 0\n\
    cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";

#[test]
fn the_hybrid_hugetlb_trap_is_found() {
    let files = Files::new(&[("/proc/self/mounts", HYBRID), ("/proc/cgroups", "#subsys_name\thierarchy\nhugetlb\t0\t1\t1\n")]);
    let findings = cgroups::examine(&files.machine());
    assert_eq!(summary(&findings), [("cgroups", Severity::Warn, false), ("cgroup-hugetlb", Severity::Error, true)]);
    assert_eq!(findings[1].repair, Some(Repair::MountController(files.machine().path("/sys/fs/cgroup/hugetlb"), "hugetlb")));

    let mounted = format!("{HYBRID}cgroup /sys/fs/cgroup/hugetlb cgroup rw,hugetlb 0 0\n");
    files.write("/proc/self/mounts", &mounted);
    assert_eq!(summary(&cgroups::examine(&files.machine())), [("cgroups", Severity::Warn, false)]);
    files.write("/proc/self/mounts", &mounted.replace("rw,relatime,memory", "rw,relatime,other"));
    assert_eq!(summary(&cgroups::examine(&files.machine()))[1], ("cgroup-controllers", Severity::Error, false));
}

#[test]
fn the_unified_hierarchy_needs_its_controllers() {
    let files = Files::new(&[
        ("/proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"),
        ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
    ]);
    assert_eq!(summary(&cgroups::examine(&files.machine())), [("cgroups", Severity::Ok, false)]);
    files.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n");
    let findings = cgroups::examine(&files.machine());
    assert_eq!(findings[0].severity, Severity::Error);
    assert!(findings[0].what.contains("memory"), "{findings:?}");
}

#[test]
fn kernel_features_are_found_wherever_the_kernel_tells_of_them() {
    let files = Files::new(&[
        ("/proc/sys/kernel/osrelease", "6.1.0\n"),
        ("/proc/filesystems", "nodev\ttmpfs\n\text4\nnodev\toverlay\n"),
        ("/proc/modules", "nf_tables 300000 1 - Live 0x0\n"),
        ("/lib/modules/6.1.0/modules.builtin", "kernel/net/netfilter/nf_conntrack.ko\n"),
        ("/lib/modules/6.1.0/modules.dep", "kernel/drivers/net/veth.ko.xz: \n"),
        ("/boot/config-6.1.0", "# CONFIG_WIREGUARD is not set\n"),
    ]);
    let found = summary_of(&files);
    assert_eq!(found[0..5], [Severity::Ok, Severity::Warn, Severity::Ok, Severity::Ok, Severity::Ok].map(|severity| severity));
    let findings = kernel::examine(&files.machine());
    assert_eq!(findings[1].repair, Some(Repair::LoadModule("veth")));
    files.write("/lib/modules/6.1.0/modules.dep", "");
    let findings = kernel::examine(&files.machine());
    assert_eq!((findings[1].id, findings[1].severity), ("kernel-veth", Severity::Error));
    files.write("/boot/config-6.1.0", "CONFIG_VETH=y\n");
    assert_eq!(kernel::examine(&files.machine())[1].severity, Severity::Ok);
}

fn summary_of(files: &Files) -> Vec<Severity> {
    kernel::examine(&files.machine()).iter().map(|finding| finding.severity).collect()
}

#[test]
fn networks_in_each_others_way_are_found() {
    // eth0: default, 192.168.1.0/24; kpabc: a pod's own route; docker0: 172.17.0.0/16; wg0: 10.244.0.0/16 over a gateway
    let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        kpabc\t0503F40A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n\
        docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
        wg0\t0000F40A\t0101000A\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
    let files = Files::new(&[("/proc/net/route", routes), ("/proc/sys/net/ipv4/ip_forward", "1\n")]);
    let mut config = NodeConfiguration::defaults("/");
    let clash = |config: &NodeConfiguration| {
        network::examine(&files.machine(), config).into_iter().filter(|finding| finding.id == "subnet-clash").collect::<Vec<_>>()
    };
    config.pod_cidr = vec!["10.244.3.0/24".parse().unwrap()];
    assert_eq!(clash(&config)[0].severity, Severity::Ok);
    config.pod_cidr = vec!["172.17.4.0/24".parse().unwrap()];
    config.cluster_dns = vec!["192.168.1.10".parse().unwrap()];
    let found: Vec<_> = clash(&config).into_iter().map(|finding| finding.what).collect();
    assert_eq!(
        found,
        [
            "the pod network 172.17.4.0/24 overlaps 172.17.0.0/16 on docker0",
            "the cluster's name server 192.168.1.10 overlaps 192.168.1.0/24 on eth0"
        ]
    );
    // What the cluster assigned last counts where nothing is configured.
    config.pod_cidr.clear();
    config.cluster_dns.clear();
    files.write("/var/lib/kube-pet/node.json", r#"{"podCIDRs": ["192.168.0.0/16"]}"#);
    assert_eq!(clash(&config)[0].severity, Severity::Error);
}

#[test]
fn the_dns_caches_port_is_looked_at_where_there_is_one() {
    let files = Files::new(&[]);
    let mut config = NodeConfiguration::defaults("/");
    let found =
        |config: &NodeConfiguration| network::examine(&files.machine(), config).into_iter().find(|finding| finding.id == "port-dns");
    assert!(found(&config).is_none());
    config.dns_cache.enabled = true;
    // An address of the loopback that no name server has by itself.
    config.dns_cache.address = Ipv4Addr::new(127, 31, 7, 53);
    let taken = std::net::UdpSocket::bind((config.dns_cache.address, 53));
    if !kube_pet_testkit::capability::available("the right to port 53", taken.is_ok()) {
        return;
    }
    let finding = found(&config).unwrap();
    assert_eq!((finding.severity, finding.what.as_str()), (Severity::Error, "port 53 of 127.31.7.53 is taken"));
    drop(taken);
    eventually_ok(|| found(&config).unwrap().severity);
}

/// A process that another test starts in this moment has the socket, too, until it runs its program.
fn eventually_ok(severity: impl Fn() -> Severity) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while severity() != Severity::Ok && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(severity(), Severity::Ok);
}

#[test]
fn a_taken_port_names_who_has_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = NodeConfiguration::defaults("/");
    config.address = [127, 0, 0, 1].into();
    config.port = listener.local_addr().unwrap().port();
    config.healthz_port = 0;
    let machine = Machine { root: "/".into() };
    let findings = network::examine(&machine, &config);
    assert_eq!((findings[0].id, findings[0].severity), ("port-api", Severity::Error));
    let cause = findings[0].cause.as_deref().unwrap();
    assert!(cause.contains(&format!("process {} (", std::process::id())), "{cause}");
    drop(listener);
    eventually_ok(|| network::examine(&machine, &config)[0].severity);
}

#[tokio::test]
async fn a_setting_is_repaired_and_a_failure_is_told() {
    let files = Files::new(&[("/proc/sys/net/ipv4/ip_forward", "0\n")]);
    let mut config = NodeConfiguration::defaults("/");
    config.healthz_port = 0;
    let findings: Vec<_> = network::examine(&files.machine(), &config).into_iter().filter(|finding| finding.id == "ip-forward").collect();
    assert_eq!(summary(&findings), [("ip-forward", Severity::Warn, true)]);
    let done = repair(&findings).await;
    assert!(done[0].1.is_ok());
    assert_eq!(files.machine().read("/proc/sys/net/ipv4/ip_forward").unwrap(), "1\n");
    fs::remove_dir_all(files.dir.path().join("proc")).unwrap();
    assert!(repair(&findings).await[0].1.is_err());
}

#[test]
fn missing_privileges_are_named() {
    let files = Files::new(&[
        ("/proc/self/status", "Name:\tx\nCapEff:\t000001fffeffffff\n"),
        (
            "/proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units\nMax processes             96000                96000                processes\nMax open files            1024                 20000                files\n",
        ),
    ]);
    let findings = privileges::examine(&files.machine());
    assert_eq!(
        summary(&findings),
        [("privileges", Severity::Ok, false), ("ulimits", Severity::Warn, false), ("oom-score", Severity::Warn, false)]
    );
    assert!(findings[1].what.contains("20000 open files and 96000 processes"), "{findings:?}");
    files.write("/proc/self/status", "CapEff:\t0000000000001000\n");
    let findings = privileges::examine(&files.machine());
    assert_eq!((findings[0].severity, findings[0].what.as_str()), (Severity::Error, "this process lacks CAP_SYS_ADMIN"));
}

#[test]
fn the_report_says_what_to_do() {
    let findings =
        [Finding::ok("a", "fine"), Finding::warn("long-name", "odd", "something", "do this").repaired_by(Repair::LoadModule("veth"))];
    let expected = "ok     a          fine\n\
        warn   long-name  odd\n                  because: something\n                  fix: do this   [--fix does it]\n\
        \nThis machine can be a node; warnings: 1.\n";
    assert_eq!(text(&findings), expected);
    assert_eq!(worst(&findings), Severity::Warn);
    let json = serde_json::to_value(&findings[1]).unwrap();
    assert_eq!(json["severity"], "warn");
    assert_eq!((&json["fixable"], json.get("repair")), (&serde_json::Value::Bool(true), None));
}
