use serde_json::{Value, json};

use super::*;

const HOST: &str = "# mine\nnameserver 192.0.2.1\nsearch home.arpa.\noptions timeout:1\n";

fn of(spec: &Value) -> PodResolvConf {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec})).unwrap();
    pod_resolv_conf(&pod, HOST, &ClusterDns { servers: vec!["10.96.0.10".into()], domain: "cluster.local".into() })
}

const CLUSTER: &str = "search ns.svc.cluster.local svc.cluster.local cluster.local home.arpa\nnameserver 10.96.0.10\noptions ndots:5\n";
const DEFAULT: &str = "search home.arpa\nnameserver 192.0.2.1\noptions timeout:1\n";

#[test]
fn each_policy() {
    assert_eq!(of(&json!({})).text, CLUSTER);
    assert_eq!(of(&json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true})).text, DEFAULT);
    assert_eq!(of(&json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true})).text, CLUSTER);
    assert_eq!(of(&json!({"dnsPolicy": "Default"})).text, DEFAULT);
    let none = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{"name": "debug"}, {"name": "ndots", "value": "2"}]}});
    assert_eq!(of(&none).text, "search a.b\nnameserver 1.1.1.1\noptions debug ndots:2\n");
}

#[test]
fn the_pods_own_configuration_is_merged_in() {
    let merged = of(&json!({"dnsConfig": {"nameservers": ["1.1.1.1", "10.96.0.10"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}]}}));
    assert_eq!(
        merged.text,
        "search ns.svc.cluster.local svc.cluster.local cluster.local home.arpa a.b\nnameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:2\n"
    );
}

#[test]
fn what_does_not_fit_is_left_out_and_named() {
    let many = of(&json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"],
        "searches": (0..40).map(|n| format!("d{n}.example")).collect::<Vec<_>>()}}));
    assert_eq!(many.warnings.len(), 2);
    assert!(many.warnings[0].ends_with("1.1.1.1 2.2.2.2 3.3.3.3"));
    assert_eq!(many.text.lines().next().unwrap().split(' ').count(), 33);
}

#[test]
fn without_a_cluster_name_service_the_hosts_is_used_and_that_is_said() {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": []}})).unwrap();
    let out = pod_resolv_conf(&pod, HOST, &ClusterDns::default());
    assert_eq!(out.text, DEFAULT);
    assert!(out.missing_cluster_dns.unwrap().starts_with("pod: \"p_n(u)\". kubelet does not have ClusterDNS"));
}
