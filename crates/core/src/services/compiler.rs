//! The objects, and which rules change with them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::claims::{self, Claim, Owner};
use super::objects::{HostPort, Service, Slice};
use kube_pet_rules::Family;
use kube_pet_rules::packed::Packed;
use kube_pet_rules::services::{Frontend, Rule, Rules};

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A Service is there, or is another one now.
    Service(Arc<Service>),
    /// The Service of this key is gone.
    ServiceGone(Arc<str>),
    /// A slice is there, or is another one now.
    Slice(Slice),
    /// The slice of this key is gone.
    SliceGone(Arc<str>),
    /// The node's zone (`topology.kubernetes.io/zone`).
    Zone(Option<Arc<str>>),
    /// A pod of this UID has these addresses and wants these ports of the node; none if `ports` is empty.
    HostPorts {
        /// The pod.
        pod: Arc<str>,
        /// Its addresses.
        ips: Vec<IpAddr>,
        /// All its host ports.
        ports: Vec<HostPort>,
    },
}

/// Rules that are other ones now, or none any more.
pub type Changes = BTreeMap<Frontend, Option<Rule>>;

/// What a health-check node port tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The node's port.
    pub port: u16,
    /// How many endpoints on this node are ready.
    pub local: usize,
}

/// What is known of one Service.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Arc<Service>>,
    /// Sorted by key.
    slices: Vec<KeptSlice>,
}

/// A slice; its key is beside it, its Service is the entry's.
#[derive(Debug)]
struct KeptSlice {
    key: Arc<str>,
    slice: Packed<Slice>,
}

/// Almost every frontend is wanted by one owner; the box makes the others as small.
#[derive(Debug)]
enum Claimants {
    One(Owner),
    #[allow(clippy::box_collection, reason = "a frontend of each Service has one of these")]
    Many(Box<BTreeSet<Owner>>),
}

/// Holds the cluster's Services and slices, and the node's host ports.
#[derive(Debug, Default)]
pub struct Compiler {
    zone: Option<Arc<str>>,
    entries: HashMap<Arc<str>, Entry>,
    /// The Service of each slice: its label may change.
    slices: HashMap<Arc<str>, Arc<str>>,
    pods: HashMap<Arc<str>, (Vec<IpAddr>, Vec<HostPort>)>,
    claimants: HashMap<Frontend, Claimants>,
    health_checks: BTreeMap<Arc<str>, HealthCheck>,
}

impl Compiler {
    /// Takes an event in. The changes of several events can be put together, later ones over earlier ones.
    pub fn apply(&mut self, event: Event) -> Changes {
        let mut changes = Changes::new();
        match event {
            Event::Service(service) => {
                let key = service.key.clone();
                self.share_key(&key);
                self.change_entry(key, &mut changes, |entry| entry.service = Some(service));
            }
            Event::ServiceGone(key) => {
                if self.entries.contains_key(&key) {
                    self.change_entry(key, &mut changes, |entry| entry.service = None);
                }
            }
            Event::Slice(mut slice) => {
                if let Some((known, _)) = self.entries.get_key_value(&slice.service) {
                    slice.service = known.clone();
                }
                let before = self.slices.insert(slice.key.clone(), slice.service.clone());
                if let Some(before) = before.filter(|before| *before != slice.service) {
                    self.change_entry(before, &mut changes, |entry| entry.remove(&slice.key));
                }
                self.change_entry(slice.service.clone(), &mut changes, |entry| entry.put(&slice));
            }
            Event::SliceGone(key) => {
                if let Some(service) = self.slices.remove(&key) {
                    self.change_entry(service, &mut changes, |entry| entry.remove(&key));
                }
            }
            Event::Zone(zone) if zone == self.zone => {}
            Event::Zone(zone) => {
                let keys: Vec<Arc<str>> = self.entries.keys().cloned().collect();
                let before = std::mem::replace(&mut self.zone, zone.clone());
                for key in keys {
                    self.zone.clone_from(&before);
                    let old = self.claims(&Owner::Service(key.clone()));
                    self.zone.clone_from(&zone);
                    self.settle(Owner::Service(key), old, &mut changes);
                }
            }
            Event::HostPorts { pod, ips, ports } => {
                let owner = Owner::Pod(pod.clone());
                let old = self.claims(&owner);
                if ports.is_empty() {
                    self.pods.remove(&pod);
                } else {
                    self.pods.insert(pod, (ips, ports));
                }
                self.settle(owner, old, &mut changes);
            }
        }
        changes
    }

    /// All rules as they should be. One after the other, so that no more than they need in the end is in memory on the way.
    pub fn rules(&self) -> Rules {
        let services = self.entries.keys().cloned().map(Owner::Service);
        let owners = services.chain(self.pods.keys().cloned().map(Owner::Pod));
        owners
            .flat_map(|owner| self.claims(&owner).into_iter().filter(move |claim| self.wins(claim, &owner)))
            .map(|Claim { frontend, rule, .. }| (frontend, rule))
            .collect()
    }

    fn wins(&self, claim: &Claim, owner: &Owner) -> bool {
        self.best_rival(&claim.frontend, owner).is_none_or(|(rival, holder)| (claim.precedence, owner) <= (rival.precedence, &holder))
    }

    /// The health-check node ports by the keys of their Services.
    pub fn health_checks(&self) -> &BTreeMap<Arc<str>, HealthCheck> {
        &self.health_checks
    }

    /// How many Services are known.
    pub fn services(&self) -> usize {
        self.entries.values().filter(|entry| entry.service.is_some()).count()
    }

    /// The Service's own key is kept once, not a second time as that of its entry and slices, which may have come first.
    fn share_key(&mut self, key: &Arc<str>) {
        if self.entries.get_key_value(key).is_none_or(|(known, _)| Arc::ptr_eq(known, key)) {
            return;
        }
        let Some(entry) = self.entries.remove(key) else { return };
        for slice in &entry.slices {
            self.slices.insert(slice.key.clone(), key.clone());
        }
        self.entries.insert(key.clone(), entry);
    }

    fn change_entry(&mut self, key: Arc<str>, changes: &mut Changes, change: impl FnOnce(&mut Entry)) {
        let owner = Owner::Service(key.clone());
        let old = self.claims(&owner);
        let entry = self.entries.entry(key.clone()).or_default();
        change(entry);
        let check = entry.health_check();
        if entry.service.is_none() && entry.slices.is_empty() {
            self.entries.remove(&key);
        }
        match check {
            Some(check) => drop(self.health_checks.insert(key, check)),
            None => drop(self.health_checks.remove(&key)),
        }
        self.settle(owner, old, changes);
    }

    /// What an owner wants now.
    fn claims(&self, owner: &Owner) -> Vec<Claim> {
        let mut claims = match owner {
            Owner::Service(key) => match self.entries.get(key) {
                Some(entry @ Entry { service: Some(service), .. }) => claims::of_service(service, &entry.slices(), self.zone.as_deref()),
                _ => Vec::new(),
            },
            Owner::Pod(uid) => self.pods.get(uid).map(|(ips, ports)| claims::of_pod(ips, ports)).unwrap_or_default(),
        };
        // Of two claims of one owner on a frontend, the stronger or else the first counts.
        claims.sort_by_key(|claim| (claim.frontend, claim.precedence));
        claims.dedup_by_key(|claim| claim.frontend);
        claims
    }

    /// Finds what is different, now that what `owner` wanted before may be something else.
    fn settle(&mut self, owner: Owner, old: Vec<Claim>, changes: &mut Changes) {
        let mut touched: BTreeMap<Frontend, (Option<Claim>, Option<Claim>)> = BTreeMap::new();
        for claim in old {
            let frontend = claim.frontend;
            touched.entry(frontend).or_default().0 = Some(claim);
        }
        for claim in self.claims(&owner) {
            let frontend = claim.frontend;
            touched.entry(frontend).or_default().1 = Some(claim);
        }
        for (frontend, (old, new)) in touched {
            let rival = self.best_rival(&frontend, &owner);
            let winner = |mine: Option<Claim>| match (mine, &rival) {
                (Some(mine), Some((theirs, holder))) if (theirs.precedence, holder) < (mine.precedence, &owner) => {
                    Some(theirs.rule.clone())
                }
                (Some(mine), _) => Some(mine.rule),
                (None, theirs) => theirs.as_ref().map(|(claim, _)| claim.rule.clone()),
            };
            let wanted = new.is_some();
            let (before, after) = (winner(old), winner(new));
            if before != after {
                changes.insert(frontend, after);
            }
            self.note(frontend, &owner, wanted);
        }
    }

    /// The strongest claim of anybody else.
    fn best_rival(&self, frontend: &Frontend, owner: &Owner) -> Option<(Claim, Owner)> {
        match self.claimants.get(frontend)? {
            Claimants::One(other) if other == owner => None,
            Claimants::One(other) => self.claim_on(frontend, other),
            Claimants::Many(all) => all
                .iter()
                .filter(|other| *other != owner)
                .filter_map(|other| self.claim_on(frontend, other))
                .min_by(|(a, first), (b, second)| (a.precedence, first).cmp(&(b.precedence, second))),
        }
    }

    fn claim_on(&self, frontend: &Frontend, owner: &Owner) -> Option<(Claim, Owner)> {
        let claim = self.claims(owner).into_iter().find(|claim| claim.frontend == *frontend)?;
        Some((claim, owner.clone()))
    }

    /// Keeps in mind who wants a frontend.
    fn note(&mut self, frontend: Frontend, owner: &Owner, wanted: bool) {
        match self.claimants.get_mut(&frontend) {
            None if wanted => drop(self.claimants.insert(frontend, Claimants::One(owner.clone()))),
            None => {}
            Some(Claimants::One(other)) if other == owner && wanted => {}
            Some(Claimants::One(other)) if other == owner => drop(self.claimants.remove(&frontend)),
            Some(claimants) => {
                let mut all = match claimants {
                    Claimants::One(other) => BTreeSet::from([other.clone()]),
                    Claimants::Many(all) => std::mem::take(&mut **all),
                };
                if wanted {
                    all.insert(owner.clone());
                } else {
                    all.remove(owner);
                }
                *claimants = match all.first() {
                    Some(only) if all.len() == 1 => Claimants::One(only.clone()),
                    _ => Claimants::Many(Box::new(all)),
                };
            }
        }
    }
}

#[cfg(test)]
impl Compiler {
    /// The same as [`Compiler::rules`], without what is kept in mind of who wants what.
    pub(super) fn built_anew(&self) -> BTreeMap<Frontend, Rule> {
        let mut best: BTreeMap<Frontend, (claims::Precedence, Owner, Rule)> = BTreeMap::new();
        let services = self.entries.keys().cloned().map(Owner::Service);
        for owner in services.chain(self.pods.keys().cloned().map(Owner::Pod)) {
            for Claim { frontend, precedence, rule } in self.claims(&owner) {
                match best.get(&frontend) {
                    Some((other, holder, _)) if (other, holder) <= (&precedence, &owner) => {}
                    _ => drop(best.insert(frontend, (precedence, owner.clone(), rule))),
                }
            }
        }
        best.into_iter().map(|(frontend, (_, _, rule))| (frontend, rule)).collect()
    }
}

impl Entry {
    fn slices(&self) -> Vec<Slice> {
        self.slices.iter().filter_map(|kept| Some(Slice { key: kept.key.clone(), ..kept.slice.unpack()? })).collect()
    }

    fn put(&mut self, slice: &Slice) {
        let slice = KeptSlice { key: slice.key.clone(), slice: Packed::of(slice) };
        match self.slices.binary_search_by(|known| known.key.cmp(&slice.key)) {
            Ok(at) => self.slices[at] = slice,
            Err(at) => {
                self.slices.reserve_exact(1);
                self.slices.insert(at, slice);
            }
        }
    }

    fn remove(&mut self, key: &str) {
        self.slices.retain(|slice| *slice.key != *key);
    }

    /// Endpoints that only end do not count: the load balancer shall turn away.
    fn health_check(&self) -> Option<HealthCheck> {
        let service = self.service.as_ref().filter(|service| service.proxied)?;
        let port = service.health_check_port?;
        let slices = self.slices();
        let local = |family| {
            let slices = slices.iter().filter(|slice| slice.family == family && !slice.ports.is_empty());
            let ready = slices.flat_map(|slice| &slice.endpoints).filter(|endpoint| endpoint.local && endpoint.ready);
            ready.map(|endpoint| endpoint.address).collect::<BTreeSet<_>>().len()
        };
        let local = Family::ALL.into_iter().map(local).max().unwrap_or_default();
        Some(HealthCheck { port, local })
    }
}
