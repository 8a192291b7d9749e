//! The tunnel's interface, on threads that may wait; and what is done where the tunnel is off.

use std::path::PathBuf;

use kube_pet_tunnel::{Keeper, PrivateKey, Settings};
use tracing::{info, warn};

use super::model::{Known, MARK, TABLE};
use crate::config::TunnelSettings;
use crate::kernel_tables::OwnChanges;

/// See the module.
pub(super) struct Interface {
    link: String,
    settings: TunnelSettings,
    keeper: Keeper,
}

/// Its name, and its table's. It does not begin as pods' links do: what comes from those is treated as the node's own pods' traffic.
fn link(link_prefix: &str) -> String {
    let kind = if "tunnel".starts_with(link_prefix) { "wg" } else { "tunnel" };
    format!("{kind}-{link_prefix}")
}

impl Interface {
    pub(super) fn new(link_prefix: &str, settings: TunnelSettings, private_key: PrivateKey, own_changes: OwnChanges) -> Self {
        let wanted = Settings { private_key, listen_port: settings.listen_port, mark: MARK.value };
        Self { link: link(link_prefix), keeper: Keeper::new(wanted, settings.mode, own_changes), settings }
    }

    /// Makes the tunnel what it should be.
    pub(super) async fn keep(mut self, known: &Known) -> Self {
        let Some(desired) = known.desired(&self.link, &self.settings) else { return self };
        let kept = tokio::task::spawn_blocking(move || {
            self.keeper.keep(&desired);
            self
        });
        match kept.await {
            Ok(interface) => interface,
            Err(error) => {
                // With it the interface is gone, where this process runs it: the agent is started again, and with it the tunnel.
                warn!(%error, "the tunnel broke down");
                std::future::pending().await
            }
        }
    }
}

/// Where the tunnel is off: takes away what a run with it has left, which would refuse the cluster's addresses for ever. Never ends.
pub(super) async fn leave(link_prefix: String, own_changes: OwnChanges, record: PathBuf) {
    let left = tokio::task::spawn_blocking(move || -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        if !record.exists() {
            return Ok(false);
        }
        kube_pet_tunnel::keeper::remove(&link(&link_prefix), TABLE, MARK, own_changes)?;
        std::fs::remove_file(&record)?;
        Ok(true)
    });
    match left.await {
        Ok(Ok(true)) => info!("the tunnel is off: what an earlier run had left of it is taken away"),
        Ok(Ok(false)) => {}
        Ok(Err(error)) => warn!(%error, "what an earlier run has left of the tunnel is still there"),
        Err(error) => warn!(%error, "what an earlier run has left of the tunnel is still there"),
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::link;

    #[test]
    fn the_link_is_never_taken_for_a_pods() {
        for prefix in ["kp", "t", "tu", "tunn", "wg", "0"] {
            let name = link(prefix);
            assert!(!name.starts_with(prefix) && name.ends_with(prefix) && name.len() < 16, "{prefix}: {name}");
        }
    }
}
