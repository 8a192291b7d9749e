//! Keeps a tunnel what it should be: interface, routes and the table of nf_tables, made again where somebody has taken them away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube_pet_net::tables::{Condition, OwnChanges, TableError};
use kube_pet_net::tunnel_links::{self, Mark, TunnelLink};
use kube_pet_net::tunnel_table::{TunnelRules, TunnelTable};
use kube_pet_rules::Network;
use tracing::{debug, info, warn};

use crate::device::{Mode, Settings};
use crate::keys::{PrivateKey, PublicKey};
use crate::tunnel::{Config, Peer, Status, Tunnel, TunnelError};

/// A tunnel as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Link, addresses and routes.
    pub link: TunnelLink,
    /// By their keys.
    pub peers: Arc<BTreeMap<PublicKey, Peer>>,
    /// Packets from these networks that leave the tunnel's machine by another link have its address there.
    pub masquerade: Vec<Network>,
    /// Who of these networks is talked to is to be known: [`Keeper::talked_to`].
    pub remembered: Vec<Network>,
}

/// The owner of one tunnel. What fails is told once in the log, and tried again with the next call. Calls are synchronous: requests to the
/// kernel that take microseconds each.
pub struct Keeper {
    settings: Settings,
    mode: Mode,
    own_changes: OwnChanges,
    tunnel: Option<Tunnel>,
    table: Option<TunnelTable>,
    /// What the table was made for.
    rules: Option<TunnelRules>,
    applied: Option<Desired>,
    trouble: Option<String>,
}

impl Keeper {
    /// Changes nothing yet.
    pub fn new(settings: Settings, mode: Mode, own_changes: OwnChanges) -> Self {
        Self { settings, mode, own_changes, tunnel: None, table: None, rules: None, applied: None, trouble: None }
    }

    /// Another key, from the next [`Keeper::keep`] on. Sessions end, and peers whose place is known are asked for new ones at once.
    pub fn set_key(&mut self, key: PrivateKey) {
        self.settings.private_key = key;
        self.applied = None;
    }

    /// Makes the tunnel what it should be; to be called about once a second, also if nothing else is wanted. How long it took to change
    /// one that runs already.
    pub fn keep(&mut self, desired: &Desired) -> Option<Duration> {
        let begun = Instant::now();
        let differs = self.applied.as_ref() != Some(desired);
        let changes = self.tunnel.is_some() && differs;
        let done = self.work(desired, differs);
        self.tell(done);
        changes.then(|| begun.elapsed())
    }

    /// How the tunnel is; `None` if there is none, or if that cannot be read.
    pub fn status(&mut self) -> Option<Status> {
        match self.tunnel.as_mut()?.status() {
            Ok(status) => Some(status),
            Err(error) => {
                let trouble = self.failed(error);
                self.tell(Err(trouble));
                None
            }
        }
    }

    /// Who of [`Desired::remembered`] was talked to in the last minute; nobody where that cannot be read.
    pub fn talked_to(&mut self) -> BTreeSet<IpAddr> {
        let found = self.table.as_mut().map(TunnelTable::talked_to);
        found.unwrap_or_else(|| Ok(BTreeSet::new())).unwrap_or_else(|error| {
            debug!(%error, "who is talked to through the tunnel is not known");
            BTreeSet::new()
        })
    }

    /// Why the tunnel is not what it should be.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    fn work(&mut self, desired: &Desired, changed: bool) -> Result<(), Trouble> {
        let Desired { link, peers, masquerade, remembered } = desired;
        let done = match &mut self.tunnel {
            None => {
                let config = Config { link: link.clone(), settings: self.settings.clone(), mode: self.mode };
                let tunnel = self.tunnel.insert(Tunnel::open(config)?);
                tunnel.apply(link, &self.settings, peers)
            }
            Some(tunnel) if changed => tunnel.apply(link, &self.settings, peers),
            Some(tunnel) => tunnel.tick(),
        };
        done.map_err(|error| self.failed(error))?;
        let rules = TunnelRules { link: link.name.clone(), masquerade: masquerade.clone(), remembered: remembered.clone() };
        if changed {
            self.applied = Some(desired.clone());
        }
        if let Some(table) = &mut self.table
            && self.rules.as_ref() == Some(&rules)
            && table.verify()? == Condition::Intact
        {
            return Ok(());
        }
        self.rules = None;
        let table = match &mut self.table {
            Some(table) => table,
            None => self.table.insert(TunnelTable::open(&link.name, self.own_changes.clone())?),
        };
        table.ensure(&rules)?;
        self.rules = Some(rules);
        Ok(())
    }

    /// All of it is done again, and an interface that is gone is made again.
    fn failed(&mut self, error: TunnelError) -> Trouble {
        if error.is_gone() {
            self.tunnel = None;
        }
        self.applied = None;
        error.into()
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

/// Takes away what an earlier run has left of a tunnel: link, routes, and the table, which has the link's name.
///
/// # Errors
/// When the system refuses.
pub fn remove(link: &str, routes: u32, mark: Mark, own_changes: OwnChanges) -> Result<(), RemoveError> {
    tunnel_links::remove(link, routes, mark)?;
    TunnelTable::open(link, own_changes)?.remove()?;
    Ok(())
}

/// What an earlier run has left is not taken away.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Link or routes.
    #[error(transparent)]
    Link(#[from] kube_pet_net::NetlinkError),
    /// The table.
    #[error(transparent)]
    Table(#[from] TableError),
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    #[error(transparent)]
    Table(#[from] TableError),
}
