//! Where this machine's cgroups are mounted.

use std::fs;
use std::io;
use std::path::PathBuf;

/// The generation of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// As v1, with a unified hierarchy without controllers beside it.
    Hybrid,
    /// One unified hierarchy.
    V2,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    /// The controllers of a v1 hierarchy; those of a unified one are found in its files.
    pub(super) controllers: Vec<String>,
    pub(super) unified: bool,
}

/// All hierarchies of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    hierarchies: Vec<Hierarchy>,
}

impl Layout {
    pub(super) fn detect() -> io::Result<Self> {
        let layout = Self::from_table(&fs::read_to_string("/proc/self/mountinfo")?);
        if layout.hierarchies.is_empty() {
            return Err(io::Error::other("no cgroup file system is mounted below /sys/fs/cgroup"));
        }
        Ok(layout)
    }

    /// From the text of a `mountinfo` file.
    pub(super) fn from_table(table: &str) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in table.lines() {
            let Some((mount, filesystem)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = mount.split(' ').nth(4) else {
                continue;
            };
            let mut fields = filesystem.split(' ');
            let kind = fields.next();
            // Copies of the tree inside containers' file systems are not ours.
            if !point.starts_with("/sys/fs/cgroup") {
                continue;
            }
            let hierarchy = match kind {
                Some("cgroup2") => Hierarchy { mount: point.into(), controllers: Vec::new(), unified: true },
                Some("cgroup") => {
                    let options = fields.nth(1).unwrap_or_default();
                    let controllers =
                        options.split(',').filter(|option| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children" | "noprefix"));
                    Hierarchy { mount: point.into(), controllers: controllers.map(str::to_owned).collect(), unified: false }
                }
                _ => continue,
            };
            let twice = |other: &Hierarchy| other.unified == hierarchy.unified && other.controllers == hierarchy.controllers;
            if !hierarchies.iter().any(twice) {
                hierarchies.push(hierarchy);
            }
        }
        Self { hierarchies }
    }

    #[cfg(test)]
    pub(super) fn of(hierarchies: Vec<Hierarchy>) -> Self {
        Self { hierarchies }
    }

    /// The generation.
    pub fn version(&self) -> Version {
        let unified = self.hierarchies.iter().any(|hierarchy| hierarchy.unified);
        let separate = self.hierarchies.iter().any(|hierarchy| !hierarchy.unified);
        match (unified, separate) {
            (true, false) => Version::V2,
            (true, true) => Version::Hybrid,
            (false, _) => Version::V1,
        }
    }

    /// Whether the machine has a controller mounted, or (v2) may have it in its one hierarchy.
    pub fn has(&self, controller: &str) -> bool {
        match self.hierarchy(controller) {
            Some(hierarchy) if hierarchy.unified => fs::read_to_string(hierarchy.mount.join("cgroup.controllers"))
                .is_ok_and(|list| list.split_ascii_whitespace().any(|name| name == controller)),
            found => found.is_some(),
        }
    }

    /// All hierarchies: where a container's group may be.
    pub(super) fn all(&self) -> impl Iterator<Item = &Hierarchy> {
        self.hierarchies.iter()
    }

    /// The hierarchies in which a pod's group has limits or counters.
    pub(super) fn limiting(&self) -> impl Iterator<Item = &Hierarchy> {
        let v2 = self.version() == Version::V2;
        self.hierarchies.iter().filter(move |hierarchy| {
            if hierarchy.unified {
                v2
            } else {
                hierarchy.controllers.iter().any(|name| ["cpu", "cpuacct", "memory", "hugetlb", "pids"].contains(&name.as_str()))
            }
        })
    }

    /// The hierarchy of a controller.
    pub(super) fn hierarchy(&self, controller: &str) -> Option<&Hierarchy> {
        let separate = self.hierarchies.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller));
        separate.or_else(|| self.hierarchies.iter().find(|hierarchy| hierarchy.unified && self.version() == Version::V2))
    }
}
