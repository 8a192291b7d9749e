//! What would keep this machine from being a node: each finding with its cause and the exact fix.
//!
//! Looking changes nothing. [`repair`] applies what is safe: it takes nothing away and can be undone by a reboot.

mod cgroups;
mod cluster;
mod disks;
mod kernel;
mod network;
mod privileges;
mod programs;
mod repairs;
mod report;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::NodeConfiguration;
use crate::user_namespaces;
pub use repairs::{Repair, RepairError};
pub use report::text;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Something will not work, or not well.
    Warn,
    /// Pods will not run, or the node will not join.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A name that stays the same over versions.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// Why it is so, or why it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// Whether `--fix` does it.
    pub fixable: bool,
    /// How.
    #[serde(skip)]
    pub repair: Option<Repair>,
}

impl Finding {
    fn ok(id: &'static str, what: impl Into<String>) -> Self {
        Self { id, severity: Severity::Ok, what: what.into(), cause: None, fix: None, fixable: false, repair: None }
    }

    fn bad(id: &'static str, severity: Severity, what: impl Into<String>, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { severity, cause: Some(cause.into()), fix: Some(fix.into()), ..Self::ok(id, what) }
    }

    fn warn(id: &'static str, what: impl Into<String>, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::bad(id, Severity::Warn, what, cause, fix)
    }

    fn error(id: &'static str, what: impl Into<String>, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::bad(id, Severity::Error, what, cause, fix)
    }

    /// A repair was tried and failed.
    pub fn failed_repair(id: &'static str, error: &RepairError) -> Self {
        let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        Self::warn(id, "--fix could not mend this", cause, "mend it by hand, as the finding of the same name says")
    }

    fn repaired_by(self, repair: Repair) -> Self {
        Self { fixable: true, repair: Some(repair), ..self }
    }
}

/// The machine's files, below a root (another one in tests).
#[derive(Clone, Debug)]
struct Machine {
    root: PathBuf,
}

impl Machine {
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read(self.path(path)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Looks at everything. `with_cluster` also asks the API server.
pub async fn examine(config: &NodeConfiguration, with_cluster: bool) -> Vec<Finding> {
    let machine = Machine { root: Path::new("/").to_owned() };
    let mut findings = Vec::new();
    findings.extend(privileges::examine(&machine));
    findings.extend(kernel::examine(&machine));
    findings.push(kernel::user_namespaces(user_namespaces::missing(config)));
    findings.extend(cgroups::examine(&machine));
    findings.extend(programs::examine(config).await);
    findings.extend(disks::examine(&machine, config));
    findings.extend(network::examine(&machine, config));
    if with_cluster {
        findings.extend(cluster::examine(config).await);
    }
    findings
}

/// Applies the repairs of the findings that have one; returns each with how it went.
pub async fn repair(findings: &[Finding]) -> Vec<(&'static str, Result<(), RepairError>)> {
    let mut done = Vec::new();
    for finding in findings {
        if let Some(repair) = &finding.repair {
            done.push((finding.id, repair.apply().await));
        }
    }
    done
}

/// The worst of the findings.
pub fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
}

#[cfg(test)]
mod tests;
