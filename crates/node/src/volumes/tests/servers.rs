//! Servers: a stand-in of mount(8), because machines of tests have no NFS, and a file system in user space that nobody answers for.

use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use kube_pet_host::mounts::is_listed;
use kube_pet_testkit::capability::available;
use rustix::mount::{MountFlags, mount};

use super::*;
use crate::volumes::foreign::Limits;

/// Mounts the folder `exports/<path>` by a bind; `refused` refuses and `hang` never comes to an end.
const PROGRAM: &str = "#!/bin/sh
echo \"$$ $*\" >> ROOT/calls
for word; do target=$source; source=$word; done
swap=$target; target=$source; source=$swap
case $source in
refused:*) echo \"mount.nfs: access denied by server while mounting $source\" >&2; exit 32 ;;
hang:*) sleep 1000 & wait ;;
esac
case \"$*\" in *'-o '*ro*) mode=,ro ;; esac
mount -o bind$mode \"ROOT/exports${source##*:}\" \"$target\"
";

fn machine() -> Machine {
    let mut machine = Machine::new();
    let (root, program) = (machine.root.path().to_owned(), machine.root.path().join("mount"));
    fs::create_dir_all(root.join("exports/a")).unwrap();
    fs::write(root.join("exports/a/precious"), "x").unwrap();
    fs::write(&program, PROGRAM.replace("ROOT", &root.display().to_string())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    machine.volumes.foreign.program = program;
    let second = Duration::from_secs(1);
    machine.volumes.foreign.limits = Limits { answer: second, set_up: second, unmount: second };
    machine
}

fn calls(machine: &Machine) -> Vec<String> {
    let calls = fs::read_to_string(machine.root.path().join("calls")).unwrap_or_default();
    calls.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

fn nfs(server: &str, read_only: bool) -> Pod {
    pod(
        json!({"fsGroup": 4321}),
        json!([{"name": "v", "nfs": {"server": server, "path": "/a", "readOnly": read_only}}, {"name": "e", "emptyDir": {}}]),
    )
}

/// A file system that nobody answers for: whoever asks it waits until it is dropped.
struct Dead(#[allow(dead_code, reason = "held open")] fs::File);

impl Dead {
    fn at(path: &Path) -> Option<Self> {
        let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").ok();
        if !available("FUSE", device.is_some()) {
            return None;
        }
        let device = device?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        mount("dead", path, "fuse", MountFlags::empty(), options.as_c_str()).unwrap();
        Some(Self(device))
    }
}

async fn container_mounts(machine: &Machine, pod: &Pod, volumes: PodVolumes) -> Result<Vec<ContainerMount>, String> {
    let container = pod.spec.as_ref().unwrap().containers[0].clone();
    machine
        .volumes
        .container_mounts(&Arc::new(pod.clone()), &container, Arc::new(volumes), Vec::new(), None)
        .await
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn mounts_a_folder_of_a_server() {
    let machine = machine();
    let export = machine.root.path().join("exports/a");
    let volumes = machine.prepare(&nfs("fd00::1", false)).await.unwrap();
    let path = volumes.path("v").unwrap().clone();
    assert_eq!(path, machine.state().join("volumes/kubernetes.io~nfs/v"));
    assert_eq!((read(&path.join("precious")), fs::metadata(&export).unwrap().gid()), ("x".into(), 0));
    assert_eq!(machine.prepare(&nfs("fd00::1", false)).await.unwrap(), volumes);
    assert_eq!(calls(&machine), [format!("-t nfs -- [fd00::1]:/a {}", path.display())]);
    let found = container_mounts(&machine, &nfs("fd00::1", false), volumes).await.unwrap();
    assert!(found[0].source == path && !found[0].read_only && !found[0].selinux_relabel);
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    assert!(!machine.state().exists() && export.join("precious").exists());

    let volumes = machine.prepare(&nfs("s", true)).await.unwrap();
    assert_eq!(calls(&machine)[1], format!("-t nfs -o ro -- s:/a {}", path.display()));
    assert!(fs::write(path.join("f"), "").is_err());
    assert!(container_mounts(&machine, &nfs("s", true), volumes).await.unwrap()[0].read_only);
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();

    let errors = machine.prepare(&nfs("refused", true)).await.unwrap_err();
    let expected = format!(
        "MountVolume.SetUp failed for volume \"v\" : mount failed: exit status 32\nMounting command: mount\nMounting arguments: \
         -t nfs -o ro -- refused:/a {}\nOutput: mount.nfs: access denied by server while mounting refused:/a",
        path.display()
    );
    assert_eq!(errors, [expected]);
    assert!(!path.exists(), "nothing is left to take for a volume");
}

#[tokio::test]
async fn mounts_a_server_that_hangs_holds_up_no_other_volume_and_no_end() {
    let machine = machine();
    let began = Instant::now();
    let errors = machine.prepare(&nfs("hang", false)).await.unwrap_err();
    assert_eq!(errors, ["MountVolume.SetUp failed for volume \"v\" : timed out after 1 s: hang:/a does not answer"]);
    assert!(machine.state().join("volumes/kubernetes.io~empty-dir/e").exists());
    // Ended with what it had started.
    let pid = |line: &str| line.split_once(' ').unwrap().0.to_owned();
    let pids: Vec<String> = fs::read_to_string(machine.root.path().join("calls")).unwrap().lines().map(pid).collect();
    let alive = |group: &String| {
        let folders = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        folders.into_iter().any(|stat| {
            let words: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            words[2] == group && words[0] != "Z"
        })
    };
    while pids.iter().any(alive) {
        assert!(began.elapsed() < Duration::from_secs(20), "{pids:?} still run");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // A pod that is deleted meanwhile does not wait.
    let mut patient = machine.volumes.clone();
    patient.foreign.limits.set_up = Duration::from_secs(600);
    let preparing = tokio::spawn({
        let patient = patient.clone();
        async move { patient.prepare(&nfs("hang", false), &context()).await.map_err(texts) }
    });
    while calls(&machine).len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let began = Instant::now();
    patient.give_up(&"uid-1".into());
    assert_eq!(preparing.await.unwrap().unwrap_err(), ["MountVolume.SetUp failed for volume \"v\" : the pod is being taken down"]);
    patient.teardown(&"uid-1".into()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5) && !machine.state().exists());
}

#[tokio::test]
async fn mounts_a_server_that_dies_later_hangs_no_container_and_no_end() {
    let machine = machine();
    let pod = nfs("s", false);
    let volumes = machine.prepare(&pod).await.unwrap();
    let path = volumes.path("v").unwrap().clone();
    let Some(dead) = Dead::at(&path) else { return };
    // Twice: the second does not ask again, and says the same.
    for _ in 0..2 {
        let error = container_mounts(&machine, &pod, volumes.clone()).await.unwrap_err();
        assert_eq!(error, "volume \"v\" does not answer: no reply from its file system within 1 s");
    }
    assert_eq!(machine.prepare(&pod).await.unwrap(), volumes, "what is mounted is not asked");
    let began = Instant::now();
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5) && !machine.state().exists());
    assert_eq!(read(&machine.root.path().join("exports/a/precious")), "x");
    drop(dead);
}

#[tokio::test]
async fn mounts_an_unmount_that_hangs_is_forced() {
    let machine = machine();
    machine.prepare(&nfs("s", false)).await.unwrap();
    let uid = PodUid::from("uid-1");
    let _busy = machine.volumes.foreign.hold_unmount(&uid).await;
    machine.volumes.teardown(&uid).await.unwrap();
    assert!(!machine.state().exists());
    assert_eq!(read(&machine.root.path().join("exports/a/precious")), "x");
}

#[tokio::test]
async fn mounts_a_disk_that_hangs_holds_up_no_other_pod_and_no_end() {
    let machine = machine();
    let disk = machine.root.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let Some(dead) = Dead::at(&disk) else { return };
    let below = disk.join("x").display().to_string();
    let hung = pod(json!({}), json!([{"name": "v", "hostPath": {"path": below, "type": "Directory"}}, {"name": "e", "emptyDir": {}}]));
    let began = Instant::now();
    for _ in 0..3 {
        let errors = machine.prepare(&hung).await.unwrap_err();
        assert_eq!(errors, [format!("MountVolume.SetUp failed for volume \"v\" : timed out after 1 s: {below} does not answer")]);
    }
    let mut other = nfs("s", false);
    other.metadata.uid = Some("uid-2".to_owned());
    machine.prepare(&other).await.unwrap();
    machine.volumes.teardown(&"uid-2".into()).await.unwrap();
    machine.volumes.teardown(&"uid-1".into()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(8) && !machine.state().exists());
    assert!(is_listed(&disk).unwrap(), "the machine's own");
    drop(dead);
}
