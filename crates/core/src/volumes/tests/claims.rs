use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::Value;

use super::*;
use crate::node::NodeInfo;

fn user(volume: Value) -> Pod {
    let mut volume = volume;
    volume["name"] = json!("v");
    pod(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "pod-1"}, "spec": {"containers": [], "volumes": [volume]}}))
}

fn reference(pod: &Pod) -> ClaimReference {
    claim_reference(pod, &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0]).unwrap()
}

fn merged(mut value: Value, changes: Value) -> Value {
    for (key, change) in changes.as_object().unwrap() {
        value[key] = if change.is_object() && value[key].is_object() { merged(value[key].take(), change.clone()) } else { change.clone() };
    }
    value
}

fn claim(changes: Value) -> PersistentVolumeClaim {
    let object = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "claim-1"}, "spec": {"volumeName": "pv"},
        "status": {"phase": "Bound"}});
    serde_json::from_value(merged(object, changes)).unwrap()
}

fn volume(source: Value, changes: Value) -> PersistentVolume {
    let object = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"uid": "claim-1"}, "volumeMode": "Filesystem"}});
    let object = merged(object, json!({"spec": source}));
    serde_json::from_value(merged(object, changes)).unwrap()
}

#[test]
fn a_claim_leads_to_its_volume_or_says_why_not() {
    let own = user(json!({"persistentVolumeClaim": {"claimName": "c"}}));
    let ephemeral = user(json!({"ephemeral": {}}));
    assert_eq!(reference(&own), ClaimReference { claim: "c".into(), read_only: false, ephemeral: false });
    assert_eq!(reference(&ephemeral), ClaimReference { claim: "p-v".into(), read_only: false, ephemeral: true });
    assert!(reference(&user(json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}}))).read_only);
    let not_claimed = user(json!({"emptyDir": {}}));
    assert_eq!(claim_reference(&not_claimed, &not_claimed.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0]), None);

    let of = |pod: &Pod, claim: Option<Value>| {
        let claim = claim.map(self::claim);
        bound_name(pod, &reference(pod), claim.as_ref()).map(str::to_owned).map_err(|error| error.to_string())
    };
    let leaving = |finalizers: Value| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers}});
    let owned = |uid: &str, controller: bool| json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": controller}]}});
    let failed = |text: &str| Err(format!("error processing PVC ns/c: {text}"));
    for (pod, claim, expected) in [
        (&own, Some(json!({})), Ok("pv".to_owned())),
        (&own, None, failed("failed to fetch PVC from API server: persistentvolumeclaims \"c\" not found")),
        (&own, Some(json!({"status": {"phase": "Pending"}})), failed("PVC is not bound")),
        (&own, Some(json!({"status": {"phase": "Lost"}})), failed("PVC is not bound")),
        (&own, Some(json!({"status": null})), failed("PVC is not bound")),
        (&own, Some(json!({"spec": {"volumeName": ""}})), failed("PVC has empty pvc.Spec.VolumeName")),
        (&own, Some(leaving(json!(["kubernetes.io/pvc-protection"]))), Ok("pv".to_owned())),
        (&own, Some(leaving(json!(["somebody.else/protection"]))), failed("PVC is being deleted")),
        (&ephemeral, Some(owned("pod-1", true)), Ok("pv".to_owned())),
        (&ephemeral, Some(json!({})), Err("PVC ns/p-v was not created for pod ns/p (pod is not owner)".to_owned())),
        (&ephemeral, Some(owned("pod-0", true)), Err("PVC ns/p-v was not created for pod ns/p (pod is not owner)".to_owned())),
        (&ephemeral, Some(owned("pod-1", false)), Err("PVC ns/p-v was not created for pod ns/p (pod is not owner)".to_owned())),
    ] {
        assert_eq!(of(pod, claim.clone()), expected, "{claim:?}");
    }
}

#[test]
fn kinds_of_persistent_volumes() {
    let of = |source: Value, changes: Value| {
        bound_volume(&claim(json!({})), "v", "pv", Some(&volume(source, changes))).map_err(|error| error.to_string())
    };
    let bound = of(json!({"hostPath": {"path": "/x", "type": "Directory"}}), json!({})).unwrap();
    assert_eq!(bound.source, PersistentSource::HostPath { path: "/x".into(), wanted: "Directory".into() });
    assert!(!bound.one_pod && bound.group.is_none() && bound.mount_options.is_empty());
    let options = json!({"spec": {"mountOptions": ["noatime"], "accessModes": ["ReadWriteOncePod"]}});
    let bound = of(json!({"local": {"path": "/x"}}), options).unwrap();
    assert_eq!((bound.source, bound.mount_options), (PersistentSource::Local { path: "/x".into() }, vec!["noatime".to_owned()]));
    assert!(bound.one_pod);
    let annotations = json!({"volume.beta.kubernetes.io/mount-options": "hard,,vers=4", "pv.beta.kubernetes.io/gid": "1234"});
    let old = json!({"metadata": {"annotations": annotations}, "spec": {"mountOptions": ["soft"], "accessModes": ["ReadWriteOncePod", "ReadOnlyMany"]}});
    let bound = of(json!({"nfs": {"server": "s", "path": "/x"}}), old).unwrap();
    assert_eq!(bound.source, PersistentSource::Nfs { server: "s".into(), path: "/x".into() });
    assert_eq!((bound.mount_options, bound.group, bound.one_pod), (vec!["hard".to_owned(), "vers=4".to_owned()], Some(1234), false));
    let kept: BoundVolume =
        serde_json::from_value(serde_json::to_value(of(json!({"local": {"path": "/x"}}), json!({})).unwrap()).unwrap()).unwrap();
    assert_eq!(kept.source, PersistentSource::Local { path: "/x".into() });

    let failed = |text: &str| Err(format!("error processing PVC ns/c: {text}"));
    let local = json!({"local": {"path": "/x"}});
    for (source, changes, expected) in [
        (
            json!({"csi": {"driver": "d", "volumeHandle": "h"}}),
            json!({}),
            failed("PV pv is a volume of type csi, which is not supported by this node"),
        ),
        (
            json!({"iscsi": {"targetPortal": "t", "iqn": "i", "lun": 0}}),
            json!({}),
            failed("PV pv is a volume of type iscsi, which is not supported by this node"),
        ),
        (
            local.clone(),
            json!({"spec": {"claimRef": null}}),
            failed("found PV object pv but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"),
        ),
        (
            local.clone(),
            json!({"spec": {"claimRef": {"uid": "other"}}}),
            failed("found PV object pv but its pv.Spec.ClaimRef.UID other does not point to claim.UID claim-1"),
        ),
        (
            local,
            json!({"spec": {"volumeMode": "Block"}}),
            Err("volume v has volumeMode Block, but is specified in volumeMounts".to_owned()),
        ),
    ] {
        assert_eq!(of(source, changes), expected);
    }
    let none = bound_volume(&claim(json!({})), "v", "pv", None).unwrap_err().to_string();
    assert_eq!(none, "error processing PVC ns/c: failed to fetch PV pv from API server: persistentvolumes \"pv\" not found");
}

#[test]
fn a_bound_volume_may_belong_to_other_nodes() {
    let node = NodeInfo { labels: [("zone".to_owned(), "here".to_owned())].into(), ..NodeInfo::default() };
    let check = |source: Value, terms: Option<Value>, options: Value| {
        let affinity = terms.map_or(Value::Null, |terms| json!({"required": {"nodeSelectorTerms": terms}}));
        let found = volume(source, json!({"spec": {"nodeAffinity": affinity, "mountOptions": options}}));
        let bound = bound_volume(&claim(json!({})), "v", "pv", Some(&found)).unwrap();
        check_bound_volume(&found, &bound, &node)
    };
    let zone = |zone: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
    let (local, host_path) = (json!({"local": {"path": "/x"}}), json!({"hostPath": {"path": "/x"}}));
    assert_eq!(check(local.clone(), None, json!(["noatime"])), Ok(()));
    assert_eq!(check(local.clone(), Some(json!([zone("there"), zone("here")])), json!([])), Ok(()));
    assert_eq!(check(local.clone(), Some(json!([zone("there")])), json!([])), Err(BoundVolumeError::NodeAffinity));
    assert_eq!(check(local, Some(json!([])), json!([])), Err(BoundVolumeError::NodeAffinity));
    assert_eq!(check(host_path.clone(), None, json!([])), Ok(()));
    assert_eq!(check(host_path, None, json!(["noatime"])), Err(BoundVolumeError::MountOptions));
}

#[test]
fn words_of_mount() {
    let options = |options: &[&str], read_only| joined_options(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>(), read_only);
    assert_eq!(options(&["vers=4.1", "hard", "hard"], false), ["hard", "vers=4.1"]);
    assert_eq!(options(&["hard", "ro"], true), ["hard", "ro"]);
    assert_eq!(options(&[], false), Vec::<String>::new());
    assert_eq!(nfs_source("10.0.0.1", "/x"), "10.0.0.1:/x");
    assert_eq!(nfs_source("fd00::1", "/x"), "[fd00::1]:/x");
    assert_eq!(nfs_source("host.example", "/"), "host.example:/");
}
