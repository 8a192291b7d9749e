use serde_json::{Value, json};

use super::*;

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn node() -> NodeInfo {
    NodeInfo {
        name: "n1".into(),
        labels: from(json!({"kubernetes.io/os": "linux", "zone": "a", "cores": "8", "word": "many"})),
        allocatable: from(json!({
            "cpu": "4", "memory": "1Gi", "ephemeral-storage": "10Gi", "pods": "3", "hugepages-2Mi": "4Mi",
            "example.com/gpu": "1",
        })),
        ..NodeInfo::default()
    }
}

fn pod(spec: Value) -> Pod {
    with(json!({}), spec)
}

fn with(mut metadata: Value, mut spec: Value) -> Pod {
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    if metadata.get("uid").is_none() {
        metadata["uid"] = json!("u1");
    }
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn requesting(uid: &str, requests: Value) -> Pod {
    let container = json!({"name": "c", "resources": {"requests": requests}});
    with(json!({"uid": uid}), json!({"containers": [container]}))
}

fn with_port(uid: &str, host_network: bool, port: Value) -> Pod {
    let container = json!({"name": "c", "ports": [port]});
    let spec = json!({"hostNetwork": host_network, "containers": [container]});
    with(json!({"uid": uid}), spec)
}

fn decide(pod: &Pod, node: &NodeInfo, others: &[&Pod]) -> Result<(), (String, String)> {
    admit(pod, node, others, &AdmissionConfig::default()).map(drop).map_err(|r| (r.reason, r.message))
}

fn rejected(reason: &str, message: &str) -> Result<(), (String, String)> {
    Err((reason.to_owned(), message.to_owned()))
}

const NO_MATCH: (&str, &str) = ("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector");
const PORTS_TAKEN: (&str, &str) = ("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports");
const TAINTED: (&str, &str) = ("TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate");

#[test]
fn a_plain_pod_is_admitted() {
    assert_eq!(decide(&pod(json!({})), &node(), &[]), Ok(()));
}

#[test]
fn requests_that_do_not_fit() {
    let other = requesting("u2", json!({"cpu": "3500m", "memory": "1000Mi", "example.com/gpu": "1"}));
    for (requests, expected) in [
        (json!({"cpu": "500m", "memory": "24Mi"}), Ok(())),
        (
            json!({"cpu": "501m", "memory": "2Gi"}),
            rejected("OutOfcpu", "Node didn't have enough resource: cpu, requested: 501, used: 3500, capacity: 4000"),
        ),
        (
            json!({"memory": "25Mi"}),
            rejected(
                "OutOfmemory",
                "Node didn't have enough resource: memory, requested: 26214400, used: 1048576000, capacity: 1073741824",
            ),
        ),
        (
            json!({"ephemeral-storage": "11Gi"}),
            rejected(
                "OutOfephemeral-storage",
                "Node didn't have enough resource: ephemeral-storage, requested: 11811160064, used: 0, capacity: 10737418240",
            ),
        ),
        (
            json!({"hugepages-2Mi": "6Mi"}),
            rejected(
                "OutOfhugepages-2Mi",
                "Node didn't have enough resource: hugepages-2Mi, requested: 6291456, used: 0, capacity: 4194304",
            ),
        ),
        (
            json!({"hugepages-1Gi": "1Gi"}),
            rejected("OutOfhugepages-1Gi", "Node didn't have enough resource: hugepages-1Gi, requested: 1073741824, used: 0, capacity: 0"),
        ),
        (
            json!({"example.com/gpu": "1"}),
            rejected("OutOfexample.com/gpu", "Node didn't have enough resource: example.com/gpu, requested: 1, used: 1, capacity: 1"),
        ),
        // Unknown to the node: not its business.
        (json!({"example.com/tpu": "1"}), Ok(())),
    ] {
        let pod = requesting("u1", requests.clone());
        assert_eq!(decide(&pod, &node(), &[&other]), expected, "{requests}");
    }
}

#[test]
fn nothing_requested_fits_on_an_overcommitted_node() {
    let other = requesting("u2", json!({"cpu": "100"}));
    assert_eq!(decide(&pod(json!({})), &node(), &[&other]), Ok(()));
}

#[test]
fn too_many_pods() {
    let others = ["u2", "u3", "u4"].map(|uid| requesting(uid, json!({})));
    let others: Vec<&Pod> = others.iter().collect();
    let full = rejected("OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3");
    let (pod, mut node) = (pod(json!({})), node());
    assert_eq!(decide(&pod, &node, &others), full);
    assert_eq!(decide(&pod, &node, &others[..2]), Ok(()));
    node.allocatable.remove("pods");
    assert_eq!(decide(&pod, &node, &others), Ok(()));
    let config = AdmissionConfig { max_pods: 3, ..AdmissionConfig::default() };
    assert_eq!(admit(&pod, &node, &others, &config).unwrap_err().reason, "OutOfpods");
}

#[test]
fn a_pod_does_not_compete_with_itself() {
    let pod = requesting("u1", json!({"cpu": "3"}));
    assert_eq!(decide(&pod, &node(), &[&pod]), Ok(()));
}

#[test]
fn host_ports() {
    let table = [
        // (wanted, used, conflict)
        (json!({"containerPort": 1, "hostPort": 80}), json!({"containerPort": 2, "hostPort": 80}), true),
        (json!({"containerPort": 1, "hostPort": 80}), json!({"containerPort": 1, "hostPort": 81}), false),
        (json!({"containerPort": 1, "hostPort": 80, "protocol": "UDP"}), json!({"containerPort": 1, "hostPort": 80}), false),
        (json!({"containerPort": 1, "hostPort": 80, "protocol": "TCP"}), json!({"containerPort": 1, "hostPort": 80}), true),
        (
            json!({"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.1"}),
            json!({"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.2"}),
            false,
        ),
        (
            json!({"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.1"}),
            json!({"containerPort": 1, "hostPort": 80, "hostIP": "0.0.0.0"}),
            true,
        ),
        (json!({"containerPort": 1, "hostPort": 80}), json!({"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.1"}), true),
        (json!({"containerPort": 80}), json!({"containerPort": 80}), false),
    ];
    for (wanted, used, conflict) in table {
        let pods = [with_port("u1", false, wanted.clone()), with_port("u2", false, used.clone())];
        let expected = if conflict { rejected(PORTS_TAKEN.0, PORTS_TAKEN.1) } else { Ok(()) };
        assert_eq!(decide(&pods[0], &node(), &[&pods[1]]), expected, "{wanted} {used}");
        assert_eq!(decide(&pods[1], &node(), &[&pods[0]]), expected, "{used} {wanted}");
    }
}

#[test]
fn every_port_in_the_hosts_network_is_a_host_port() {
    let used = with_port("u2", true, json!({"containerPort": 80}));
    let wanted = with_port("u1", false, json!({"containerPort": 8080, "hostPort": 80}));
    let taken = rejected(PORTS_TAKEN.0, PORTS_TAKEN.1);
    assert_eq!(decide(&wanted, &node(), &[&used]), taken);
}

#[test]
fn only_init_containers_that_stay_hold_ports() {
    let init = |policy: Value| {
        let container = json!({"name": "i", "restartPolicy": policy, "ports": [{"containerPort": 1, "hostPort": 80}]});
        with(json!({"uid": "u2"}), json!({"initContainers": [container]}))
    };
    let wanted = with_port("u1", false, json!({"containerPort": 1, "hostPort": 80}));
    assert_eq!(decide(&wanted, &node(), &[&init(Value::Null)]), Ok(()));
    assert!(decide(&wanted, &node(), &[&init(json!("Always"))]).is_err());
}

#[test]
fn node_selector_and_affinity() {
    let required = |terms: Value| {
        json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    };
    let expression = |key: &str, operator: &str, values: Value| {
        required(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
    };
    let field = |operator: &str, values: Value| {
        required(json!([{"matchFields": [{"key": "metadata.name", "operator": operator, "values": values}]}]))
    };
    for (spec, fits) in [
        (json!({"nodeSelector": {"zone": "a"}}), true),
        (json!({"nodeSelector": {"zone": "b"}}), false),
        (json!({"nodeSelector": {"zone": "a", "rack": "1"}}), false),
        (expression("zone", "In", json!(["b", "a"])), true),
        (expression("zone", "In", json!(["b"])), false),
        (expression("rack", "In", json!(["b"])), false),
        (expression("zone", "In", json!([])), false),
        (expression("zone", "NotIn", json!(["b"])), true),
        (expression("zone", "NotIn", json!(["a"])), false),
        (expression("rack", "NotIn", json!(["a"])), true),
        (expression("rack", "NotIn", json!(["not a value!"])), false),
        (expression("zone", "Exists", json!([])), true),
        (expression("zone", "Exists", json!(["a"])), false),
        (expression("rack", "Exists", json!([])), false),
        (expression("rack", "DoesNotExist", json!([])), true),
        (expression("zone", "DoesNotExist", json!([])), false),
        (expression("cores", "Gt", json!(["7"])), true),
        (expression("cores", "Gt", json!(["8"])), false),
        (expression("cores", "Gt", json!(["7", "8"])), false),
        (expression("cores", "Lt", json!(["9"])), true),
        (expression("cores", "Lt", json!(["8"])), false),
        (expression("word", "Gt", json!(["7"])), false),
        (expression("rack", "Lt", json!(["7"])), false),
        (expression("zone", "Like", json!(["a"])), false),
        (field("In", json!(["n1"])), true),
        (field("In", json!(["n2"])), false),
        (field("In", json!(["n1", "n2"])), false),
        (field("NotIn", json!(["n1"])), false),
        (field("NotIn", json!(["n2"])), true),
        (field("Exists", json!([])), false),
        (required(json!([])), false),
        (required(json!([{}])), false),
        // Terms are alternatives; what is in a term must all hold.
        (required(json!([{}, {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}])), true),
        (
            required(json!([{"matchExpressions": [{"key": "zone", "operator": "Exists"}],
            "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}])),
            false,
        ),
        (json!({"affinity": {"nodeAffinity": {}, "podAntiAffinity": {}}}), true),
    ] {
        let expected = if fits { Ok(()) } else { rejected(NO_MATCH.0, NO_MATCH.1) };
        assert_eq!(decide(&pod(spec.clone()), &node(), &[]), expected, "{spec}");
    }
}

#[test]
fn another_nodes_pod() {
    assert_eq!(
        decide(&pod(json!({"nodeName": "n2"})), &node(), &[]),
        rejected("NodeName", "Predicate NodeName failed: node(s) didn't match the requested node name")
    );
    assert_eq!(decide(&pod(json!({"nodeName": "n1"})), &node(), &[]), Ok(()));
}

#[test]
fn taints_that_evict() {
    let mut node = node();
    let tainted = rejected(TAINTED.0, TAINTED.1);
    for (taint, toleration, fits) in [
        (json!({"key": "k", "effect": "NoSchedule"}), json!({}), true),
        (json!({"key": "k", "effect": "NoExecute"}), json!({"key": "other", "operator": "Exists"}), false),
        (json!({"key": "k", "effect": "NoExecute"}), json!({"operator": "Exists"}), true),
        (json!({"key": "k", "effect": "NoExecute"}), json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), false),
        (json!({"key": "k", "value": "v", "effect": "NoExecute"}), json!({"key": "k", "operator": "Equal", "value": "v"}), true),
        (json!({"key": "k", "value": "v", "effect": "NoExecute"}), json!({"key": "k", "value": "w"}), false),
        (json!({"key": "k", "value": "1", "effect": "NoExecute"}), json!({"key": "k", "operator": "Lt", "value": "5"}), false),
    ] {
        node.taints = vec![serde_json::from_value(taint.clone()).unwrap()];
        let spec = json!({"tolerations": [toleration]});
        let expected = if fits { Ok(()) } else { tainted.clone() };
        assert_eq!(decide(&pod(spec.clone()), &node, &[]), expected, "{taint} {spec}");
        let fixed = with(json!({"annotations": {"kubernetes.io/config.source": "file"}}), spec);
        assert_eq!(decide(&fixed, &node, &[]), Ok(()), "static pod, {taint}");
    }
}

#[test]
fn the_first_failure_is_reported() {
    let mut node = node();
    node.taints = vec![serde_json::from_value(json!({"key": "k", "effect": "NoExecute"})).unwrap()];
    let used = with_port("u2", false, json!({"containerPort": 1, "hostPort": 80}));
    let everything = json!({
        "nodeName": "n2", "nodeSelector": {"zone": "b"}, "os": {"name": "windows"},
        "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}, "sysctls": [{"name": "kernel.msgmax", "value": "1"}]},
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "100"}}, "ports": [{"containerPort": 1, "hostPort": 80}]}],
    });
    let mut pod = with(json!({"labels": {"kubernetes.io/os": "windows"}}), everything);
    let mut seen = Vec::new();
    while let Err((reason, _)) = decide(&pod, &node, &[&used]) {
        let spec = pod.spec.as_mut().unwrap();
        let context = spec.security_context.as_mut().unwrap();
        match reason.as_str() {
            "SysctlForbidden" => context.sysctls = None,
            "PodOSSelectorNodeLabelDoesNotMatch" => pod.metadata.labels = None,
            "PodOSNotSupported" => spec.os = None,
            "OutOfcpu" => spec.containers[0].resources = None,
            "NodeAffinity" => spec.node_selector = None,
            "NodeName" => spec.node_name = None,
            "NodePorts" => spec.containers[0].ports = None,
            "TaintToleration" => node.taints.clear(),
            "AppArmor" => context.app_armor_profile = None,
            other => panic!("{other}"),
        }
        seen.push(reason);
    }
    assert_eq!(
        seen,
        [
            "SysctlForbidden",
            "PodOSSelectorNodeLabelDoesNotMatch",
            "PodOSNotSupported",
            "OutOfcpu",
            "NodeAffinity",
            "NodeName",
            "NodePorts",
            "TaintToleration",
            "AppArmor"
        ]
    );
}

#[test]
fn a_critical_pod_hears_first_of_what_no_eviction_could_help() {
    let spec = json!({"nodeSelector": {"zone": "b"}, "priority": 2_000_000_000,
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "100"}}}]});
    let mut pod = pod(spec);
    assert_eq!(decide(&pod, &node(), &[]), rejected(NO_MATCH.0, NO_MATCH.1));
    pod.spec.as_mut().unwrap().node_selector = None;
    assert_eq!(decide(&pod, &node(), &[]).unwrap_err().0, "UnexpectedAdmissionError");
}

#[test]
fn messages_of_the_checks_of_the_pod_alone() {
    let decided = |spec: Value| decide(&pod(spec), &node(), &[]);
    assert_eq!(
        decided(json!({"os": {"name": "windows"}})),
        rejected("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
    );
    assert_eq!(decided(json!({"os": {"name": "linux"}})), Ok(()));
    let labelled = with(json!({"labels": {"kubernetes.io/os": "windows"}}), json!({}));
    assert_eq!(
        decide(&labelled, &node(), &[]),
        rejected("PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label")
    );
    assert_eq!(
        decided(json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}})),
        rejected("SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted")
    );
}

#[test]
fn what_the_configuration_allows() {
    let config = AdmissionConfig { allowed_unsafe_sysctls: vec!["kernel.msg*".into()], app_armor: true, ..AdmissionConfig::default() };
    let pod = pod(json!({"securityContext": {
        "appArmorProfile": {"type": "Localhost", "localhostProfile": "p"},
        "sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}));
    assert_eq!(admit(&pod, &node(), &[], &config), Ok(Admission::Fits));
}

#[test]
fn app_armor_on_a_machine_without() {
    let refused = rejected("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host");
    let of_container = |profile: &str| json!({"containers": [{"name": "c", "securityContext": {"appArmorProfile": {"type": profile, "localhostProfile": "p"}}}]});
    let annotated = |profile: &str| {
        let key = "container.apparmor.security.beta.kubernetes.io/c";
        with(json!({"annotations": {key: profile}}), json!({}))
    };
    for (pod, expected) in [
        (pod(of_container("RuntimeDefault")), refused.clone()),
        (pod(of_container("Localhost")), refused.clone()),
        (pod(of_container("Unconfined")), Ok(())),
        (annotated("runtime/default"), refused.clone()),
        (annotated("unconfined"), Ok(())),
    ] {
        assert_eq!(decide(&pod, &node(), &[]), expected, "{pod:?}");
    }
    let mut running = pod(of_container("Localhost"));
    running.status = serde_json::from_value(json!({"phase": "Running"})).unwrap();
    assert_eq!(decide(&running, &node(), &[]), Ok(()));
}

#[test]
fn a_local_profile_has_a_name() {
    let config = AdmissionConfig { app_armor: true, ..AdmissionConfig::default() };
    let pod = pod(json!({"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": " "}}}));
    assert_eq!(admit(&pod, &node(), &[], &config).unwrap_err().message, "Cannot enforce AppArmor: invalid empty AppArmor profile name");
}

#[test]
fn a_node_under_pressure_takes_only_what_it_must() {
    let under = |kinds: &[&str]| NodeInfo { pressures: kinds.iter().map(|kind| (*kind).to_owned()).collect(), ..node() };
    let memory = under(&["MemoryPressure"]);
    let both = under(&["MemoryPressure", "DiskPressure"]);
    let refused = |kinds: &str| rejected("Evicted", &format!("The node had condition: [{kinds}]. "));
    let best_effort = pod(json!({}));
    let burstable = requesting("u1", json!({"cpu": "1"}));
    let tolerating = |key: &str| pod(json!({"tolerations": [{"key": key, "operator": "Exists", "effect": "NoSchedule"}]}));
    for (pod, node, expected) in [
        (&best_effort, &memory, refused("MemoryPressure")),
        (&burstable, &memory, Ok(())),
        (&tolerating("node.kubernetes.io/memory-pressure"), &memory, Ok(())),
        (&tolerating("node.kubernetes.io/disk-pressure"), &memory, refused("MemoryPressure")),
        (&burstable, &both, refused("DiskPressure MemoryPressure")),
        (&tolerating("node.kubernetes.io/disk-pressure"), &under(&["DiskPressure"]), refused("DiskPressure")),
        (&burstable, &under(&["PIDPressure"]), refused("PIDPressure")),
        (&pod(json!({"priority": 2_000_000_000})), &both, Ok(())),
        (&with(json!({"annotations": {"kubernetes.io/config.source": "file"}}), json!({})), &both, Ok(())),
    ] {
        assert_eq!(decide(pod, node, &[]), expected, "{:?} {:?}", pod.spec, node.pressures);
    }
}

mod preemption;

#[test]
fn nothing_comes_while_the_machine_is_shut_down() {
    let config = AdmissionConfig { shutting_down: true, ..AdmissionConfig::default() };
    let refused = Rejection::new("NodeShutdown", "Pod was rejected as the node is shutting down.");
    for spec in [json!({}), json!({"priority": 2_000_000_000})] {
        assert_eq!(admit(&pod(spec), &node(), &[], &config), Err(refused.clone()));
    }
    // Nor does anything go for it.
    let others = ["u2", "u3", "u4"].map(|uid| requesting(uid, json!({})));
    assert_eq!(admit(&pod(json!({"priority": 2_000_000_000})), &node(), &others.each_ref(), &config), Err(refused));
}
