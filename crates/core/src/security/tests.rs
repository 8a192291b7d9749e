use serde_json::{Value, json};

use super::*;

fn pod(spec: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

fn of(spec: &Value) -> Effective {
    let pod = pod(spec);
    effective(&pod, &pod.spec.as_ref().unwrap().containers[0])
}

#[test]
fn the_container_overrides_the_pod() {
    let e = of(&json!({
        "securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4], "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "a", "securityContext": {"runAsUser": 9, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}}],
    }));
    assert_eq!((e.user, e.group, e.groups.as_slice()), (Some(9), Some(2), &[3, 4][..]));
    assert_eq!((e.cap_add, e.cap_drop), (vec!["NET_ADMIN".to_owned()], vec!["ALL".to_owned()]));
    assert_eq!(e.seccomp, Seccomp::RuntimeDefault);
    assert!(!e.no_new_privileges);
    let none = of(&json!({"containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false}}]}));
    assert!(none.no_new_privileges && none.seccomp == Seccomp::Unconfined);
}

#[test]
fn non_root_is_checked_against_the_image() {
    let check = |context: Value, image: &str| {
        let pod = pod(&json!({"containers": [{"name": "c", "securityContext": context}]}));
        verify_non_root(&pod, &pod.spec.as_ref().unwrap().containers[0], image).map_err(|e| e.to_string())
    };
    assert_eq!(check(json!({}), "0"), Ok(()));
    assert_eq!(check(json!({"runAsNonRoot": true}), "1234:5"), Ok(()));
    assert_eq!(check(json!({"runAsNonRoot": true, "runAsUser": 5}), "0"), Ok(()));
    let root = "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)";
    assert_eq!(check(json!({"runAsNonRoot": true}), "0").unwrap_err(), root);
    assert_eq!(check(json!({"runAsNonRoot": true}), "").unwrap_err(), root);
    assert!(check(json!({"runAsNonRoot": true}), "4294967295").unwrap_err().contains("invalid user id (4294967295)"));
    assert!(check(json!({"runAsNonRoot": true}), "www").unwrap_err().contains("non-numeric user (www)"));
    assert!(check(json!({"runAsNonRoot": true, "runAsUser": 0}), "5").unwrap_err().contains("breaks non-root policy"));
}

#[test]
fn unsafe_sysctls_are_forbidden_unless_allowed() {
    let check = |name: &str, more: Value, allowed: &[&str]| {
        let mut spec = json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}, "containers": []});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let allowed: Vec<String> = allowed.iter().map(|p| (*p).to_owned()).collect();
        forbidden_sysctl(&pod(&spec), &allowed)
    };
    let none = || json!({});
    assert_eq!(check("kernel.shm_rmid_forced", none(), &[]), None);
    assert_eq!(check("net/ipv4/tcp_syncookies", none(), &[]), None);
    assert_eq!(check("kernel.msgmax", none(), &[]).unwrap(), "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    assert_eq!(check("kernel.msgmax", none(), &["kernel.msg*"]), None);
    assert_eq!(check("net.core.somaxconn", none(), &["net/core/*"]), None);
    assert!(check("net.netfilter.nf_conntrack_tcp_timeout_close_wait", none(), &[]).is_some());
    assert!(check("vm.swappiness", none(), &["vm.swappiness"]).is_some(), "not of a namespace");
    assert_eq!(
        check("net.ipv4.tcp_syncookies", json!({"hostNetwork": true}), &[]).unwrap(),
        "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host Net enabled"
    );
    assert_eq!(
        check("kernel.sem", json!({"hostIPC": true}), &["kernel.sem"]).unwrap(),
        "forbidden sysctl: \"kernel.sem\" not allowed with host IPC enabled"
    );
    assert!(check("user.max_ipc_namespaces", none(), &["user.*"]).unwrap().ends_with("with host User enabled"));
}

#[test]
fn sysctl_names_are_written_with_dots() {
    let pod = pod(&json!({"containers": [], "securityContext": {"sysctls": [
        {"name": "net/ipv4/conf/eno2.100/rp_filter", "value": "1"}, {"name": "net.ipv4.conf.eno3/100.rp_filter", "value": "2"},
    ]}}));
    let names: Vec<String> = sysctls(&pod).into_keys().collect();
    assert_eq!(names, ["net.ipv4.conf.eno2/100.rp_filter", "net.ipv4.conf.eno3/100.rp_filter"]);
}

#[test]
fn a_profile_that_is_named_badly_never_means_none() {
    let e = of(&json!({"containers": [{"name": "a", "securityContext": {"seccompProfile": {"type": "Localhost"}}}]}));
    assert_eq!(e.seccomp, Seccomp::Localhost(String::new()));
}

#[test]
fn app_armor_profiles() {
    let profile = |annotation: Option<&str>, pod_level: Value, own: Value| {
        let mut pod = pod(
            &json!({"securityContext": {"appArmorProfile": pod_level}, "containers": [{"name": "a", "securityContext": {"appArmorProfile": own}}]}),
        );
        let key = "container.apparmor.security.beta.kubernetes.io/a".to_owned();
        pod.metadata.annotations = annotation.map(|a| [(key, a.to_owned())].into());
        effective(&pod, &pod.spec.as_ref().unwrap().containers[0]).app_armor
    };
    let local = |name: &str| json!({"type": "Localhost", "localhostProfile": name});
    assert_eq!(profile(None, Value::Null, Value::Null), None);
    assert_eq!(profile(None, local("p"), Value::Null).as_deref(), Some("p"));
    assert_eq!(profile(Some("localhost/a"), local("p"), Value::Null).as_deref(), Some("a"));
    assert_eq!(profile(Some("localhost/a"), local("p"), local("c")).as_deref(), Some("c"));
    assert_eq!(profile(Some("runtime/default"), local("p"), Value::Null), None);
    assert_eq!(profile(Some("unconfined"), Value::Null, Value::Null).as_deref(), Some("unconfined"));
}
