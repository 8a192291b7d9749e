//! The node that others have: the real kubelet with containerd, runc and the CNI plugins on a machine of the lab, to compare with.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::json;

use crate::{
    builds::Builds,
    command,
    daemon::{Daemon, DaemonSpec},
    kube_proxy,
    lab::Lab,
    network::DNS_SERVICE_IP,
    patience::eventually,
    pet::{Pet, PetOptions},
    registry,
};

/// The programs that make such a node; all else on the machine is in containers.
pub const PROGRAMS: [&str; 3] = ["kubelet", "containerd", "containerd-shim-runc-v2"];

/// Where Debian has the CNI plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// Where the machine sees the files of this module.
const FILES: &str = "/etc/kube-pet/peer";

/// Settings of the kernel that the kubelet changes, which are not a namespace's own: it gets files of the machine in their place.
const SETTINGS: &str = "vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys \
                        kernel/keys/root_maxbytes";

/// Whether the programs of such a node are there: built, and installed.
pub fn is_prepared() -> bool {
    let built = |name: &str| Builds::locate().is_ok_and(|builds| builds.program(name).is_ok());
    PROGRAMS.into_iter().chain([kube_proxy::NAME]).all(built) && command::on_path("runc") && Path::new(PLUGINS).join("bridge").exists()
}

/// Which versions such a node is made of: `the kubelet 1.37.1, containerd 2.4.0, runc 1.1.5`.
///
/// # Errors
/// When a program is not built, or does not tell its version.
pub async fn versions() -> Result<String> {
    let builds = Builds::locate()?;
    let version = async |program: PathBuf| -> Result<String> {
        let told = command::run(&[program.as_os_str(), "--version".as_ref()]).await?;
        version_in(&told).map(str::to_owned).with_context(|| format!("no version in what {} tells: {told}", program.display()))
    };
    let kubelet = version(builds.program("kubelet")?).await?;
    let containerd = version(builds.program("containerd")?).await?;
    Ok(format!("the kubelet {kubelet}, containerd {containerd}, runc {}", version("runc".into()).await?))
}

/// The first word that is a number with points in it, of what a program tells about itself.
fn version_in(told: &str) -> Option<&str> {
    let words = told.split_whitespace().map(|word| word.trim_start_matches('v'));
    words.into_iter().find(|word| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.'))
}

/// A machine of the lab with containerd and the kubelet on it, once the node is Ready. Of `options` its name and place count: the rest is
/// the agent's.
///
/// # Errors
/// When a program is not built, or the node does not become Ready; the error has the end of the kubelet's log.
pub async fn start(lab: &Lab, options: PetOptions) -> Result<Pet> {
    let builds = Builds::locate()?;
    let machine = Pet::create(lab, options).await?;
    let name = machine.name();
    let folder = machine.machine().dir.join("etc/kube-pet/peer");
    let write = |file: &str, text: String| {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap_or(&folder))
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("write {}", path.display()))
    };
    let registry = format!("http://{}:{}", lab.record().wire().control_plane(), registry::PORT);
    for host in registry::STANDS_FOR {
        write(
            &format!("registries/{host}/hosts.toml"),
            format!("[host.\"{registry}/v2/{host}\"]\ncapabilities = [\"pull\", \"resolve\"]\noverride_path = true\n"),
        )?;
    }
    write("containerd.toml", containerd())?;
    write("kubelet.yaml", kubelet(machine.cgroup()))?;
    fs::copy(lab.record().pki_dir().join("ca.crt"), folder.join("ca.crt")).context("copy the cluster's certificate authority")?;
    let cgroup = machine.cgroup();
    machine
        .shell(&format!(
            "for setting in {SETTINGS}; do
               file=/run/lab/$(echo $setting | tr / -)
               cat /proc/sys/$setting > $file
               mount --bind $file /proc/sys/$setting
             done
             for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
               [ ! -e $hierarchy/cgroup.procs ] || mkdir -p $hierarchy{cgroup}
             done"
        ))
        .await?;
    let daemon = |program: &str, arguments: Vec<String>| -> Result<DaemonSpec> {
        let path = builds.program(program)?;
        let search = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", path.parent().unwrap_or(&PathBuf::new()).display());
        Ok(DaemonSpec {
            name: program.to_owned(),
            argv: std::iter::once(path.display().to_string()).chain(arguments).collect(),
            environment: vec![("PATH".into(), search), ("HOME".into(), "/var/root".into())],
            log: lab.record().log(&format!("{name}-{program}")),
        })
    };
    builds.program("containerd-shim-runc-v2")?;
    Daemon::start(machine.machine(), daemon("containerd", vec![format!("--config={FILES}/containerd.toml")])?).await?;
    let socket = machine.path("/run/containerd/containerd.sock");
    eventually(Duration::from_secs(20), "containerd listens", || async {
        anyhow::ensure!(socket.exists(), "no {}", socket.display());
        Ok(())
    })
    .await?;
    let arguments = vec![
        format!("--config={FILES}/kubelet.yaml"),
        "--bootstrap-kubeconfig=/etc/kube-pet/bootstrap.kubeconfig".into(),
        "--kubeconfig=/var/lib/kubelet/kubeconfig".into(),
        format!("--hostname-override={name}"),
        format!("--node-ip={}", machine.address()),
    ];
    let kubelet = Daemon::start(machine.machine(), daemon("kubelet", arguments)?).await?;
    let ready = async {
        let pods = pod_network(lab, name).await?;
        write("cni/10-lab.conflist", plugins(&pods))?;
        machine.ready(Duration::from_secs(60)).await
    };
    ready.await.with_context(|| format!("the kubelet's log: {}", crate::daemon::tail(&kubelet.spec.log)))?;
    Ok(machine)
}

/// The node's pod network, once it has one.
async fn pod_network(lab: &Lab, name: &str) -> Result<String> {
    let nodes: Api<Node> = Api::all(lab.client().await?);
    eventually(Duration::from_secs(60), "the kubelet's node has a pod network", || async {
        let node = nodes.get(name).await.context("get the node")?;
        node.spec.and_then(|spec| spec.pod_cidr).context("no spec.podCIDR")
    })
    .await
}

fn plugins(pods: &str) -> String {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": ipam});
    let ports = json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true});
    format!("{:#}\n", json!({"cniVersion": "1.0.0", "name": "lab", "plugins": [bridge, ports]}))
}

/// As in a distribution's package, but for what the lab's machines lack: CAP_SYS_RESOURCE, AppArmor and systemd.
fn containerd() -> String {
    format!(
        "version = 3
[plugins.'io.containerd.cri.v1.images']
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = \"registry.k8s.io/pause:3.10.2\"
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = \"{FILES}/registries\"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = \"io.containerd.runc.v2\"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [\"{PLUGINS}\"]
    conf_dir = \"{FILES}/cni\"
"
    )
}

/// The kubelet's defaults, but for what the lab's machines lack, and evictions on a disk that is not the lab's alone.
fn kubelet(cgroup: &str) -> String {
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{FILES}/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "clusterDNS": [DNS_SERVICE_IP],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
        "failCgroupV1": false,
        "failSwapOn": false,
        "maxOpenFiles": 20_000,
        "oomScoreAdj": 0,
        "resolvConf": "/etc/resolv.conf",
        "rotateCertificates": true,
        "serverTLSBootstrap": true,
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn programs_tell_their_versions() {
        assert_eq!(version_in("Kubernetes v1.37.1\n"), Some("1.37.1"));
        assert_eq!(version_in("containerd github.com/containerd/containerd/v2 2.4.0+unknown \n"), Some("2.4.0+unknown"));
        assert_eq!(version_in("runc version 1.1.5+ds1\ncommit: 1.1.5\n"), Some("1.1.5+ds1"));
        assert_eq!(version_in("no version"), None);
    }
}
