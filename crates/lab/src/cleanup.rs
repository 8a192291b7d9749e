//! Removing a lab, whether it ends in order or was found dead.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    command,
    machine::Machine,
    progress::say,
    record::{self, LabRecord},
};

/// Removes everything that a lab made: machines with all their processes, mounts and links; the host's link; cgroups; files.
/// Goes on after an error.
///
/// # Errors
/// All errors together.
pub async fn destroy(lab: &LabRecord) -> Result<()> {
    let mut failures = Vec::new();
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            failures.push(format!("{error:#}"));
        }
    };
    let machines = machines(lab);
    // Pets first: a pet whose control plane is gone would only fill its log.
    let (control_plane, pets): (Vec<_>, Vec<_>) = machines.into_iter().partition(|machine| machine.name == crate::control_plane::MACHINE);
    for machine in pets.iter().chain(&control_plane) {
        note(machine.power_off().await);
    }
    let link = lab.wire().host_link();
    if Path::new("/sys/class/net").join(&link).exists() {
        // The link goes with the namespace of its other end, but not at once; a delete that comes too late is fine.
        let _ = command::run(&["ip", "link", "del", &link]).await;
    }
    note(remove_cgroups(&lab.cgroup(None)));
    note(keep_logs(lab));
    note(remove_dir(&lab.dir));
    if failures.is_empty() {
        return Ok(());
    }
    anyhow::bail!("remove lab {}: {}", lab.name, failures.join("; "))
}

/// The machines that a lab has recorded.
pub fn machines(lab: &LabRecord) -> Vec<Machine> {
    let Ok(entries) = fs::read_dir(lab.machines_dir()) else {
        return Vec::new();
    };
    entries.flatten().filter_map(|entry| Machine::load(&entry.path()).ok()).collect()
}

/// Removes what labs left behind whose supervisor is gone. Says what it removes.
///
/// # Errors
/// When something cannot be removed; its record stays, so that the next run tries again.
pub async fn collect_dead() -> Result<()> {
    for (lab, mut slot) in record::dead()? {
        say(format!("removing what lab {} left behind", lab.name));
        destroy(&lab).await?;
        slot.clear()?;
    }
    Ok(())
}

/// Removes a cgroup and all below it from every hierarchy; its processes have ended.
///
/// # Errors
/// When one cannot be removed.
pub fn remove_cgroups(path: &str) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let mut hierarchies = vec![root.to_owned()];
    hierarchies.extend(folders(root));
    for hierarchy in hierarchies {
        let cgroup = hierarchy.join(path.trim_start_matches('/'));
        if cgroup.is_dir() {
            remove_cgroup(&cgroup)?;
            // The folder of all labs stays while another lab uses it.
            if let Some(parent) = cgroup.parent().filter(|parent| **parent != *hierarchy) {
                let _ = fs::remove_dir(parent);
            }
        }
    }
    Ok(())
}

fn remove_cgroup(cgroup: &Path) -> Result<()> {
    for child in folders(cgroup) {
        remove_cgroup(&child)?;
    }
    // The kernel empties a cgroup a moment after its last process is reaped.
    for _ in 0..100 {
        if fs::remove_dir(cgroup).is_ok() || !cgroup.exists() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    fs::remove_dir(cgroup).with_context(|| format!("remove cgroup {}", cgroup.display()))
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn keep_logs(lab: &LabRecord) -> Result<()> {
    let Some(target) = &lab.keep_logs else {
        return Ok(());
    };
    fs::create_dir_all(target).with_context(|| format!("make {}", target.display()))?;
    let Ok(entries) = fs::read_dir(lab.logs_dir()) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let to = target.join(entry.file_name());
        fs::copy(entry.path(), &to).with_context(|| format!("keep {}", to.display()))?;
    }
    Ok(())
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove {}", dir.display())),
    }
}
