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
    assert!(check(json!({"runAsNonRoot": true}), "www").unwrap_err().contains("non-numeric user (www)"));
    assert!(check(json!({"runAsNonRoot": true, "runAsUser": 0}), "5").unwrap_err().contains("breaks non-root policy"));
}

#[test]
fn unsafe_sysctls_are_forbidden_unless_allowed() {
    let with = |name: &str, host: bool| pod(&json!({"hostNetwork": host, "securityContext": {"sysctls": [{"name": name, "value": "1"}]}, "containers": []}));
    assert_eq!(forbidden_sysctl(&with("kernel.shm_rmid_forced", false), &[]), None);
    assert_eq!(forbidden_sysctl(&with("net/ipv4/tcp_syncookies", false), &[]), None);
    assert_eq!(forbidden_sysctl(&with("kernel.msgmax", false), &[]).unwrap(), "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    assert_eq!(forbidden_sysctl(&with("kernel.msgmax", false), &["kernel.msg*".into()]), None);
    assert!(forbidden_sysctl(&with("vm.swappiness", false), &["vm.swappiness".into()]).is_some(), "not of a namespace");
    assert!(forbidden_sysctl(&with("net.ipv4.tcp_syncookies", true), &[]).is_some());
}
