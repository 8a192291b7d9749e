use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use kube_pet_host::mounts::{self, BindOptions};
use serde_json::{Value, json};

use super::*;
use crate::objects::tests::fake::FakeServer;

mod certificates;
mod claims;
mod images;
mod removals;
mod servers;
mod sub_paths;
mod trust_bundles;

/// A machine with an API server. Unmounts what a test leaves behind, also if it fails.
struct Machine {
    root: tempfile::TempDir,
    server: FakeServer,
    volumes: VolumeManager,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = mounts::unmount_below(self.root.path());
    }
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let server = FakeServer::default();
        let volumes = VolumeManager::new(Paths::new(root.path()), server.fetcher());
        Self { root, server, volumes }
    }

    /// The same machine after a restart of the agent: nothing in memory is known.
    fn restarted(&self) -> VolumeManager {
        VolumeManager::new(Paths::new(self.root.path()), self.server.fetcher())
    }

    fn state(&self) -> PathBuf {
        self.volumes.paths.pod_dir(&"uid-1".into())
    }

    fn runtime(&self) -> PathBuf {
        self.volumes.paths.pod_run_dir(&"uid-1".into())
    }

    fn config_map(&self, name: &str, data: Value) {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
        self.server.set(&format!("/api/v1/namespaces/ns/configmaps/{name}"), object);
    }

    fn secret(&self, name: &str, data: Value) {
        let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data});
        self.server.set(&format!("/api/v1/namespaces/ns/secrets/{name}"), object);
    }

    fn token(&self, text: &str) {
        let expires = Timestamp::now() + SignedDuration::from_secs(3600);
        let object = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
            "spec": {"audiences": [], "expirationSeconds": 3600},
            "status": {"token": text, "expirationTimestamp": expires.to_string()}});
        self.server.set("/api/v1/namespaces/ns/serviceaccounts/default/token", object);
    }

    async fn prepare(&self, pod: &Pod) -> Result<PodVolumes, Vec<String>> {
        self.volumes.prepare(pod, &context()).await.map_err(texts)
    }
}

fn texts(errors: Vec<VolumeError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn context() -> VolumeContext {
    let allocatable = serde_json::from_value(json!({"memory": "64Mi", "cpu": "2"})).unwrap();
    VolumeContext { node: Arc::new(NodeInfo { allocatable, ..NodeInfo::default() }), ..VolumeContext::default() }
}

/// A pod that mounts each of `volumes` at `/<name>`.
fn pod(security: Value, volumes: Value) -> Pod {
    let mounts: Vec<Value> = volumes
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| json!({"name": volume["name"], "mountPath": format!("/{}", volume["name"].as_str().unwrap())}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "uid-1", "labels": {"app": "x"}},
        "spec": {"serviceAccountName": "default", "securityContext": security, "volumes": volumes,
            "containers": [{"name": "c", "volumeMounts": mounts}]},
    }))
    .unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn is_tmpfs(path: &Path) -> bool {
    rustix::fs::statfs(path).unwrap().f_type == 0x0102_1994
}

/// Whether a file below `folder` contains `text`.
fn contains(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder).unwrap().map(Result::unwrap).any(|entry| {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            contains(&entry.path(), text)
        } else {
            kind.is_file() && fs::read(entry.path()).unwrap().windows(text.len()).any(|part| part == text.as_bytes())
        }
    })
}

#[tokio::test]
async fn mounts_every_kind_of_volume_is_filled_and_goes_away() {
    let machine = Machine::new();
    machine.config_map("m", json!({"a": "1", "b": "2"}));
    machine.secret("s", json!({"p": "aHVudGVyMg=="}));
    machine.token("token-text");
    let pod = pod(
        json!({}),
        json!([
            {"name": "all", "configMap": {"name": "m", "defaultMode": 0o644}},
            {"name": "some", "configMap": {"name": "m", "defaultMode": 0o644, "items": [{"key": "a", "path": "x/y", "mode": 0o400}]}},
            {"name": "secret", "secret": {"secretName": "s", "defaultMode": 0o440}},
            {"name": "down", "downwardAPI": {"defaultMode": 0o644, "items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}}]}},
            {"name": "api", "projected": {"defaultMode": 0o644, "sources": [
                {"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "m"}}]}},
            {"name": "scratch", "emptyDir": {}},
        ]),
    );
    let volumes = machine.prepare(&pod).await.unwrap();
    let file = |volume: &str, name: &str| volumes.path(volume).unwrap().join(name);
    assert_eq!((read(&file("all", "a")), read(&file("all", "b"))), ("1".into(), "2".into()));
    assert_eq!((read(&file("some", "x/y")), mode(&file("some", "x/y"))), ("1".into(), 0o400));
    assert_eq!((read(&file("secret", "p")), mode(&file("secret", "p"))), ("hunter2".into(), 0o440));
    assert_eq!(read(&file("down", "labels")), "app=\"x\"");
    assert_eq!(read(&file("down", "cpu")), "2");
    assert_eq!((read(&file("api", "token")), mode(&file("api", "token"))), ("token-text".into(), 0o644));
    assert_eq!(mode(&file("scratch", "")), 0o777);
    assert!(is_tmpfs(&file("secret", "")) && is_tmpfs(&file("api", "")));
    assert!(!contains(&machine.state(), "hunter2") && !contains(&machine.state(), "token-text"));

    let before = fs::read_link(file("all", "..data")).unwrap();
    assert_eq!(machine.prepare(&pod).await.unwrap(), volumes);
    assert_eq!(fs::read_link(file("all", "..data")).unwrap(), before);
    assert_eq!(mounts::below(machine.root.path()).unwrap().len(), 1);

    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    assert!(mounts::below(machine.root.path()).unwrap().is_empty());
    assert!(!machine.state().exists() && !machine.runtime().exists());
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
}

#[tokio::test]
async fn mounts_a_missing_object_blocks_until_it_appears() {
    let machine = Machine::new();
    let pod = pod(
        json!({}),
        json!([
            {"name": "v", "configMap": {"name": "m"}},
            {"name": "o", "secret": {"secretName": "absent", "optional": true}},
            {"name": "p", "projected": {"sources": [{"secret": {"name": "s"}}, {"configMap": {"name": "m"}}]}},
        ]),
    );
    let errors = machine.volumes.prepare(&pod, &context()).await.unwrap_err();
    assert!(errors.iter().all(VolumeError::is_retryable));
    assert_eq!(
        texts(errors),
        [
            "MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found",
            "MountVolume.SetUp failed for volume \"p\" : [secret \"s\" not found, configmap \"m\" not found]",
        ]
    );
    machine.config_map("m", json!({"a": "1"}));
    machine.secret("s", json!({}));
    let volumes = machine.prepare(&pod).await.unwrap();
    assert_eq!(read(&volumes.path("p").unwrap().join("a")), "1");
    assert_eq!(fs::read_dir(volumes.path("o").unwrap().join("..data")).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn mounts_a_refresh_follows_the_objects() {
    let machine = Machine::new();
    machine.config_map("m", json!({"a": "1", "gone": "x"}));
    let pod = pod(
        json!({}),
        json!([
            {"name": "v", "configMap": {"name": "m"}},
            {"name": "o", "secret": {"secretName": "later", "optional": true}},
            {"name": "d", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels['app']"}}]}},
        ]),
    );
    machine.volumes.refresh(&pod, &context()).await.unwrap();
    assert!(!machine.state().exists(), "a refresh sets nothing up");
    let volumes = machine.prepare(&pod).await.unwrap();
    let file = |volume: &str, name: &str| volumes.path(volume).unwrap().join(name);
    let before = fs::read_link(file("v", "..data")).unwrap();
    machine.volumes.refresh(&pod, &context()).await.unwrap();
    assert_eq!(fs::read_link(file("v", "..data")).unwrap(), before);

    machine.config_map("m", json!({"a": "2", "new": "y"}));
    machine.secret("later", json!({"k": "dg=="}));
    let mut changed = pod.clone();
    changed.metadata.labels = Some([("app".to_owned(), "z".to_owned())].into());
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    machine.volumes.refresh(&changed, &context()).await.unwrap();
    assert_eq!((read(&file("v", "a")), read(&file("v", "new"))), ("2".into(), "y".into()));
    assert!(fs::symlink_metadata(file("v", "gone")).is_err());
    assert_eq!((read(&file("o", "k")), read(&file("d", "l"))), ("v".into(), "z".into()));

    // An object that is deleted leaves its files, with an error; so does an outage, after a restart of the agent, without one.
    machine.server.remove("/api/v1/namespaces/ns/configmaps/m");
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let errors = machine.volumes.refresh(&pod, &context()).await.unwrap_err();
    assert_eq!(texts(errors), ["MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found"]);
    assert_eq!(read(&file("v", "a")), "2");
    machine.server.fail("/api/v1/namespaces/ns/configmaps/m", StatusCode::SERVICE_UNAVAILABLE, "down");
    let restarted = machine.restarted().prepare(&pod, &context()).await.unwrap();
    assert_eq!(read(&restarted.path("v").unwrap().join("a")), "2");

    // Unmounting is waited for on a clock.
    tokio::time::resume();
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    machine.volumes.refresh(&pod, &context()).await.unwrap();
    assert!(!machine.state().exists() && !machine.runtime().exists());
}

#[tokio::test]
async fn mounts_an_empty_dir_keeps_what_the_pod_wrote() {
    let machine = Machine::new();
    let pod = pod(
        json!({"fsGroup": 4321}),
        json!([
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}},
            {"name": "large", "emptyDir": {"medium": "Memory"}},
        ]),
    );
    let volumes = machine.prepare(&pod).await.unwrap();
    let path = |volume: &str| volumes.path(volume).unwrap().clone();
    for volume in ["disk", "memory"] {
        let status = fs::metadata(path(volume)).unwrap();
        assert_eq!((status.gid(), status.mode() & 0o2777), (4321, 0o2777), "{volume}");
        fs::write(path(volume).join("f"), volume).unwrap();
        fs::set_permissions(path(volume), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let size = |volume: &str| {
        let status = rustix::fs::statvfs(path(volume)).unwrap();
        status.f_blocks * status.f_frsize
    };
    assert!(is_tmpfs(&path("memory")) && !is_tmpfs(&path("disk")));
    assert_eq!((size("memory"), size("large")), (2 << 20, 64 << 20));
    machine.restarted().prepare(&pod, &context()).await.unwrap();
    assert_eq!((read(&path("disk").join("f")), read(&path("memory").join("f"))), ("disk".into(), "memory".into()));
    assert_eq!((mode(&path("disk")), mode(&path("memory"))), (0o700, 0o700));

    // A reboot: the mounts are gone, the files on disk are not.
    mounts::unmount_below(machine.root.path()).unwrap();
    machine.restarted().prepare(&pod, &context()).await.unwrap();
    assert!(is_tmpfs(&path("memory")) && !path("memory").join("f").exists());
    assert_eq!(read(&path("disk").join("f")), "disk");
}

#[tokio::test]
async fn mounts_files_belong_to_the_fs_group() {
    let machine = Machine::new();
    machine.secret("s", json!({"p": "eA=="}));
    machine.token("t");
    let volumes = json!([
        {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}},
        {"name": "t", "projected": {"defaultMode": 0o644, "sources": [{"serviceAccountToken": {"path": "token"}}]}},
    ]);
    let group = machine.prepare(&pod(json!({"fsGroup": 4321}), volumes.clone())).await.unwrap();
    let of = |path: &Path| (fs::metadata(path).unwrap().gid(), mode(path));
    assert_eq!(of(&group.path("s").unwrap().join("p")), (4321, 0o440));
    assert_eq!(of(&group.path("t").unwrap().join("token")), (4321, 0o640));
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    machine.token("t2");
    let user = machine.prepare(&pod(json!({"runAsUser": 1234}), volumes)).await.unwrap();
    let token = user.path("t").unwrap().join("token");
    assert_eq!((fs::metadata(&token).unwrap().uid(), mode(&token), read(&token)), (1234, 0o600, "t2".into()));
}

#[tokio::test]
async fn mounts_host_paths_are_checked_and_made() {
    let machine = Machine::new();
    let outside = machine.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "x").unwrap();
    let at = |name: &str| outside.join(name).display().to_string();
    let good = json!([
        {"name": "d", "hostPath": {"path": at("made/deep"), "type": "DirectoryOrCreate"}},
        {"name": "f", "hostPath": {"path": at("made-file"), "type": "FileOrCreate"}},
        {"name": "any", "hostPath": {"path": at("later"), "type": ""}},
    ]);
    let good = pod(json!({"fsGroup": 4321}), good);
    let volumes = machine.prepare(&good).await.unwrap();
    assert_eq!((mode(&outside.join("made/deep")), mode(&outside.join("made-file"))), (0o755, 0o644));
    assert_ne!(fs::metadata(outside.join("made/deep")).unwrap().gid(), 4321);
    let container = &good.spec.as_ref().unwrap().containers[0];
    let mounted = machine.volumes.mounts_for(&good, container, &volumes, &|_| None, None).unwrap();
    assert_eq!(mounted[0].source, outside.join("made/deep"));
    assert!(!mounted[0].selinux_relabel && !mounted[0].read_only);
    assert!(outside.join("later").is_dir());

    let bad = json!([
        {"name": "d", "hostPath": {"path": at("file"), "type": "Directory"}},
        {"name": "s", "hostPath": {"path": at("none"), "type": "Socket"}},
        {"name": "up", "hostPath": {"path": "/a/../etc"}},
    ]);
    let (file, none) = (at("file"), at("none"));
    assert_eq!(
        machine.prepare(&pod(json!({}), bad)).await.unwrap_err(),
        [
            format!("MountVolume.SetUp failed for volume \"d\" : hostPath type check failed: {file} is not a directory, it's a File"),
            format!(
                "MountVolume.SetUp failed for volume \"s\" : hostPath type check failed, {none} is not a socket file, unable to determine its type: path \"{none}\" does not exist"
            ),
            "MountVolume.SetUp failed for volume \"up\" : invalid HostPath `/a/../etc`: must not contain '..'".to_owned(),
        ]
    );
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    assert_eq!(read(&outside.join("file")), "x");
}

#[tokio::test]
async fn mounts_what_is_not_supported_is_refused_for_good() {
    let machine = Machine::new();
    let volumes = json!([
        {"name": "disk", "iscsi": {"targetPortal": "t", "iqn": "i", "lun": 0}},
        {"name": "huge", "emptyDir": {"medium": "HugePages"}},
        {"name": "../../x", "emptyDir": {}},
    ]);
    let errors = machine.volumes.prepare(&pod(json!({}), volumes), &context()).await.unwrap_err();
    assert!(errors.iter().all(|error| !error.is_retryable()), "{errors:?}");
    assert_eq!(errors[0].volume(), Some("disk"));
    assert_eq!(
        texts(errors),
        [
            "MountVolume.SetUp failed for volume \"disk\" : volume type iscsi is not supported by this node",
            "MountVolume.SetUp failed for volume \"huge\" : medium HugePages: hugePages storage requested, but there is no resource request for huge pages",
            "MountVolume.SetUp failed for volume \"../../x\" : invalid volume name \"../../x\"",
        ]
    );
    assert!(!machine.root.path().join("var").join("x").exists());
}

#[tokio::test]
async fn mounts_folders_without_a_pod_are_found() {
    let machine = Machine::new();
    assert!(machine.volumes.orphans([]).await.unwrap().is_empty());
    machine.secret("s", json!({}));
    let pod = pod(json!({}), json!([{"name": "s", "secret": {"secretName": "s"}}, {"name": "e", "emptyDir": {}}]));
    machine.prepare(&pod).await.unwrap();
    fs::create_dir_all(machine.volumes.paths.pods_dir().join("uid-2")).unwrap();
    assert_eq!(machine.volumes.orphans([]).await.unwrap(), ["uid-1".into(), "uid-2".into()]);
    assert_eq!(machine.volumes.orphans(["uid-1".into()]).await.unwrap(), ["uid-2".into()]);
}
