//! Who has which sandbox and which addresses: the one place where addresses are given and taken back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use kube_pet_core::id_ranges::{IdRangeError, IdRanges};
use kube_pet_core::ids::PodUid;
use kube_pet_core::ipam::{Allocator, Cidr};
use tracing::{error, info};

use super::record::Record;
use super::{Sandbox, SandboxConfig, SandboxError, SandboxSpec};

/// One pod.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    /// What callers get; `None` until it was made, or if its namespaces did not survive.
    pub(super) sandbox: Option<Sandbox>,
    /// Whether the pod may be using its addresses: all but those whose namespaces did not survive a reboot.
    pub(super) attached: bool,
    /// Found at the start, and not asked for since.
    pub(super) recovered: bool,
}

/// All pods' sandboxes.
#[derive(Default)]
pub(super) struct Books {
    entries: HashMap<PodUid, Entry>,
    allocator: Option<Allocator>,
    conflict: Option<String>,
    /// Where an earlier run of the agent had given the last addresses.
    cursors: Option<(Vec<Cidr>, Vec<u64>)>,
    /// Read when the first pod with a user namespace comes.
    ids: Option<IdRanges>,
    locks: HashMap<PodUid, Arc<tokio::sync::Mutex<()>>>,
}

impl Books {
    /// The lock that work on one pod's sandbox is done under.
    pub(super) fn lock_of(&mut self, uid: &PodUid) -> Arc<tokio::sync::Mutex<()>> {
        self.locks.entry(uid.clone()).or_default().clone()
    }

    pub(super) fn get(&self, uid: &PodUid) -> Option<&Entry> {
        self.entries.get(uid)
    }

    pub(super) fn uids(&self) -> impl Iterator<Item = &PodUid> {
        self.entries.keys()
    }

    pub(super) fn conflict(&self) -> Option<String> {
        self.conflict.clone()
    }

    /// What must be stored to give addresses in turn after a restart.
    pub(super) fn cursors(&self) -> Option<(Vec<Cidr>, Vec<u64>)> {
        self.allocator.as_ref().map(|allocator| (allocator.cidrs(), allocator.cursors()))
    }

    /// What an earlier run stored.
    pub(super) fn resume(&mut self, cursors: (Vec<Cidr>, Vec<u64>)) {
        self.cursors = Some(cursors);
    }

    /// The record that a pod should have now: with the addresses that it has, or with new ones.
    pub(super) fn open(&mut self, spec: &SandboxSpec, config: &SandboxConfig) -> Result<Record, SandboxError> {
        let uid = &spec.uid;
        let mut record = Record {
            uid: uid.clone(),
            namespace: spec.namespace.clone(),
            name: spec.name.clone(),
            host_network: spec.host_network,
            host_ipc: spec.host_ipc,
            ips: Vec::new(),
            cidrs: Vec::new(),
            host_ports: spec.host_ports.clone(),
            first_id: None,
        };
        if !spec.host_users {
            record.first_id = Some(self.ids(config)?.allocate(uid)?);
        }
        if !spec.host_network {
            let using = self.entries.get(uid).filter(|entry| entry.attached && !entry.record.ips.is_empty());
            let using = using.map(|entry| (entry.record.ips.clone(), entry.record.cidrs.clone()));
            let switched = self.use_networks(&spec.pod_cidrs);
            (record.ips, record.cidrs) = match using {
                // A pod keeps what it uses, whatever the node's networks are now.
                Some(using) => using,
                None => {
                    switched?;
                    let allocator = self.allocator.as_mut().ok_or_else(|| SandboxError::NoPodCidr { uid: uid.clone() })?;
                    let ips = allocator.allocate(uid)?;
                    (ips, allocator.cidrs().iter().map(ToString::to_string).collect())
                }
            };
        }
        match self.entries.get_mut(uid) {
            Some(entry) => {
                entry.record = record.clone();
                entry.attached = true;
                entry.recovered = false;
            }
            None => {
                self.entries.insert(uid.clone(), Entry { record: record.clone(), sandbox: None, attached: true, recovered: false });
            }
        }
        Ok(record)
    }

    fn ids(&mut self, config: &SandboxConfig) -> Result<&mut IdRanges, IdRangeError> {
        let ids = match self.ids.take() {
            Some(ids) => ids,
            None => {
                let [users, groups] = config.subordinate_ids.each_ref().map(|path| std::fs::read_to_string(path).unwrap_or_default());
                IdRanges::new(&users, &groups, config.max_pods)?
            }
        };
        Ok(self.ids.insert(ids))
    }

    /// The sandbox exists now.
    pub(super) fn made(&mut self, uid: &PodUid, sandbox: &Sandbox) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.sandbox = Some(Sandbox { created: false, ..sandbox.clone() });
        }
    }

    /// The sandbox does not exist any more: its addresses are free.
    pub(super) fn close(&mut self, uid: &PodUid) {
        self.entries.remove(uid);
        if let Some(allocator) = &mut self.allocator {
            allocator.release(uid);
        }
        if let Some(ids) = &mut self.ids {
            ids.release(uid);
        }
        // Two: the books' and the caller's. Nobody can take another one while the books are held.
        if self.locks.get(uid).is_some_and(|lock| Arc::strong_count(lock) <= 2) {
            self.locks.remove(uid);
        }
        if self.entries.values().all(|entry| entry.record.ips.is_empty() || !entry.attached) {
            self.conflict = None;
        }
    }

    /// Gives addresses from these networks from now on. None named: those in use go on (the API server is away).
    ///
    /// Changing them is refused while a living pod has an address that is not in the new ones. Pods whose namespaces are gone
    /// keep theirs if it fits.
    pub(super) fn use_networks(&mut self, cidrs: &[String]) -> Result<(), SandboxError> {
        if cidrs.is_empty() {
            return Ok(());
        }
        let mut wanted = Allocator::new(cidrs, false)?;
        let current = self.allocator.as_ref().map(Allocator::cidrs);
        if current.as_ref() == Some(&wanted.cidrs()) {
            self.conflict = None;
            return Ok(());
        }
        let mut in_the_way = 0;
        for (uid, entry) in &self.entries {
            let fits = entry.record.ips.iter().all(|ip| wanted.reserve(uid, *ip).is_ok());
            if !fits {
                wanted.release(uid);
                if entry.attached {
                    in_the_way += 1;
                }
            }
        }
        let names = |cidrs: &[Cidr]| cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        if in_the_way > 0 {
            let current = current.map_or_else(|| "unknown networks".to_owned(), |cidrs| names(&cidrs));
            let error = SandboxError::CidrInUse { current, wanted: names(&wanted.cidrs()), pods: in_the_way };
            let text = error.to_string();
            if self.conflict.as_ref() != Some(&text) {
                error!(error = text, "the node's pod networks have changed; new pods wait");
            }
            self.conflict = Some(text);
            return Err(error);
        }
        match &self.cursors {
            Some((cidrs, cursors)) if *cidrs == wanted.cidrs() => wanted.resume(cursors),
            _ => {}
        }
        info!(cidrs = names(&wanted.cidrs()), "pod networks");
        self.conflict = None;
        self.allocator = Some(wanted);
        Ok(())
    }

    /// Takes over what an earlier run left. Those in use come first: if two records name the same address, the one whose
    /// namespace has it is right.
    pub(super) fn adopt(&mut self, mut found: Vec<Entry>, config: &SandboxConfig) {
        found.sort_by_key(|entry| (!entry.attached, entry.record.cidrs.is_empty()));
        if let Some(first) = found.iter().find(|entry| !entry.record.cidrs.is_empty())
            && let Err(error) = self.use_networks(&first.record.cidrs)
        {
            error!(uid = %first.record.uid, %error, "the networks in a sandbox record cannot be used");
        }
        for mut entry in found {
            let uid = entry.record.uid.clone();
            let (fit, other): (Vec<IpAddr>, Vec<IpAddr>) = entry.record.ips.iter().partition(|ip| self.reserve(&uid, **ip));
            if !other.is_empty() && self.allocator.is_some() {
                error!(%uid, ips = ?other, attached = entry.attached, "a recorded address is taken, or of another network");
            }
            if !entry.attached {
                entry.record.ips = fit;
            }
            if let Some(first) = entry.record.first_id {
                let problem = match self.ids(config).map(|ids| ids.reserve(&uid, first)) {
                    Ok(true) => None,
                    Ok(false) => Some("they are taken, or not the node's any more".to_owned()),
                    Err(error) => Some(error.to_string()),
                };
                if let Some(problem) = problem {
                    error!(%uid, first, attached = entry.attached, problem, "the IDs of a pod's user namespace cannot be kept");
                }
            }
            self.entries.insert(uid, entry);
        }
    }

    fn reserve(&mut self, uid: &PodUid, ip: IpAddr) -> bool {
        self.allocator.as_mut().is_some_and(|allocator| allocator.reserve(uid, ip).is_ok())
    }
}
