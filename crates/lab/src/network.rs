//! The lab's wire: a bridge in the control plane's network namespace with one veth to each pet and one to the host.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    command::{self, program},
    machine::Machine,
};

pub mod cloud;

/// Pods of every lab get addresses from this network; it exists only inside the lab's namespaces, so labs do not meet.
pub const POD_NETWORK: &str = "10.244.0.0/16";
/// ClusterIPs.
pub const SERVICE_NETWORK: &str = "10.96.0.0/16";
/// The API server's ClusterIP.
pub const API_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Where pods are told that the cluster's DNS is.
pub const DNS_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The link through which an emulator is on the wire.
pub const TAP: &str = "tap0";

/// The addresses and link names of one lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    index: u8,
}

impl Wire {
    /// The wire of the lab in slot `index`.
    pub fn new(index: u8) -> Self {
        Self { index }
    }
    /// All of it.
    pub fn network(&self) -> String {
        format!("10.201.{}.0/24", self.index)
    }
    /// The control plane: API server, registry and DNS.
    pub fn control_plane(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 201, self.index, 1)
    }
    /// The host that the lab runs on.
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 201, self.index, 254)
    }
    /// The pet with this number, 0 to 239.
    pub fn pet(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 201, self.index, 11 + number)
    }
    /// The hardware address of the pet with this number, where that is a virtual machine.
    pub fn vm_hardware_address(&self, number: u8) -> String {
        format!("02:6b:70:6d:{:02x}:{number:02x}", self.index)
    }
    /// The only link in the host's own network namespace.
    pub fn host_link(&self) -> String {
        format!("kpl{}", self.index)
    }
}

/// Makes the bridge in the control plane's namespace and the link to the host.
///
/// # Errors
/// When `ip` refuses; its message is in the error.
pub async fn build(wire: Wire, control_plane: &Machine) -> Result<()> {
    let (host_link, keeper) = (wire.host_link(), control_plane.keeper.pid);
    // What an earlier lab left in this slot; the delete fails when there is nothing, which is the usual case.
    let _ = command::run(&["ip", "link", "del", &host_link]).await;
    batch(
        None,
        &format!(
            "link add {host_link} type veth peer name host netns {keeper}\n\
             addr add {}/24 dev {host_link}\nlink set {host_link} up\n",
            wire.host()
        ),
    )
    .await?;
    batch(
        Some(control_plane),
        &format!(
            // A bridge without an address of its own takes the lowest of its ports', and changes it when that one leaves: whoever had
            // learnt it talks to nobody for half a minute.
            "link set lo up\nlink add br0 address 02:6b:70:6c:00:{:02x} type bridge\naddr add {}/24 dev br0\nlink set br0 up\n\
             link set host master br0\nlink set host up\nroute add default via {} dev br0\n",
            wire.index,
            wire.control_plane(),
            wire.host()
        ),
    )
    .await
}

/// Plugs pet number `number` into the wire.
///
/// # Errors
/// When `ip` refuses; its message is in the error.
pub async fn attach(wire: Wire, control_plane: &Machine, pet: &Machine, number: u8) -> Result<()> {
    cable(control_plane, pet, number).await?;
    batch(
        Some(pet),
        &format!(
            "link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\nroute add default via {} dev eth0\n",
            wire.pet(number),
            wire.control_plane()
        ),
    )
    .await
}

/// Plugs pet number `number` into the wire where that is a virtual machine, whose emulator runs on `host` and opens the tap [`TAP`].
///
/// # Errors
/// When `ip` refuses; its message is in the error.
pub async fn attach_tap(control_plane: &Machine, host: &Machine, number: u8) -> Result<()> {
    cable(control_plane, host, number).await?;
    let lines = format!(
        "tuntap add {TAP} mode tap\nlink add br0 type bridge\nlink set eth0 master br0\nlink set {TAP} master br0\n\
         link set eth0 up\nlink set {TAP} up\nlink set br0 up\n"
    );
    batch(Some(host), &lines).await
}

/// From the bridge to the pet, which has its end as `eth0`.
async fn cable(control_plane: &Machine, pet: &Machine, number: u8) -> Result<()> {
    let port = format!("pet{number}");
    let _ = in_namespace(control_plane, &["link", "del", &port]).await;
    let lines =
        format!("link add {port} type veth peer name eth0 netns {}\nlink set {port} master br0\nlink set {port} up\n", pet.keeper.pid);
    batch(Some(control_plane), &lines).await
}

/// Makes the control plane's machine (API server, registry, DNS) deaf and dumb for an address, or as it was. Others on the wire still
/// reach it.
///
/// # Errors
/// When `nft` refuses; its message is in the error.
pub async fn set_heard(control_plane: &Machine, address: Ipv4Addr, heard: bool) -> Result<()> {
    let table = format!("deaf_{}", address.to_string().replace('.', "_"));
    let mut rules = format!("table ip {table} {{}}\ndelete table ip {table}\n");
    if !heard {
        rules.push_str(&format!(
            "table ip {table} {{\n  chain in {{ type filter hook input priority 0; ip saddr {address} drop; }}\n  \
             chain out {{ type filter hook output priority 0; ip daddr {address} drop; }}\n}}\n"
        ));
    }
    let mut command = control_plane.enter_network();
    command.args(["nft", "-f", "-"]);
    command::run_with_input(command, &rules).await.with_context(|| format!("cut {address} off the control plane")).map(drop)
}

/// How a router at home translates addresses. Both drop what nobody behind them has asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nat {
    /// A socket behind it has the same port outside, whoever it sends to (RFC 4787, endpoint-independent mapping).
    #[default]
    Cone,
    /// A socket has another port for each destination (address and port-dependent mapping): what one peer learns of it is of no use to
    /// another.
    Symmetric,
}

/// A router as people have it at home: everybody behind it has its address outside, and nobody outside may begin.
///
/// # Errors
/// When `nft` refuses; its message is in the error.
pub async fn translate(router: &Machine, nat: Nat) -> Result<()> {
    let ports = match nat {
        Nat::Cone => "",
        Nat::Symmetric => " fully-random",
    };
    let mut command = router.enter_network();
    command.args(["nft", "-f", "-"]);
    let rules = format!(
        "table ip home {{
        chain translate {{ type nat hook postrouting priority srcnat; oifname eth0 masquerade{ports}; }}
        chain filter {{ type filter hook forward priority filter; iifname eth0 ct state new drop; }}
        chain itself {{ type filter hook input priority filter; iifname eth0 ct state new drop; }}
    }}"
    );
    command::run_with_input(command, &rules).await.context("set up a home's router")?;
    let mut command = router.enter_network();
    command.args(["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    command::output(command).await.map(drop)
}

/// Plugs a pet into its router. All homes have the same addresses inside.
///
/// # Errors
/// When `ip` refuses; its message is in the error.
pub async fn plug_into_router(router: &Machine, pet: &Machine) -> Result<()> {
    let _ = in_namespace(router, &["link", "del", "lan"]).await;
    batch(
        Some(router),
        &format!("link add lan type veth peer name eth0 netns {}\naddr add 192.168.77.1/24 dev lan\nlink set lan up\n", pet.keeper.pid),
    )
    .await?;
    let lines = "link set lo up\naddr add 192.168.77.10/24 dev eth0\nlink set eth0 up\nroute add default via 192.168.77.1 dev eth0\n";
    batch(Some(pet), lines).await
}

/// Takes pet number `number` off the wire, or puts it back: a broken network, without touching the pet.
///
/// # Errors
/// When `ip` refuses.
pub async fn set_link(control_plane: &Machine, number: u8, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    in_namespace(control_plane, &["link", "set", &format!("pet{number}"), state]).await
}

/// Routes a pet's pod network to the pet, from the control plane's side.
///
/// # Errors
/// When `ip` refuses.
pub async fn route(control_plane: &Machine, pods: &str, node: Ipv4Addr) -> Result<()> {
    in_namespace(control_plane, &["route", "replace", pods, "via", &node.to_string()]).await
}

/// Removes the route to a pod network; one that does not exist is not an error.
pub async fn unroute(control_plane: &Machine, pods: &str) {
    let _ = in_namespace(control_plane, &["route", "del", pods]).await;
}

async fn in_namespace(machine: &Machine, arguments: &[&str]) -> Result<()> {
    let mut command = machine.enter_network();
    command.arg("ip").args(arguments);
    command::output(command).await.map(drop)
}

async fn batch(machine: Option<&Machine>, lines: &str) -> Result<()> {
    let mut command = match machine {
        Some(machine) => {
            let mut command = machine.enter_network();
            command.arg("ip");
            command
        }
        None => program("ip"),
    };
    command.args(["-batch", "-"]);
    command::run_with_input(command, lines).await.context("set up the lab's network").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labs_do_not_share_addresses_or_links() {
        let (one, two) = (Wire::new(0), Wire::new(63));
        assert_eq!(one.pet(0).to_string(), "10.201.0.11");
        assert_eq!(two.control_plane().to_string(), "10.201.63.1");
        assert_ne!(one.host_link(), two.host_link());
        assert!(two.host_link().len() < 16, "longest name of a link");
    }
}
