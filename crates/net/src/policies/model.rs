//! From profiles to the elements of each link: rules that look a link's profile up and then what that allows could not be listed by the
//! program `nft` (1.0.6 fails an assertion, and with it everybody who lists all tables, netavark for one).

use std::collections::{BTreeMap, BTreeSet};

use kube_pet_rules::policies::{Direction, Element, Grant};
use std::sync::Arc;

use super::elements::{Place, allowed, isolated, itself};

type Profile = (Direction, u32);

/// What is wanted.
#[derive(Default)]
pub(super) struct Model {
    links: BTreeMap<Profile, BTreeSet<Arc<str>>>,
    grants: BTreeMap<Profile, BTreeSet<Grant>>,
}

impl Model {
    /// Takes changes in: which places are to have an element from now on, and which are not.
    pub(super) fn apply(&mut self, changes: &[(Element, bool)]) -> BTreeMap<Place, bool> {
        let mut places = BTreeMap::new();
        // A link leaves its profile, whose grants change, before it comes to another one.
        let step = |element: &Element, there: bool| match (there, element) {
            (false, Element::Isolated { .. }) => 0,
            (true, Element::Isolated { .. }) => 2,
            _ => 1,
        };
        let mut ordered: Vec<&(Element, bool)> = changes.iter().collect();
        ordered.sort_by_key(|(element, there)| (step(element, *there), *there));
        for (element, there) in ordered {
            match element {
                Element::Itself { link } => drop(places.insert(itself(link), *there)),
                Element::Isolated { direction, link, profile } => {
                    let of = (*direction, *profile);
                    if change(&mut self.links, of, link.clone(), *there) {
                        places.insert(isolated(*direction, link), *there);
                        let grants = self.grants.get(&of).into_iter().flatten();
                        places.extend(grants.map(|grant| (allowed(*direction, link, grant), *there)));
                    }
                }
                Element::Allowed { direction, profile, grant } => {
                    let of = (*direction, *profile);
                    if change(&mut self.grants, of, *grant, *there) {
                        let links = self.links.get(&of).into_iter().flatten();
                        places.extend(links.map(|link| (allowed(*direction, link, grant), *there)));
                    }
                }
            }
        }
        places
    }
}

/// Whether that made a difference.
fn change<T: Ord>(all: &mut BTreeMap<Profile, BTreeSet<T>>, of: Profile, one: T, there: bool) -> bool {
    if there {
        return all.entry(of).or_default().insert(one);
    }
    let Some(set) = all.get_mut(&of) else { return false };
    let changed = set.remove(&one);
    if set.is_empty() {
        all.remove(&of);
    }
    changed
}
