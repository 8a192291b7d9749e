//! What this process may do.

use std::fs;

/// Capabilities, as the kernel numbers them (`linux/capability.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Interfaces, addresses, routes, rules.
    NetAdmin = 12,
    /// Mounts and namespaces.
    SysAdmin = 21,
    /// Limits, and an `oom_score_adj`, beyond one's own.
    SysResource = 24,
}

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The effective ones of this process; none if they cannot be read.
    pub fn own() -> Self {
        Self::from_status(&fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    /// The effective ones in the text of a `/proc/<pid>/status`; none if it does not say.
    pub fn from_status(status: &str) -> Self {
        Self(status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok()).unwrap_or(0))
    }

    /// Whether `capability` is among them.
    pub fn has(self, capability: Capability) -> bool {
        self.0 & (1 << (capability as u8)) != 0
    }
}

/// What a process started from here cannot have its `oom_score_adj` below; `None` where there is no such bound, because this
/// process has CAP_SYS_RESOURCE (proc(5)). The kernel's own bound may be lower, but cannot be read; this process's value is
/// always allowed.
pub fn lowest_oom_score_adj() -> Option<i32> {
    if Capabilities::own().has(Capability::SysResource) {
        return None;
    }
    fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_bits_of_the_effective_set() {
        let set = Capabilities::from_status("Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000201000\n");
        assert!(set.has(Capability::NetAdmin) && set.has(Capability::SysAdmin) && !set.has(Capability::SysResource));
        assert_eq!(Capabilities::from_status("CapEff:\tnonsense\n"), Capabilities::default());
    }

    #[test]
    fn the_bound_is_there_exactly_without_the_capability() {
        assert_eq!(lowest_oom_score_adj().is_none(), Capabilities::own().has(Capability::SysResource));
    }
}
