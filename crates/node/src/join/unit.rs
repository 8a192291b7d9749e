//! The agent as a service of systemd, asked for over the system bus.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube_pet_host::files::{self, FileError};
use serde::Serialize;
use thiserror::Error;
use zbus::Connection;

use super::Say;
use crate::config::NodeConfiguration;

/// The service's name.
const UNIT: &str = "kube-pet.service";
const DEADLINE: Duration = Duration::from_secs(30);

/// The service cannot be set up.
#[derive(Debug, Error)]
pub enum UnitError {
    /// The unit's file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The bus.
    #[error("reaching systemd over the system bus")]
    Bus(#[source] zbus::Error),
    /// systemd refuses.
    #[error("asking systemd to {what}")]
    Call {
        /// What was asked for.
        what: &'static str,
        /// The cause.
        #[source]
        source: zbus::Error,
    },
}

/// Whether this is a machine with systemd, and its real root.
fn has_systemd(config: &NodeConfiguration) -> bool {
    config.root_dir == Path::new("/") && Path::new("/run/systemd/system").is_dir()
}

fn own_unit() -> PathBuf {
    Path::new("/etc/systemd/system").join(UNIT)
}

/// How the agent is started by hand.
pub(super) fn command_line(config_file: &Path) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("kube-pet"));
    format!("{} node --config {}", program.display(), config_file.display())
}

/// The unit's text.
fn text(config_file: &Path) -> String {
    format!(
        "[Unit]\nDescription=kube-pet, a Kubernetes node agent\nWants=network-online.target\nAfter=network-online.target\n\n\
         [Service]\nExecStart={}\nRestart=always\nRestartSec=1\n\
         # Pods, and the Podman service, run on when the agent ends.\nKillMode=process\nDelegate=yes\nOOMScoreAdjust=-999\n\
         LimitNOFILE=1048576\n\n[Install]\nWantedBy=multi-user.target\n",
        command_line(config_file)
    )
}

/// Enables and starts the service, where there is systemd. A unit that a package has brought is used as it is.
pub(super) async fn start(config: &NodeConfiguration, config_file: &Path, say: Say<'_>) -> Result<bool, UnitError> {
    if !has_systemd(config) {
        return Ok(false);
    }
    let packaged = ["/usr/lib/systemd/system", "/lib/systemd/system"].map(|folder| Path::new(folder).join(UNIT));
    if !packaged.iter().any(|path| path.exists()) && !own_unit().exists() {
        files::write_atomic(&own_unit(), text(config_file).as_bytes(), 0o644)?;
        say(&format!("wrote {}", own_unit().display()));
    }
    let systemd = Systemd::connect().await?;
    systemd.call("read its units again", "Reload", &()).await?;
    systemd.call("enable the service", "EnableUnitFiles", &(vec![UNIT], false, true)).await?;
    systemd.call("start the service", "StartUnit", &(UNIT, "replace")).await?;
    say(&format!("{UNIT} is enabled and started; its log: journalctl -u kube-pet"));
    Ok(true)
}

/// Disables and stops it, and takes away a unit that [`start`] has written.
pub(super) async fn stop(config: &NodeConfiguration, say: Say<'_>) -> Result<bool, UnitError> {
    if !has_systemd(config) {
        return Ok(false);
    }
    let systemd = Systemd::connect().await?;
    // A unit that is not loaded is not running.
    if systemd.call("stop the service", "StopUnit", &(UNIT, "replace")).await.is_ok() {
        say(&format!("{UNIT} is stopped"));
    }
    let _ = systemd.call("disable the service", "DisableUnitFiles", &(vec![UNIT], false)).await;
    match std::fs::remove_file(own_unit()) {
        Ok(()) => say(&format!("removed {}", own_unit().display())),
        // It was a package's.
        Err(_) => return Ok(true),
    }
    systemd.call("read its units again", "Reload", &()).await?;
    Ok(true)
}

struct Systemd(Connection);

impl Systemd {
    async fn connect() -> Result<Self, UnitError> {
        let bus = zbus::connection::Builder::system().method_timeout(DEADLINE).build();
        bus.await.map(Self).map_err(UnitError::Bus)
    }

    async fn call(
        &self,
        what: &'static str,
        method: &'static str,
        arguments: &(impl Serialize + zbus::wire::DynamicType),
    ) -> Result<(), UnitError> {
        let (service, path, interface) = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
        let reply = self.0.call_method(Some(service), path, Some(interface), method, arguments).await;
        reply.map(drop).map_err(|source| UnitError::Call { what, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_leaves_pods_alone() {
        let text = text(Path::new("/etc/kube-pet/node.yaml"));
        for line in ["KillMode=process", "Restart=always", "WantedBy=multi-user.target"] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
        assert!(text.contains(" node --config /etc/kube-pet/node.yaml\n"));
    }
}
