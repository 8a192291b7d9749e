use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceFieldSelector, VolumeMount};
use serde_json::json;

use super::*;

mod claims;
mod trust_bundles;

fn pod(value: serde_json::Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

fn config_map(value: serde_json::Value) -> ConfigMap {
    serde_json::from_value(value).unwrap()
}

fn items(value: serde_json::Value) -> Vec<k8s_openapi::api::core::v1::KeyToPath> {
    serde_json::from_value(value).unwrap()
}

/// `path=content:mode` lines.
fn shown(payload: &Payload) -> Vec<String> {
    payload.iter().map(|(path, f)| format!("{path}={}:{:o}", String::from_utf8_lossy(&f.data), f.mode)).collect()
}

#[test]
fn config_map_files_and_modes() {
    let map = config_map(json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "/w=="}}));
    let all = config_map_payload("m", Some(&map), &[], Some(0o644), false).unwrap();
    assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(all["c"].data, [0xff]);
    assert_eq!(all["a"].mode, 0o644);
    let some = items(json!([{"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 0o400}]));
    assert_eq!(shown(&config_map_payload("m", Some(&map), &some, Some(0o440), false).unwrap()), ["x/y=1:440", "z=2:400"]);
}

#[test]
fn missing_objects_and_keys() {
    let error = |r: Result<Payload, PayloadError>| r.unwrap_err().to_string();
    let wanted = items(json!([{"key": "nope", "path": "p"}]));
    let map = config_map(json!({"data": {"a": "1"}}));
    let data = BTreeMap::from([("a".to_owned(), ByteString(b"s".to_vec()))]);
    assert_eq!(error(config_map_payload("m", None, &[], None, false)), "configmap \"m\" not found");
    assert_eq!(error(secret_payload("s", None, &[], None, false)), "secret \"s\" not found");
    assert_eq!(error(config_map_payload("m", Some(&map), &wanted, None, false)), "configmap references non-existent config key: nope");
    assert_eq!(error(secret_payload("s", Some(&data), &wanted, None, false)), "references non-existent secret key: nope");
    assert!(config_map_payload("m", None, &wanted, None, true).unwrap().is_empty());
    assert!(config_map_payload("m", Some(&map), &wanted, None, true).unwrap().is_empty());
    assert!(secret_payload("s", None, &wanted, None, true).unwrap().is_empty());
    assert_eq!(shown(&secret_payload("s", Some(&data), &[], Some(0o400), false).unwrap()), ["a=s:400"]);
}

#[test]
fn contents_are_not_printed() {
    let data = BTreeMap::from([("key".to_owned(), ByteString(b"hunter2".to_vec()))]);
    let payload = secret_payload("s", Some(&data), &[], None, false).unwrap();
    let text = format!("{payload:?}");
    assert!(!text.contains("hunter2") && !text.contains("104"), "{text}");
}

#[test]
fn payload_paths() {
    let cases = [
        ("a", ""),
        ("a/b..c/d", ""),
        ("...", "invalid path: must not start with '..': ..."),
        ("", "invalid path: must not be empty: \"\""),
        ("/etc/passwd", "invalid path: must be relative path: /etc/passwd"),
        ("a/../../b", "invalid path: must not contain '..': a/../../b"),
        ("..", "invalid path: must not contain '..': .."),
        ("..data", "invalid path: must not start with '..': ..data"),
    ];
    for (path, expected) in cases {
        let found = validate_payload_path(path).err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(found, expected, "{path}");
    }
    assert!(validate_payload_path(&"x".repeat(256)).is_err());
    assert!(validate_payload_path(&format!("{}x", "x/".repeat(2048))).is_err());
}

#[test]
fn downward_fields() {
    let pod = pod(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u",
        "labels": {"b": "2", "a": "quoted \"x\"\n"}, "annotations": {"note's": "é\u{301}\u{200b}\u{7}"}}}));
    let cases = [
        ("metadata.name", "p"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "u"),
        ("metadata.labels", "a=\"quoted \\\"x\\\"\\n\"\nb=\"2\""),
        ("metadata.annotations", "note's=\"é\u{301}\\u200b\\a\""),
        ("metadata.labels['b']", "2"),
        ("metadata.labels['absent']", ""),
        ("metadata.annotations['note's']", "é\u{301}\u{200b}\u{7}"),
    ];
    for (path, expected) in cases {
        assert_eq!(metadata_field(&pod, path).unwrap(), expected, "{path}");
    }
    assert_eq!(metadata_field(&pod, "status.podIP").unwrap_err().to_string(), "unsupported fieldPath: status.podIP");
    assert_eq!(metadata_field(&pod, "spec.x['y']").unwrap_err().to_string(), "fieldPath \"spec.x\" does not support subscript");
}

fn resource(selector: &ResourceFieldSelector) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    if selector.resource == "limits.cpu" { Ok("2".into()) } else { Err("no such resource".into()) }
}

#[test]
fn downward_files_report_every_failure() {
    let pod = pod(json!({"metadata": {"name": "p"}}));
    let file = |v: serde_json::Value| serde_json::from_value(v).unwrap();
    let good = [
        file(json!({"path": "name", "fieldRef": {"fieldPath": "metadata.name"}, "mode": 0o400})),
        file(json!({"path": "cpu", "resourceFieldRef": {"resource": "limits.cpu"}})),
    ];
    assert_eq!(shown(&downward_api_payload(&pod, &good, Some(0o644), &resource).unwrap()), ["cpu=2:644", "name=p:400"]);
    let bad = [
        file(json!({"path": "x", "fieldRef": {"fieldPath": "spec.x"}})),
        file(json!({"path": "y", "resourceFieldRef": {"resource": "limits.time"}})),
    ];
    let error = downward_api_payload(&pod, &bad, Some(0o644), &resource).unwrap_err();
    assert_eq!(error.to_string(), "[unsupported fieldPath: spec.x, no such resource]");
}

fn api_access_pod(security: serde_json::Value, container_security: serde_json::Value) -> Pod {
    pod(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {
            "securityContext": security,
            "containers": [{"name": "c", "securityContext": container_security, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "projected": {"defaultMode": 0o644, "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            ]}}],
        }
    }))
}

fn project(pod: &Pod, map: Option<&ConfigMap>, token: Option<&str>) -> Result<Payload, PayloadError> {
    let volume = used_volumes(pod)[0].projected.clone().unwrap();
    let sources = Sources {
        config_map: &|_| map,
        secret: &|_| None,
        token: &|index| token.filter(|_| index == 0),
        certificate: &|_| None,
        trust_bundles: &|_| None,
        rank: &|_| 0,
        resource: &resource,
    };
    projected_payload(pod, &volume, &sources)
}

#[test]
fn projected_files() {
    let ca = config_map(json!({"data": {"ca.crt": "CA"}}));
    let pod = api_access_pod(json!({}), json!({}));
    assert_eq!(shown(&project(&pod, Some(&ca), Some("T")).unwrap()), ["ca.crt=CA:644", "namespace=ns:644", "token=T:644"]);
    let error = project(&pod, None, None).unwrap_err().to_string();
    assert_eq!(error, "[failed to fetch token: none was issued for token, configmap \"ca\" not found]");
}

#[test]
fn token_modes_follow_who_reads() {
    let ca = config_map(json!({"data": {"ca.crt": "CA"}}));
    let cases = [
        (json!({}), json!({}), 0o644, None),
        (json!({"fsGroup": 2000}), json!({}), 0o600, None),
        (json!({"runAsUser": 1000}), json!({}), 0o600, Some(1000)),
        (json!({"runAsUser": 1000}), json!({"runAsUser": 7}), 0o600, Some(7)),
    ];
    for (security, container, mode, user) in cases {
        let payload = project(&api_access_pod(security.clone(), container), Some(&ca), Some("T")).unwrap();
        assert_eq!((payload["token"].mode, payload["token"].user), (mode, user), "{security}");
        assert_eq!(payload["ca.crt"].mode, 0o644);
    }
}

#[test]
fn one_user_or_none() {
    let of = |a: serde_json::Value, b: serde_json::Value| {
        fs_user(&pod(
            json!({"spec": {"containers": [{"name": "a", "securityContext": a}], "initContainers": [{"name": "b", "securityContext": b}]}}),
        ))
    };
    assert_eq!(of(json!({"runAsUser": 1}), json!({"runAsUser": 1})), Some(1));
    assert_eq!(of(json!({"runAsUser": 1}), json!({"runAsUser": 2})), None);
    assert_eq!(of(json!({"runAsUser": 1}), json!({})), None);
}

#[test]
fn references_of_volumes() {
    let pod = api_access_pod(json!({}), json!({}));
    let volume = used_volumes(&pod)[0];
    let found = volume_references(volume);
    assert_eq!(found.config_maps.iter().collect::<Vec<_>>(), ["ca"]);
    assert_eq!(found.tokens, [TokenReference { source: 0, audience: None, expiration_seconds: Some(3607) }]);
    assert!(holds_secrets(volume));
    let unused: Pod =
        serde_json::from_value(json!({"spec": {"containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": {}}]}})).unwrap();
    assert!(used_volumes(&unused).is_empty());
}

#[test]
fn memory_sizes() {
    let cases = [
        (None, None, 100, 100),
        (Some(10), None, 100, 10),
        (Some(1000), None, 100, 100),
        (None, Some(50), 100, 50),
        (Some(70), Some(50), 100, 50),
        (Some(0), Some(0), 100, 100),
        (Some(10), None, 0, 10),
    ];
    for (limit, pod, node, expected) in cases {
        assert_eq!(memory_size(limit, pod, node), expected, "{limit:?} {pod:?} {node}");
    }
    assert_eq!(empty_dir_medium(Some("HugePages-2Mi")), EmptyDirMedium::HugePages(Some("2Mi".into())));
    assert_eq!(empty_dir_medium(Some("HugePages")), EmptyDirMedium::HugePages(None));
    assert_eq!(empty_dir_medium(Some("HugePages2Mi")), EmptyDirMedium::Unknown("HugePages2Mi".into()));
    assert_eq!(empty_dir_medium(None), EmptyDirMedium::Disk);
}

#[test]
fn huge_pages_are_of_the_size_that_the_pod_asks_for() {
    let size = |resources: &[serde_json::Value], medium: &str| {
        let containers: Vec<_> =
            resources.iter().map(|limits| json!({"name": "c", "resources": {"limits": limits, "requests": limits}})).collect();
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap();
        let EmptyDirMedium::HugePages(size) = empty_dir_medium(Some(medium)) else { panic!("{medium}") };
        huge_page_size(&pod, size.as_deref()).map_err(|error| error.to_string())
    };
    let (small, large) = (json!({"hugepages-2Mi": "4Mi", "cpu": "1"}), json!({"hugepages-1Gi": "1Gi"}));
    let both = [small.clone(), large.clone()];
    assert_eq!(size(&[small.clone(), json!({})], "HugePages"), Ok(2 << 20));
    assert_eq!(size(&both, "HugePages-2Mi"), Ok(2 << 20));
    assert_eq!(size(&both, "HugePages-2048Ki"), Ok(2 << 20));
    assert_eq!(size(&both, "HugePages-1Gi"), Ok(1 << 30));
    let several = "medium: HugePages can't be used if container requests multiple huge page sizes";
    assert_eq!(size(&both, "HugePages"), Err(several.into()));
    let none = |medium: &str| format!("medium {medium}: hugePages storage requested, but there is no resource request for huge pages");
    for (resources, medium) in [(json!({}), "HugePages"), (small.clone(), "HugePages-1Gi"), (small, "HugePages-x")] {
        assert_eq!(size(&[resources], medium), Err(none(medium)));
    }
    assert_eq!(size(&[large], "HugePages"), Ok(1 << 30));
}

#[test]
fn host_path_types() {
    use FileKind::{Directory, File, Other, Socket};
    let check = |wanted, found| check_host_path("/x", wanted, found).map_err(|e| e.to_string());
    assert_eq!(check("", None), Ok(HostPathStep::Ready));
    assert_eq!(check("DirectoryOrCreate", None), Ok(HostPathStep::CreateDirectory));
    assert_eq!(check("FileOrCreate", None), Ok(HostPathStep::CreateFile));
    assert_eq!(check("Socket", Some(Socket)), Ok(HostPathStep::Ready));
    assert_eq!(check("Directory", Some(File)), Err("hostPath type check failed: /x is not a directory, it's a File".into()));
    assert_eq!(check("FileOrCreate", Some(Directory)), Err("hostPath type check failed: /x is not a file, it's a Directory".into()));
    assert_eq!(
        check("CharDevice", None),
        Err("hostPath type check failed, /x is not a character device, unable to determine its type: path \"/x\" does not exist".into())
    );
    assert!(check("File", Some(Other)).is_err());
    assert_eq!(check("Floppy", None), Err("Floppy is an invalid volume type".into()));
    assert_eq!(host_path_without_backsteps("/a/../b").unwrap_err().to_string(), "invalid HostPath `/a/../b`: must not contain '..'");
}

fn mount(value: serde_json::Value) -> VolumeMount {
    let mut mount = json!({"name": "v", "mountPath": "/m"});
    mount.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
    serde_json::from_value(mount).unwrap()
}

#[test]
fn sub_paths() {
    let env = |name: &str| match name {
        "POD" => Some("p0".to_owned()),
        "UP" => Some("../../etc".to_owned()),
        "ROOT" => Some("/tmp".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    let of = |value| sub_path(&mount(value), &env).map_err(|e| e.to_string());
    assert_eq!(of(json!({})), Ok(None));
    assert_eq!(of(json!({"subPath": "a/b"})), Ok(Some("a/b".into())));
    assert_eq!(of(json!({"subPath": "$(POD)"})), Ok(Some("$(POD)".into())));
    assert_eq!(of(json!({"subPathExpr": "x-$(POD)-$$(POD)-$y$("})), Ok(Some("x-p0-$(POD)-$y$(".into())));
    assert_eq!(of(json!({"subPathExpr": "$(B)/$(A)/$(EMPTY)"})), Err("missing value for A, B, EMPTY".into()));
    assert_eq!(of(json!({"subPathExpr": "$(ROOT)"})), Err("error SubPath `/tmp` must not be an absolute path".into()));
    assert_eq!(of(json!({"subPathExpr": "$(UP)"})), Err("unable to provision SubPath `../../etc`: must not contain '..'".into()));
}

#[test]
fn mount_options() {
    assert_eq!(propagation(None), Ok(Propagation::Private));
    assert_eq!(propagation(Some("Bidirectional")), Ok(Propagation::Bidirectional));
    assert!(propagation(Some("Both")).is_err());
    let of = |value, supported| recursive_read_only(&mount(value), supported).map_err(|e| e.to_string());
    assert_eq!(of(json!({"readOnly": true, "recursiveReadOnly": "IfPossible"}), false), Ok(false));
    assert_eq!(of(json!({"readOnly": true, "recursiveReadOnly": "Enabled"}), true), Ok(true));
    assert_eq!(of(json!({"recursiveReadOnly": "Disabled"}), true), Ok(false));
    assert!(of(json!({"recursiveReadOnly": "Enabled"}), true).unwrap_err().ends_with("but it is not read-only"));
    assert!(of(json!({"readOnly": true, "recursiveReadOnly": "Enabled"}), false).unwrap_err().ends_with("not supported by the runtime"));
    let both = json!({"readOnly": true, "recursiveReadOnly": "Enabled", "mountPropagation": "HostToContainer"});
    assert!(of(both, true).unwrap_err().ends_with("not compatible with propagation \"HostToContainer\""));
    assert_eq!(absolute_mount_path(&mount(json!({"mountPath": "a/b"}))), "/a/b");
}

#[test]
fn mount_points_inside_a_volume() {
    let mounts = |paths: &[(&str, &str)]| -> Vec<_> { paths.iter().map(|(n, p)| json!({"name": n, "mountPath": p})).collect() };
    let pod = pod(json!({"spec": {"containers": [
        {"name": "a", "volumeMounts": mounts(&[("v", "/dir/"), ("w", "/dir/nested"), ("x", "/dir/nested/deep"), ("y", "/dir/nested2"), ("z", "/dirt")])},
        {"name": "b", "volumeMounts": mounts(&[("v", "/other"), ("w", "/other/a/../../../etc"), ("x", "/other/q/r")])},
    ]}}));
    assert_eq!(nested_mount_points("v", &pod).into_iter().collect::<Vec<_>>(), ["nested", "nested2", "q/r"]);
    assert_eq!(nested_mount_points("w", &pod).into_iter().collect::<Vec<_>>(), ["deep"]);
}

#[test]
fn token_life() {
    let now: jiff::Timestamp = "2025-01-01T00:00:00Z".parse().unwrap();
    let after = |seconds: i64| now + jiff::SignedDuration::from_secs(seconds);
    // An hour: refreshed with less than 12 minutes left.
    assert!(!token_needs_refresh(now, after(721), Some(3600)));
    assert!(token_needs_refresh(now, after(720), Some(3600)));
    // A year: refreshed after a day.
    let year = 365 * 24 * 3600;
    assert!(!token_needs_refresh(now, after(year - 86_399), Some(year)));
    assert!(token_needs_refresh(now, after(year - 86_400), Some(year)));
    assert!(!token_needs_refresh(now, after(1), None));
}
