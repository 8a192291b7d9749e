use std::collections::BTreeMap;

use kube_pet_testkit::capability::available;

use super::*;

/// A group of its own, removed also if the test fails.
struct Group(String);
impl Group {
    fn new(name: &str) -> Self {
        Self(format!("/kubepods-test-{}-{name}", std::process::id()))
    }
    fn pod(&self) -> String {
        format!("{}/burstable/pod1234", self.0)
    }
    fn read(&self, v1: (&str, &str), v2: &str) -> String {
        let layout = layout().unwrap();
        let hierarchy = layout.hierarchy(v1.0).unwrap();
        let name = if hierarchy.unified { v2 } else { v1.1 };
        fs::read_to_string(hierarchy.mount.join(self.pod().trim_matches('/')).join(name)).unwrap().trim().to_owned()
    }
}
impl Drop for Group {
    fn drop(&mut self) {
        let _ = remove(&self.0);
    }
}

fn procs_file(group: &Group, controller: &str) -> PathBuf {
    layout().unwrap().hierarchy(controller).unwrap().mount.join(group.pod().trim_matches('/')).join("cgroup.procs")
}

#[allow(clippy::disallowed_methods, reason = "the test needs a process in the group")]
fn sleeper() -> std::process::Child {
    let process = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    // The kernel lets us go on a moment before the new program has its command line.
    while fs::read(format!("/proc/{}/cmdline", process.id())).unwrap().is_empty() {
        std::thread::yield_now();
    }
    process
}

#[test]
fn limits_are_set_changed_and_taken_away() {
    let group = Group::new("limits");
    let limits = Limits { cpu_shares: Some(512), cpu_quota: Some(50_000), memory: Some(64 << 20), pids: Some(100) };
    ensure(&group.pod(), &limits).unwrap();
    ensure(&group.pod(), &limits).unwrap();
    assert_eq!(group.read(("memory", "memory.limit_in_bytes"), "memory.max"), (64 << 20).to_string());
    assert_eq!(group.read(("pids", "pids.max"), "pids.max"), "100");
    assert!(["512", "59"].contains(&group.read(("cpu", "cpu.shares"), "cpu.weight").as_str()));
    assert!(["50000", "50000 100000"].contains(&group.read(("cpu", "cpu.cfs_quota_us"), "cpu.max").as_str()));
    update(&group.pod(), &Limits { memory: Some(UNLIMITED), cpu_quota: Some(UNLIMITED), ..Limits::default() }).unwrap();
    assert_ne!(group.read(("memory", "memory.limit_in_bytes"), "memory.max"), (64 << 20).to_string());
    assert!(["-1", "max 100000"].contains(&group.read(("cpu", "cpu.cfs_quota_us"), "cpu.max").as_str()));
    assert_eq!(group.read(("pids", "pids.max"), "pids.max"), "100", "what is not named stays");
    assert_eq!(children(&group.0).unwrap(), BTreeSet::from(["burstable".to_owned()]));
    remove(&group.0).unwrap();
    remove(&group.0).unwrap();
    assert!(children(&group.0).unwrap().is_empty());
    assert!(update(&group.pod(), &limits).unwrap_err().is_not_found());
}

#[test]
fn memory_goes_up_and_down_with_no_swap_beside_it() {
    let group = Group::new("swap");
    ensure(&group.pod(), &Limits { memory: Some(256 << 20), ..Limits::default() }).unwrap();
    for megabytes in [64, 128, 32] {
        update_memory_without_swap(&group.pod(), megabytes << 20).unwrap();
        assert_eq!(group.read(("memory", "memory.limit_in_bytes"), "memory.max"), (megabytes << 20).to_string());
        let hierarchy = layout().unwrap().hierarchy("memory").unwrap();
        let (name, expected) = if hierarchy.unified { ("memory.swap.max", 0) } else { ("memory.memsw.limit_in_bytes", megabytes << 20) };
        // Kernels that do not count swap have no such file.
        if let Ok(swap) = fs::read_to_string(hierarchy.mount.join(group.pod().trim_matches('/')).join(name)) {
            assert_eq!(swap.trim(), expected.to_string());
        }
    }
    assert!(update_memory_without_swap("/kubepods-test-none", 1 << 20).unwrap_err().is_not_found());
}

#[test]
fn on_v1_no_group_has_more_than_the_one_around_it() {
    let group = Group::new("quota");
    let limits = |quota| Limits { cpu_quota: Some(quota), ..Limits::default() };
    ensure(&group.pod(), &limits(20_000)).unwrap();
    ensure(&format!("{}/c", group.pod()), &limits(20_000)).unwrap();
    let lower = update(&group.pod(), &limits(10_000));
    if layout().unwrap().hierarchy("cpu").unwrap().unified {
        lower.unwrap();
    } else {
        assert!(lower.unwrap_err().is_invalid());
        update(&format!("{}/c", group.pod()), &limits(10_000)).unwrap();
        update(&group.pod(), &limits(10_000)).unwrap();
    }
}

#[test]
fn a_group_has_the_huge_pages_that_it_is_given_and_no_others() {
    let group = Group::new("huge");
    let size = crate::machine::huge_pages().into_iter().find(|(size, _)| *size == 2 << 20);
    if !available("huge pages of 2 MiB", size.is_some()) || !available("the cgroup controller hugetlb", layout().unwrap().has("hugetlb")) {
        return;
    }
    let size = size.unwrap();
    let read = |v1: &str, v2: &str| group.read(("hugetlb", v1), v2);
    ensure(&group.pod(), &Limits::default()).unwrap();
    limit_huge_pages(&group.pod(), &[("2MB".to_owned(), 2 * size.0)].into()).unwrap();
    assert_eq!(read("hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"), (4 << 20).to_string());
    limit_huge_pages(&group.pod(), &BTreeMap::new()).unwrap();
    assert_eq!(read("hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"), "0");
}

#[test]
fn processes_are_counted_and_keep_their_group_until_they_end() {
    let group = Group::new("counters");
    ensure(&group.pod(), &Limits::default()).unwrap();
    let mut process = sleeper();
    for controller in ["cpuacct", "memory", "pids"] {
        fs::write(procs_file(&group, controller), process.id().to_string()).unwrap();
    }
    assert_eq!(of_process(i64::from(process.id())), Some(group.pod()));
    let used = usage(&group.pod(), Detail::All).unwrap();
    assert_eq!(used.pids.unwrap().current, 1);
    assert_eq!(processes_in(&group.pod()), Some(1));
    let memory = used.memory.unwrap();
    assert!(memory.working_set <= memory.usage && memory.oom_kills == 0);
    assert!(cpu_nanos(&group.pod()).unwrap() >= used.cpu.unwrap().total_nanos);
    assert!(matches!(remove(&group.pod()), Err(CgroupError::Remove { .. })));
    assert!(sleeping(&mut process), "removing ends no process");
    // Ends while the removal waits for it.
    let pod = group.pod();
    let removal = std::thread::spawn(move || remove(&pod));
    process.kill().unwrap();
    process.wait().unwrap();
    removal.join().unwrap().unwrap();
    assert!(usage(&group.pod(), Detail::All).unwrap_err().is_not_found());
}

fn sleeping(process: &mut std::process::Child) -> bool {
    process.try_wait().unwrap().is_none()
}

#[test]
fn paths_that_are_no_group_of_ours_are_refused() {
    for bad in ["", "/", "//", "/a/../..", "..", "/a//b", "/a/./b"] {
        assert!(matches!(remove(bad), Err(CgroupError::InvalidPath { .. })), "{bad:?}");
        assert!(ensure(bad, &Limits::default()).is_err());
    }
}

#[test]
fn weights_follow_the_runtimes() {
    assert_eq!([0, 2, 102, 512, 1024, 262_144, u64::MAX].map(weight), [1, 1, 17, 59, 100, 10_000, 10_000]);
}

#[test]
fn layouts_are_told_apart() {
    let hybrid = Layout::from_table(
        "1 0 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
         2 0 0:2 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
         3 0 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
         4 0 0:2 / /var/lib/x/merged/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
         6 0 0:5 / /sys/fs/cgroup/hugetlb rw - cgroup cgroup rw,hugetlb\n\
         5 0 0:4 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n",
    );
    assert_eq!(hybrid.version(), Version::Hybrid);
    assert_eq!(hybrid.hierarchy("cpuacct").unwrap().mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    assert_eq!(hybrid.all().count(), 5);
    assert_eq!(hybrid.limiting().count(), 3);
    assert!(hybrid.hierarchy("pids").is_none(), "the unified hierarchy of a hybrid machine has no controllers");
    let v2 = Layout::from_table("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
    assert_eq!(v2.version(), Version::V2);
    assert!(v2.hierarchy("pids").is_some());
    assert_eq!(Layout::from_table("1 0 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n").version(), Version::V1);
}

#[test]
fn what_nobody_knows_is_killed_with_its_group() {
    let group = Group::new("kill");
    ensure(&group.pod(), &Limits::default()).unwrap();
    let mut process = sleeper();
    fs::write(procs_file(&group, "memory"), process.id().to_string()).unwrap();
    assert_eq!(kill_with_argument(&group.0, "10").unwrap(), 0);
    assert!(sleeping(&mut process), "the whole argument counts");
    // The group above has none of its own.
    assert_eq!(kill_with_argument(&group.0, "100").unwrap(), 1);
    assert!(!process.wait().unwrap().success());
    let mut process = sleeper();
    fs::write(procs_file(&group, "memory"), process.id().to_string()).unwrap();
    assert_eq!(kill(&group.0).unwrap(), 1);
    assert!(!process.wait().unwrap().success());
    assert_eq!(kill(&group.0).unwrap(), 0);
    assert!(matches!(kill("/"), Err(CgroupError::InvalidPath { .. })), "never everything");
    remove(&group.0).unwrap();
}
