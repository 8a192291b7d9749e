use serde_json::{Value, json};

use super::*;

fn pod(spec: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec})).unwrap()
}

fn hosts(spec: &Value) -> String {
    content(&pod(spec), &["10.244.0.7".parse().unwrap()], "cluster.local", || "127.0.0.1 host\n".into()).unwrap()
}

#[test]
fn a_pods_file_is_the_kubelets() {
    assert_eq!(
        hosts(&json!({"containers": [], "subdomain": "svc", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]})),
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
         10.244.0.7\tweb-0.svc.ns.svc.cluster.local\tweb-0\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
    );
    assert!(hosts(&json!({"containers": []})).ends_with("10.244.0.7\tweb-0\n"));
}

#[test]
fn a_pod_on_the_hosts_network_has_the_hosts_file() {
    assert_eq!(hosts(&json!({"containers": [], "hostNetwork": true})), "# Kubernetes-managed hosts file (host network).\n127.0.0.1 host\n");
}

#[test]
fn names() {
    let name = |spec: Value| pod_hostname(&pod(&spec), "cluster.local");
    assert_eq!(name(json!({"containers": []})).unwrap().hostname, "web-0");
    assert_eq!(name(json!({"containers": [], "hostname": "h"})).unwrap().hostname, "h");
    let long = name(json!({"containers": [], "hostnameOverride": format!("{}.x", "a".repeat(62))})).unwrap();
    assert_eq!(long.hostname, "a".repeat(62), "cut, and no final dot");
    let fqdn = json!({"containers": [], "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true});
    assert_eq!(name(fqdn).unwrap().hostname, "h.s.ns.svc.cluster.local");
    let long = json!({"containers": [], "hostname": "h", "subdomain": "s".repeat(60), "setHostnameAsFQDN": true});
    assert!(name(long).unwrap_err().to_string().contains("(64 characters is the max, 83 characters requested)"));
    assert!(matches!(name(json!({"containers": [], "hostname": "../x"})), Err(HostnameError::NotDns { .. })));
    assert!(matches!(name(json!({"containers": [], "hostnameOverride": "a b"})), Err(HostnameError::NotDns { .. })));
    let over = json!({"containers": [], "hostnameOverride": "a.b", "subdomain": "s", "setHostnameAsFQDN": true});
    let over = name(over).unwrap();
    assert_eq!((over.hostname.as_str(), over.domain), ("a.b", None));
}
