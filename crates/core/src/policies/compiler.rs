//! The objects, and which elements change with them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use super::objects::{LocalPod, PeerPod, Policy, PortNumber, namespace_of};
use super::profile::{Profile, ProfileKey, allowed, new_id};
use super::selector::Labels;
use kube_pet_rules::policies::{Direction, Element, Grant};

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A policy is there, or is another one now.
    Policy(Arc<Policy>),
    /// The policy of this key is gone.
    PolicyGone(Arc<str>),
    /// A namespace is there, with these labels.
    Namespace(Arc<str>, Labels),
    /// The namespace is gone.
    NamespaceGone(Arc<str>),
    /// A pod of the cluster is there, or is another one now.
    Peer(Arc<PeerPod>),
    /// The pod of this key is gone.
    PeerGone(Arc<str>),
    /// A pod of this node is there, or is another one now.
    Local(Arc<LocalPod>),
    /// The pod of this UID is no more on this node.
    LocalGone(Arc<str>),
}

/// Elements that are to be there, or not to be there, from now on.
pub type Changes = BTreeMap<Element, bool>;

/// The cluster, as far as it matters.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) policies: BTreeMap<Arc<str>, Arc<Policy>>,
    pub(super) namespaces: HashMap<Arc<str>, Labels>,
    /// By `namespace/name`: those of a namespace lie together.
    pub(super) pods: BTreeMap<Arc<str>, Arc<PeerPod>>,
}

#[derive(Debug)]
struct Local {
    pod: Arc<LocalPod>,
    profiles: [Option<ProfileKey>; 2],
}

/// Holds the cluster's policies, namespaces and pods, and the pods of this node.
#[derive(Debug, Default)]
pub struct Compiler {
    world: World,
    locals: BTreeMap<Arc<str>, Local>,
    profiles: BTreeMap<ProfileKey, Profile>,
    ids: HashSet<u32>,
}

impl Compiler {
    /// Takes an event in. The changes of several events can be put together, later ones over earlier ones.
    pub fn apply(&mut self, event: Event) -> Changes {
        let mut changes = Changes::new();
        match event {
            Event::Policy(policy) => {
                if self.world.policies.get(&policy.key) != Some(&policy) {
                    self.world.policies.insert(policy.key.clone(), policy.clone());
                    self.policy_changed(&policy.key, &mut changes);
                }
            }
            Event::PolicyGone(key) => {
                if self.world.policies.remove(&key).is_some() {
                    self.policy_changed(&key, &mut changes);
                }
            }
            Event::Namespace(name, labels) => {
                if self.world.namespaces.get(&name) != Some(&labels) {
                    self.change_namespace(&name, Some(labels), &mut changes);
                }
            }
            Event::NamespaceGone(name) => self.change_namespace(&name, None, &mut changes),
            Event::Peer(pod) => {
                let key = pod.key.clone();
                if self.world.pods.get(&key) != Some(&pod) {
                    self.change_peers(&[key], &mut changes, |world| drop(world.pods.insert(pod.key.clone(), pod)));
                }
            }
            Event::PeerGone(key) => self.change_peers(std::slice::from_ref(&key), &mut changes, |world| drop(world.pods.remove(&key))),
            Event::Local(pod) => {
                let uid = pod.uid.clone();
                match self.locals.get_mut(&uid) {
                    Some(local) if local.pod == pod => return changes,
                    Some(local) if local.pod.link == pod.link => local.pod = pod,
                    _ => {
                        self.remove_local(&uid, &mut changes);
                        self.locals.insert(uid.clone(), Local { pod, profiles: [None, None] });
                    }
                }
                for (key, link) in self.settle(&uid, &mut changes) {
                    self.release(&key, link, &mut changes);
                }
            }
            Event::LocalGone(uid) => self.remove_local(&uid, &mut changes),
        }
        changes
    }

    /// All elements.
    pub fn elements(&self) -> BTreeSet<Element> {
        let mut found: BTreeSet<Element> =
            self.profiles.iter().flat_map(|(key, profile)| profile.elements().map(|grant| allowed(key, profile.id, grant))).collect();
        for local in self.locals.values() {
            for key in local.profiles.iter().flatten() {
                let link = local.pod.link.clone();
                found.insert(Element::Itself { link: link.clone() });
                found.extend(self.profiles.get(key).map(|p| Element::Isolated { direction: key.direction, link, profile: p.id }));
            }
        }
        found
    }

    /// Whether there is any policy.
    pub fn has_policies(&self) -> bool {
        !self.world.policies.is_empty()
    }

    /// Whether the cluster's pods and namespaces make a difference.
    pub fn needs_peers(&self) -> bool {
        self.profiles.values().any(|profile| profile.needs_peers)
    }

    /// UIDs of this node's isolated pods, and the directions.
    pub fn isolated(&self) -> BTreeMap<Arc<str>, Vec<Direction>> {
        let directions = |local: &Local| local.profiles.iter().flatten().map(|key| key.direction).collect::<Vec<_>>();
        let all = self.locals.iter().map(|(uid, local)| (uid.clone(), directions(local)));
        all.filter(|(_, directions)| !directions.is_empty()).collect()
    }

    /// This node's pods.
    pub fn locals(&self) -> impl Iterator<Item = &Arc<LocalPod>> {
        self.locals.values().map(|local| &local.pod)
    }

    fn policy_changed(&mut self, key: &Arc<str>, changes: &mut Changes) {
        let namespace = namespace_of(key);
        let uids: Vec<Arc<str>> = self.locals.values().filter(|l| &*l.pod.namespace == namespace).map(|l| l.pod.uid.clone()).collect();
        // What pods let go is taken away when all have what they want: they may pass it on to each other.
        let left: Vec<_> = uids.iter().flat_map(|uid| self.settle(uid, changes)).collect();
        for (key, link) in left {
            self.release(&key, link, changes);
        }
        for (profile_key, profile) in self.profiles.iter_mut().filter(|(profile, _)| profile.policies.contains(key)) {
            profile.needs_peers = self.world.needs_peers(profile_key);
            profile.replace(profile_key, self.world.grants(profile_key), changes);
        }
    }

    fn change_namespace(&mut self, name: &Arc<str>, labels: Option<Labels>, changes: &mut Changes) {
        let from = format!("{name}/");
        let of_namespace = self.world.pods.range::<str, _>((Bound::Included(from.as_str()), Bound::Unbounded));
        let keys: Vec<Arc<str>> = of_namespace.take_while(|(key, _)| key.starts_with(&from)).map(|(key, _)| key.clone()).collect();
        self.change_peers(&keys, changes, |world| match labels {
            Some(labels) => drop(world.namespaces.insert(name.clone(), labels)),
            None => drop(world.namespaces.remove(name)),
        });
    }

    /// Changes what the profiles allow because of these pods.
    fn change_peers(&mut self, keys: &[Arc<str>], changes: &mut Changes, change: impl FnOnce(&mut World)) {
        let of_pods = |world: &World, profile: &ProfileKey| -> Vec<Grant> {
            let pods = keys.iter().filter_map(|key| world.pods.get(key));
            pods.flat_map(|pod| world.grants_of_pod(profile, pod)).collect()
        };
        let before: Vec<Vec<Grant>> = self.profiles.keys().map(|key| of_pods(&self.world, key)).collect();
        change(&mut self.world);
        for ((key, profile), before) in self.profiles.iter_mut().zip(before) {
            let after = of_pods(&self.world, key);
            if before != after {
                profile.change(key, &before, &after, changes);
            }
        }
    }

    fn remove_local(&mut self, uid: &Arc<str>, changes: &mut Changes) {
        let Some(local) = self.locals.remove(uid) else { return };
        for key in local.profiles.into_iter().flatten() {
            let link = local.pod.link.clone();
            changes.insert(Element::Itself { link: link.clone() }, false);
            self.release(&key, link, changes);
        }
    }

    /// Gives a pod of this node the profiles that it should have now; returns those that it lets go.
    fn settle(&mut self, uid: &Arc<str>, changes: &mut Changes) -> Vec<(ProfileKey, Arc<str>)> {
        let Some(local) = self.locals.get_mut(uid) else { return Vec::new() };
        let link = local.pod.link.clone();
        let wanted = Direction::ALL.map(|direction| self.world.profile_of(&local.pod, direction));
        let before = std::mem::replace(&mut local.profiles, wanted.clone());
        let (was, is) = (before.iter().any(Option::is_some), wanted.iter().any(Option::is_some));
        if was != is {
            changes.insert(Element::Itself { link: link.clone() }, is);
        }
        let mut left = Vec::new();
        for (old, new) in before.into_iter().zip(wanted).filter(|(old, new)| old != new) {
            if let Some(key) = &new {
                self.acquire(key, link.clone(), changes);
            }
            left.extend(old.map(|key| (key, link.clone())));
        }
        left
    }

    fn acquire(&mut self, key: &ProfileKey, link: Arc<str>, changes: &mut Changes) {
        if !self.profiles.contains_key(key) {
            let profile = Profile::new(new_id(key, &mut self.ids), self.world.grants(key), self.world.needs_peers(key));
            changes.extend(profile.elements().map(|grant| (allowed(key, profile.id, grant), true)));
            self.profiles.insert(key.clone(), profile);
        }
        if let Some(profile) = self.profiles.get_mut(key) {
            profile.users += 1;
            changes.insert(Element::Isolated { direction: key.direction, link, profile: profile.id }, true);
        }
    }

    fn release(&mut self, key: &ProfileKey, link: Arc<str>, changes: &mut Changes) {
        let Some(profile) = self.profiles.get_mut(key) else { return };
        changes.insert(Element::Isolated { direction: key.direction, link, profile: profile.id }, false);
        profile.users -= 1;
        if profile.users == 0 {
            changes.extend(profile.elements().map(|grant| (allowed(key, profile.id, grant), false)));
            self.ids.remove(&profile.id);
            self.profiles.remove(key);
        }
    }
}

impl World {
    fn profile_of(&self, pod: &LocalPod, direction: Direction) -> Option<ProfileKey> {
        if pod.sealed.contains(&direction) {
            return Some(ProfileKey { direction, policies: Box::default(), named: Box::default() });
        }
        let from = format!("{}/", pod.namespace);
        let of_namespace = self.policies.range::<str, _>((Bound::Included(from.as_str()), Bound::Unbounded));
        let mine = of_namespace.take_while(|(key, _)| key.starts_with(&from)).map(|(_, policy)| policy);
        let selecting: Vec<&Arc<Policy>> = mine.filter(|p| p.rules(direction).is_some() && p.pods.selects(&pod.labels)).collect();
        if selecting.is_empty() {
            return None;
        }
        let mut named = BTreeSet::new();
        if direction == Direction::Ingress {
            let ports =
                selecting.iter().flat_map(|p| p.rules(direction).into_iter().flatten()).flat_map(|rule| rule.ports.iter().flatten());
            for port in ports {
                if let PortNumber::Named(name) = &port.number {
                    named.extend(pod.ports.iter().filter(|own| own.name == *name && own.protocol == port.protocol).cloned());
                }
            }
        }
        let policies = selecting.into_iter().map(|policy| policy.key.clone()).collect();
        Some(ProfileKey { direction, policies, named: named.into_iter().collect() })
    }
}
