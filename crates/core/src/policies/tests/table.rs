//! Nine pods, and who reaches whom.

use super::*;

/// Pods a, b and c in the namespaces x, y and z, each with its name for port 80 (`serve`, but 81 for c) and two addresses.
fn nine() -> Vec<PeerPod> {
    let mut pods = Vec::new();
    for (n, namespace) in ["x", "y", "z"].into_iter().enumerate() {
        for (p, name) in ["a", "b", "c"].into_iter().enumerate() {
            pods.push(PeerPod {
                key: format!("{namespace}/{name}").into(),
                labels: [("pod", name), ("tier", if name == "c" { "back" } else { "front" })].into(),
                ips: [ip(&format!("10.0.{n}.{p}")), ip(&format!("fd00::{n}:{p}"))].into(),
                ports: named(&[("serve", Protocol::Tcp, if name == "c" { 81 } else { 80 })]),
            });
        }
    }
    pods
}

fn compiled(policies: &[(&str, Value)]) -> Compiler {
    let mut compiler = Compiler::default();
    for (namespace, team) in [("x", "red"), ("y", "blue"), ("z", "blue")] {
        compiler.apply(Event::Namespace(namespace.into(), [("ns", namespace), ("team", team)].into()));
    }
    for pod in nine() {
        for event in both(&pod) {
            compiler.apply(event);
        }
    }
    for (key, spec) in policies {
        compiler.apply(Event::Policy(policy(key, spec.clone())));
    }
    compiler
}

/// Who reaches the pod by TCP at the port, as `x/a`, in order.
fn reaching(policies: &[(&str, Value)], to: &str, port: u16) -> Vec<String> {
    connected(policies, port, |_, target| target == to).into_iter().map(|(from, _)| from).collect()
}

/// Whom the pod reaches.
fn reached(policies: &[(&str, Value)], from: &str, port: u16) -> Vec<String> {
    connected(policies, port, |source, _| source == from).into_iter().map(|(_, to)| to).collect()
}

fn connected(policies: &[(&str, Value)], port: u16, of_interest: impl Fn(&str, &str) -> bool) -> Vec<(String, String)> {
    let elements = compiled(policies).elements();
    assert_disjoint(&elements);
    let pods = nine();
    let mut found = Vec::new();
    for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))).filter(|(f, t)| of_interest(&f.key, &t.key)) {
        let by = |family: usize| {
            let flow =
                Flow { from: from.ips[family], to: to.ips[family], from_pod: Some(from), to_pod: Some(to), by: Some(Protocol::Tcp), port };
            Kernel(&elements).passes(&flow)
        };
        assert_eq!(by(0), by(1), "both families: {} → {}", from.key, to.key);
        if by(0) {
            found.push((from.key.to_string(), to.key.to_string()));
        }
    }
    found
}

const ALL: [&str; 9] = ["x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c"];

#[test]
fn what_no_policy_selects_is_open_and_costs_nothing() {
    assert_eq!(reaching(&[], "x/a", 80), ALL);
    assert!(compiled(&[]).elements().is_empty());
    let other = [("y/deny", json!({"podSelector": {}}))];
    assert_eq!(reaching(&other, "x/a", 80), ALL);
}

#[test]
fn a_pod_that_is_selected_receives_what_is_allowed_only() {
    let spec =
        |ingress: Value| [("x/p", json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Ingress"], "ingress": ingress}))];
    let from = |peers: Value| json!([{"from": peers}]);
    let cases = [
        (json!([]), vec!["x/a"]),
        (json!([{}]), ALL.to_vec()),
        (from(json!([])), ALL.to_vec()),
        (from(json!([{"podSelector": {}}])), vec!["x/a", "x/b", "x/c"]),
        (from(json!([{"podSelector": {"matchLabels": {"pod": "b"}}}])), vec!["x/a", "x/b"]),
        (from(json!([{"namespaceSelector": {}}])), ALL.to_vec()),
        (from(json!([{"namespaceSelector": {"matchLabels": {"team": "blue"}}}])), vec!["x/a", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c"]),
        // Both in one peer, and each in one of its own.
        (
            from(json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}, "podSelector": {"matchLabels": {"pod": "b"}}}])),
            vec!["x/a", "y/b"],
        ),
        (
            from(json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}}, {"podSelector": {"matchLabels": {"pod": "b"}}}])),
            vec!["x/a", "x/b", "y/a", "y/b", "y/c"],
        ),
        (
            from(json!([{"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["red"]}]},
                "podSelector": {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["back", "x"]}, {"key": "pod", "operator": "Exists"}]}}])),
            vec!["x/a", "y/c", "z/c"],
        ),
        (from(json!([{"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}}])), vec!["x/a"]),
        (from(json!([{"podSelector": {"matchExpressions": [{"key": "pod", "operator": "Newer"}]}}])), vec!["x/a"]),
        (
            from(
                json!([{"ipBlock": {"cidr": "10.0.1.0/24", "except": ["10.0.1.1/32"]}}, {"ipBlock": {"cidr": "fd00::1:0/112", "except": ["fd00::1:1/128"]}}]),
            ),
            vec!["x/a", "y/a", "y/c"],
        ),
        (from(json!([{"ipBlock": {"cidr": "nonsense"}}])), vec!["x/a"]),
        (from(json!([{}])), vec!["x/a"]),
    ];
    for (ingress, expected) in cases {
        assert_eq!(reaching(&spec(ingress.clone()), "x/a", 80), expected, "{ingress}");
        assert_eq!(reaching(&spec(ingress), "x/b", 80), ALL, "nobody else is selected");
    }
}

#[test]
fn ports_by_number_by_range_and_by_name() {
    let rule = |ports: Value| {
        [("x/p", json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}], "ports": ports}]}))]
    };
    let open = |ports: &Value, to: &str, port: u16| reaching(&rule(ports.clone()), to, port).contains(&"y/a".to_owned());
    for (ports, to, within, outside) in [
        (json!([{"port": 80}]), "x/a", vec![80], vec![79, 81]),
        (json!([{"protocol": "UDP", "port": 80}]), "x/a", vec![], vec![80]),
        (json!([{"protocol": "TCP"}]), "x/a", vec![0, 80, 65535], vec![]),
        (json!([{"protocol": "UDP"}]), "x/a", vec![], vec![80]),
        (json!([{"port": 80, "endPort": 90}, {"port": 85, "endPort": 95}]), "x/a", vec![80, 90, 95], vec![79, 96]),
        (json!([{"port": "serve"}]), "x/a", vec![80], vec![81]),
        (json!([{"port": "serve"}]), "x/c", vec![81], vec![80]),
        (json!([{"port": "other"}]), "x/a", vec![], vec![80]),
        (json!([{"protocol": "UDP", "port": "serve"}]), "x/a", vec![], vec![80]),
        (json!([{"protocol": "QUIC"}]), "x/a", vec![], vec![80]),
    ] {
        for port in within {
            assert!(open(&ports, to, port), "{ports} {to} {port}");
        }
        for port in outside {
            assert!(!open(&ports, to, port), "{ports} {to} {port}");
        }
    }
}

#[test]
fn what_is_sent_follows_the_same_rules_with_names_of_the_receiver() {
    let spec =
        |egress: Value| [("x/p", json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Egress"], "egress": egress}))];
    assert_eq!(reached(&spec(json!([])), "x/a", 80), ["x/a"]);
    assert_eq!(reaching(&spec(json!([])), "x/a", 80), ALL, "not what is received");
    let peers = json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]);
    assert_eq!(reached(&spec(json!([{"to": peers, "ports": [{"port": "serve"}]}])), "x/a", 80), ["x/a", "y/a", "y/b"]);
    assert_eq!(reached(&spec(json!([{"to": peers, "ports": [{"port": "serve"}]}])), "x/a", 81), ["x/a", "y/c"]);
    assert_eq!(reached(&spec(json!([{"ports": [{"port": "serve"}]}])), "x/a", 81), ["x/a", "x/c", "y/c", "z/c"]);
    let block = json!([{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}, {"ipBlock": {"cidr": "fd00::/8"}}], "ports": [{"port": "serve"}]}]);
    assert_eq!(reached(&spec(block), "x/a", 80).len(), 6, "the pods that have the addresses have the names");
}

#[test]
fn policies_add_up_and_both_sides_must_agree() {
    let from = |pod: &str, port: u16| json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": pod}}}], "ports": [{"port": port}]}]});
    let mut policies = vec![("x/deny", json!({"podSelector": {}})), ("x/a", from("a", 80)), ("x/b", from("b", 80)), ("x/c", from("c", 81))];
    assert_eq!(reaching(&policies, "x/b", 80), ["x/a", "x/b", "y/a", "y/b", "z/a", "z/b"]);
    policies.push((
        "y/out",
        json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {}}]}]}),
    ));
    assert_eq!(reaching(&policies, "x/b", 80), ["x/a", "x/b", "y/b", "z/a", "z/b"]);
    assert_eq!(reached(&policies, "y/a", 80), ["y/a", "y/b", "y/c"]);
}

#[test]
fn directions_that_a_policy_means_when_it_does_not_say() {
    let of = |spec: Value| {
        let policy = policy("x/p", spec);
        (policy.ingress.is_some(), policy.egress.is_some())
    };
    assert_eq!(of(json!({"podSelector": {}})), (true, false));
    assert_eq!(of(json!({"podSelector": {}, "egress": []})), (true, true));
    assert_eq!(of(json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}]})), (false, true));
}

#[test]
fn pods_of_a_kind_share_what_is_allowed() {
    let mut compiler = compiled(&[("x/p", json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}))]);
    let allowed = |compiler: &Compiler| compiler.elements().iter().filter(|e| matches!(e, Element::Allowed { .. })).count();
    assert_eq!(allowed(&compiler), 18, "nine pods with two addresses, not three times");
    let pod = &nine()[0];
    let [_, local] = both(pod);
    let Event::Local(local) = local else { panic!() };
    compiler.apply(Event::Local(Arc::new(LocalPod { sealed: Direction::ALL.into(), ..(*local).clone() })));
    assert_eq!(compiler.isolated()[&local.uid], Direction::ALL);
    let elements = compiler.elements();
    let flow = Flow { from: ip("10.0.0.1"), to: pod.ips[0], from_pod: None, to_pod: Some(pod), by: Some(Protocol::Tcp), port: 80 };
    assert!(!Kernel(&elements).passes(&flow), "a pod of which nothing is known but that it is isolated");
}

#[test]
fn pods_and_namespaces_are_needed_only_by_who_selects_them() {
    let needs = |spec: Value| compiled(&[("x/p", spec)]).needs_peers();
    assert!(!needs(json!({"podSelector": {}})));
    assert!(!needs(json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "serve"}]}]})));
    assert!(needs(json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]})));
    assert!(!needs(json!({"podSelector": {"matchLabels": {"pod": "none"}}, "ingress": [{"from": [{"podSelector": {}}]}]})));
    assert!(needs(json!({"podSelector": {}, "egress": [{"ports": [{"port": "serve"}]}]})));
}
