//! The owner of the interface, its routes and its table.

use std::path::PathBuf;

use kube_pet_net::tunnel_links;
use kube_pet_net::tunnel_table::{TunnelRules, TunnelTable};
use kube_pet_tunnel::{Config, PrivateKey, Settings, Tunnel, TunnelError};
use tracing::{info, warn};

use super::model::{Desired, Known, MARK, TABLE};
use crate::config::TunnelSettings;
use crate::kernel_tables::{Condition, OwnChanges};

/// Looks at the table in every so many rounds.
const LOOK_EVERY: u32 = 10;

/// See the module.
pub(super) struct Keeper {
    link: String,
    settings: TunnelSettings,
    key: PrivateKey,
    own_changes: OwnChanges,
    tunnel: Option<Tunnel>,
    table: Option<TunnelTable>,
    applied: Option<Desired>,
    round: u32,
    /// Told once, until it is over.
    trouble: Option<String>,
}

/// The tunnel's link and its table of nf_tables have the same name.
fn name(link_prefix: &str) -> String {
    format!("{link_prefix}-tunnel")
}

impl Keeper {
    pub(super) fn new(link_prefix: String, settings: TunnelSettings, key: PrivateKey, own_changes: OwnChanges) -> Self {
        let link = name(&link_prefix);
        Self { link, settings, key, own_changes, tunnel: None, table: None, applied: None, round: 0, trouble: None }
    }

    /// Makes the tunnel what it should be. Calls of the kernel that take microseconds each, on a thread that may wait.
    pub(super) async fn keep(mut self, known: &Known) -> Self {
        let Some(desired) = known.desired(&self.link, &self.settings) else { return self };
        let kept = tokio::task::spawn_blocking(move || {
            let done = self.work(desired);
            self.tell(done);
            self
        });
        match kept.await {
            Ok(keeper) => keeper,
            Err(error) => {
                // With it the interface is gone, where this process runs it: the agent is started again, and with it the tunnel.
                warn!(%error, "the tunnel broke down");
                std::future::pending().await
            }
        }
    }

    fn work(&mut self, desired: Desired) -> Result<(), Trouble> {
        self.round = self.round.wrapping_add(1);
        let settings = Settings { private_key: self.key.clone(), listen_port: self.settings.listen_port, mark: MARK.value };
        let changed = self.applied.as_ref() != Some(&desired);
        let done = match &mut self.tunnel {
            None => {
                let config = Config { link: desired.link.clone(), settings: settings.clone(), mode: self.settings.mode };
                let tunnel = self.tunnel.insert(Tunnel::open(config)?);
                tunnel.apply(&desired.link, &settings, &desired.peers)
            }
            Some(tunnel) if changed => tunnel.apply(&desired.link, &settings, &desired.peers),
            Some(tunnel) => tunnel.tick(),
        };
        if let Err(error) = done {
            if error.is_gone() {
                // Made again in the next round.
                self.tunnel = None;
            }
            self.applied = None;
            return Err(error.into());
        }
        self.applied = Some(desired);
        self.keep_table()
    }

    fn keep_table(&mut self) -> Result<(), Trouble> {
        if let Some(table) = &mut self.table
            && (!self.round.is_multiple_of(LOOK_EVERY) || table.verify()? == Condition::Intact)
        {
            return Ok(());
        }
        let table = match &mut self.table {
            Some(table) => table,
            None => self.table.insert(TunnelTable::open(&self.link, self.own_changes.clone())?),
        };
        table.ensure(&TunnelRules { link: self.link.clone(), masquerade: Vec::new() })?;
        Ok(())
    }

    fn tell(&mut self, done: Result<(), Trouble>) {
        match done {
            Ok(()) => {
                if self.trouble.take().is_some() {
                    info!("the tunnel is what it should be");
                }
            }
            Err(error) => {
                let text = error.to_string();
                if self.trouble.as_ref() != Some(&text) {
                    warn!(error = &error as &dyn std::error::Error, "the tunnel is not what it should be; retrying");
                }
                self.trouble = Some(text);
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    #[error(transparent)]
    Table(#[from] kube_pet_net::tables::TableError),
}

/// Where the tunnel is off: takes away what a run with it has left, which would refuse the cluster's addresses for ever. Never ends.
pub(super) async fn leave(link_prefix: String, own_changes: OwnChanges, record: PathBuf) {
    let left = tokio::task::spawn_blocking(move || -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        if !record.exists() {
            return Ok(false);
        }
        let name = name(&link_prefix);
        tunnel_links::remove(&name, TABLE, MARK)?;
        TunnelTable::open(&name, own_changes)?.remove()?;
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
