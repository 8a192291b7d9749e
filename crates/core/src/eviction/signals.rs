//! What is measured for pressure, and limits of it.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::Resource;
use crate::quantity::Amount;

macro_rules! signals {
    ($($variant:ident = $name:literal, $doc:literal;)*) => {
        /// What is measured for pressure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        pub enum Signal {
            $(#[doc = $doc] #[serde(rename = $name)] $variant,)*
        }
        impl Signal {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// Its name in `evictionHard`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

signals! {
    MemoryAvailable = "memory.available", "Memory that is free or can be freed at once.";
    NodefsAvailable = "nodefs.available", "Space on the file system of the agent's state.";
    NodefsInodesFree = "nodefs.inodesFree", "Inodes on it.";
    ImagefsAvailable = "imagefs.available", "Space on the file system of Podman's store.";
    ImagefsInodesFree = "imagefs.inodesFree", "Inodes on it.";
    PidAvailable = "pid.available", "Process IDs.";
}

impl Signal {
    /// What the node is short of below its limit.
    #[must_use]
    pub fn resource(self) -> Resource {
        match self {
            Self::MemoryAvailable => Resource::Memory,
            Self::NodefsAvailable | Self::ImagefsAvailable => Resource::EphemeralStorage,
            Self::NodefsInodesFree | Self::ImagefsInodesFree => Resource::Inodes,
            Self::PidAvailable => Resource::Pids,
        }
    }

    /// The Node's condition that tells of it.
    #[must_use]
    pub fn condition(self) -> &'static str {
        match self.resource() {
            Resource::Memory => "MemoryPressure",
            Resource::EphemeralStorage | Resource::Inodes => "DiskPressure",
            Resource::Pids => "PIDPressure",
        }
    }
}

/// A limit of a [`Signal`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// So much.
    Amount(Amount),
    /// This part of the capacity, in percent.
    Percent(f64),
}

impl Threshold {
    /// The limit for this capacity (bytes, inodes, processes).
    #[must_use]
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Amount(amount) => u64::try_from(amount.value()).unwrap_or(0),
            Self::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }

    /// It limits nothing: the kubelet passes over `0%` and `100%`.
    #[must_use]
    pub fn is_off(self) -> bool {
        matches!(self, Self::Percent(percent) if percent == 0.0 || percent == 100.0)
    }

    /// It is nothing at all.
    #[must_use]
    pub fn is_zero(self) -> bool {
        match self {
            Self::Amount(amount) => amount.is_zero(),
            Self::Percent(percent) => percent == 0.0,
        }
    }
}

impl FromStr for Threshold {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| (0.0..=100.0).contains(percent)).map(Self::Percent).ok_or(()),
            None => text.parse::<Amount>().ok().filter(|amount| !amount.is_negative()).map(Self::Amount).ok_or(()),
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amount(amount) => amount.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for Threshold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
