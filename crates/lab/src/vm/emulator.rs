//! How the emulator is started.

use std::path::Path;

use crate::{daemon::DaemonSpec, network::TAP};

/// The emulator's name among the programs of its machine.
pub(super) const NAME: &str = "emulator";

/// `kvm`, where that works: a nested one may start a machine and then stop it in the middle. Without it, software emulation.
const ACCELERATOR: &str = "KUBE_PET_LAB_ACCELERATOR";

/// The kernel is started directly, without a boot loader. A machine that wants to boot again turns itself off instead: the lab starts
/// it, as the same hardware with the same disk.
pub(super) fn spec(files: &Path, disk: &Path, memory: u32, hardware_address: String, console: &Path) -> DaemonSpec {
    let file = |name: &str| files.join(name).display().to_string();
    // A comma ends a value, unless it is there twice.
    let value = |path: &Path| path.display().to_string().replace(',', ",,");
    let argv = [
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-machine",
        "q35",
        "-accel",
        &std::env::var(ACCELERATOR).unwrap_or_else(|_| "tcg,thread=multi".into()),
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        &memory.to_string(),
        "-kernel",
        &file("vmlinuz"),
        "-initrd",
        &file("initrd.img"),
        "-append",
        "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=-1 quiet systemd.show_status=1",
        "-chardev",
        &format!("file,id=console,append=on,path={}", value(console)),
        "-serial",
        "chardev:console",
        "-drive",
        &format!("if=virtio,format=raw,file={}", value(disk)),
        "-netdev",
        &format!("tap,id=wire,ifname={TAP},script=no,downscript=no"),
        // Nothing boots from the network.
        "-device",
        &format!("virtio-net-pci,netdev=wire,mac={hardware_address},romfile="),
    ];
    let environment = vec![("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())];
    DaemonSpec { name: NAME.into(), argv: argv.map(str::to_owned).to_vec(), environment, log: console.with_extension("emulator.log") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_stays_in_the_path() {
        let spec = spec(Path::new("/c"), Path::new("/a,b/disk"), 512, "02:00:00:00:00:01".into(), Path::new("/l"));
        assert!(spec.argv.contains(&"if=virtio,format=raw,file=/a,,b/disk".to_owned()), "{:?}", spec.argv);
    }
}
