//! The machine's IPv4 routes, as `/proc/net/route` lists them.

use std::fs;
use std::net::Ipv4Addr;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where packets leave.
    pub interface: String,
    /// Its network.
    pub destination: Ipv4Addr,
    /// Length of the network's prefix, in bits; 0 for a default route.
    pub prefix: u8,
    /// The next hop; `None` where the machine is in the network itself.
    pub gateway: Option<Ipv4Addr>,
    /// The lowest wins among equal networks.
    pub metric: u32,
}

/// The routes in the text of a `/proc/net/route`; lines that are none are left out.
pub fn parse(table: &str) -> Vec<Route> {
    table.lines().skip(1).filter_map(route).collect()
}

fn route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [interface, destination, gateway, _, _, _, metric, mask, ..] = fields[..] else { return None };
    // The number that an address's bytes are in memory.
    let address = |text| u32::from_str_radix(text, 16).ok().map(|number| u32::from_be_bytes(number.to_ne_bytes()));
    let (destination, gateway, mask) = (address(destination)?, address(gateway)?, address(mask)?);
    Some(Route {
        interface: interface.to_owned(),
        destination: (destination & mask).into(),
        #[allow(clippy::cast_possible_truncation, reason = "at most 32")]
        prefix: mask.leading_ones() as u8,
        gateway: (gateway != 0).then(|| gateway.into()),
        metric: metric.parse().ok()?,
    })
}

/// The largest packet, in bytes, of the interface that the default route goes over; `None` without one. Read below `/proc`, which
/// shows this process's network namespace, whatever is mounted on `/sys`.
pub fn uplink_mtu() -> Option<u32> {
    let interface = uplink(parse(&fs::read_to_string("/proc/self/net/route").ok()?))?;
    let places = [format!("/proc/sys/net/ipv6/conf/{interface}/mtu"), format!("/sys/class/net/{interface}/mtu")];
    places.iter().find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
}

/// The interface of the default route that wins.
fn uplink(routes: Vec<Route>) -> Option<String> {
    routes.into_iter().filter(|route| route.prefix == 0).min_by_key(|route| route.metric).map(|route| route.interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        lan0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        odd line\n\
        wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
        eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";

    #[test]
    fn lines_become_routes() {
        let routes = parse(TABLE);
        assert_eq!(routes.len(), 3);
        let lan = Route { interface: "lan0".into(), destination: [192, 168, 1, 0].into(), prefix: 24, gateway: None, metric: 0 };
        assert_eq!(routes[0], lan);
        assert_eq!((routes[1].prefix, routes[1].gateway), (0, Some([192, 168, 1, 1].into())));
        assert_eq!(parse(""), []);
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_is_the_uplink() {
        assert_eq!(uplink(parse(TABLE)).as_deref(), Some("eth0"));
        assert_eq!(uplink(parse(TABLE)[..1].to_vec()), None);
    }
}
