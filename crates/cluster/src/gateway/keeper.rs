//! The owner of the interface, its routes and its table.

use std::time::Instant;

use kube_pet_net::tables::{Condition, OwnChanges, TableError};
use kube_pet_net::tunnel_table::TunnelTable;
use kube_pet_tunnel::{Config, Mode, PrivateKey, Settings, Status, Tunnel, TunnelError};
use tracing::{info, warn};

use super::Options;
use super::counters::CHANGE_SECONDS;
use super::desired::{Desired, MARK};

/// What a look at the interface has shown.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: Instant,
    /// Of the last look that worked.
    pub(super) status: Option<Status>,
    pub(super) trouble: Option<String>,
}

pub(super) struct Keeper {
    link: String,
    mode: Mode,
    settings: Settings,
    tunnel: Option<Tunnel>,
    table: Option<TunnelTable>,
    applied: Option<Desired>,
    status: Option<Status>,
    trouble: Option<String>,
}

impl Keeper {
    pub(super) fn new(options: &Options, private_key: PrivateKey) -> Self {
        let settings = Settings { private_key, listen_port: options.listen_port, mark: MARK.value };
        Self {
            link: options.link.clone(),
            mode: options.mode,
            settings,
            tunnel: None,
            table: None,
            applied: None,
            status: None,
            trouble: None,
        }
    }

    /// Makes the interface what it should be, on a thread that may wait. `None` if that broke down.
    pub(super) async fn keep(mut self, desired: Desired) -> Option<(Self, Seen)> {
        let kept = tokio::task::spawn_blocking(move || {
            let done = self.work(desired);
            self.tell(done);
            let seen = Seen { at: Instant::now(), status: self.status.clone(), trouble: self.trouble.clone() };
            (self, seen)
        });
        kept.await.ok()
    }

    fn work(&mut self, desired: Desired) -> Result<(), Trouble> {
        let changed = self.applied.as_ref() != Some(&desired);
        let begun = Instant::now();
        let done = match &mut self.tunnel {
            None => {
                let config = Config { link: desired.link.clone(), settings: self.settings.clone(), mode: self.mode };
                let tunnel = self.tunnel.insert(Tunnel::open(config)?);
                tunnel.apply(&desired.link, &self.settings, &desired.peers)
            }
            Some(tunnel) if changed => {
                let done = tunnel.apply(&desired.link, &self.settings, &desired.peers);
                CHANGE_SECONDS.set(&[], begun.elapsed().as_secs_f64());
                done
            }
            Some(tunnel) => tunnel.tick(),
        };
        let looked = done.and_then(|()| self.tunnel.as_mut().map(Tunnel::status).transpose());
        match looked {
            Ok(status) => self.status = status,
            Err(error) => {
                if error.is_gone() {
                    self.tunnel = None;
                }
                self.applied = None;
                return Err(error.into());
            }
        }
        if let Some(table) = &mut self.table
            && !changed
            && table.verify()? == Condition::Intact
        {
            return Ok(());
        }
        let table = match &mut self.table {
            Some(table) => table,
            None => self.table.insert(TunnelTable::open(&self.link, OwnChanges::default())?),
        };
        table.ensure(&desired.rules)?;
        self.applied = Some(desired);
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
    Table(#[from] TableError),
}
