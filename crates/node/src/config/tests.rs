use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

const HEAD: &str = "apiVersion: kube-pet.dev/v1alpha1\nkind: NodeConfiguration\nnodeName: pet-1\n";

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(main: &str) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(files.main(), main).unwrap();
        files
    }
    fn main(&self) -> PathBuf {
        self.dir.path().join("node.yaml")
    }
    fn drop_in(self, name: &str, text: &str) -> Self {
        let dir = self.dir.path().join("node.yaml.d");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), text).unwrap();
        self
    }
    fn load(&self, overrides: Vec<Override>) -> Result<NodeConfiguration, String> {
        let source = ConfigSource { file: Some(self.main()), root: None, overrides };
        let dir = format!("{}/", self.dir.path().display());
        NodeConfiguration::load(&source).map_err(|errors| errors.to_string().replace(&dir, ""))
    }
}

fn load(body: &str) -> Result<NodeConfiguration, String> {
    Files::new(&format!("{HEAD}{body}")).load(Vec::new())
}

#[test]
fn an_empty_configuration_is_the_kubelets_defaults() {
    let config = load("").unwrap();
    let expected = NodeConfiguration { node_name: "pet-1".into(), ..NodeConfiguration::defaults("/") };
    assert_eq!(config, expected);
}

#[test]
fn every_setting_arrives() {
    let config = load(
        r#"
rootDir: /pets/a
kubeconfig: /k
bootstrapKubeconfig: /b
address: "::"
port: 10251
healthzBindAddress: 127.0.0.2
healthzPort: 0
authentication: {x509: {clientCAFile: /ca}, webhook: {enabled: false, cacheTTL: 1m}, anonymous: {enabled: true}}
authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 1s, cacheUnauthorizedTTL: 0s}}
tlsCertFile: /c
tlsPrivateKeyFile: /p
serverTLSBootstrap: false
streamingConnectionIdleTimeout: 1h
enableSystemLogHandler: true
enableSystemLogQuery: true
hostPod: {enabled: true, namespace: ops}
rotateCertificates: true
clusterDNS: [10.96.0.10]
clusterDomain: example.org.
dnsCache: {enabled: true, address: 169.254.20.11, maxEntries: 500, maxStale: 12h}
resolvConf: ""
nodeIP: 10.0.0.5,fd00::5
podCIDR: [10.1.0.0/24, "fd01::/64"]
externalIPSources: [interface, {interface: eth1}, {static: 198.51.100.7}, {url: "http://a:b@ip.example/x"}]
mtu: 1400
linkPrefix: kp2
nonMasqueradeCIDRs: [10.0.0.0/8, "fd00::/8"]
serviceProxy: {enabled: false, healthzBindAddress: "", metricsBindAddress: "[::1]:10249"}
networkPolicy: {enabled: false}
tunnel: {enabled: false, mode: userspace, listenPort: 51821, endpoints: ["pet.example:51821", "[fd00::9]:1"], direct: false, keyRotation: 24h, persistentKeepaliveSeconds: 20, mtu: 1380}
registerNode: false
nodeLabels: {example.com/rack: "7", size: 3}
registerWithTaints: [{key: a/b, value: c, effect: NoExecute}]
providerID: pet://1
nodeStatusUpdateFrequency: 5s
nodeStatusReportFrequency: 1m
nodeStatusMaxImages: -1
nodeLeaseDurationSeconds: 20
eventRecordQPS: 5
eventBurst: 10
staticPodPath: /m
maxPods: 20
podPidsLimit: 100
singleProcessOOMKill: true
cgroupRoot: /lab/pet
secretsAtRest: true
allowedUnsafeSysctls: [kernel.msg*]
serializeImagePulls: true
imageGCHighThresholdPercent: 90
imageGCLowThresholdPercent: 70
imageMinimumGCAge: 0s
imageMaximumGCAge: 24h
crashLoopBackOff: {maxContainerRestartPeriod: 30s}
containerLogMaxSize: 1Mi
containerLogMaxFiles: 3
containerLogMaxWorkers: 2
containerLogMonitorInterval: 3s
systemReserved: {cpu: 0.5, memory: 1Gi}
kubeReserved: {ephemeral-storage: 1Gi}
evictionHard: {memory.available: 5%, pid.available: 100}
evictionSoft: {memory.available: 10%, nodefs.available: 1Gi}
evictionSoftGracePeriod: {memory.available: 1m30s, nodefs.available: 2m, pid.available: 5s}
evictionMinimumReclaim: {nodefs.available: 500Mi}
evictionMaxPodGracePeriod: 60
evictionPressureTransitionPeriod: 0s
shutdownGracePeriodByPodPriority:
- {priority: 1000, shutdownGracePeriodSeconds: 20}
- {priority: 0, shutdownGracePeriodSeconds: 10}
podman: {program: /usr/bin/podman, root: /r, runRoot: /rr, tmpDir: /t, storageConf: /s, registriesConf: /g, exec: podman}
logging: {level: "info,kube_pet_node=debug", format: json}
"#,
    )
    .unwrap();
    assert_eq!(config.node_ip.len(), 2);
    assert_eq!(config.node_labels["size"], "3");
    assert_eq!(config.cluster_domain, "example.org");
    assert_eq!(config.max_parallel_image_pulls, 1);
    assert_eq!(config.eviction_hard.len(), 2);
    let groups: Vec<_> = config.shutdown_groups().iter().map(|group| (group.priority, group.shutdown_grace_period_seconds)).collect();
    assert_eq!(groups, [(0, 10), (1000, 20)]);
    assert_eq!(config.pods_cgroup(), "/lab/pet/kubepods");
    assert_eq!(config.crash_loop_back_off.max_container_restart_period, Duration::from_secs(30));
    let yaml = config.to_yaml().unwrap();
    insta::assert_snapshot!(yaml);
    // What is printed can be used, but for the password.
    let again = Files::new(&yaml.replace("REDACTED", "a:b")).load(Vec::new()).unwrap();
    assert_eq!(again, config);
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let files = Files::new(
        r#"apiVersion: kube-pet.dev/v1
nodeName: Pet_1
maxPod: 20
port: 70000
port: 10250
healthzPort: "ten"
address: localhost
authentication:
  webhook:
    enabled: "yes"
    cachettl: 5
    cacheTTL: 5
authorization: {mode: Rbac}
clusterDNS: 10.96.0.10
nodeIP: 10.0.0.5,10.0.0.6
podCIDR: 10.1.0.5/24
nodeLabels: {node-role.kubernetes.io/pet: ""}
registerWithTaints: [{key: a, effect: Never}, {effect: NoSchedule}]
nodeStatusUpdateFrequency: 20s
nodeStatusReportFrequency: 10s
cgroupDriver: systemd
memoryManagerPolicy: Static
featureGates: {A: true}
rotateCertificates: false
tlsCertFile: server.pem
systemReserved: {cpu: lots, pid: 5}
evictionHard: {memory.available: 200%, disk: 5%, nodefs.available: 0}
evictionSoft: {memory.available: 20%, nodefs.available: 20%, imagefs.available: 20%}
evictionSoftGracePeriod: {memory.available: 1m, nodefs.available: soon}
evictionMinimumReclaim: {memory.available: 0%, nodefs.available: -1Gi}
evictionMaxPodGracePeriod: -1
shutdownGracePeriod: 500ms
shutdownGracePeriodCriticalPods: 10s
shutdownGracePeriodByPodPriority: [{priority: 5, shutdownGracePeriodSeconds: 1}, {priority: 5, grace: 1}]
crashLoopBackOff: {maxContainerRestartPeriod: 10m}
podman: [a]
externalIPSources: [dns, {static: 1.2.3.4, interface: eth0}]
kubernetes: 5
"#,
    );
    insta::assert_snapshot!(files.load(Vec::new()).unwrap_err());
}

#[test]
fn a_key_lasts_an_hour_at_least_or_for_ever() {
    for (text, expected) in [("0", Duration::ZERO), ("0s", Duration::ZERO), ("1h", Duration::from_secs(3600))] {
        let config = load(&format!("tunnel: {{keyRotation: {text:?}}}\n")).unwrap();
        assert_eq!(config.tunnel.key_rotation, expected, "{text}");
    }
}

#[test]
fn a_tunnel_beside_what_it_gives_is_an_error() {
    for (text, expected) in [
        ("nodeIP: 10.0.0.5\ntunnel: {enabled: true}\n", "tunnel.enabled: contradicts nodeIP: the cluster's PetNetwork gives it"),
        ("podCIDR: 10.1.0.0/24\ntunnel: {enabled: true}\n", "tunnel.enabled: contradicts podCIDR"),
        ("tunnel: {mode: fast}\n", "tunnel.mode: \"fast\" is not a choice; write auto or kernel or userspace"),
        ("tunnel: {endpoints: [\"2001:db8::1\"]}\n", "tunnel.endpoints[0]: \"2001:db8::1\" is not an endpoint"),
        (
            "tunnel: {keyRotation: 59m}\n",
            "tunnel.keyRotation: 59m0s is too short: each change takes half a minute; write at least 1h, or 0 for a key that stays",
        ),
        ("tunnel: {keyRotation: 1ns}\n", "tunnel.keyRotation: 1ns is too short"),
        ("tunnel: {mtu: 500}\n", "tunnel.mtu: 500 is out of range; write a number from 1280 to 9000"),
    ] {
        let errors = load(text).unwrap_err();
        assert!(errors.contains(expected), "{text}{errors}");
    }
}

#[test]
fn a_dns_cache_that_cannot_work_is_an_error() {
    let error = |body: &str| load(body).unwrap_err();
    for (body, expected) in [
        (
            "dnsCache: {enabled: true}\n",
            "dnsCache.enabled: needs clusterDNS: there is nobody to ask; set clusterDNS, or turn the cache off",
        ),
        ("dnsCache: {address: \"fd00::1\"}\n", "dnsCache.address: is not an IPv4 address"),
        ("dnsCache: {address: 127.0.0.53}\n", "dnsCache.address: pods cannot ask at 127.0.0.53"),
        ("dnsCache: {address: 169.254.1.1}\n", "dnsCache.address: pods cannot ask at 169.254.1.1"),
        ("dnsCache: {address: 169.254.20.10:53}\n", "dnsCache.address: \"169.254.20.10:53\" is not an IP address"),
        ("clusterDNS: [169.254.20.10]\ndnsCache: {enabled: true}\n", "dnsCache.address: is in clusterDNS: the cache would ask itself"),
        (
            "clusterDNS: [10.96.0.10]\nnodeIP: 10.0.0.5\ndnsCache: {enabled: true, address: 10.0.0.5}\n",
            "dnsCache.address: is the node's own",
        ),
        (
            "clusterDNS: [10.96.0.10]\npodCIDR: 10.1.0.0/24\ndnsCache: {enabled: true, address: 10.1.0.5}\n",
            "dnsCache.address: is in podCIDR",
        ),
        ("dnsCache: {maxEntries: 5}\n", "dnsCache.maxEntries: 5 is out of range; write a number from 100 to 1000000"),
        ("dnsCache: {maxStale: 3}\n", "dnsCache.maxStale: expected a duration"),
        ("dnsCache: {ttl: 3s}\n", "dnsCache.ttl: is not a known setting"),
    ] {
        assert!(error(body).contains(expected), "{body}: {}", error(body));
    }
    assert!(!load("clusterDNS: [10.96.0.10]\n").unwrap().dns_cache.enabled);
}

#[test]
fn limits_have_the_kubelets_forms() {
    let limits = |body: &str| -> Vec<_> {
        let limits = load(body).unwrap().eviction_limits();
        limits.iter().map(|limit| (limit.signal.name(), limit.threshold.to_string(), limit.grace.as_secs())).collect()
    };
    let text = |list: &[(&'static str, &str, u64)]| -> Vec<_> {
        list.iter().map(|(name, limit, grace)| (*name, (*limit).to_owned(), *grace)).collect()
    };
    // Those without effect are passed over.
    assert_eq!(
        limits("evictionHard: {memory.available: 0%, nodefs.available: 100%, pid.available: 1k}"),
        text(&[("pid.available", "1k", 0)])
    );
    // What is written replaces the defaults, unless it is merged with them.
    let merged = limits("evictionHard: {memory.available: 1Gi, nodefs.available: 0%}\nmergeDefaultEvictionSettings: true");
    let expected =
        [("memory.available", "1Gi", 0), ("nodefs.inodesFree", "5%", 0), ("imagefs.available", "15%", 0), ("imagefs.inodesFree", "5%", 0)];
    assert_eq!(merged, text(&expected));
    let both =
        "evictionHard: {memory.available: 1Gi}\nevictionSoft: {memory.available: 2Gi}\nevictionSoftGracePeriod: {memory.available: 2m}";
    assert_eq!(limits(both), text(&[("memory.available", "1Gi", 0), ("memory.available", "2Gi", 120)]));
}

#[test]
fn the_time_of_a_shutdown_is_split_between_pods_and_critical_pods() {
    let config = load("shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s").unwrap();
    let groups: Vec<_> = config.shutdown_groups().iter().map(|group| (group.priority, group.shutdown_grace_period_seconds)).collect();
    assert_eq!(groups, [(0, 20), (2_000_000_000, 10)]);
    assert!(load("").unwrap().shutdown_groups().is_empty());
}

#[test]
fn drop_ins_and_flags_are_laid_over_in_order() {
    let files = Files::new(&format!("{HEAD}maxPods: 1\nport: 1\nnodeLabels: {{a: a, b: a}}\n"))
        .drop_in("20-b.yaml", "maxPods: 3\nnodeLabels: {b: c}\n")
        .drop_in("10-a.yaml", "maxPods: 2\nnodeLabels: {b: b}\nport: 2\n")
        .drop_in("ignored.yml", "maxPods: 9\n")
        .drop_in("30-empty.yaml", "# nothing\n");
    let flags = vec![
        Override::assignment("port=3").unwrap(),
        Override::assignment("authentication.anonymous.enabled=true").unwrap(),
        Override::text("--node-name", "nodeName", "007"),
    ];
    let config = files.load(flags).unwrap();
    assert_eq!((config.max_pods, config.port), (3, 3));
    assert_eq!(config.node_labels.into_iter().collect::<Vec<_>>(), [("a".into(), "a".into()), ("b".into(), "c".into())]);
    assert_eq!(config.node_name, "007");
    assert!(config.authentication.anonymous.enabled);
}

#[test]
fn a_mistake_is_reported_where_it_was_written() {
    let files = Files::new(HEAD).drop_in("a.yaml", "\nmaxPods: many\n");
    let error = files.load(vec![Override::assignment("prot=5").unwrap()]).unwrap_err();
    insta::assert_snapshot!(error);
}

#[test]
fn text_that_is_no_yaml_is_reported_with_its_line_and_without_its_contents() {
    let error = Files::new(&format!("{HEAD}token: \"secret\n")).load(Vec::new()).unwrap_err();
    assert!(error.contains("node.yaml:") && error.contains("not valid YAML"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    let error = Files::new("- a\n").load(Vec::new()).unwrap_err();
    assert!(error.contains("expected a mapping, found a list"), "{error}");
}

#[test]
fn files_that_cannot_be_read_are_reported() {
    let files = Files::new("");
    fs::remove_file(files.main()).unwrap();
    let error = files.load(Vec::new()).unwrap_err();
    assert!(error.contains("node.yaml: is not there"), "{error}");
    fs::write(files.main(), [0xff, 0xfe]).unwrap();
    let error = files.load(Vec::new()).unwrap_err();
    assert!(error.contains("is not UTF-8"), "{error}");
}

#[test]
fn the_default_file_may_be_missing_and_everything_moves_with_the_root() {
    let root = tempfile::tempdir().unwrap();
    let mut source = ConfigSource { root: Some(root.path().to_owned()), ..ConfigSource::default() };
    source.overrides.push(Override::text("--node-name", "nodeName", "a"));
    let config = NodeConfiguration::load(&source).unwrap();
    assert_eq!(config.static_pod_path, root.path().join("etc/kube-pet/manifests"));
    fs::create_dir_all(root.path().join("etc/kube-pet")).unwrap();
    fs::write(root.path().join("etc/kube-pet/node.yaml"), format!("{HEAD}maxPods: 7")).unwrap();
    assert_eq!(NodeConfiguration::load(&source).unwrap().max_pods, 7);
}

#[test]
fn the_labs_json_is_accepted() {
    let json = r#"{"apiVersion": "kube-pet.dev/v1alpha1", "kind": "NodeConfiguration", "nodeName": "pet-1",
        "nodeIP": "172.31.0.5", "bootstrapKubeconfig": "/etc/kube-pet/bootstrap.kubeconfig",
        "cgroupRoot": "/lab/pet-1", "clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local", "maxPods": 110}"#;
    assert_eq!(Files::new(json).load(Vec::new()).unwrap().node_name, "pet-1");
}

#[test]
fn networks_know_what_they_contain() {
    let net: IpNet = "10.1.0.0/16".parse().unwrap();
    assert!(net.contains("10.1.255.1".parse().unwrap()));
    assert!(!net.contains("10.2.0.1".parse().unwrap()));
    assert!(net.overlaps(&"10.1.4.0/24".parse().unwrap()));
    assert!(!net.overlaps(&"fd00::/8".parse().unwrap()));
    assert!("0.0.0.0/0".parse::<IpNet>().unwrap().contains("1.2.3.4".parse().unwrap()));
    assert!("10.1.0.0/33".parse::<IpNet>().is_err());
}

#[test]
fn flags_are_written_down_as_a_file_would_have_them() {
    let overrides = ["maxPods=50", "serviceProxy.enabled=false", "serviceProxy.x=[1]"];
    let mut overrides: Vec<_> = overrides.iter().filter_map(|text| Override::assignment(text)).collect();
    overrides.push(Override::text("--node-name", "nodeName", "1"));
    let source = ConfigSource { overrides, ..ConfigSource::default() };
    let expected = serde_json::json!({"maxPods": 50, "serviceProxy": {"enabled": false, "x": [1]}, "nodeName": "1"});
    assert_eq!(source.flags_as_file(), expected);
}

#[test]
fn a_container_ends_as_a_whole_only_where_the_kernel_can_end_it_so() {
    let loaded = load("singleProcessOOMKill: false\n");
    if kube_pet_host::cgroups::is_unified() {
        assert_eq!(loaded.unwrap().single_process_oom_kill, Some(false));
    } else {
        let error = loaded.unwrap_err();
        assert!(error.contains("singleProcessOOMKill") && error.contains("cgroup v1"), "{error}");
    }
    assert_eq!(load("").unwrap().single_process_oom_kill, None);
}
