use serde_json::{Value, json};

use super::*;

const HOST: &str = "# mine\nnameserver 192.0.2.1\nsearch home.arpa.\noptions timeout:1\n";

fn of(spec: &Value) -> PodResolvConf {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec})).unwrap();
    let cluster = ClusterDns { servers: vec!["10.96.0.10".into()], domain: "cluster.local".into(), cache: None };
    pod_resolv_conf(&pod, HOST, &cluster)
}

/// The name servers of a pod on a node with a cache, and how many warnings there are.
fn with_cache(spec: &Value, cluster: &[&str]) -> (Vec<String>, usize) {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "ns"}, "spec": spec})).unwrap();
    let servers = cluster.iter().map(|server| (*server).to_owned()).collect();
    let cluster = ClusterDns { servers, domain: "cluster.local".into(), cache: Some("169.254.20.10".into()) };
    let out = pod_resolv_conf(&pod, HOST, &cluster);
    (ResolvConf::parse(&out.text).servers, out.warnings.len())
}

#[test]
fn the_nodes_cache_is_asked_before_the_cluster_and_by_nobody_else() {
    let cluster = ["10.96.0.10"];
    let servers = |spec: &Value| with_cache(spec, &cluster).0;
    assert_eq!(servers(&json!({})), ["169.254.20.10", "10.96.0.10"]);
    assert_eq!(servers(&json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true})), ["169.254.20.10", "10.96.0.10"]);
    assert_eq!(servers(&json!({"hostNetwork": true})), ["192.0.2.1"]);
    assert_eq!(servers(&json!({"dnsPolicy": "Default"})), ["192.0.2.1"]);
    assert_eq!(servers(&json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}})), ["1.1.1.1"]);
    assert_eq!(with_cache(&json!({}), &[]), (vec!["192.0.2.1".to_owned()], 0));
}

#[test]
fn the_cache_takes_no_place_from_a_pods_own_servers() {
    let own = |count: usize| json!({"dnsConfig": {"nameservers": (1..=count).map(|n| format!("{n}.{n}.{n}.{n}")).collect::<Vec<_>>()}});
    assert_eq!(with_cache(&own(1), &["10.96.0.10"]).0, ["169.254.20.10", "10.96.0.10", "1.1.1.1"]);
    assert_eq!(with_cache(&own(2), &["10.96.0.10"]), (["10.96.0.10", "1.1.1.1", "2.2.2.2"].map(str::to_owned).to_vec(), 0));
    assert_eq!(with_cache(&own(3), &["10.96.0.10"]).1, 1, "as without a cache");
    // The cluster's third: the cache asks it.
    let three = ["10.96.0.10", "10.96.0.11", "10.96.0.12"];
    assert_eq!(with_cache(&json!({}), &three), (["169.254.20.10", "10.96.0.10", "10.96.0.11"].map(str::to_owned).to_vec(), 0));
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
    let merged = of(
        &json!({"dnsConfig": {"nameservers": ["1.1.1.1", "10.96.0.10"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}]}}),
    );
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
    let pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": []}})).unwrap();
    let out = pod_resolv_conf(&pod, HOST, &ClusterDns::default());
    assert_eq!(out.text, DEFAULT);
    assert!(out.missing_cluster_dns.unwrap().starts_with("pod: \"p_n(u)\". kubelet does not have ClusterDNS"));
}

#[test]
fn the_hosts_file_is_read_as_the_kubelet_does() {
    let text =
        "search a b\n  ; no\nsearch c.. . d.e.\nnameserver  1.1.1.1 # x\nnameserver\noptions rotate ndots:1\noptions ndots:3 debug\njunk";
    let conf = ResolvConf::parse(text);
    assert_eq!(conf.servers, ["1.1.1.1"]);
    assert_eq!(conf.searches, ["c.", "d.e"]);
    assert_eq!(conf.options, ["rotate", "ndots:3", "debug"]);
}

#[test]
fn search_lines_end_at_2048_characters_and_names_at_253() {
    let searches = |count: usize, length: usize| {
        let list: Vec<String> = (0..count).map(|n| format!("{n:02}{}", "x".repeat(length - 2))).collect();
        let out = of(&json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": list}}));
        let kept = out.text.lines().find_map(|l| l.strip_prefix("search ")).map_or(0, |l| l.split(' ').count());
        (kept, out.warnings.len())
    };
    // 8 × 253 and 7 spaces are 2031.
    assert_eq!(searches(8, 253), (8, 0));
    assert_eq!(searches(9, 253), (8, 1));
    assert_eq!(searches(3, 254), (0, 1));
}

proptest::proptest! {
    #[test]
    fn any_file_is_read(text in "(nameserver|search|options|#|;| |\n|\\.|[a-c:0-9])*") {
        let conf = ResolvConf::parse(&text);
        proptest::prop_assert_eq!(&ResolvConf::parse(&conf.render()).options, &conf.options);
    }
}
