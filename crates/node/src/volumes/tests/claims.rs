use kube_pet_host::mounts::is_listed;

use super::*;

const CLAIM: &str = "/api/v1/namespaces/ns/persistentvolumeclaims/c";
const VOLUME: &str = "/api/v1/persistentvolumes/pv";

impl Machine {
    /// A claim with a phase, and the volume behind it.
    fn claimed(&self, phase: &str, source: Value) {
        self.server.set(
            CLAIM,
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "ns", "uid": "claim-1"},
                "spec": {"volumeName": "pv"}, "status": {"phase": phase}}),
        );
        let mut spec = json!({"claimRef": {"name": "c", "namespace": "ns", "uid": "claim-1"}, "volumeMode": "Filesystem"});
        spec.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        self.server.set(VOLUME, json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": spec}));
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.root.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

fn claiming(uid: &str, security: Value) -> Pod {
    let mut pod = pod(security, json!([{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "e", "emptyDir": {}}]));
    pod.metadata.uid = Some(uid.to_owned());
    pod
}

fn mounted(machine: &Machine, pod: &Pod, volumes: &PodVolumes) -> ContainerMount {
    let container = &pod.spec.as_ref().unwrap().containers[0];
    machine.volumes.mounts_for(pod, container, volumes, &|_| None, None).unwrap().remove(0)
}

#[tokio::test]
async fn mounts_a_claim_is_waited_for_and_its_data_outlives_pods_restarts_and_outages() {
    let machine = Machine::new();
    let disk = machine.folder("disk");
    fs::write(disk.join("old"), "x").unwrap();
    let pod = claiming("uid-1", json!({"fsGroup": 4321}));
    let waits = |text: &str| {
        vec![format!(
            "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: {text}"
        )]
    };
    let none = "error processing PVC ns/c: failed to fetch PVC from API server: persistentvolumeclaims \"c\" not found";
    assert_eq!(machine.prepare(&pod).await.unwrap_err(), waits(none));
    machine.claimed("Pending", json!({"local": {"path": disk}}));
    assert_eq!(machine.prepare(&pod).await.unwrap_err(), waits("error processing PVC ns/c: PVC is not bound"));
    assert!(!machine.state().join("claims.json").exists());

    machine.claimed("Bound", json!({"local": {"path": disk}}));
    let volumes = machine.prepare(&pod).await.unwrap();
    let path = volumes.path("data").unwrap().clone();
    assert_eq!(path, machine.state().join("volumes/kubernetes.io~local-volume/pv"));
    assert_eq!(machine.volumes.mounted(&"uid-1".into()), [("data".to_owned(), path.clone())].into());
    assert_eq!((fs::metadata(disk.join("old")).unwrap().gid(), mode(&disk) & 0o2070), (4321, 0o2070));
    let mount = mounted(&machine, &pod, &volumes);
    assert!(!mount.read_only && mount.selinux_relabel);
    fs::write(path.join("new"), "y").unwrap();
    assert_eq!(machine.prepare(&pod).await.unwrap(), volumes);
    assert_eq!(mounts::below(machine.root.path()).unwrap().len(), 1);

    // The agent starts again, and the machine, while no API server answers.
    machine.server.fail(CLAIM, StatusCode::SERVICE_UNAVAILABLE, "down");
    assert_eq!(machine.restarted().prepare(&pod, &context()).await.unwrap(), volumes);
    mounts::unmount_below(machine.root.path()).unwrap();
    assert_eq!(machine.restarted().prepare(&pod, &context()).await.unwrap(), volumes);
    assert_eq!(read(&path.join("new")), "y");
    machine.claimed("Bound", json!({"local": {"path": disk}}));
    machine.server.fail(VOLUME, StatusCode::SERVICE_UNAVAILABLE, "down");
    assert_eq!(machine.restarted().prepare(&pod, &context()).await.unwrap(), volumes);

    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    assert!(!machine.state().exists() && mounts::below(machine.root.path()).unwrap().is_empty());
    assert_eq!((read(&disk.join("old")), read(&disk.join("new"))), ("x".into(), "y".into()));
    let fetch = "error processing PVC ns/c: failed to fetch PV pv from API server: getting persistentvolume pv: down (status 503)";
    assert_eq!(machine.prepare(&pod).await.unwrap_err(), waits(fetch));
}

#[tokio::test]
async fn mounts_a_claim_may_be_read_only_and_its_volume_of_many_kinds() {
    let machine = Machine::new();
    let disk = machine.folder("disk");
    let read_only = pod(json!({"fsGroup": 4321}), json!([{"name": "data", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}}]));
    machine.claimed("Bound", json!({"local": {"path": disk}, "mountOptions": ["noexec", "discard"]}));
    let volumes = machine.prepare(&read_only).await.unwrap();
    let path = volumes.path("data").unwrap();
    assert!(fs::write(path.join("f"), "").is_err());
    assert!(rustix::fs::statvfs(path).unwrap().f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC));
    assert_ne!(fs::metadata(&disk).unwrap().gid(), 4321);
    let mount = mounted(&machine, &read_only, &volumes);
    assert!(mount.read_only && !mount.selinux_relabel);
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();

    machine.claimed("Bound", json!({"hostPath": {"path": disk.join("made"), "type": "DirectoryOrCreate"}}));
    let volumes = machine.prepare(&claiming("uid-1", json!({"fsGroup": 4321}))).await.unwrap();
    assert_eq!(volumes.path("data").unwrap(), &disk.join("made"));
    assert_ne!(fs::metadata(disk.join("made")).unwrap().gid(), 4321);
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    fs::write(disk.join("file"), "").unwrap();
    symlink(&disk, machine.root.path().join("link")).unwrap();

    let labels = [("zone".to_owned(), "here".to_owned())].into();
    let here = VolumeContext { node: Arc::new(NodeInfo { labels, ..NodeInfo::default() }), ..VolumeContext::default() };
    let zone = |zone: &str| json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}});
    let failed = |operation: &str, text: &str| format!("MountVolume.{operation} for volume \"pv\" : {text}");
    let at = |name: &str| disk.join(name).display().to_string();
    for (source, expected) in [
        (json!({"local": {"path": machine.root.path().join("link")}, "nodeAffinity": zone("here")}), None),
        (
            json!({"local": {"path": disk}, "nodeAffinity": zone("there")}),
            Some(failed("NodeAffinity check failed", "no matching NodeSelectorTerms")),
        ),
        (
            json!({"hostPath": {"path": disk}, "mountOptions": ["noatime"]}),
            Some(failed("MountOptionSupport check failed", "mount options are not supported for this volume type")),
        ),
        (
            json!({"hostPath": {"path": at("file"), "type": "Directory"}}),
            Some(failed("SetUp failed", &format!("hostPath type check failed: {} is not a directory, it's a File", at("file")))),
        ),
        (
            json!({"local": {"path": at("none")}}),
            Some(failed("NewMounter initialization failed", &format!("path \"{}\" does not exist", at("none")))),
        ),
        (
            json!({"local": {"path": at("file")}}),
            Some(failed(
                "NewMounter initialization failed",
                &format!("only directories are supported by this node, and {} is a File", at("file")),
            )),
        ),
        (json!({"local": {"path": "/a/../b"}}), Some(failed("SetUp failed", "invalid path: /a/../b must not contain '..'"))),
        (
            json!({"csi": {"driver": "d", "volumeHandle": "h"}}),
            Some(
                "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: \
                 error processing PVC ns/c: PV pv is a volume of type csi, which is not supported by this node"
                    .to_owned(),
            ),
        ),
    ] {
        machine.claimed("Bound", source.clone());
        let done = machine.volumes.prepare(&claiming("uid-1", json!({})), &here).await.map_err(texts);
        assert_eq!(done.map(drop).map_err(|texts| texts.join("\n")), expected.map_or(Ok(()), Err), "{source}");
        machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    }
}

/// What cannot be unmounted keeps the pod's folder: the data behind it is not the pod's.
#[tokio::test]
async fn mounts_nothing_is_removed_of_a_volume_that_stays_mounted() {
    let machine = Machine::new();
    let disk = machine.folder("disk");
    fs::write(disk.join("precious"), "x").unwrap();
    machine.claimed("Bound", json!({"local": {"path": disk}}));
    machine.prepare(&claiming("uid-1", json!({}))).await.unwrap();
    let layout = Layout::new(&machine.volumes.paths, &"uid-1".into());
    let errors = texts(teardown::all(&layout, &machine.volumes.claims, Vec::new()).unwrap_err());
    assert_eq!(
        errors,
        [format!("UnmountVolume.TearDown failed: {} is still mounted", layout.volume("local-volume", "pv", false).display())]
    );
    assert!(matches!(remove_tree(&layout.disk()), Err(RemovalError::Mounted { .. })));
    assert_eq!(read(&disk.join("precious")), "x");
    assert!(layout.claims().exists(), "it is the pod's still");
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    assert_eq!(read(&disk.join("precious")), "x");
}

#[tokio::test]
async fn mounts_a_volume_for_one_pod_is_for_one_pod() {
    let machine = Machine::new();
    let disk = machine.folder("disk");
    machine.claimed("Bound", json!({"local": {"path": disk}, "accessModes": ["ReadWriteOncePod"]}));
    let (first, second) = (claiming("uid-1", json!({})), claiming("uid-2", json!({})));
    let volumes = machine.prepare(&first).await.unwrap();
    let taken =
        "MountVolume.SetUp failed for volume \"pv\" : volume uses the ReadWriteOncePod access mode and is already in use by another pod";
    assert_eq!(machine.prepare(&second).await.unwrap_err(), [taken]);
    // Who has it is known after a restart, too, and has it still.
    let restarted = machine.restarted();
    assert_eq!(restarted.prepare(&second, &context()).await.map_err(texts).unwrap_err(), [taken]);
    assert_eq!(restarted.prepare(&first, &context()).await.unwrap(), volumes);
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    machine.prepare(&second).await.unwrap();
    machine.volumes.teardown(&"uid-2".into()).await.unwrap();
}

#[tokio::test]
async fn mounts_two_pods_share_a_volume_and_the_first_ones_group_holds() {
    let machine = Machine::new();
    let disk = machine.folder("disk");
    machine.claimed("Bound", json!({"local": {"path": disk}}));
    let (first, second) = (claiming("uid-1", json!({"fsGroup": 4321})), claiming("uid-2", json!({"fsGroup": 1234})));
    assert!(machine.prepare(&first).await.unwrap().warnings().is_empty());
    let volumes = machine.prepare(&second).await.unwrap();
    let text = "The requested fsGroup is 1234, but the volume pv has GID 4321. The volume may not be shareable.";
    assert_eq!(volumes.warnings(), [("AlreadyMountedVolume", text.to_owned())]);
    assert_eq!(fs::metadata(&disk).unwrap().gid(), 4321);
    fs::write(volumes.path("data").unwrap().join("f"), "x").unwrap();
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    assert_eq!(read(&volumes.path("data").unwrap().join("f")), "x");
    assert!(is_listed(volumes.path("data").unwrap()).unwrap());
    machine.volumes.teardown(&"uid-2".into()).await.unwrap();
    assert_eq!(read(&disk.join("f")), "x");

    // Only what does not belong to the group yet is given to it, if that is the policy.
    let lazy = claiming("uid-1", json!({"fsGroup": 4321, "fsGroupChangePolicy": "OnRootMismatch"}));
    std::os::unix::fs::chown(disk.join("f"), None, Some(7)).unwrap();
    machine.prepare(&lazy).await.unwrap();
    assert_eq!(fs::metadata(disk.join("f")).unwrap().gid(), 7);
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    machine.prepare(&first).await.unwrap();
    assert_eq!(fs::metadata(disk.join("f")).unwrap().gid(), 4321);
}

#[tokio::test]
async fn mounts_the_claim_of_an_ephemeral_volume_is_the_pods_own() {
    let machine = Machine::new();
    let disk = machine.folder("disk");
    machine.claimed("Bound", json!({"local": {"path": disk}}));
    let pod = pod(json!({}), json!([{"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]));
    let claim = |owners: Value| {
        let metadata = json!({"name": "p-data", "namespace": "ns", "uid": "claim-1", "ownerReferences": owners});
        let object = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
            "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
        machine.server.set("/api/v1/namespaces/ns/persistentvolumeclaims/p-data", object);
    };
    claim(json!([]));
    let errors = machine.prepare(&pod).await.unwrap_err().join("");
    assert!(errors.ends_with("PVC ns/p-data was not created for pod ns/p (pod is not owner)"), "{errors}");
    claim(json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "uid-1", "controller": true}]));
    machine.prepare(&pod).await.unwrap();
}
