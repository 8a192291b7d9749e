//! NetworkPolicies: which pods are isolated, and what they are allowed.

use std::net::IpAddr;
use std::sync::Arc;

use crate::services::Protocol;

/// Which way the pod is affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// What the pod receives.
    Ingress,
    /// What the pod sends.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// As in the API, but small.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A fact that the kernel should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// In this direction the pod behind the link has only what its profile allows.
    Isolated {
        /// Which way.
        direction: Direction,
        /// The node's end of the pod's link.
        link: Arc<str>,
        /// The profile's number; a link has one of each direction.
        profile: u32,
    },
    /// The pod behind the link is isolated, but not from itself.
    Itself {
        /// The node's end of the pod's link.
        link: Arc<str>,
    },
    /// A profile allows this. Of one profile, those that are not exact do not overlap.
    Allowed {
        /// Which way.
        direction: Direction,
        /// The profile's number.
        profile: u32,
        /// What.
        grant: Grant,
    },
}

/// The other side's addresses, and the ports of the side that receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// The first address.
    pub first: IpAddr,
    /// The last address.
    pub last: IpAddr,
    /// By what.
    pub ports: Ports,
}

/// Which packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// All, of any protocol.
    All,
    /// Those with a destination port in this range.
    Of {
        /// The protocol.
        protocol: Protocol,
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
}

impl Grant {
    /// Whether it is one address, and one port or all: grants of this kind may overlap with others.
    pub fn is_exact(&self) -> bool {
        self.first == self.last
            && match self.ports {
                Ports::All => true,
                Ports::Of { first, last, .. } => first == last,
            }
    }
}
