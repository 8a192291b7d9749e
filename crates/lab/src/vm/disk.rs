//! The disk of a virtual machine: the root folder that `lab/build.sh vm` has made, with what is this machine's own laid over it.

use std::{fs, net::Ipv4Addr, path::Path};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::PROGRAM;
use crate::{
    builds,
    command::{self, program},
    machine::Machine,
    network::{DNS_SERVICE_IP, Wire},
    pet_files::{NODE_CONFIG, quoted},
    registry,
};

/// The disk, in the machine's folder.
pub(super) const FILE: &str = "disk.img";
/// What is not written takes no room.
const SIZE: &str = "4G";

/// What decides a disk.
pub(super) struct Disk<'a> {
    pub(super) name: &'a str,
    pub(super) address: Ipv4Addr,
    pub(super) wire: Wire,
    pub(super) settings: &'a Map<String, Value>,
    /// Whose commands it takes.
    pub(super) key: String,
}

impl Disk<'_> {
    /// Makes it in the folder of `host`, whose mounts are nobody else's.
    pub(super) async fn make(&self, host: &Machine, root: &Path) -> Result<()> {
        let own = host.dir.join("own");
        self.write(&own).await?;
        // In memory: an overlay may not have its upper layer on another one.
        let (own, root, disk) = (quoted(&own), quoted(root), quoted(&host.dir.join(FILE)));
        let script = format!(
            "set -eu
mount -t tmpfs -o mode=755 disk /mnt
mkdir /mnt/upper /mnt/work /mnt/disk
cp -a {own}/. /mnt/upper/
mount -t overlay -o lowerdir={root},upperdir=/mnt/upper,workdir=/mnt/work disk /mnt/disk
mkfs.ext4 -q -d /mnt/disk {disk} {SIZE}
umount /mnt/disk /mnt
rm -r {own}"
        );
        host.shell(&script).await.context("make the disk").map(drop)
    }

    async fn write(&self, own: &Path) -> Result<()> {
        let (address, gateway) = (self.address, self.wire.control_plane());
        let network = format!("[Match]\nName=eth0\n[Network]\nAddress={address}/24\nGateway={gateway}\n");
        let identity = fs::read_to_string("/proc/sys/kernel/random/uuid").context("make a machine ID")?.replace('-', "");
        let files = [
            ("etc/hostname", format!("{}\n", self.name)),
            ("etc/hosts", format!("127.0.0.1 localhost\n{address} {}\n", self.name)),
            ("etc/machine-id", identity),
            ("etc/resolv.conf", format!("nameserver {gateway}\n")),
            ("etc/systemd/network/10-wire.network", network),
            ("etc/ssh/authorized_keys", self.key.clone()),
            ("etc/containers/registries.conf", registry::registries_conf(self.wire)),
            (NODE_CONFIG.trim_start_matches('/'), self.node_config()),
        ];
        for (name, text) in files {
            let path = own.join(name);
            make_folder_of(&path)?;
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        let agent = own.join(PROGRAM.trim_start_matches('/'));
        make_folder_of(&agent)?;
        strip(&builds::own_program("kube-pet", "KUBE_PET_BIN")?, &agent).await
    }

    /// Nothing that a user would not write: the machine is a real one.
    fn node_config(&self) -> String {
        let mut config = json!({
            "apiVersion": "kube-pet.dev/v1alpha1",
            "kind": "NodeConfiguration",
            "clusterDNS": [DNS_SERVICE_IP],
            "logging": {"level": std::env::var("KUBE_PET_LAB_LOG").unwrap_or_else(|_| "info".into())},
        });
        if let Some(fields) = config.as_object_mut() {
            fields.extend(self.settings.clone());
        }
        format!("{config:#}\n")
    }
}

fn make_folder_of(file: &Path) -> Result<()> {
    let folder = file.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}

/// Copies a program without its symbols for debuggers.
pub(super) async fn strip(from: &Path, to: &Path) -> Result<()> {
    let mut command = program("strip");
    command.arg("--strip-debug").arg("-o").arg(to).arg(from);
    command::output(command).await.map(drop)
}
