use std::path::PathBuf;

use super::*;

/// Unpins what a test leaves behind, also if it fails.
struct Pins(tempfile::TempDir);
impl Pins {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}
impl Drop for Pins {
    fn drop(&mut self) {
        let _ = mounts::unmount_below(self.0.path());
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
fn namespaces_outlive_their_thread_and_keep_their_settings() {
    let pins = Pins::new();
    let (net, ipc, uts) = (pins.path("net"), pins.path("ipc"), pins.path("uts"));
    let all = [(Kind::Net, net.as_path()), (Kind::Ipc, ipc.as_path()), (Kind::Uts, uts.as_path())];
    let own_hostname = read("/proc/sys/kernel/hostname");
    let own_shmmni = read("/proc/sys/kernel/shmmni");
    create(&all, || {
        set_hostname("web-0")?;
        set_domainname("example.test")?;
        write_sysctl("kernel.shmmni", "77")?;
        write_sysctl("fs.mqueue.msg_max", "9")?;
        write_sysctl("net/ipv4/ip_unprivileged_port_start", "99")
    })
    .unwrap();
    for (kind, path) in all {
        assert!(is_pinned(kind, path), "{}", path.display());
    }
    assert!(!is_pinned(Kind::Ipc, &net), "a namespace of another kind is not what was asked for");
    let seen = run_in(&all, || {
        ["kernel/hostname", "kernel/domainname", "kernel/shmmni", "fs/mqueue/msg_max", "net/ipv4/ip_unprivileged_port_start"]
            .map(|name| read(&format!("/proc/sys/{name}")))
    })
    .unwrap();
    assert_eq!(seen, ["web-0", "example.test", "77", "9", "99"]);
    assert_eq!(read("/proc/sys/kernel/hostname"), own_hostname, "the agent's own namespaces are left alone");
    assert_eq!(read("/proc/sys/kernel/shmmni"), own_shmmni);
    for (kind, path) in all {
        unpin(path).unwrap();
        unpin(path).unwrap();
        assert!(!path.exists() && !is_pinned(kind, path));
    }
}

#[test]
fn a_failure_inside_leaves_no_pin() {
    let pins = Pins::new();
    let net = pins.path("net");
    let result = create(&[(Kind::Net, &net)], || write_sysctl("net.ipv4.no_such_thing", "1"));
    assert!(matches!(result, Err(NamespaceError::Sysctl { .. })));
    assert!(!net.exists());
}

#[test]
fn a_plain_file_is_no_namespace_and_cannot_be_entered() {
    let pins = Pins::new();
    let net = pins.path("net");
    fs::write(&net, "").unwrap();
    assert!(!is_pinned(Kind::Net, &net));
    assert!(!holds_namespace(&net));
    assert!(matches!(run_in_netns(&net, || ()), Err(NamespaceError::Enter { .. })));
    create(&[(Kind::Net, &net)], || Ok(())).unwrap();
    assert!(is_pinned(Kind::Net, &net), "the file left over from before a reboot is used again");
}

#[test]
fn only_names_of_namespaced_sysctls_are_accepted() {
    let scope = sysctl_scope;
    assert_eq!(scope("net.ipv4.ip_forward"), Some(SysctlScope::Net));
    assert_eq!(scope("net/ipv4/conf/eth0.1/forwarding"), Some(SysctlScope::Net));
    assert_eq!(scope("kernel.shm_rmid_forced"), Some(SysctlScope::Ipc));
    assert_eq!(scope("kernel/msgmax"), Some(SysctlScope::Ipc));
    assert_eq!(scope("fs.mqueue.queues_max"), Some(SysctlScope::Ipc));
    assert_eq!(scope("kernel.domainname"), Some(SysctlScope::Uts));
    for bad in [
        "kernel.pid_max",
        "vm.swappiness",
        "kernel",
        "",
        "net/../kernel/pid_max",
        "net..x",
        "net.ipv4./../../kernel/pid_max",
        "kernel.shmmax\n",
        "/net/ipv4/ip_forward",
    ] {
        assert_eq!(scope(bad), None, "{bad}");
        assert!(write_sysctl(bad, "1").is_err());
    }
    assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.forwarding").unwrap(), PathBuf::from("/proc/sys/net/ipv4/conf/eth0.1/forwarding"));
}

#[test]
fn a_pin_that_cannot_be_made_takes_the_others_along() {
    let pins = Pins::new();
    let (net, uts) = (pins.path("net"), pins.path("missing-folder/uts"));
    assert!(matches!(create(&[(Kind::Net, &net), (Kind::Uts, &uts)], || Ok(())), Err(NamespaceError::Pin { kind: "uts", .. })));
    assert!(!net.exists());
}
