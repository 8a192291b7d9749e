//! In network namespaces of the tests' own; root is needed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use kube_pet_core::services::{HostPort, Protocol};
use kube_pet_host::namespaces::{Kind, create, run_in, run_in_netns};
use kube_pet_host::{mounts, namespaces};

use super::*;
use crate::config::{NodeConfiguration, ServiceProxySettings};
use crate::kernel_tables::OwnChanges;
use crate::masquerade::Masquerade;
use crate::services::{Services, ServicesOptions};

/// A node: a network namespace, a root folder, and a runtime whose threads all live in that namespace (as those of an agent
/// in the lab do).
struct Node {
    folder: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
    manager: SandboxManager,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let netns = folder.path().join("netns");
        create(&[(Kind::Net, &netns)], || Ok(())).unwrap();
        run_in_netns(&netns, || pod_links::loopback_up().unwrap()).unwrap();
        let runtime = runtime_in(&netns);
        let manager = manager_at(folder.path());
        Self { folder, runtime: Some(runtime), manager }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn block<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(future)
    }
    fn ensure(&self, spec: &SandboxSpec) -> Result<Sandbox, SandboxError> {
        self.block(self.manager.ensure(spec))
    }
    fn teardown(&self, uid: &str) -> Result<(), SandboxError> {
        self.block(self.manager.teardown(&PodUid::new(uid)))
    }
    /// The agent was killed and starts again.
    fn restart(&mut self) -> Vec<PodUid> {
        self.manager = manager_at(self.folder.path());
        self.block(self.manager.recover())
    }
    /// The machine was switched off: everything in /run and in the kernel is gone.
    fn reboot(&mut self) -> Vec<PodUid> {
        mounts::unmount_below(&self.path("run")).unwrap();
        fs::remove_dir_all(self.path("run")).unwrap();
        for link in self.links() {
            run_in_netns(&self.path("netns"), || pod_links::remove(&link)).unwrap().unwrap();
        }
        self.restart()
    }
    fn links(&self) -> Vec<String> {
        let found = run_in_netns(&self.path("netns"), || pod_links::list("t", kernel::LINK_DIGITS)).unwrap().unwrap();
        found.into_iter().map(|link| link.name).collect()
    }
    fn record(&self, uid: &str) -> PathBuf {
        self.path("var/lib/kube-pet/pods").join(uid).join("sandbox.json")
    }
    /// Whether the node reaches a server in the pod.
    fn reaches(&self, sandbox: &Sandbox) -> bool {
        let listener = run_in_netns(sandbox.netns.as_ref().unwrap(), || TcpListener::bind((sandbox.ips[0], 0)).unwrap()).unwrap();
        let target = listener.local_addr().unwrap();
        run_in_netns(&self.path("netns"), || TcpStream::connect_timeout(&target, Duration::from_secs(2))).unwrap().is_ok()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        let _ = mounts::unmount_below(self.folder.path());
    }
}

fn manager_at(root: &Path) -> SandboxManager {
    SandboxManager::new(Paths::new(root), SandboxConfig { link_prefix: "t".to_owned(), ..SandboxConfig::default() }, HostPorts::none())
}

fn runtime_in(netns: &Path) -> tokio::runtime::Runtime {
    let netns = netns.to_owned();
    let enter = move || {
        let file = fs::File::open(&netns).unwrap();
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind).unwrap();
    };
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().on_thread_start(enter).build().unwrap()
}

fn spec(uid: &str) -> SandboxSpec {
    SandboxSpec {
        uid: PodUid::new(uid),
        namespace: "default".to_owned(),
        name: format!("pod-{uid}"),
        hostname: format!("host-{uid}"),
        domainname: None,
        host_network: false,
        host_ipc: false,
        host_pid: false,
        host_users: true,
        sysctls: BTreeMap::from([
            ("net.ipv4.conf.eth0.log_martians".to_owned(), "1".to_owned()),
            ("kernel.shmmni".to_owned(), "99".to_owned()),
        ]),
        pod_cidrs: vec!["10.33.0.0/24".to_owned()],
        host_ports: Vec::new(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn inodes(sandbox: &Sandbox) -> Vec<u64> {
    [&sandbox.netns, &sandbox.ipcns, &sandbox.utsns].into_iter().flatten().map(|path| namespaces::inode(path).unwrap()).collect()
}

#[test]
fn netns_a_sandbox_has_all_that_containers_join() {
    let node = Node::new();
    let sandbox = node.ensure(&spec("a")).unwrap();
    assert!(sandbox.created);
    assert_eq!(sandbox.ips, [ip("10.33.0.1")]);
    assert!(node.manager.has_address(ip("10.33.0.1")) && !node.manager.has_address(ip("10.33.0.2")));
    let (net, ipc, uts) = (sandbox.netns.clone().unwrap(), sandbox.ipcns.clone().unwrap(), sandbox.utsns.clone().unwrap());
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap().trim().to_owned();
    let inside = run_in(&[(Kind::Net, &net), (Kind::Ipc, &ipc), (Kind::Uts, &uts)], || {
        [read("kernel/hostname"), read("kernel/shmmni"), read("net/ipv4/conf/eth0/log_martians")]
    });
    assert_eq!(inside.unwrap(), ["host-a", "99", "1"]);
    let shm = sandbox.shm.clone().unwrap();
    assert!(mounts::is_mount_point(&shm).unwrap());
    assert_eq!(rustix::fs::statvfs(&shm).map(|status| status.f_blocks * status.f_frsize).unwrap(), 64 << 20);
    assert!(node.reaches(&sandbox));
    let again = node.ensure(&spec("a")).unwrap();
    assert_eq!(again, Sandbox { created: false, ..sandbox.clone() });
    assert_eq!(node.manager.get(&PodUid::new("a")), Some(again));
    node.teardown("a").unwrap();
    node.teardown("a").unwrap();
    assert!(!node.manager.has_address(ip("10.33.0.1")));
    assert!(node.manager.get(&PodUid::new("a")).is_none());
    assert!(node.links().is_empty() && !node.record("a").exists() && !node.path("run/kube-pet/sandboxes/a").exists());
    assert!(mounts::below(&node.path("run")).unwrap().is_empty());
}

#[test]
fn netns_user_namespaces_have_ids_of_their_own_and_own_the_rest() {
    let mut node = Node::new();
    let able = kube_pet_host::user_namespaces::check(node.folder.path());
    if !kube_pet_testkit::capability::available("user namespaces and ID-mapped mounts", able.is_ok()) {
        return;
    }
    let own = |uid: &str| SandboxSpec { host_users: false, ..spec(uid) };
    let first = |sandbox: &Sandbox| sandbox.userns.as_ref().map(|user| user.ids.first);
    let (a, b) = (node.ensure(&own("a")).unwrap(), node.ensure(&own("b")).unwrap());
    assert_eq!((first(&a), first(&b)), (Some(65_536), Some(131_072)));
    let owner = |path: &Path| std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap());
    assert_eq!(owner(a.shm.as_ref().unwrap()), 65_536);
    assert!(node.reaches(&a));
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap().trim().to_owned();
    let pins = [(Kind::Net, a.netns.as_deref().unwrap()), (Kind::Ipc, a.ipcns.as_deref().unwrap())];
    assert_eq!(run_in(&pins, || [read("kernel/shmmni"), read("net/ipv4/conf/eth0/log_martians")]).unwrap(), ["99", "1"]);
    node.restart();
    let again = node.ensure(&own("a")).unwrap();
    assert_eq!((again.created, inodes(&again)), (false, inodes(&a)));
    // Nobody else gets what is in use, also after the records are lost.
    fs::remove_file(node.record("b")).unwrap();
    node.restart();
    let (b, c) = (node.ensure(&own("b")).unwrap(), node.ensure(&own("c")).unwrap());
    assert_eq!((b.created, first(&b), first(&c)), (false, Some(131_072), Some(196_608)));
    node.teardown("a").unwrap();
    node.reboot();
    let (c, d) = (node.ensure(&own("c")).unwrap(), node.ensure(&own("d")).unwrap());
    assert_eq!((c.created, first(&c), first(&d)), (true, Some(196_608), Some(65_536)));
    // What the pod wants now holds.
    let host = node.ensure(&spec("d")).unwrap();
    assert!(host.created && host.userns.is_none());
    for uid in ["b", "c", "d"] {
        node.teardown(uid).unwrap();
    }
    assert!(mounts::below(&node.path("run")).unwrap().is_empty());
}

#[test]
fn netns_host_namespaces_are_not_made_and_not_changed() {
    let node = Node::new();
    let host = SandboxSpec { host_network: true, sysctls: BTreeMap::new(), pod_cidrs: Vec::new(), ..spec("h") };
    let sandbox = node.ensure(&host).unwrap();
    assert!(sandbox.ips.is_empty() && sandbox.netns.is_none() && sandbox.utsns.is_none() && sandbox.created);
    assert!(sandbox.ipcns.is_some() && sandbox.shm.is_some());
    let all = SandboxSpec { uid: PodUid::new("h2"), host_ipc: true, ..host.clone() };
    let sandbox = node.ensure(&all).unwrap();
    assert_eq!(sandbox, Sandbox { ips: Vec::new(), netns: None, ipcns: None, utsns: None, userns: None, shm: None, created: false });
    assert!(node.links().is_empty());
    for (name, network, ipc) in [("net.ipv4.ip_forward", true, false), ("kernel.shmmni", false, true), ("kernel.pid_max", false, false)] {
        let sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        let spec = SandboxSpec { host_network: network, host_ipc: ipc, sysctls, ..spec("s") };
        assert!(matches!(node.ensure(&spec), Err(SandboxError::SysctlOnHost { .. })), "{name}");
    }
    node.teardown("h").unwrap();
    node.teardown("h2").unwrap();
}

#[test]
fn netns_a_restart_of_the_agent_disturbs_nothing() {
    let mut node = Node::new();
    let sandbox = node.ensure(&spec("a")).unwrap();
    let host = node.ensure(&SandboxSpec { host_network: true, sysctls: BTreeMap::new(), ..spec("h") }).unwrap();
    let before = inodes(&sandbox);
    let listener = run_in_netns(sandbox.netns.as_ref().unwrap(), || TcpListener::bind("10.33.0.1:0").unwrap()).unwrap();
    let target = listener.local_addr().unwrap();
    let mut client = run_in_netns(&node.path("netns"), || TcpStream::connect_timeout(&target, Duration::from_secs(2)).unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    assert_eq!(node.restart(), [PodUid::new("a"), PodUid::new("h")]);
    assert_eq!(node.manager.get(&PodUid::new("a")), Some(Sandbox { created: false, ..sandbox.clone() }));
    assert_eq!(node.manager.get(&PodUid::new("h")), Some(Sandbox { created: false, ..host }));
    // Also without the API server: the node's networks are not known.
    let again = node.ensure(&SandboxSpec { pod_cidrs: Vec::new(), ..spec("a") }).unwrap();
    assert_eq!((again.created, &again.ips, inodes(&again)), (false, &sandbox.ips, before));
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    assert_eq!(node.ensure(&spec("b")).unwrap().ips, [ip("10.33.0.2")]);
}

/// The agent starts, with a proxy that opens host ports.
fn start_with_proxy(node: &mut Node) -> tokio::task::JoinHandle<()> {
    let (host_ports, requests) = HostPorts::channel();
    let config = SandboxConfig { link_prefix: "t".to_owned(), ..SandboxConfig::default() };
    node.manager = SandboxManager::new(Paths::new(node.folder.path()), config, host_ports);
    node.block(node.manager.recover());
    let services = Services::new(ServicesOptions {
        api: None,
        proxy: ServiceProxySettings { enabled: false, ..ServiceProxySettings::default() },
        node_name: "node".to_owned(),
        node: tokio::sync::watch::channel(std::sync::Arc::default()).1,
        host_ports: requests,
        link_prefix: "t".to_owned(),
        masquerade: Masquerade::new(&NodeConfiguration::defaults("/"), false, tokio::sync::watch::channel(None).1),
        own_changes: OwnChanges::default(),
        paths: Paths::new(node.folder.path()),
    });
    node.runtime.as_ref().unwrap().spawn(services.proxy)
}

#[test]
fn netns_host_ports_survive_restarts_and_close_with_the_pod() {
    let mut node = Node::new();
    let proxy = start_with_proxy(&mut node);
    let ports = vec![HostPort { address: None, protocol: Protocol::Tcp, port: 18080, container_port: 8080 }];
    let sandbox = node.ensure(&SandboxSpec { host_ports: ports, ..spec("a") }).unwrap();
    let client = node.ensure(&spec("b")).unwrap();
    let _listener = run_in_netns(sandbox.netns.as_ref().unwrap(), || TcpListener::bind((sandbox.ips[0], 8080)).unwrap()).unwrap();
    // The node as its pods see it.
    let address = std::net::SocketAddr::from(([169, 254, 1, 1], 18080));
    let open =
        || run_in_netns(client.netns.as_ref().unwrap(), || TcpStream::connect_timeout(&address, Duration::from_secs(2))).unwrap().is_ok();
    assert!(open());
    proxy.abort();
    let proxy = start_with_proxy(&mut node);
    assert!(open());
    // What was adopted has been compared with the kernel by now: another port is opened after that.
    let other = vec![HostPort { address: None, protocol: Protocol::Tcp, port: 18081, container_port: 8080 }];
    node.ensure(&SandboxSpec { host_ports: other, ..spec("c") }).unwrap();
    assert!(open());
    proxy.abort();
    let _proxy = start_with_proxy(&mut node);
    node.teardown("a").unwrap();
    assert!(!open());
}

#[test]
fn netns_a_reboot_brings_the_same_addresses_back() {
    let mut node = Node::new();
    for uid in ["a", "b", "c"] {
        node.ensure(&spec(uid)).unwrap();
    }
    node.teardown("b").unwrap();
    node.reboot();
    assert!(node.manager.get(&PodUid::new("c")).is_none(), "its namespaces are gone");
    assert_eq!(node.ensure(&spec("d")).unwrap().ips, [ip("10.33.0.4")], "a new pod comes first, and takes nobody's address");
    let back = node.ensure(&SandboxSpec { pod_cidrs: Vec::new(), ..spec("c") }).unwrap();
    assert!(back.created && back.ips == [ip("10.33.0.3")] && node.reaches(&back));
    assert_eq!(node.ensure(&spec("a")).unwrap().ips, [ip("10.33.0.1")]);
}

#[test]
fn netns_corrupt_and_missing_records_are_read_back_from_the_namespace() {
    let mut node = Node::new();
    let (a, b) = (node.ensure(&spec("a")).unwrap(), node.ensure(&spec("b")).unwrap());
    let gone = node.ensure(&spec("gone")).unwrap();
    node.teardown("gone").unwrap();
    fs::write(node.record("a"), "{\"uid\":").unwrap();
    fs::remove_file(node.record("b")).unwrap();
    fs::create_dir_all(node.record("gone").parent().unwrap()).unwrap();
    fs::write(node.record("gone"), vec![b'x'; 70_000]).unwrap();
    node.restart();
    assert!(node.record("a").with_file_name("sandbox.json.corrupt").exists());
    assert_eq!(node.ensure(&spec("c")).unwrap().ips, [ip("10.33.0.4")], "no address of a living pod");
    for (uid, before) in [("a", a), ("b", b)] {
        let again = node.ensure(&spec(uid)).unwrap();
        assert_eq!((again.created, again.ips.clone(), inodes(&again)), (false, before.ips.clone(), inodes(&before)), "{uid}");
        assert!(node.record(uid).exists());
    }
    assert_ne!(node.ensure(&spec("gone")).unwrap().ips, gone.ips);
}

#[test]
fn netns_a_kill_in_the_middle_is_repaired() {
    let mut node = Node::new();
    let sandbox = node.ensure(&spec("a")).unwrap();
    // As if killed before the settings inside were made.
    let uts = sandbox.utsns.clone().unwrap();
    run_in(&[(Kind::Uts, &uts)], || namespaces::set_hostname("wrong").unwrap()).unwrap();
    fs::remove_file(node.path("run/kube-pet/sandboxes/a/finished")).unwrap();
    node.restart();
    assert!(node.manager.get(&PodUid::new("a")).is_none(), "not known to be complete");
    let again = node.ensure(&spec("a")).unwrap();
    assert_eq!((again.created, inodes(&again)), (false, inodes(&sandbox)));
    let name = run_in(&[(Kind::Uts, &uts)], || fs::read_to_string("/proc/sys/kernel/hostname").unwrap()).unwrap();
    assert_eq!(name.trim(), "host-a");
    // As if killed before the link was made.
    run_in_netns(&node.path("netns"), || pod_links::remove(&node.links()[0])).unwrap().unwrap();
    node.restart();
    let again = node.ensure(&spec("a")).unwrap();
    assert!(!again.created && node.reaches(&again));
}

#[test]
fn netns_a_change_of_the_networks_waits_for_the_pods_that_use_them() {
    let mut node = Node::new();
    let a = node.ensure(&spec("a")).unwrap();
    let changed = |uid: &str| SandboxSpec { pod_cidrs: vec!["10.44.0.0/24".to_owned()], ..spec(uid) };
    let error = node.ensure(&changed("b")).unwrap_err();
    assert!(
        matches!(&error, SandboxError::CidrInUse { current, wanted, pods: 1 } if current == "10.33.0.0/24" && wanted == "10.44.0.0/24"),
        "{error}"
    );
    assert_eq!(node.manager.cidr_conflict(), Some(error.to_string()));
    assert_eq!(node.ensure(&changed("a")).unwrap().ips, a.ips, "a running pod is not disturbed");
    node.restart();
    assert!(node.manager.use_networks(&changed("b").pod_cidrs).is_err());
    assert!(node.manager.cidr_conflict().is_some(), "seen before the next pod comes");
    // More addresses of the same network are no conflict, and going back ends one.
    node.manager.use_networks(&["10.33.0.0/23".to_owned()]).unwrap();
    assert!(node.manager.cidr_conflict().is_none());
    assert!(node.ensure(&changed("b")).is_err());
    node.teardown("a").unwrap();
    assert!(node.manager.cidr_conflict().is_none());
    assert_eq!(node.ensure(&changed("b")).unwrap().ips, [ip("10.44.0.1")]);
    // After a reboot nothing uses the old addresses.
    node.reboot();
    let back = node.ensure(&spec("b")).unwrap();
    assert_eq!(back.ips, [ip("10.33.0.1")]);
}

#[test]
fn netns_orphans_go_and_everything_else_stays() {
    let mut node = Node::new();
    for uid in ["known", "orphan", "asked"] {
        node.ensure(&spec(uid)).unwrap();
    }
    node.restart();
    node.ensure(&spec("asked")).unwrap();
    node.ensure(&spec("new")).unwrap();
    let netns = node.path("lost");
    create(&[(Kind::Net, &netns)], || Ok(())).unwrap();
    let lost = kernel::link_name("t", &PodUid::new("lost"));
    let link = pod_links::PodLink { netns: &netns, host_name: &lost, alias: "", addresses: &[ip("10.33.0.99")], mtu: 1500, source: None };
    run_in_netns(&node.path("netns"), || pod_links::ensure(&link)).unwrap().unwrap();
    let errors = node.block(node.manager.remove_orphans(&HashSet::from([PodUid::new("known")])));
    assert!(errors.is_empty(), "{errors:?}");
    assert!(node.manager.get(&PodUid::new("orphan")).is_none() && !node.record("orphan").exists());
    for uid in ["known", "asked", "new"] {
        assert!(node.manager.get(&PodUid::new(uid)).is_some(), "{uid}");
    }
    assert_eq!(node.links().len(), 3);
}

#[test]
fn netns_addresses_run_out_and_come_back() {
    let node = Node::new();
    let small = |uid: &str| SandboxSpec { pod_cidrs: vec!["10.33.0.0/30".to_owned()], ..spec(uid) };
    node.ensure(&small("a")).unwrap();
    node.ensure(&small("b")).unwrap();
    assert!(matches!(node.ensure(&small("c")), Err(SandboxError::Ipam(IpamError::Exhausted { used: 2, .. }))));
    assert!(matches!(node.ensure(&SandboxSpec { pod_cidrs: Vec::new(), ..spec("d") }), Err(SandboxError::Ipam(_))));
    node.teardown("a").unwrap();
    let sandbox = node.ensure(&small("c")).unwrap();
    assert!(sandbox.ips == [ip("10.33.0.1")] && node.reaches(&sandbox));
    let other = Node::new();
    assert!(matches!(other.ensure(&SandboxSpec { pod_cidrs: Vec::new(), ..spec("d") }), Err(SandboxError::NoPodCidr { .. })));
}

#[test]
fn netns_many_at_once_get_different_addresses() {
    let node = Node::new();
    let uids: Vec<String> = (0..30).map(|number| format!("pod-{number}")).collect();
    let found = node.block(async {
        let tasks: Vec<_> = uids
            .iter()
            .flat_map(|uid| [uid, uid])
            .map(|uid| {
                let (manager, spec) = (node.manager.clone(), spec(uid));
                tokio::spawn(async move { manager.ensure(&spec).await.unwrap().ips[0] })
            })
            .collect();
        let mut found = Vec::new();
        for task in tasks {
            found.push(task.await.unwrap());
        }
        found
    });
    assert!(found.chunks(2).all(|both| both[0] == both[1]), "the same pod asked for twice has one address");
    assert_eq!(found.iter().collect::<HashSet<_>>().len(), 30);
    assert_eq!(node.links().len(), 30);
    node.block(async {
        for uid in &uids {
            node.manager.teardown(&PodUid::new(uid.as_str())).await.unwrap();
        }
    });
    assert!(node.links().is_empty() && mounts::below(&node.path("run")).unwrap().is_empty());
}

#[test]
fn netns_a_failed_teardown_keeps_the_address() {
    let node = Node::new();
    node.ensure(&spec("a")).unwrap();
    // Somebody has put a file where only ours should be.
    fs::write(node.path("run/kube-pet/sandboxes/a/theirs"), "").unwrap();
    let error = node.teardown("a").unwrap_err();
    assert!(matches!(&error, SandboxError::Teardown { errors, .. } if errors.len() == 1), "{error}");
    assert!(node.links().is_empty(), "everything else is gone");
    assert!(node.path("run/kube-pet/sandboxes/a/theirs").exists());
    fs::remove_file(node.path("run/kube-pet/sandboxes/a/theirs")).unwrap();
    node.teardown("a").unwrap();
}

#[test]
fn uids_that_are_no_folder_names_are_refused() {
    let node = Node::new();
    for uid in ["", ".", "..", "../x", "a/b", ".hidden", "x\0", &"x".repeat(129)] {
        assert!(matches!(node.ensure(&spec(uid)), Err(SandboxError::InvalidUid { .. })), "{uid:?}");
        assert!(matches!(node.teardown(uid), Err(SandboxError::InvalidUid { .. })), "{uid:?}");
    }
    assert_eq!(kernel::link_name("kpabc", &PodUid::new("x")).len(), pod_links::MAX_NAME);
}

/// The bound is loose: the test machine is busy. `--nocapture` shows the numbers.
#[test]
fn netns_a_new_sandbox_takes_milliseconds() {
    let node = Node::new();
    let mut times = Vec::new();
    for number in 0..40 {
        let spec = spec(&format!("timed-{number}"));
        let start = Instant::now();
        node.ensure(&spec).unwrap();
        times.push(start.elapsed());
    }
    let start = Instant::now();
    node.ensure(&spec("timed-0")).unwrap();
    let again = start.elapsed();
    let start = Instant::now();
    for number in 0..40 {
        node.teardown(&format!("timed-{number}")).unwrap();
    }
    let teardown = start.elapsed() / 40;
    times.sort();
    println!(
        "ensure: median {:?}, 95 % {:?}, first or worst {:?}; again {again:?}; teardown {teardown:?}",
        times[20], times[37], times[39]
    );
    assert!(times[20] < Duration::from_millis(50));
}
