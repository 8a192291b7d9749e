//! Ranges of addresses: what is in them, and in which order parts of them are tried.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which a dual-stack node has its addresses unless the PetNetwork begins with the other.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Bits of an address.
    pub fn width(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// A range by its first address and prefix length; an address is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    family: Family,
    first: u128,
    prefix: u8,
}

/// Not a range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no range of addresses: write its first address and the prefix length, as 10.1.0.0/16")]
pub struct NoRange(String);

impl FromStr for Range {
    type Err = NoRange;

    fn from_str(text: &str) -> Result<Self, NoRange> {
        let parsed = || {
            let (address, prefix) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            let whole = Self::address(address);
            (prefix <= whole.prefix).then(|| whole.widened(prefix))
        };
        parsed().ok_or_else(|| NoRange(text.to_owned()))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first_address(), self.prefix)
    }
}

impl Range {
    /// The range that has only this address.
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self { family: Family::V4, first: u128::from(u32::from(v4)), prefix: 32 },
            IpAddr::V6(v6) => Self { family: Family::V6, first: u128::from(v6), prefix: 128 },
        }
    }

    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Its prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Its first address.
    pub fn first_address(&self) -> IpAddr {
        match self.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(self.first).unwrap_or(u32::MAX))),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(self.first)),
        }
    }

    fn widened(self, prefix: u8) -> Self {
        Self { first: self.first & !host_mask(self.family.width() - prefix), prefix, ..self }
    }

    /// Whether `other` lies in it.
    pub fn contains(&self, other: &Self) -> bool {
        self.family == other.family && self.prefix <= other.prefix && other.widened(self.prefix).first == self.first
    }

    /// Whether they have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// How many parts of this prefix length it has, as far as they are ever tried.
    fn parts(&self, prefix: u8) -> u64 {
        match prefix.checked_sub(self.prefix) {
            None => 0,
            Some(bits) => 1 << bits.min(32),
        }
    }

    fn part(&self, prefix: u8, index: u64) -> Self {
        let shift = u32::from(self.family.width() - prefix);
        Self { first: self.first + (u128::from(index) << shift), prefix, ..*self }
    }

    /// Text that can be a part of an object's name, and is the same for the same range always.
    pub fn name(&self) -> String {
        let address = match self.first_address() {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => v6.segments().map(|segment| format!("{segment:x}")).join("-"),
        };
        if self.prefix == self.family.width() { address } else { format!("{address}-{}", self.prefix) }
    }
}

fn host_mask(bits: u8) -> u128 {
    if bits >= 128 { u128::MAX } else { (1 << bits) - 1 }
}

/// What is in use already.
#[derive(Clone, Debug, Default)]
pub struct Taken(BTreeSet<Range>);

impl Taken {
    /// Takes note of a range.
    pub fn insert(&mut self, range: Range) {
        self.0.insert(range);
    }

    /// Whether any of it is in use.
    pub fn overlaps(&self, range: &Range) -> bool {
        // What contains it has a shorter prefix, and there are at most 128 of these.
        let above = (0..=range.prefix).any(|prefix| self.0.contains(&range.widened(prefix)));
        let last = range.first | host_mask(range.family.width() - range.prefix);
        let within = |found: &Range| found.first <= last && range.contains(found);
        above || self.0.range(Range { prefix: 0, ..*range }..).next().is_some_and(within)
    }
}

impl FromIterator<Range> for Taken {
    fn from_iter<T: IntoIterator<Item = Range>>(ranges: T) -> Self {
        Self(ranges.into_iter().collect())
    }
}

/// Free parts of the ranges, of this prefix length, in the order in which they are to be tried. It begins at a place that depends on
/// `seed` only, so that pets that come at once seldom try the same, and the same pet tries the same again.
pub fn free<'a>(ranges: &'a [Range], family: Family, prefix: u8, seed: u64, taken: &'a Taken) -> impl Iterator<Item = Range> + 'a {
    let of_family = ranges.iter().filter(move |range| range.family == family);
    of_family
        .flat_map(move |range| {
            let parts = range.parts(prefix);
            let start = seed.checked_rem(parts).unwrap_or(0);
            (start..parts).chain(0..start).map(move |index| (range, range.part(prefix, index)))
        })
        .filter(move |(range, part)| usable(range, part) && !taken.overlaps(part))
        .map(|(_, part)| part)
}

/// Not the first address of a range, which means the network or any router of it, nor the last of IPv4, which means all.
fn usable(range: &Range, part: &Range) -> bool {
    if part.prefix != part.family.width() || range.prefix + 1 >= part.prefix {
        return true;
    }
    let last = range.first | host_mask(range.family.width() - range.prefix);
    part.first != range.first && (part.family == Family::V6 || part.first != last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_read_and_written() {
        for (text, shown, name) in [
            ("10.1.2.3/16", "10.1.0.0/16", "10.1.0.0-16"),
            ("10.1.2.3/32", "10.1.2.3/32", "10.1.2.3"),
            ("fd00::1:0/112", "fd00::1:0/112", "fd00-0-0-0-0-0-1-0-112"),
            ("::/0", "::/0", "0-0-0-0-0-0-0-0-0"),
        ] {
            assert_eq!(range(text).to_string(), shown);
            assert_eq!(range(text).name(), name);
        }
        for text in ["10.1.0.0", "10.1.0.0/33", "fd00::/129", "x/8", ""] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_search_covers_all_parts_once_and_skips_what_is_taken() {
        let ranges = [range("10.0.0.0/22"), range("fd00::/16"), range("10.9.0.0/24")];
        let taken: Taken = [range("10.0.1.7/32"), range("10.9.0.0/16")].into_iter().collect();
        let found: Vec<_> = free(&ranges, Family::V4, 24, 6, &taken).map(|range| range.to_string()).collect();
        assert_eq!(found, ["10.0.2.0/24", "10.0.3.0/24", "10.0.0.0/24"]);
        assert!(free(&ranges, Family::V4, 20, 0, &taken).next().is_none(), "larger than the range");
        assert_eq!(free(&ranges, Family::V6, 64, 0, &taken).next(), Some(range("fd00::/64")));
    }

    #[test]
    fn addresses_with_a_meaning_are_left_out() {
        let found = |text: &str| {
            let range = range(text);
            free(&[range], range.family(), range.family().width(), 0, &Taken::default())
                .map(|r| r.first_address().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(found("10.0.0.0/30"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(found("10.0.0.0/31"), ["10.0.0.0", "10.0.0.1"]);
        assert_eq!(found("fd00::/126"), ["fd00::1", "fd00::2", "fd00::3"]);
    }

    proptest! {
        #[test]
        fn taken_is_what_comparing_with_each_says(
            all in proptest::collection::vec((0_u32..64, 24_u8..=32), 0..12), asked in (0_u32..64, 24_u8..=32)
        ) {
            let make = |(place, prefix): (u32, u8)| Range::address(Ipv4Addr::from(0x0a00_0000 + place * 8).into()).widened(prefix);
            let all: Vec<_> = all.into_iter().map(make).collect();
            let asked = make(asked);
            let taken: Taken = all.iter().copied().collect();
            prop_assert_eq!(taken.overlaps(&asked), all.iter().any(|one| one.overlaps(&asked)));
        }
    }
}
