//! Counters of network interfaces.

use std::collections::BTreeMap;
use std::fs;

/// What went through an interface since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Coming in.
    pub received: Traffic,
    /// Going out.
    pub transmitted: Traffic,
}

/// One direction of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were broken.
    pub errors: u64,
    /// Packets that were thrown away.
    pub dropped: u64,
}

impl InterfaceCounters {
    /// As the other end of a pair of links sees it.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { received: self.transmitted, transmitted: self.received }
    }
}

/// The interfaces of the caller's network namespace, by name: one read for all of them. None if it cannot be read.
pub fn interfaces() -> BTreeMap<String, InterfaceCounters> {
    parse(&fs::read_to_string("/proc/self/net/dev").unwrap_or_default())
}

/// The interface of the default route, if there is one: where IPv4's goes, or else the lowest-numbered of IPv6's.
pub fn default_interface() -> Option<String> {
    let routes = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let default = routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (name, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| name.to_owned())
    });
    default.or_else(|| {
        let routes = fs::read_to_string("/proc/self/net/ipv6_route").unwrap_or_default();
        routes.lines().find_map(|line| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let name = *fields.last()?;
            (fields.get(1) == Some(&"00") && name != "lo").then(|| name.to_owned())
        })
    })
}

fn parse(table: &str) -> BTreeMap<String, InterfaceCounters> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let traffic = |first: usize| {
            let number = |offset: usize| numbers.get(first + offset).copied().unwrap_or(0);
            Traffic { bytes: number(0), packets: number(1), errors: number(2), dropped: number(3) }
        };
        Some((name.trim().to_owned(), InterfaceCounters { received: traffic(0), transmitted: traffic(8) }))
    };
    table.lines().skip(2).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
                     \x20   lo: 5 4 0 0 0 0 0 0 5 4 0 0 0 0 0 0\n\
                     kp-0a1b2c: 1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0\n";
        let found = parse(table);
        let link = found["kp-0a1b2c"];
        assert_eq!(link.received, Traffic { bytes: 1000, packets: 10, errors: 1, dropped: 2 });
        assert_eq!(link.reversed().received, Traffic { bytes: 2000, packets: 20, errors: 3, dropped: 4 });
        assert_eq!(found.len(), 2);
        assert!(parse("").is_empty());
        assert!(interfaces().contains_key("lo"));
    }
}
