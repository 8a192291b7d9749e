//! Changes are exactly what is different, in any order, and mean what the API says.

use proptest::prelude::*;

use super::oracle::Oracle;
use super::*;

fn labels() -> impl Strategy<Value = Labels> {
    (0_u8..3, prop::option::of(0_u8..2)).prop_map(|(a, b)| {
        let mut labels = BTreeMap::from([("a".to_owned(), a.to_string())]);
        labels.extend(b.map(|b| ("b".to_owned(), b.to_string())));
        labels.into()
    })
}

fn selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        (0_u8..3).prop_map(|a| json!({"matchLabels": {"a": a.to_string()}})),
        (0_u8..2).prop_map(|b| json!({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": [b.to_string()]}]})),
        Just(json!({"matchExpressions": [{"key": "b", "operator": "Exists"}]})),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    let blocks = prop_oneof![
        Just(json!({"cidr": "10.0.0.0/24"})),
        Just(json!({"cidr": "10.0.0.0/30", "except": ["10.0.0.1/32"]})),
        Just(json!({"cidr": "0.0.0.0/0", "except": ["10.0.0.2/31", "10.0.0.0/29"]})),
        Just(json!({"cidr": "fd00::/125", "except": ["fd00::4/126"]})),
    ];
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (selector(), selector()).prop_map(|(namespaces, pods)| json!({"namespaceSelector": namespaces, "podSelector": pods})),
        blocks.prop_map(|block| json!({"ipBlock": block})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"port": 80})),
        Just(json!({"protocol": "UDP", "port": 80})),
        Just(json!({"port": 79, "endPort": 81})),
        Just(json!({"protocol": "UDP"})),
        Just(json!({"port": "http"})),
        Just(json!({"protocol": "SCTP", "port": 81, "endPort": 90})),
    ]
}

fn rules(side: &'static str) -> impl Strategy<Value = Value> {
    let rule = (prop::collection::vec(peer(), 0..3), prop::collection::vec(port(), 0..3));
    prop::collection::vec(rule.prop_map(move |(peers, ports)| json!({side: peers, "ports": ports})), 0..3).prop_map(Value::from)
}

fn policies() -> impl Strategy<Value = Arc<Policy>> {
    let types = prop_oneof![Just(json!(["Ingress"])), Just(json!(["Egress"])), Just(json!(["Ingress", "Egress"]))];
    (0_u8..2, 0_u8..3, selector(), types, rules("from"), rules("to")).prop_map(|(namespace, name, pods, types, ingress, egress)| {
        policy(&format!("n{namespace}/p{name}"), json!({"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress}))
    })
}

fn pods() -> impl Strategy<Value = PeerPod> {
    let ports = prop_oneof![
        Just(named(&[("http", Protocol::Tcp, 80)])),
        Just(named(&[("http", Protocol::Tcp, 81), ("http", Protocol::Udp, 80)])),
        Just(Box::default()),
    ];
    (0_u8..2, 0_u8..3, labels(), ports).prop_map(|(namespace, name, labels, ports)| {
        let last = namespace * 3 + name;
        let ips = [ip(&format!("10.0.0.{last}")), ip(&format!("fd00::{last}"))];
        PeerPod { key: format!("n{namespace}/{name}").into(), labels, ips: ips.into(), ports }
    })
}

#[derive(Clone, Debug)]
enum Step {
    Policy(Arc<Policy>),
    PolicyGone(u8, u8),
    Namespace(u8, Labels),
    NamespaceGone(u8),
    Pod(PeerPod),
    PodGone(u8, u8),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => policies().prop_map(Step::Policy),
        2 => (0_u8..2, 0_u8..3).prop_map(|(namespace, name)| Step::PolicyGone(namespace, name)),
        3 => (0_u8..2, labels()).prop_map(|(namespace, labels)| Step::Namespace(namespace, labels)),
        1 => (0_u8..2).prop_map(Step::NamespaceGone),
        6 => pods().prop_map(Step::Pod),
        1 => (0_u8..2, 0_u8..3).prop_map(|(namespace, name)| Step::PodGone(namespace, name)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_events_means_what_the_api_says(steps in prop::collection::vec(steps(), 1..40)) {
        let mut compiler = Compiler::default();
        let mut programmed: BTreeSet<Element> = BTreeSet::new();
        let mut oracle = Oracle::default();
        let mut pods: BTreeMap<Arc<str>, PeerPod> = BTreeMap::new();
        for step in steps {
            let events = match step {
                Step::Policy(policy) => {
                    oracle.policies.insert(policy.key.clone(), policy.clone());
                    vec![Event::Policy(policy)]
                }
                Step::PolicyGone(namespace, name) => {
                    let key: Arc<str> = format!("n{namespace}/p{name}").into();
                    oracle.policies.remove(&key);
                    vec![Event::PolicyGone(key)]
                }
                Step::Namespace(namespace, labels) => {
                    let name: Arc<str> = format!("n{namespace}").into();
                    oracle.namespaces.insert(name.clone(), labels.clone());
                    vec![Event::Namespace(name, labels)]
                }
                Step::NamespaceGone(namespace) => {
                    let name: Arc<str> = format!("n{namespace}").into();
                    oracle.namespaces.remove(&name);
                    vec![Event::NamespaceGone(name)]
                }
                Step::Pod(pod) => {
                    pods.insert(pod.key.clone(), pod.clone());
                    both(&pod).into()
                }
                Step::PodGone(namespace, name) => {
                    let key: Arc<str> = format!("n{namespace}/{name}").into();
                    pods.remove(&key);
                    vec![Event::PeerGone(key.clone()), Event::LocalGone(format!("uid-{key}").into())]
                }
            };
            for event in events {
                for (element, there) in compiler.apply(event) {
                    let before = if there { !programmed.insert(element.clone()) } else { !programmed.remove(&element) };
                    prop_assert!(!before, "a change that is none: {:?}", element);
                }
                assert_disjoint(&programmed);
            }
        }
        prop_assert_eq!(&programmed, &compiler.elements());
        // From what is left, in another order.
        let mut fresh = Compiler::default();
        for pod in pods.values().rev() {
            for event in both(pod).into_iter().rev() {
                fresh.apply(event);
            }
        }
        for policy in oracle.policies.values() {
            fresh.apply(Event::Policy(policy.clone()));
        }
        for (name, labels) in &oracle.namespaces {
            fresh.apply(Event::Namespace(name.clone(), labels.clone()));
        }
        prop_assert_eq!(&programmed, &fresh.elements());
        prop_assert_eq!(compiler.isolated(), fresh.isolated());
        prop_assert_eq!(compiler.needs_peers(), fresh.needs_peers());
        // Every connection between two of them, and with a machine elsewhere.
        let outside = [ip("10.0.0.77"), ip("fd00::77")];
        let places = pods.values().map(|pod| (Some(pod), [pod.ips[0], pod.ips[1]])).chain([(None, outside)]);
        let places: Vec<_> = places.collect();
        for (from_pod, from) in &places {
            for (to_pod, to) in &places {
                for family in [0, 1] {
                    for (by, port) in [(Some(Protocol::Tcp), 79), (Some(Protocol::Tcp), 80), (Some(Protocol::Tcp), 81), (Some(Protocol::Udp), 80), (Some(Protocol::Sctp), 85), (None, 0)] {
                        let flow = Flow { from: from[family], to: to[family], from_pod: *from_pod, to_pod: *to_pod, by, port };
                        prop_assert_eq!(Kernel(&programmed).passes(&flow), oracle.allows(&flow), "{:?}", flow);
                    }
                }
            }
        }
    }
}

#[test]
fn nothing_is_left_of_what_is_gone() {
    let mut compiler = Compiler::default();
    let pod = PeerPod { key: "n/a".into(), labels: [("a", "1")].into(), ips: [ip("10.0.0.1")].into(), ports: Box::default() };
    for event in both(&pod) {
        compiler.apply(event);
    }
    compiler.apply(Event::Namespace("n".into(), Labels::default()));
    compiler.apply(Event::Policy(policy(
        "n/p",
        json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 1, "endPort": 9}]}]}),
    )));
    assert!(!compiler.elements().is_empty());
    for event in [
        Event::PolicyGone("n/p".into()),
        Event::NamespaceGone("n".into()),
        Event::PeerGone("n/a".into()),
        Event::LocalGone("uid-n/a".into()),
    ] {
        compiler.apply(event);
    }
    assert_eq!(format!("{compiler:?}"), format!("{:?}", Compiler::default()));
}
