//! The node's addresses: its own, and the one that the world sees it under.

mod web;

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::NodeAddress;
use kube_pet_net::addresses::{InterfaceAddress, default_route, host_addresses};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::config::{ExternalIpSource, NodeConfiguration};
use crate::tunnel::Allocation;

/// How often a source is asked again: dynamic addresses change without notice.
const EXTERNAL_EVERY: Duration = Duration::from_secs(300);
/// After a failure.
const EXTERNAL_RETRY: Duration = Duration::from_secs(30);

/// The InternalIPs: with the tunnel those that the cluster has given, else the configured ones, else the one that the default route
/// leaves by.
pub(super) fn internal(config: &NodeConfiguration, allocation: Option<&Allocation>) -> Vec<IpAddr> {
    if let Some(allocation) = allocation {
        return allocation.addresses.clone();
    }
    if !config.node_ip.is_empty() {
        return config.node_ip.clone();
    }
    let source = |ipv6| match default_route(ipv6) {
        Ok(route) => route?.source,
        Err(error) => {
            warn!(%error, "the default route cannot be read");
            None
        }
    };
    source(false).or_else(|| source(true)).into_iter().collect()
}

/// `status.addresses`
pub(super) fn list(internal: &[IpAddr], external: &[IpAddr], host_name: &str) -> Vec<NodeAddress> {
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let mut list: Vec<_> = internal.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
    list.extend(external.iter().map(|ip| address("ExternalIP", ip.to_string())));
    list.push(address("Hostname", host_name.to_owned()));
    list
}

/// Keeps the ExternalIPs up to date. Ends only when nobody listens any more.
pub(super) async fn keep_external(sources: Vec<ExternalIpSource>, found: watch::Sender<Vec<IpAddr>>) {
    if sources.is_empty() {
        return found.closed().await;
    }
    loop {
        let now = external(&sources).await;
        let pause = if now.is_empty() { EXTERNAL_RETRY } else { EXTERNAL_EVERY };
        // An address that cannot be found out for a while is more likely still right than wrong.
        if !now.is_empty() {
            found.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = found.closed() => return,
        }
    }
}

/// Asks the sources in order; the first that knows an address of a family wins.
async fn external(sources: &[ExternalIpSource]) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for source in sources {
        let addresses = match source {
            ExternalIpSource::Static(ip) => vec![*ip],
            ExternalIpSource::Interface(name) => of_interface(name.as_deref()),
            ExternalIpSource::Url(url) => match web::ask(url).await {
                Ok(ip) => vec![ip],
                Err(error) => {
                    warn!(?source, %error, "a source does not tell the external address");
                    Vec::new()
                }
            },
        };
        for ip in addresses {
            if !found.iter().any(|known| known.is_ipv4() == ip.is_ipv4()) {
                debug!(?source, %ip, "external address");
                found.push(ip);
            }
        }
    }
    found
}

/// The addresses of a named interface; of the default route's only the public ones.
fn of_interface(name: Option<&str>) -> Vec<IpAddr> {
    let addresses = host_addresses().unwrap_or_else(|error| {
        warn!(%error, "the interfaces' addresses cannot be read");
        Vec::new()
    });
    let global = addresses.iter().filter(|address| address.global && address.up);
    match name {
        Some(name) => global.filter(|address| address.interface == name).map(|address| address.address).collect(),
        None => {
            let routes: Vec<String> = [false, true].into_iter().filter_map(|ipv6| Some(default_route(ipv6).ok()??.interface)).collect();
            let outward = |address: &&InterfaceAddress| routes.contains(&address.interface);
            global.filter(outward).map(|address| address.address).filter(|ip| is_public(*ip)).collect()
        }
    }
}

/// Whether the internet can route to an address.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let carrier_nat = a == 100 && (64..128).contains(&b);
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || carrier_nat)
        }
        // Global unicast.
        IpAddr::V6(ip) => ip.segments()[0] & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_told_from_others() {
        for (ip, public) in [
            ("8.8.8.8", true),
            ("10.0.0.1", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("169.254.1.1", false),
            ("2001:4860::1", true),
            ("fd00::1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_public(ip.parse().unwrap()), public, "{ip}");
        }
    }

    #[tokio::test]
    async fn the_first_source_of_a_family_wins() {
        let fixed = |ip: &str| ExternalIpSource::Static(ip.parse().unwrap());
        let sources = [
            ExternalIpSource::Interface(Some("no-such-link".into())),
            ExternalIpSource::Url("http://127.0.0.1:1/".into()),
            fixed("198.51.100.1"),
            fixed("198.51.100.2"),
            fixed("2001:db8::1"),
        ];
        let expected: [IpAddr; 2] = ["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(external(&sources).await, expected);
    }
}
