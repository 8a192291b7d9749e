//! Which pod has which users and groups of the host, for pods with a user namespace (`hostUsers: false`).
//!
//! As the kubelet's `pkg/kubelet/userns`: each pod has a range of its own, of [`IDS_PER_POD`], that begins at a multiple of it; the first
//! one is the host's own and is never given. They are taken from the subordinate IDs of the user `kubelet`, if it has any. A freed range
//! is given again only after all others were: files of a pod that is gone should not find a new owner soon.

use std::collections::BTreeMap;

use crate::ids::PodUid;

/// How many users and groups a pod has: as many as 16 bits number, as images expect. The default of the kubelet's
/// `userNamespaces.idsPerPod`.
pub const IDS_PER_POD: u32 = 1 << 16;

/// Whose subordinate IDs the pods' are.
const USER: &str = "kubelet";

/// Why there are no ranges, or none is free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdRangeError {
    /// All are given.
    #[error("no range of user IDs is free for a user namespace: all {count} are in use")]
    Exhausted {
        /// How many there are.
        count: u32,
    },
    /// `/etc/subuid` or `/etc/subgid` says something that cannot be used.
    #[error("the subordinate IDs of the user kubelet in /etc/subuid and /etc/subgid cannot be used for pods: {reason}")]
    Subordinate {
        /// Why.
        reason: &'static str,
    },
}

/// The ranges of one node.
#[derive(Clone, Debug)]
pub struct IdRanges {
    /// The first range, in units of [`IDS_PER_POD`].
    first: u32,
    count: u32,
    used: BTreeMap<u32, PodUid>,
    next: u32,
}

impl IdRanges {
    /// From the texts of `/etc/subuid` and `/etc/subgid`, empty where there is no such file; with nothing in them, as many ranges as
    /// the node may have pods, right after the host's own.
    ///
    /// # Errors
    /// Entries that cannot be used, or not for `max_pods`.
    pub fn new(subuid: &str, subgid: &str, max_pods: u32) -> Result<Self, IdRangeError> {
        let unusable = |reason| IdRangeError::Subordinate { reason };
        let ranges = |first, count| Self { first, count, used: BTreeMap::new(), next: 0 };
        let (users, groups) = (entries(subuid), entries(subgid));
        let (first, length) = match (users.as_slice(), groups.as_slice()) {
            ([], []) => return Ok(ranges(1, max_pods.clamp(1, u32::MAX / IDS_PER_POD - 1))),
            ([users], [groups]) if users != groups => return Err(unusable("users and groups must be the same numbers")),
            ([Some(range)], [Some(_)]) => *range,
            ([None], [None]) => return Err(unusable("a line is not USER:FIRST:COUNT")),
            _ => return Err(unusable("there must be one line for it in both")),
        };
        if first < IDS_PER_POD || !first.is_multiple_of(IDS_PER_POD) || !length.is_multiple_of(IDS_PER_POD) {
            return Err(unusable("the first one and their number must be multiples of 65536, and the first one not 0"));
        }
        if u64::from(first) + u64::from(length) > u64::from(u32::MAX) {
            return Err(unusable("they end above the largest ID"));
        }
        if length / IDS_PER_POD < max_pods {
            return Err(unusable("there must be 65536 for each of maxPods"));
        }
        Ok(ranges(first / IDS_PER_POD, length / IDS_PER_POD))
    }

    /// A range for a pod: the one that it has, or else one that nobody has. Returns its first ID.
    ///
    /// # Errors
    /// All are given.
    pub fn allocate(&mut self, uid: &PodUid) -> Result<u32, IdRangeError> {
        if let Some(has) = self.used.iter().find_map(|(index, holder)| (holder == uid).then_some(*index)) {
            return Ok((self.first + has) * IDS_PER_POD);
        }
        let free = (self.next..self.count).chain(0..self.next).find(|index| !self.used.contains_key(index));
        let index = free.ok_or(IdRangeError::Exhausted { count: self.count })?;
        self.used.insert(index, uid.clone());
        self.next = (index + 1) % self.count;
        Ok((self.first + index) * IDS_PER_POD)
    }

    /// Notes that a pod has the range that begins with `id`; whether it can: it is one of these, nobody else's, and the pod has no other.
    pub fn reserve(&mut self, uid: &PodUid, id: u32) -> bool {
        let index = (id / IDS_PER_POD).checked_sub(self.first).filter(|index| id.is_multiple_of(IDS_PER_POD) && *index < self.count);
        let Some(index) = index else { return false };
        if self.used.iter().any(|(at, holder)| (holder == uid) != (*at == index)) {
            return false;
        }
        self.used.insert(index, uid.clone());
        true
    }

    /// The pod is gone.
    pub fn release(&mut self, uid: &PodUid) {
        self.used.retain(|_, holder| holder != uid);
    }
}

/// The ranges of [`USER`]; `None` for a line of it that cannot be read.
fn entries(text: &str) -> Vec<Option<(u32, u32)>> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix(USER)?.strip_prefix(':'));
    lines.map(|rest| rest.split_once(':').and_then(|(first, count)| Some((first.parse().ok()?, count.parse().ok()?)))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uid(number: u8) -> PodUid {
        PodUid::new(format!("pod-{number}"))
    }

    #[test]
    fn the_hosts_own_ids_are_never_given_and_freed_ranges_come_last() {
        let mut ranges = IdRanges::new("", "", 3).unwrap();
        let given: Vec<u32> = (0..3).map(|pod| ranges.allocate(&uid(pod)).unwrap()).collect();
        assert_eq!(given, [65_536, 131_072, 196_608]);
        assert_eq!(ranges.allocate(&uid(3)), Err(IdRangeError::Exhausted { count: 3 }));
        assert_eq!(ranges.allocate(&uid(1)), Ok(131_072), "the one that it has");
        ranges.release(&uid(0));
        ranges.release(&uid(2));
        assert_eq!(ranges.allocate(&uid(4)), Ok(65_536), "the pointer is at the start again");
        assert_eq!(ranges.allocate(&uid(5)), Ok(196_608));
    }

    #[test]
    fn what_an_earlier_run_gave_is_kept() {
        let mut ranges = IdRanges::new("", "", 3).unwrap();
        assert!(ranges.reserve(&uid(1), 131_072) && ranges.reserve(&uid(1), 131_072));
        for (pod, id) in [(2, 131_072), (2, 0), (2, 65_536 * 4), (2, 65_537), (1, 65_536)] {
            assert!(!ranges.reserve(&uid(pod), id), "{pod} {id}");
        }
        assert_eq!((ranges.allocate(&uid(2)), ranges.allocate(&uid(3))), (Ok(65_536), Ok(196_608)));
    }

    #[test]
    fn subordinate_ids_of_the_kubelet_are_used() {
        let line = "podman:100000:65536\nkubelet:131072:7208960\n";
        let mut ranges = IdRanges::new(line, line, 110).unwrap();
        assert_eq!(ranges.allocate(&uid(0)), Ok(131_072));
        let refused = |subuid: &str, subgid: &str| IdRanges::new(subuid, subgid, 110).unwrap_err().to_string();
        let both = |line: &str| refused(line, line);
        for (text, why) in [
            (both("kubelet:65536:65536"), "maxPods"),
            (both("kubelet:0:7208960"), "not 0"),
            (both("kubelet:65537:7208960"), "multiples"),
            (both("kubelet:65536:7208961"), "multiples"),
            (both("kubelet:4294901760:4294901760"), "largest"),
            (both("kubelet:x:1"), "USER:FIRST:COUNT"),
            (both(&line.repeat(2)), "one line"),
            (refused(line, ""), "one line"),
            (refused(line, "kubelet:65536:7208960"), "same numbers"),
        ] {
            assert!(text.contains(why), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_two_pods_share_an_id(steps in prop::collection::vec((0u8..12, 0u8..3, 0u32..10), 0..60)) {
            let mut ranges = IdRanges::new("", "", 8).unwrap();
            let mut has: BTreeMap<u8, u32> = BTreeMap::new();
            for (pod, step, range) in steps {
                match step {
                    0 => if let Ok(first) = ranges.allocate(&uid(pod)) {
                        prop_assert_eq!(*has.entry(pod).or_insert(first), first);
                    } else {
                        prop_assert_eq!(has.len(), 8);
                    },
                    1 => {
                        ranges.release(&uid(pod));
                        has.remove(&pod);
                    }
                    _ => if ranges.reserve(&uid(pod), range * IDS_PER_POD) {
                        prop_assert_eq!(*has.entry(pod).or_insert(range * IDS_PER_POD), range * IDS_PER_POD);
                    },
                }
                let mut all: Vec<u32> = has.values().copied().collect();
                all.sort_unstable();
                prop_assert!(all.iter().all(|first| *first >= IDS_PER_POD && first.is_multiple_of(IDS_PER_POD)));
                prop_assert!(all.windows(2).all(|pair| pair[0] + IDS_PER_POD <= pair[1]));
            }
        }
    }
}
