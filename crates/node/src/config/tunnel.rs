//! `tunnel`: its settings, and how they are read.

use std::time::Duration;

use kube_pet_tunnel::{Endpoint, Mode};
use serde::{Serialize, Serializer};

use super::schema::choose;
use super::section::{Field, Section};
use super::{NodeConfiguration, duration};

/// `tunnel`
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelSettings {
    /// Whether the node's address and pod network are in the cluster's pet network, reached through a gateway.
    pub enabled: bool,
    /// Who does WireGuard's work.
    #[serde(serialize_with = "mode")]
    pub mode: Mode,
    /// The UDP port; 0 for any.
    pub listen_port: u16,
    /// Where others may reach this node's port, if they may.
    #[serde(serialize_with = "endpoints", skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Whether pets that can reach each other do so without the gateway.
    pub direct: bool,
    /// How old the key becomes; zero: for ever.
    #[serde(serialize_with = "duration::serialize")]
    pub key_rotation: Duration,
    /// Seconds between packets that keep the way through NAT open; 0 for none. Default: the PetNetwork's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_keepalive_seconds: Option<u16>,
    /// Bytes per packet. Default: the PetNetwork's, or less where the way to the gateway takes less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

impl Default for TunnelSettings {
    /// Off.
    fn default() -> Self {
        Self {
            enabled: false,
            mode: Mode::Auto,
            listen_port: 51820,
            endpoints: Vec::new(),
            direct: true,
            key_rotation: Duration::from_secs(720 * 3600),
            persistent_keepalive_seconds: None,
            mtu: None,
        }
    }
}

const SHORTEST_ROTATION: Duration = Duration::from_secs(3600);
const MODES: [(&str, Mode); 3] = [("auto", Mode::Auto), ("kernel", Mode::Kernel), ("userspace", Mode::Userspace)];

/// After the settings of the network, which it replaces.
pub(super) fn read(top: &Section<'_>, config: &mut NodeConfiguration) {
    let section = top.section("tunnel");
    let tunnel = &mut config.tunnel;
    section.bool("enabled", &mut tunnel.enabled);
    if let Some(field) = section.field("mode") {
        choose(&field, &MODES, &mut tunnel.mode);
    }
    section.number("listenPort", 0..=65535, &mut tunnel.listen_port);
    section.list("endpoints", endpoint, &mut tunnel.endpoints);
    section.bool("direct", &mut tunnel.direct);
    section.duration("keyRotation", Duration::ZERO, &mut tunnel.key_rotation);
    if !tunnel.key_rotation.is_zero() && tunnel.key_rotation < SHORTEST_ROTATION {
        let what = format!("{} is too short: each change takes half a minute", duration::format(tunnel.key_rotation));
        section.conflict("keyRotation", &what, "write at least 1h, or 0 for a key that stays");
    }
    if let Some(seconds) = section.field("persistentKeepaliveSeconds").and_then(|field| field.number(0..=3600)) {
        tunnel.persistent_keepalive_seconds = Some(seconds);
    }
    if let Some(mtu) = section.field("mtu").and_then(|field| field.number(1280..=9000)) {
        tunnel.mtu = Some(mtu);
    }
    if tunnel.enabled {
        for (given, key) in [(!config.node_ip.is_empty(), "nodeIP"), (!config.pod_cidr.is_empty(), "podCIDR")] {
            if given {
                section.conflict("enabled", &format!("contradicts {key}: the cluster's PetNetwork gives it"), "remove one of them");
            }
        }
    }
    section.finish();
}

fn endpoint(field: &Field<'_>) -> Option<Endpoint> {
    let text = field.text()?;
    text.parse().map_err(|_| field.problem(format!("{text:?} is not an endpoint"), "write host:port, such as pet.example:51820")).ok()
}

fn mode<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
    MODES.iter().find(|(_, known)| known == mode).map_or("auto", |(name, _)| *name).serialize(serializer)
}

fn endpoints<S: Serializer>(endpoints: &[Endpoint], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(endpoints.iter().map(ToString::to_string))
}
