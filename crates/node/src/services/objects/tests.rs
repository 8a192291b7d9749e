use kube_pet_core::services::Network;
use serde_json::{Value, json};

use super::*;

fn service(spec: Value, status: Value) -> Option<Service> {
    let object = json!({
        "metadata": {"namespace": "ns", "name": "web", "creationTimestamp": "1970-01-01T00:01:40Z", "managedFields": [{"manager": "x"}]},
        "spec": spec,
        "status": status,
    });
    serde_json::from_value::<ServiceObject>(object).unwrap().into_facts()
}

#[test]
fn a_service_is_read_with_all_that_counts() {
    let read = service(
        json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "externalIPs": ["192.0.2.1", ""],
            "loadBalancerSourceRanges": [" 10.0.0.0/8"], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}, "healthCheckNodePort": 32000,
            "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
            "ports": [{"name": "dns", "protocol": "UDP", "port": 53, "targetPort": "dns", "nodePort": 30053}, {"port": 80}],
        }),
        json!({"loadBalancer": {"ingress": [
            {"ip": "198.51.100.1"}, {"ip": "198.51.100.2", "ipMode": "Proxy"}, {"ip": "198.51.100.3", "ipMode": "VIP"}, {"hostname": "x"},
        ]}}),
    );
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let expected = Service {
        key: "ns/web".into(),
        created: 100,
        proxied: true,
        cluster_ips: [ip("10.96.0.1"), ip("fd00::1")].into(),
        external_ips: [ip("192.0.2.1")].into(),
        load_balancer_ips: [ip("198.51.100.1"), ip("198.51.100.3")].into(),
        source_ranges: [Network { address: ip("10.0.0.0"), prefix: 8 }].into(),
        ports: [
            ServicePort { name: "dns".into(), protocol: Protocol::Udp, port: 53, node_port: 30053 },
            ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 },
        ]
        .into(),
        internal_local: true,
        external_local: true,
        affinity: Some(Duration::from_secs(7)),
        health_check_port: Some(32000),
    };
    assert_eq!(read, Some(expected));
}

#[test]
fn services_without_an_address_are_none() {
    assert_eq!(service(json!({"clusterIP": "None", "clusterIPs": ["None"]}), json!({})), None);
    assert_eq!(service(json!({"type": "ExternalName", "externalName": "example.com"}), json!({})), None);
    assert_eq!(service(json!({"type": "ExternalName", "clusterIP": "10.96.0.1"}), json!({})), None);
    assert!(service(json!({"clusterIP": "10.96.0.1"}), json!({})).is_some(), "of an API server that knows one address only");
}

#[test]
fn what_is_left_of_another_type_does_not_count() {
    let policy = json!({"clusterIP": "10.96.0.1", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000});
    let read = service(policy.clone(), json!({})).unwrap();
    assert!(!read.external_local);
    assert_eq!(read.health_check_port, None);
    let mut node_port = policy;
    node_port["type"] = "NodePort".into();
    let read = service(node_port, json!({})).unwrap();
    assert!(read.external_local);
    assert_eq!(read.health_check_port, None, "that is a load balancer's");
}

fn slice(object: Value) -> Option<(Slice, Option<Timestamp>)> {
    serde_json::from_value::<SliceObject>(object).unwrap().into_facts("here")
}

#[test]
fn a_slice_is_read_with_all_that_counts() {
    let (slice, trigger) = slice(json!({
        "metadata": {
            "namespace": "ns", "name": "web-1", "labels": {"kubernetes.io/service-name": "web", "other": "x"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "1970-01-01T00:01:40Z"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}, {"port": 1}, {"name": "x"}],
        "endpoints": [
            {"addresses": ["10.0.0.1", "10.0.0.9"], "nodeName": "here", "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "here"}]}},
            {"addresses": ["10.0.0.2"], "nodeName": "there", "conditions": {"ready": false, "serving": true, "terminating": true},
             "hints": {"forNodes": [{"name": "there"}]}},
            {"addresses": []},
        ],
    }))
    .unwrap();
    let endpoint = |last, local| Endpoint {
        address: IpAddr::from([10, 0, 0, last]),
        local,
        ready: local,
        serving: true,
        terminating: !local,
        for_node: Some(local),
        for_zones: if local { ["a".into()].into() } else { [].into() },
    };
    assert_eq!(trigger.map(Timestamp::as_second), Some(100));
    let expected = Slice {
        key: "ns/web-1".into(),
        service: "ns/web".into(),
        family: Family::V4,
        ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: [endpoint(1, true), endpoint(2, false)].into(),
    };
    assert_eq!(slice, expected);
}

#[test]
fn host_names_strangers_and_nothing_are_no_endpoints() {
    let named = json!({"namespace": "ns", "name": "s", "labels": {"kubernetes.io/service-name": "web"}});
    assert_eq!(slice(json!({"metadata": named, "addressType": "FQDN", "endpoints": [{"addresses": ["x.example"]}]})), None);
    assert_eq!(slice(json!({"metadata": {"namespace": "ns", "name": "s"}, "addressType": "IPv4", "endpoints": []})), None);
    let (empty, _) = slice(json!({"metadata": named, "addressType": "IPv4", "endpoints": null, "ports": null})).unwrap();
    assert!(empty.endpoints.is_empty() && empty.ports.is_empty());
}
