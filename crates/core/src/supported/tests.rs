use k8s_openapi::api::core::v1 as core;
use serde::de::{self, DeserializeOwned, Visitor};
use serde_json::json;

use super::*;

/// Learns the fields of an API type from what its deserializer asks for.
struct FieldNames<'a>(&'a mut Vec<&'static str>);

impl<'de> de::Deserializer<'de> for FieldNames<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, fields: &'static [&'static str], _: V) -> Result<V::Value, Self::Error> {
        self.0.extend(fields);
        Err(de::Error::custom("only the names are wanted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields_of<T: DeserializeOwned>() -> Vec<&'static str> {
    let mut names = Vec::new();
    assert!(T::deserialize(FieldNames(&mut names)).is_err());
    assert!(!names.is_empty());
    names
}

#[test]
fn the_table_names_every_field_of_the_api() {
    let container = "spec.containers[]";
    let volume = "spec.volumes[]";
    let types: Vec<(String, Vec<&str>)> = vec![
        ("spec".into(), fields_of::<core::PodSpec>()),
        ("spec.securityContext".into(), fields_of::<core::PodSecurityContext>()),
        ("spec.dnsConfig".into(), fields_of::<core::PodDNSConfig>()),
        ("spec.affinity".into(), fields_of::<core::Affinity>()),
        ("spec.affinity.nodeAffinity".into(), fields_of::<core::NodeAffinity>()),
        ("spec.resources".into(), fields_of::<core::ResourceRequirements>()),
        (container.into(), fields_of::<core::Container>()),
        (format!("{container}.env[]"), fields_of::<core::EnvVar>()),
        (format!("{container}.env[].valueFrom"), fields_of::<core::EnvVarSource>()),
        (format!("{container}.lifecycle"), fields_of::<core::Lifecycle>()),
        (format!("{container}.ports[]"), fields_of::<core::ContainerPort>()),
        (format!("{container}.resources"), fields_of::<core::ResourceRequirements>()),
        (format!("{container}.securityContext"), fields_of::<core::SecurityContext>()),
        (format!("{container}.volumeMounts[]"), fields_of::<core::VolumeMount>()),
        (volume.into(), fields_of::<core::Volume>()),
        (format!("{volume}.configMap"), fields_of::<core::ConfigMapVolumeSource>()),
        (format!("{volume}.configMap.items[]"), fields_of::<core::KeyToPath>()),
        (format!("{volume}.secret"), fields_of::<core::SecretVolumeSource>()),
        (format!("{volume}.downwardAPI"), fields_of::<core::DownwardAPIVolumeSource>()),
        (format!("{volume}.downwardAPI.items[]"), fields_of::<core::DownwardAPIVolumeFile>()),
        (format!("{volume}.emptyDir"), fields_of::<core::EmptyDirVolumeSource>()),
        (format!("{volume}.projected"), fields_of::<core::ProjectedVolumeSource>()),
        (format!("{volume}.projected.sources[]"), fields_of::<core::VolumeProjection>()),
        (format!("{volume}.projected.sources[].serviceAccountToken"), fields_of::<core::ServiceAccountTokenProjection>()),
    ];
    let mut missing = Vec::new();
    for (root, fields) in types {
        for field in fields {
            let path = format!("{root}.{field}");
            let (known, deeper) = lookup(&path);
            let listed = lookup(&format!("{path}[]"));
            if matches!(known, Known::No) && !deeper && matches!(listed.0, Known::No) {
                missing.push(path);
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
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
        "priority": 0, "restartPolicy": "Always", "schedulerName": "default-scheduler", "securityContext": {},
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
    assert!(found.iter().all(|f| f.state == State::Ignored), "{found:?}");
    assert_eq!(refusal(&found), None);
    assert!(found.iter().all(|f| warning(f).is_none()));
}

#[test]
fn findings_name_the_place() {
    use State::{Ignored, NotYet, Refused};
    let paths = of(&json!({
        "hostUsers": false,
        "schedulerName": "mine",
        "initContainers": [{"name": "s", "restartPolicy": "Always"}],
        "containers": [
            {"name": "a"},
            {
                "name": "b",
                "livenessProbe": {"exec": {}},
                "lifecycle": {"preStop": {"sleep": {}}},
                "ports": [{"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"}],
                "resources": {"limits": {"ephemeral-storage": "1Gi"}},
                "unheard": {"of": 1},
            },
        ],
        "volumes": [
            {"name": "x", "nfs": {"server": "s"}},
            {"name": "y", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "z", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}},
            {"name": "h", "emptyDir": {"medium": "HugePages-2Mi"}},
        ],
    }));
    let mut expected = [
        ("spec.containers[1].lifecycle.preStop", NotYet),
        ("spec.containers[1].livenessProbe", NotYet),
        ("spec.containers[1].ports[0].hostIP", NotYet),
        ("spec.containers[1].ports[0].hostPort", NotYet),
        ("spec.containers[1].resources.limits.ephemeral-storage", NotYet),
        ("spec.containers[1].unheard", NotYet),
        ("spec.hostUsers", Refused),
        ("spec.initContainers[0].restartPolicy", Refused),
        ("spec.schedulerName", Ignored),
        ("spec.volumes[0].nfs", Refused),
        ("spec.volumes[1].emptyDir.sizeLimit", NotYet),
        ("spec.volumes[3].emptyDir.medium", Refused),
    ]
    .map(|(path, state)| (path.to_owned(), state))
    .to_vec();
    let mut paths = paths;
    paths.sort_by(|a, b| a.0.cmp(&b.0));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(paths, expected);
}

#[test]
fn host_ports_on_the_host_network_are_no_findings() {
    // The API server sets hostPort to containerPort there.
    let spec = json!({"hostNetwork": true, "containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    assert_eq!(of(&spec), []);
    let spec = json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    assert_eq!(of(&spec), [("spec.containers[0].ports[0].hostPort".to_owned(), State::NotYet)]);
}

#[test]
fn texts() {
    let found = findings(&json!({"spec": {
        "runtimeClassName": "gvisor",
        "containers": [{"name": "a", "startupProbe": {}}],
        "volumes": [{"name": "v", "csi": {}}],
    }}));
    let rejection = refusal(&found).unwrap();
    assert_eq!(rejection.reason, "PodFeatureUnsupported");
    assert_eq!(
        rejection.message,
        "this node does not support spec.runtimeClassName (there is one runtime, Podman's, and it has no classes), \
         spec.volumes[0].csi (this kind of volume is not made yet)"
    );
    let warnings: Vec<String> = found.iter().filter_map(warning).collect();
    assert_eq!(
        warnings,
        ["spec.containers[0].startupProbe has no effect on this node: probes do not run yet: a container counts as ready while it runs"]
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
