//! Services in the kernel: one nf_tables table in which every Service is a few elements of sets and maps that never change their rules.
//!
//! A frontend lies in the set of those with its number of endpoints; the rule of that set picks one of them at random from a map with the key
//! frontend . index. So a change is a handful of elements, whose cost does not grow with the number of Services, and reading the kernel's
//! state back is reading sets. See [`skeleton`] for the chains. Needs Linux 5.10 (`iifname` in postrouting, comments of tables).

mod conntrack;
mod elements;
mod kernel;
mod skeleton;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;

use tracing::{debug, warn};

pub use conntrack::set_timeouts;
pub use kube_pet_rules::services::{Address, Forward, Frontend, Protocol, Rule, Rules};
pub use kube_pet_rules::{Family, Network};

use crate::nft::batch::Element;
use crate::tables::{Condition, OwnChanges, OwnTable, Repaired, TableError, Unusable};
use elements::{Place, Set, Shared, elements, endpoint_key, endpoint_of, endpoint_value, frontend_key, keep_places, to_of, usable};

/// What the table depends on. A table that was made with another configuration is replaced, in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its name.
    pub table: String,
    /// What the names of the pods' links on the node begin with: traffic from there is from inside.
    pub pod_links: String,
    /// The node's own pods; with others, elements change and the table stays.
    pub local_pods: Vec<Network>,
    /// Pods' traffic to elsewhere than these networks gets the node's address. `None`: no pod's traffic is masqueraded for where it goes.
    pub masquerade_except: Option<Vec<Network>>,
    /// Which of the machine's addresses [`Address::Node`] is; `None`: all of them.
    pub node_addresses: Option<Vec<Network>>,
    /// Whether 127.0.0.0/8 belongs to them. Endpoints must then be behind links with [`crate::pod_links::answer_loopback`].
    /// The loopback of IPv6 cannot be translated.
    pub loopback: bool,
    /// Of several such tables the one with the lower rank is asked first, at most 4; among equals it depends on who was made when.
    pub rank: u8,
}

/// The table, and what it should hold. Every call is synchronous, and is made in the network namespace
/// in which it was opened.
pub struct ServiceTable {
    table: OwnTable,
    config: Config,
    rules: Rules,
    /// Sets that were made because they were needed.
    made: BTreeSet<Set>,
    /// With more of them, those that nobody uses any more are taken away.
    crowded: usize,
    /// How many frontends share an element.
    shared: HashMap<Shared, u32>,
}

/// So many sets that nobody uses may be there: the next change may need one again.
const SPARE: usize = 64;

/// Elements to take away and to add, in this order.
#[derive(Default)]
struct Plan {
    remove: Vec<Place>,
    add: Vec<(Place, Box<[u8]>)>,
    /// Frontends some of whose endpoints went, or that had none: connections may have to be forgotten.
    forget: Vec<(Frontend, Vec<SocketAddr>)>,
    /// The same, for clients that are remembered.
    clients: BTreeSet<Frontend>,
    /// Sets that were made when needed, and are not any more.
    unused: BTreeSet<Set>,
}

impl Plan {
    /// `before`: the endpoints that there were; `remembered`: whether clients were sent to the same ones again.
    fn remember_to_forget(&mut self, frontend: &Frontend, before: &[SocketAddr], remembered: bool, new: Option<&Rule>) {
        let after = [false, true].map(|inside| endpoints_of(new, inside)).concat();
        let serving: HashSet<&SocketAddr> = after.iter().collect();
        let gone = before.iter().any(|endpoint| !serving.contains(endpoint));
        // Packets of before the first endpoint have an entry without translation.
        let first = before.is_empty() && !after.is_empty();
        if remembered && (gone || !remembers(new)) {
            self.clients.insert(*frontend);
        }
        if frontend.protocol == Protocol::Udp && (gone || first) {
            self.forget.push((*frontend, after));
        }
    }
}

impl ServiceTable {
    /// Changes nothing: [`Self::reconcile`] is first.
    pub fn open(config: Config, changes: OwnChanges) -> Result<Self, TableError> {
        Ok(Self {
            table: OwnTable::open(&config.table, changes)?,
            config,
            rules: Rules::default(),
            made: BTreeSet::new(),
            crowded: SPARE,
            shared: HashMap::new(),
        })
    }

    /// Makes the kernel have exactly these rules, and changes only what differs: connections go on meanwhile. In one step, or not at all.
    pub fn reconcile(&mut self, desired: impl Into<Rules>) -> Result<Repaired, TableError> {
        self.table.forget();
        self.rules = desired.into();
        self.repair()
    }

    /// [`Self::reconcile`] with the rules of before.
    pub fn repair(&mut self) -> Result<Repaired, TableError> {
        self.shared.clear();
        self.table.begin_reading()?;
        let read = kernel::read(&mut self.table, &self.config).map_err(|e| self.table.failed("reading", e))?;
        let rebuild = read.as_ref().err().copied();
        let mut found = read.unwrap_or_default();
        self.made = found.made;
        let mut plan = Plan { unused: self.made.clone(), ..Plan::default() };
        let Self { rules, shared: counts, config, .. } = self;
        rules.for_each_mut(|frontend, rule| {
            let key = frontend_key(frontend);
            let old = |lane| {
                (0..)
                    .map_while(|i| {
                        found
                            .elements
                            .get(&Place { set: Set::Endpoints(lane), key: endpoint_key(&key, i), end: Box::default() })
                            .and_then(|v| endpoint_of(v))
                    })
                    .collect::<Vec<_>>()
            };
            let before =
                [false, true].map(|inside| old(elements::Lane { family: frontend.family(), to: to_of(frontend), inside })).concat();
            arrange(frontend, rule, old);
            let remembered = affinity_of(frontend, rule).is_some_and(|place| found.elements.contains_key(&place));
            plan.remember_to_forget(frontend, &before, remembered, Some(rule));
            let wanted = elements(frontend, rule, &config.local_pods);
            let shared = wanted.shared.into_iter().filter(|shared| first(counts, *shared)).map(|shared| (shared.place(), Box::default()));
            for (place, value) in wanted.own.into_iter().chain(shared) {
                plan.unused.remove(&place.set);
                match found.elements.remove(&place) {
                    Some(there) if there == value => {}
                    Some(_) => {
                        plan.remove.push(place.clone());
                        plan.add.push((place, value));
                    }
                    None => plan.add.push((place, value)),
                }
            }
        });
        for place in found.elements.keys() {
            if let Set::Count(elements::Lane { family, .. }, _) | Set::Affinity(family, ..) = place.set
                && let Some(frontend) = elements::frontend_of(family, &place.key)
                && !self.rules.contains(&frontend)
            {
                plan.remember_to_forget(&frontend, &[SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0)], true, None);
            }
        }
        plan.remove.extend(found.elements.into_keys());
        let repaired = Repaired { rebuilt: rebuild.is_some(), added: plan.add.len(), removed: plan.remove.len() };
        self.commit(&plan, rebuild)?;
        self.forget(&plan);
        Ok(repaired)
    }

    /// Changes some frontends, in one step or not at all; `None` takes one away. If the kernel has something else than expected, all of
    /// it is put right.
    pub fn apply(&mut self, changes: &[(Frontend, Option<Rule>)]) -> Result<(), TableError> {
        let mut plan = Plan::default();
        // The last word on a frontend counts.
        let last: BTreeMap<&Frontend, Option<&Rule>> = changes.iter().map(|(frontend, rule)| (frontend, rule.as_ref())).collect();
        for (frontend, rule) in last {
            self.stage(frontend, rule.cloned(), &mut plan);
        }
        if self.table.is_known() {
            match self.commit(&plan, None) {
                Ok(()) => {
                    self.forget(&plan);
                    return self.tidy();
                }
                Err(error) => warn!(%error, "the table is not as it was left; it is read again"),
            }
        }
        self.repair()?;
        self.forget(&plan);
        Ok(())
    }

    /// Each number of endpoints has a set and a rule, which would stay for ever, and new connections pass every rule.
    fn tidy(&mut self) -> Result<(), TableError> {
        if self.made.len() <= self.crowded {
            return Ok(());
        }
        let mut unused = self.made.clone();
        for (frontend, rule) in self.rules.iter() {
            for (place, _) in &elements(frontend, &rule, &[]).own {
                unused.remove(&place.set);
            }
        }
        // Not again before as many more are there.
        self.crowded = self.made.len() - unused.len() + SPARE;
        self.commit(&Plan { unused, ..Plan::default() }, None)
    }

    /// Whether somebody else has changed the table. Costs two requests to the kernel.
    pub fn verify(&mut self) -> Result<Condition, TableError> {
        self.table.condition()
    }

    /// Takes the table away, and with it every rule. Whether it was there.
    pub fn remove(self) -> Result<bool, TableError> {
        self.table.remove()
    }

    /// What it should hold.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    fn stage(&mut self, frontend: &Frontend, new: Option<Rule>, plan: &mut Plan) {
        let old = self.rules.remove(frontend);
        let new = new.map(|mut rule| {
            arrange(frontend, &mut rule, |lane: elements::Lane| endpoints_of(old.as_ref(), lane.inside).to_vec());
            rule
        });
        if let Some(rule) = &new {
            self.rules.insert(*frontend, rule);
        }
        if old == new {
            return;
        }
        let of = |rule: &Option<Rule>| rule.as_ref().map(|r| elements(frontend, r, &self.config.local_pods)).unwrap_or_default();
        let (before, after) = (of(&old), of(&new));
        let kept: HashMap<&Place, &[u8]> = after.own.iter().map(|(place, value)| (place, &**value)).collect();
        let there: HashMap<&Place, &[u8]> = before.own.iter().map(|(place, value)| (place, &**value)).collect();
        plan.remove.extend(before.own.iter().filter(|(p, v)| kept.get(p) != Some(&&**v)).map(|(p, _)| p.clone()));
        plan.add.extend(after.own.iter().filter(|(p, v)| there.get(p) != Some(&&**v)).cloned());
        for shared in after.shared {
            if first(&mut self.shared, shared) {
                plan.add.push((shared.place(), Box::default()));
            }
        }
        for shared in before.shared {
            let Some(count) = self.shared.get_mut(&shared) else { continue };
            *count -= 1;
            if *count == 0 {
                self.shared.remove(&shared);
                plan.remove.push(shared.place());
            }
        }
        let before = [false, true].map(|inside| endpoints_of(old.as_ref(), inside)).concat();
        plan.remember_to_forget(frontend, &before, remembers(old.as_ref()), new.as_ref());
    }

    fn commit(&mut self, plan: &Plan, rebuild: Option<Unusable>) -> Result<(), TableError> {
        let Self { table, config, made: there, .. } = self;
        table.commit(rebuild, |batch| {
            if rebuild.is_some() {
                there.clear();
                skeleton::build(batch, config, &kernel::userdata(config));
            }
            let mut made = BTreeSet::new();
            for (place, _) in &plan.add {
                let when_needed = matches!(place.set, Set::Count(..) | Set::Affinity(..));
                if when_needed && !there.contains(&place.set) && made.insert(place.set) {
                    skeleton::make_set(batch, place.set);
                }
            }
            let mut remove: Vec<&Place> = plan.remove.iter().collect();
            let mut add: Vec<&(Place, Box<[u8]>)> = plan.add.iter().collect();
            // Elements of the same set share a message.
            remove.sort_unstable_by_key(|place| place.set);
            add.sort_unstable_by_key(|(place, _)| place.set);
            for_each_set(&remove, |p| p.set, |name, place| batch.delete(name, Element { key: &place.key, end: &place.end, value: &[] }));
            for_each_set(&add, |(p, _)| p.set, |name, (place, value)| batch.add(name, Element { key: &place.key, end: &place.end, value }));
            there.extend(made);
            there.retain(|set| !plan.unused.contains(set));
            if rebuild.is_none() {
                skeleton::remove_sets(batch, &plan.unused, there);
            }
        })
    }

    /// What the kernel remembers of endpoints that are gone, and of clients that need not be remembered any more. Rules are in place already; a failure costs a client its time-out.
    fn forget(&mut self, plan: &Plan) {
        if let Err(error) = self.forget_clients(&plan.clients) {
            warn!(%error, "clients of removed endpoints stay remembered until their time is over");
        }
        if !plan.forget.is_empty() {
            match conntrack::forget(&mut self.table.socket, &plan.forget) {
                Ok(count) => debug!(count, "UDP connections to removed endpoints forgotten"),
                Err(error) => warn!(%error, "UDP connections to removed endpoints stay until they are idle"),
            }
        }
    }

    fn forget_clients(&mut self, frontends: &BTreeSet<Frontend>) -> io::Result<()> {
        let sets: BTreeSet<Set> = frontends.iter().map(|f| Set::Clients(f.family(), to_of(f))).collect();
        for set in sets {
            let of_set = frontends.iter().filter(|f| Set::Clients(f.family(), to_of(f)) == set);
            let serving: HashMap<Vec<u8>, Vec<Vec<u8>>> = of_set
                .map(|frontend| {
                    let rule = self.rules.get(frontend).filter(|rule| remembers(Some(rule)));
                    let values = [false, true].into_iter().flat_map(|inside| endpoints_of(rule.as_ref(), inside)).map(endpoint_value);
                    (frontend_key(frontend), values.collect())
                })
                .collect();
            let Some(width) = serving.keys().map(Vec::len).next() else { continue };
            let name = set.name();
            for (client, endpoint) in kernel::elements(&mut self.table.socket, &self.config.table, &name)? {
                let key = client.0.len().checked_sub(width).and_then(|at| client.0.get(at..)).unwrap_or_default();
                if serving.get(key).is_none_or(|values| values.iter().any(|s| **s == *endpoint)) {
                    continue;
                }
                let forgotten = self.table.write(|batch| batch.delete(&name, Element { key: &client.0, end: &[], value: &[] }));
                // Its time may have been over.
                if let Err(error) = forgotten
                    && error.kind() != io::ErrorKind::NotFound
                {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Counts one more frontend that shares it; whether it is the first one.
fn first(counts: &mut HashMap<Shared, u32>, shared: Shared) -> bool {
    let count = counts.entry(shared).or_default();
    *count += 1;
    *count == 1
}

/// Whether the same client goes to the same endpoint again.
fn remembers(rule: Option<&Rule>) -> bool {
    matches!(rule, Some(Rule::Forward(Forward { affinity: Some(_), .. })))
}

fn for_each_set<'a, T>(sorted: &[&'a T], set: impl Fn(&T) -> Set, mut each: impl FnMut(&str, &'a T)) {
    let mut last: Option<(Set, String)> = None;
    for item in sorted {
        let of = set(item);
        let name = match last.take() {
            Some((same, name)) if same == of => name,
            _ => of.name(),
        };
        each(&name, item);
        last = Some((of, name));
    }
}

/// Where a frontend of this rule lies if it remembers its clients.
fn affinity_of(frontend: &Frontend, rule: &Rule) -> Option<Place> {
    let Rule::Forward(Forward { affinity: Some(affinity), .. }) = rule else { return None };
    let set = Set::Affinity(frontend.family(), to_of(frontend), elements::seconds(*affinity));
    Some(Place { set, key: frontend_key(frontend).into(), end: Box::default() })
}

fn endpoints_of(rule: Option<&Rule>, inside: bool) -> &[SocketAddr] {
    match rule {
        Some(Rule::Forward(forward)) if inside => forward.inside.as_deref().unwrap_or_default(),
        Some(Rule::Forward(forward)) => &forward.endpoints,
        _ => &[],
    }
}

/// Puts endpoints in the order that changes least.
fn arrange(frontend: &Frontend, rule: &mut Rule, old: impl Fn(elements::Lane) -> Vec<SocketAddr>) {
    let Rule::Forward(forward) = rule else { return };
    let lane = |inside| elements::Lane { family: frontend.family(), to: to_of(frontend), inside };
    forward.endpoints = keep_places(&old(lane(false)), &usable(frontend, &forward.endpoints));
    if let Some(inside) = &mut forward.inside {
        *inside = keep_places(&old(lane(true)), &usable(frontend, inside));
    }
}

#[cfg(test)]
mod tests;
