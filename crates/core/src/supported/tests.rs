use k8s_openapi::api::core::v1::PodSpec;
use serde_json::json;

use super::*;

fn api_fields() -> Vec<String> {
    schema::paths::<PodSpec>("spec")
}

/// The path of everything around a field, outermost first: `spec.a`, `spec.a[].b` for `spec.a[].b.c`.
fn around(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('.').skip(1).map(|(dot, _)| path[..dot].trim_end_matches("[]"))
}

#[test]
fn the_table_names_every_field_of_the_api() {
    let settles_all_below = |path: &str| match lookup(path).0 {
        Known::Field(field) => field.state != State::Supported && field.only.as_ref().is_none_or(|only| only.text == "not empty"),
        Known::Parent | Known::No => false,
    };
    let fields = api_fields();
    assert!(fields.len() > 1000, "{}", fields.len());
    let named = |path: &String| !matches!(lookup(path).0, Known::No) || around(path).any(settles_all_below);
    let missing: Vec<_> = fields.into_iter().filter(|path| !named(path)).collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_table_names_no_field_that_the_api_does_not_have() {
    let fields = api_fields();
    for section in &SECTIONS {
        for (root, field) in section.roots.iter().flat_map(|root| section.fields.iter().map(move |field| (root, field))) {
            let path = format!("{root}.{}", field.path);
            let key_of_a_map = path.contains(".limits.");
            assert!(key_of_a_map || fields.contains(&path), "{path}");
        }
    }
}

#[test]
fn paths_are_there_once() {
    for section in &SECTIONS {
        let mut paths: Vec<&str> = section.fields.iter().map(|field| field.path).collect();
        let all = paths.len();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), all, "{}", section.title);
        let silent = section.fields.iter().filter(|f| f.state != State::Supported && f.note.is_empty());
        assert_eq!(silent.count(), 0, "every state but `yes` is explained");
    }
}

fn of(spec: &Value) -> Vec<(String, State)> {
    findings(&json!({"spec": spec})).into_iter().map(|f| (f.path, f.state)).collect()
}

#[test]
fn what_the_api_server_adds_to_every_pod_is_fine() {
    let spec = json!({
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "web", "image": "nginx", "imagePullPolicy": "Always",
            "resources": {"limits": {"cpu": "1", "example.com/gpu": "1"}, "requests": {"ephemeral-storage": "1Gi"}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "volumeMounts": [{"name": "t", "mountPath": "/t", "readOnly": true}],
        }],
        "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "nodeName": "pet", "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0, "restartPolicy": "Always", "schedulerName": "default-scheduler", "securityContext": {"windowsOptions": {}},
        "serviceAccount": "default", "serviceAccountName": "default", "terminationGracePeriodSeconds": 30,
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        "volumes": [
            {"name": "e", "emptyDir": {}},
            {"name": "t", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ]}},
        ],
        "hostUsers": true, "ephemeralContainers": [], "runtimeClassName": null,
    });
    let found: Vec<_> = findings(&json!({"spec": spec}));
    assert!(found.iter().all(|f| f.state == State::ControlPlane), "{found:?}");
    assert_eq!(refusal(&found), None);
    assert!(found.iter().all(|f| warning(f).is_none()));
}

#[test]
fn findings_name_the_place() {
    use State::{ControlPlane, NotYet, Refused};
    let paths = of(&json!({
        "hostUsers": false,
        "schedulerName": "mine",
        "initContainers": [{"name": "s", "restartPolicy": "Never", "restartPolicyRules": [{"action": "RestartAllContainers"}]}],
        "containers": [
            {"name": "a"},
            {
                "name": "b",
                "livenessProbe": {"exec": {"command": ["true"]}},
                "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
                "ports": [{"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"}],
                "resources": {"limits": {"ephemeral-storage": "1Gi"}},
                "unheard": {"of": 1},
            },
        ],
        "volumes": [
            {"name": "x", "iscsi": {"iqn": "s"}},
            {"name": "n", "nfs": {"server": "s", "path": "/p", "readOnly": true}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}},
            {"name": "y", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "z", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}},
            {"name": "h", "emptyDir": {"medium": "HugePages-2Mi"}},
        ],
    }));
    let mut expected = [("spec.containers[b].unheard", NotYet), ("spec.schedulerName", ControlPlane), ("spec.volumes[x].iscsi", Refused)]
        .map(|(path, state)| (path.to_owned(), state))
        .to_vec();
    let mut paths = paths;
    paths.sort_by(|a, b| a.0.cmp(&b.0));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(paths, expected);
}

#[test]
fn states_that_hold_for_some_values() {
    let container = |fields: Value| {
        let mut container = fields;
        container["name"] = json!("c");
        json!({"containers": [container]})
    };
    let windows = |options: Value| container(json!({"securityContext": {"windowsOptions": options}}));
    let projected = |source: Value| json!({"volumes": [{"name": "v", "projected": {"sources": [source]}}]});
    for (spec, path, state) in [
        (windows(json!({"runAsUserName": "u"})), "spec.containers[c].securityContext.windowsOptions", State::Refused),
        (
            projected(json!({"podCertificate": {"keyType": "RSA4096"}})),
            "spec.volumes[v].projected.sources[0].podCertificate.keyType",
            State::Refused,
        ),
        (
            projected(json!({"secret": {"name": "s", "items": [{"key": "k", "path": "p", "user": 7}]}})),
            "spec.volumes[v].projected.sources[0].secret.items[0].user",
            State::NotYet,
        ),
        (json!({"ephemeralContainers": [{"name": "d", "unheard": 1}]}), "spec.ephemeralContainers[d].unheard", State::NotYet),
    ] {
        assert_eq!(of(&spec), [(path.to_owned(), state)], "{spec}");
    }
    for spec in [
        windows(json!({})),
        json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}),
        json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}),
        container(json!({"env": [{"name": "E", "valueFrom": {"fileKeyRef": {"key": "k"}}}]})),
        projected(json!({"clusterTrustBundle": {"path": "p"}})),
        projected(json!({"podCertificate": {"keyType": "ED25519"}})),
        json!({"hostUsers": true, "resources": {"limits": {"cpu": "1"}}}),
    ] {
        assert_eq!(of(&spec), [], "{spec}");
    }
}

#[test]
fn user_namespaces_are_refused_with_the_reason() {
    let refused = |spec: Value, missing| {
        let pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        refusal_of_user_namespace(&pod, missing).map(|rejection| (rejection.reason, rejection.message))
    };
    let told = |reason: &str| {
        let message = format!("Pod requires node features that are not available: spec.hostUsers (`false`: {reason})");
        Some((REFUSED_REASON.to_owned(), message))
    };
    let own = json!({"containers": [], "hostUsers": false, "hostNetwork": false});
    assert_eq!(refused(own.clone(), None), None);
    assert_eq!(refused(own, Some("the kernel has none")), told("the kernel has none"));
    assert_eq!(refused(json!({"containers": [], "hostUsers": false, "hostPID": true}), None), told("it contradicts hostPID"));
    for host in [json!({"containers": [], "hostPID": true}), json!({"containers": [], "hostUsers": true, "hostIPC": true})] {
        assert_eq!(refused(host, Some("the kernel has none")), None);
    }
}

#[test]
fn texts() {
    let found = findings(&json!({"spec": {
        "resourceClaims": [{"name": "gpu"}],
        "containers": [{"name": "a", "livenessProbe": {"grpc": {"mode": "x"}}}],
        "volumes": [{"name": "v", "csi": {}}],
    }}));
    let rejection = refusal(&found).unwrap();
    assert_eq!(rejection.reason, "PodFeatureUnsupported");
    assert_eq!(
        rejection.message,
        "Pod requires node features that are not available: spec.resourceClaims (devices of dynamic resource allocation cannot be prepared), \
         spec.volumes[v].csi (this kind of volume is not made yet)"
    );
    let warnings: Vec<String> = found.iter().filter_map(warning).collect();
    assert_eq!(
        warnings,
        ["spec.containers[a].livenessProbe.grpc.mode has no effect on this node: an alpha feature of Kubernetes 1.37, which is off"]
    );
}

#[test]
fn docs_supported_md_is_up_to_date() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/supported.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, markdown()).unwrap();
    }
    let current = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(current == markdown(), "run `UPDATE_DOCS=1 cargo test -p kube-pet-core supported`");
}

proptest::proptest! {
    #[test]
    fn any_json_is_walked(text in "[\\[\\]{}:,\"a-c0-9]{0,40}", name in "[a-zA-Z]{1,12}") {
        let inner = serde_json::from_str::<Value>(&text).unwrap_or(Value::Null);
        let _ = findings(&inner);
        let unknown = findings(&json!({"spec": {format!("x{name}"): 1}}));
        proptest::prop_assert_eq!(unknown.len(), 1);
    }
}
