//! Which images are removed, and when: the kubelet's rules (`pkg/kubelet/images/image_gc_manager.go`), and one of our own: an
//! image that somebody else brought is theirs.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// `imageGC…` and `image…GCAge` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// From this use of the disk on, in percent, images are removed.
    pub high_percent: u32,
    /// Until the disk is used this much.
    pub low_percent: u32,
    /// Younger images are left alone, however full the disk is.
    pub min_age: SignedDuration,
    /// What was not used for so long is removed, however empty the disk is. Zero for never.
    pub max_age: SignedDuration,
}

impl Policy {
    /// Nothing is ever removed by it; the kubelet does not start its collector then.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.high_percent == 100 && self.max_age.is_zero()
    }
}

/// An image as the store has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenImage {
    /// Its ID.
    pub id: String,
    /// Bytes on the disk.
    pub size: u64,
    /// A container is made of it, whoever made that.
    pub in_use: bool,
    /// The agent brought it, under all the names that it has; and it can be removed.
    pub ours: bool,
    /// When a pod last asked for it, as far as this run of the agent knows.
    pub asked_for: Option<Timestamp>,
}

/// What is remembered of an image from one look to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    first_detected: Timestamp,
    last_used: Option<Timestamp>,
    size: u64,
    removable: bool,
}

/// The images that were seen. It begins anew with each run of the agent, as the kubelet's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    records: BTreeMap<String, Record>,
}

/// An image that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its ID.
    pub id: String,
    /// Bytes that are counted as freed by it. Layers that other images have too are counted as well, as by the kubelet.
    pub size: u64,
    first_detected: Timestamp,
    last_used: Option<Timestamp>,
}

/// The file system of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Bytes in all.
    pub capacity: u64,
    /// Bytes that may still be written.
    pub available: u64,
}

/// The disk is used too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// How much of it is used, in percent.
    pub used_percent: u64,
    /// How much should be freed.
    pub bytes: u64,
}

impl Ledger {
    /// Takes a look at the store over. Images that are gone are forgotten.
    pub fn look(&mut self, images: &[SeenImage], now: Timestamp) {
        let mut records = BTreeMap::new();
        for image in images {
            let known = self.records.get(&image.id);
            let used_now = image.in_use.then_some(now);
            records.insert(
                image.id.clone(),
                Record {
                    first_detected: known.map_or(now, |known| known.first_detected),
                    last_used: used_now.max(image.asked_for).max(known.and_then(|known| known.last_used)),
                    size: image.size,
                    removable: image.ours && !image.in_use,
                },
            );
        }
        self.records = records;
    }

    /// What may go, in the order in which it should: what was used longest ago first.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        let removable = self.records.iter().filter(|(_, record)| record.removable);
        let candidate = |(id, record): (&String, &Record)| {
            let Record { first_detected, last_used, size, .. } = *record;
            Candidate { id: id.clone(), size, first_detected, last_used }
        };
        let mut found: Vec<_> = removable.map(candidate).collect();
        found.sort_by_key(|image| (image.last_used, image.first_detected));
        found
    }
}

impl Policy {
    /// What nobody has used for too long. `began` is when this run of the agent did: what was used before it is not known, so
    /// nothing is too old until the time has passed once.
    ///
    /// An image that was never used counts from when it was first seen. The kubelet takes it for infinitely old, and so removes one
    /// that was pulled a moment ago.
    #[must_use]
    pub fn is_too_old(&self, image: &Candidate, began: Timestamp, now: Timestamp) -> bool {
        let longer = |since: Timestamp| now.duration_since(since) > self.max_age;
        !self.max_age.is_zero() && longer(began) && longer(image.first_detected) && image.last_used.is_none_or(longer)
    }

    /// Whether an image may go to make room: not one that has only just come, or that a pod has only just asked for; its container is
    /// about to be made.
    #[must_use]
    pub fn may_make_room(&self, image: &Candidate, now: Timestamp) -> bool {
        let old = |since: Timestamp| now.duration_since(since) >= self.min_age;
        old(image.first_detected) && image.last_used.is_none_or(|used| used < now)
    }

    /// How much the disk is used above what it may be.
    #[must_use]
    pub fn excess(&self, disk: Disk) -> Option<Excess> {
        let available = u128::from(disk.available.min(disk.capacity));
        let capacity = u128::from(disk.capacity);
        let used_percent = 100 - u64::try_from((available * 100).checked_div(capacity)?).ok()?;
        if used_percent < u64::from(self.high_percent) {
            return None;
        }
        let wanted = capacity * u128::from(100_u32.saturating_sub(self.low_percent)) / 100;
        Some(Excess { used_percent, bytes: u64::try_from(wanted.saturating_sub(available)).ok()? })
    }
}

/// The text of the event `FreeDiskSpaceFailed`.
#[must_use]
pub fn too_little_freed(excess: Excess, disk: Disk, freed: u64) -> String {
    format!(
        "Insufficient free disk space on the node's image filesystem ({}% of {} used). Failed to free sufficient space by deleting unused \
         images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
        excess.used_percent,
        format_size(disk.capacity)
    )
}

fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { high_percent: 85, low_percent: 80, min_age: SignedDuration::from_secs(120), max_age: SignedDuration::ZERO };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn image(id: &str, in_use: bool, ours: bool) -> SeenImage {
        SeenImage { id: id.into(), size: 10, in_use, ours, asked_for: None }
    }

    fn ids(ledger: &Ledger) -> Vec<String> {
        ledger.candidates().into_iter().map(|image| image.id).collect()
    }

    #[test]
    fn only_our_own_unused_images_go_and_those_used_longest_ago_first() {
        let mut ledger = Ledger::default();
        ledger.look(&[image("b", true, true), image("theirs", false, false)], at(0));
        ledger.look(&[image("a", true, true), image("b", false, true), image("theirs", false, false)], at(10));
        assert_eq!(ids(&ledger), ["b"], "a is in use, the other one is not ours");
        let idle = [image("a", false, true), image("b", false, true), image("c", false, true), image("theirs", false, false)];
        ledger.look(&idle, at(20));
        assert_eq!(ids(&ledger), ["c", "b", "a"], "never used, then the least recently used");
        let asked = SeenImage { asked_for: Some(at(25)), ..image("c", false, true) };
        ledger.look(&[asked, image("b", false, true)], at(30));
        assert_eq!(ids(&ledger), ["b", "c"], "a pod has asked for c; a is gone");
        ledger.look(&[image("b", false, true)], at(40));
        ledger.look(&[image("b", false, true), image("c", false, true)], at(50));
        assert_eq!(ids(&ledger), ["c", "b"], "one that comes again is a new one");
    }

    #[test]
    fn the_disk_is_freed_from_the_high_mark_down_to_the_low_one() {
        let disk = |available| Disk { capacity: 1000, available };
        assert_eq!(POLICY.excess(disk(160)), None, "84 %");
        assert_eq!(POLICY.excess(disk(150)), Some(Excess { used_percent: 85, bytes: 50 }));
        assert_eq!(POLICY.excess(disk(0)), Some(Excess { used_percent: 100, bytes: 200 }));
        assert_eq!(POLICY.excess(disk(5000)), None, "more than there is");
        assert_eq!(POLICY.excess(Disk { capacity: 0, available: 0 }), None);
        let huge = Disk { capacity: u64::MAX, available: u64::MAX / 10 };
        assert_eq!(POLICY.excess(huge).map(|excess| excess.used_percent), Some(91));
    }

    #[test]
    fn what_has_just_come_or_is_being_used_makes_no_room() {
        let mut ledger = Ledger::default();
        ledger.look(&[image("a", false, true)], at(1000));
        let candidate = ledger.candidates().remove(0);
        assert!(!POLICY.may_make_room(&candidate, at(1119)));
        assert!(POLICY.may_make_room(&candidate, at(1120)));
        ledger.look(&[SeenImage { asked_for: Some(at(1200)), ..image("a", false, true) }], at(1200));
        let candidate = ledger.candidates().remove(0);
        assert!(!POLICY.may_make_room(&candidate, at(1200)), "asked for at this moment");
        assert!(POLICY.may_make_room(&candidate, at(1201)));
    }

    #[test]
    fn what_nobody_used_for_long_goes_but_not_before_the_agent_has_seen_that_long() {
        let policy = Policy { max_age: SignedDuration::from_secs(600), ..POLICY };
        let began = at(0);
        let mut ledger = Ledger::default();
        ledger.look(&[image("used", true, true), image("idle", false, true)], at(0));
        ledger.look(&[image("used", false, true), image("idle", false, true), image("new", false, true)], at(500));
        let old = |policy: Policy, now: i64| -> Vec<String> {
            ledger.candidates().into_iter().filter(|image| policy.is_too_old(image, began, at(now))).map(|image| image.id).collect()
        };
        assert_eq!(old(policy, 600), Vec::<String>::new());
        assert_eq!(old(policy, 601), ["idle", "used"]);
        assert_eq!(old(policy, 1101), ["idle", "new", "used"]);
        assert_eq!(old(POLICY, i64::from(i32::MAX)), Vec::<String>::new(), "zero is never");
        assert!(!policy.is_off() && !POLICY.is_off());
        assert!(Policy { high_percent: 100, ..POLICY }.is_off());
        assert!(!Policy { high_percent: 100, ..policy }.is_off());
    }

    #[test]
    fn the_events_are_in_the_kubelets_words() {
        let disk = Disk { capacity: 3 << 29, available: 0 };
        let excess = POLICY.excess(disk).unwrap();
        assert_eq!(
            too_little_freed(excess, disk, 7),
            "Insufficient free disk space on the node's image filesystem (100% of 1.5 GiB used). Failed to free sufficient space by \
             deleting unused images (freed 7 bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other \
             data."
        );
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 40, "1.0 TiB"), (1 << 60, "1048576.0 TiB")] {
            assert_eq!(format_size(bytes), text);
        }
    }
}
