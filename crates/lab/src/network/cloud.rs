//! The cloud's own network: a second bridge on the control plane's machine, which is the cloud's router. The wire is the internet then:
//! nothing gets in from there, and the cloud reaches pets by the way through a gateway only, wherever they are.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::{POD_NETWORK, batch, in_namespace};
use crate::{command, machine::Machine};

/// Its addresses; every lab has the same, behind its own router.
pub const NETWORK: &str = "10.212.0.0/24";
/// The control plane in it, and the way out.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 212, 0, 1);

/// The machine with this number, 0 to 239.
pub fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 212, 0, 11 + number)
}

/// Makes it. `pets` are the networks that lead to gateways.
///
/// # Errors
/// When `ip` or `nft` refuses.
pub async fn build(control_plane: &Machine, pets: &[&str]) -> Result<()> {
    let lines = format!("link add cloud address 02:6b:70:63:6c:01 type bridge\naddr add {ROUTER}/24 dev cloud\nlink set cloud up\n");
    batch(Some(control_plane), &lines).await?;
    let inside = [[NETWORK, POD_NETWORK].as_slice(), pets].concat().join(", ");
    let rules = format!(
        "table ip cloud {{
           chain input {{ type filter hook input priority filter; iifname br0 ip daddr {{ {inside} }} drop; }}
           chain forward {{
             type filter hook forward priority filter
             ct state established,related accept
             # What the bridge itself carries, from one machine on the wire to another, comes by here, too: that is theirs.
             iifname br0 oifname != br0 ip daddr {{ {inside} }} drop
           }}
           # The node API of a pet on the internet would answer on its address there, too.
           chain output {{ type filter hook output priority filter; oifname br0 tcp dport 10250 reject with tcp reset; }}
         }}
"
    );
    let mut nft = control_plane.enter_network();
    nft.args(["nft", "-f", "-"]);
    command::run_with_input(nft, &rules).await.context("close the cloud to the internet").map(drop)
}

/// Plugs a machine in by a link of this name.
///
/// # Errors
/// When `ip` refuses.
pub async fn attach(control_plane: &Machine, machine: &Machine, number: u8, link: &str) -> Result<()> {
    let port = format!("cloud{number}");
    let _ = in_namespace(control_plane, &["link", "del", &port]).await;
    let keeper = machine.keeper.pid;
    let outside = format!("link add {port} type veth peer name {link} netns {keeper}\nlink set {port} master cloud\nlink set {port} up\n");
    batch(Some(control_plane), &outside).await?;
    let own = address(number);
    batch(Some(machine), &format!("link set lo up\naddr add {own}/24 dev {link}\nlink set {link} up\n")).await
}

/// All that is not near goes to the cloud's router.
///
/// # Errors
/// When `ip` refuses.
pub async fn route_default(machine: &Machine) -> Result<()> {
    in_namespace(machine, &["route", "add", "default", "via", &ROUTER.to_string()]).await
}

/// Pods of the cloud's nodes are behind its router.
///
/// # Errors
/// When `ip` refuses.
pub async fn route_pods(machine: &Machine) -> Result<()> {
    in_namespace(machine, &["route", "add", POD_NETWORK, "via", &ROUTER.to_string()]).await
}

/// Routes a network of pets to a gateway's address, from the cloud's side.
///
/// # Errors
/// When `ip` refuses.
pub async fn route_to_gateway(control_plane: &Machine, network: &str, gateway: Ipv4Addr) -> Result<()> {
    let (via, source) = (gateway.to_string(), ROUTER.to_string());
    in_namespace(control_plane, &["route", "replace", network, "via", &via, "src", &source]).await
}
