//! A client, a gateway, and two ways out that both lead to every host of the internet played here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use serde_json::Value;

use crate::testbed::{EchoServers, End, Namespace, Offloads, Owner, link};

use super::program::wait_until;
use super::site;

/// The inside interface of the gateway.
pub(super) const INSIDE: &str = "lan0";
/// Its direct uplink.
pub(super) const UPLINK: &str = "up0";
/// Its way through the inspection chain, where that does not end in the gateway itself.
pub(super) const REST: &str = "rest0";
/// The interface of either hop that leads to the gateway.
const ARRIVALS: &str = "in0";

const LAN: u8 = 1;
const DIRECT: u8 = 2;
const INSPECTED: u8 = 3;
const TUNNEL: u8 = 4;
const OVERLAY: u8 = 5;
/// UDP's port of VXLAN (RFC 7348).
pub(super) const VXLAN_PORT: u16 = 4789;
const VXLAN: &str = "vxlan0";

/// The namespaces, joined. Both hops own every address, answer with their names, and count:
///
/// ```text
/// client eth0 ── lan0 gateway up0 ──── in0 direct
///                             rest0 ── in0 inspected
/// ```
///
/// or, with a tunnel that takes the same uplink:
///
/// ```text
/// client eth0 ── lan0 gateway up0 ──── in0 direct swg0 ── in0 inspected
///                             vxlan0 ─ ─ ─ ─ ─ ─ ─ ─ ─ vxlan0
/// ```
#[derive(Debug)]
pub(super) struct Network {
    pub(super) client: Namespace,
    pub(super) gateway: Namespace,
    /// The next hop of the direct uplink.
    pub(super) direct: Namespace,
    /// Where inspected traffic comes to.
    pub(super) inspected: Namespace,
}

/// How inspected traffic leaves the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// By an uplink of its own.
    Uplink,
    /// Through a tunnel over the direct uplink.
    Tunnel,
}

/// What one of the hops has counted, as far as it came from the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counter {
    /// TCP connections and datagrams of clients' addresses to selected prefixes.
    SelectedFlows,
    /// Packets of those flows to the same places.
    Selected,
    /// Packets of the tunnel.
    Tunnel,
    /// TCP and UDP packets to anywhere else.
    Other,
}

impl Network {
    /// Makes it. `selected` is what the policy selects, for the counters.
    pub(super) fn build(owner: Owner, rest: Rest, selected: &BTreeSet<IpNet>) -> Result<Self> {
        let network = Self {
            client: Namespace::owned("client", owner)?,
            gateway: Namespace::owned("gateway", owner)?,
            direct: Namespace::owned("direct", owner)?,
            inspected: Namespace::owned("inspected", owner)?,
        };
        let Self { client, gateway, direct, inspected } = &network;
        join((gateway, INSIDE), (client, "eth0"), LAN)?;
        join((gateway, UPLINK), (direct, ARRIVALS), DIRECT)?;
        client.ip(&default_routes(LAN, 1))?;
        direct.ip(&default_routes(DIRECT, 1))?;
        gateway.forward()?;
        for hop in [direct, inspected] {
            EchoServers::own(hop, &site::addresses())?;
        }
        let comes_in = match rest {
            Rest::Uplink => {
                join((gateway, REST), (inspected, ARRIVALS), INSPECTED)?;
                gateway.ip(&default_routes(INSPECTED, 2))?;
                inspected.ip(&default_routes(INSPECTED, 1))?;
                ARRIVALS
            }
            Rest::Tunnel => {
                network.tunnel()?;
                VXLAN
            }
        };
        direct.nft(&watch(ARRIVALS, selected))?;
        inspected.nft(&watch(comes_in, selected))?;
        // A new link's carrier, and the addresses and routes that hang on it, come a moment later.
        wait_until("every link is up", || {
            let mut up = true;
            for namespace in [client, gateway, direct, inspected] {
                let routes = namespace.run("ip -d route show table all")?;
                up &= !routes.contains("linkdown") && routes.contains("local fe80::");
            }
            Ok(up)
        })?;
        Ok(network)
    }

    /// Joins gateway and inspector by a tunnel with two ends of its own, and leads the gateway's
    /// default routes into it.
    fn tunnel(&self) -> Result<()> {
        let Self { gateway, direct, inspected, .. } = self;
        join((direct, "swg0"), (inspected, ARRIVALS), TUNNEL)?;
        direct.forward()?;
        let (outer, inner) = (v4(DIRECT, 1), v4(TUNNEL, 2));
        gateway.ip(&format!("route add {inner}/32 via {}\n", v4(DIRECT, 2)))?;
        inspected.ip(&format!("route add {outer}/32 via {}\n", v4(TUNNEL, 1)))?;
        for (end, host, local, remote) in
            [(gateway, 1, &outer, &inner), (inspected, 2, &inner, &outer)]
        {
            let [one, other] = addresses(OVERLAY, host);
            end.ip(&format!(
                "link add {VXLAN} type vxlan id 365 local {local} remote {remote} dstport \
                 {VXLAN_PORT}\n\
                 link set {VXLAN} up\n\
                 address add {one} dev {VXLAN}\n\
                 address add {other} dev {VXLAN} nodad\n"
            ))?;
        }
        gateway.ip(&default_routes(OVERLAY, 2))?;
        inspected.ip(&default_routes(OVERLAY, 1))
    }

    /// Every namespace.
    pub(super) fn all(&self) -> [&Namespace; 4] {
        [&self.client, &self.gateway, &self.direct, &self.inspected]
    }

    /// Leaves it all up.
    pub(super) fn release(self) {
        let Self { client, gateway, direct, inspected } = self;
        for namespace in [client, gateway, direct, inspected] {
            namespace.release();
        }
    }
}

impl Counter {
    /// What `hop` has counted.
    pub(super) fn of(self, hop: &Namespace) -> Result<u64> {
        let name = self.name();
        let listed = hop.run(&format!("nft -j list counter inet watch {name}"))?;
        let listed: Value = serde_json::from_str(&listed)?;
        let packets = listed.pointer("/nftables/1/counter/packets");
        packets.and_then(Value::as_u64).context("nft gives no counter")
    }

    fn name(self) -> &'static str {
        match self {
            Self::SelectedFlows => "selected_flows",
            Self::Selected => "selected",
            Self::Tunnel => "tunnel",
            Self::Other => "other",
        }
    }
}

/// The gateway's next hops on the direct uplink.
pub(super) fn next_hops() -> [String; 2] {
    [v4(DIRECT, 2), v6(DIRECT, 2)]
}

/// The gateway's own addresses on the inside.
pub(super) fn inside_addresses() -> [IpAddr; 2] {
    [IpAddr::from([10, 36, LAN, 1]), IpAddr::from([0xfd36, LAN.into(), 0, 0, 0, 0, 0, 1])]
}

/// Counts what comes in by `interface`, before conntrack and anything else. ICMP is not counted:
/// neighbours are looked for by it.
fn watch(interface: &str, selected: &BTreeSet<IpNet>) -> String {
    let elements = |v4: bool| {
        let of = selected.iter().filter(|prefix| prefix.addr().is_ipv4() == v4);
        of.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let [lan4, lan6] = [format!("10.36.{LAN}.0/24"), format!("fd36:{LAN}::/64")];
    let ports = "{ 80, 443, 3478-3481 }";
    format!(
        "table inet watch {{
            counter selected_flows {{ }}
            counter selected {{ }}
            counter tunnel {{ }}
            counter other {{ }}
            set v4 {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {} }}; }}
            set v6 {{ type ipv6_addr; flags interval; auto-merge; elements = {{ {} }}; }}
            chain arrivals {{
                type filter hook prerouting priority -450; policy accept;
                iifname != \"{interface}\" accept
                meta l4proto != {{ tcp, udp }} accept
                udp dport {VXLAN_PORT} counter name tunnel accept
                ip daddr @v4 th dport {ports} goto selected
                ip6 daddr @v6 th dport {ports} goto selected
                counter name other
            }}
            chain selected {{
                counter name selected
                ip saddr != {lan4} accept
                ip6 saddr != {lan6} accept
                tcp flags & (syn | ack) == syn counter name selected_flows
                meta l4proto udp counter name selected_flows
            }}
        }}",
        elements(true),
        elements(false)
    )
}

/// Joins two namespaces; the first has host number 1 in network `number`, the other 2.
fn join(one: (&Namespace, &str), other: (&Namespace, &str), number: u8) -> Result<()> {
    let nets = |host| -> Result<Vec<IpNet>> {
        addresses(number, host).iter().map(|net| Ok(net.parse()?)).collect()
    };
    let (ones, others) = (nets(1)?, nets(2)?);
    let mac = |host| [2, 0x36, 0x51, 0, number, host];
    link(
        &End { namespace: one.0, interface: one.1, mac: mac(1), addresses: &ones },
        &End { namespace: other.0, interface: other.1, mac: mac(2), addresses: &others },
        Offloads::Default,
    )
}

fn addresses(number: u8, host: u8) -> [String; 2] {
    [format!("{}/24", v4(number, host)), format!("{}/64", v6(number, host))]
}

fn v4(number: u8, host: u8) -> String {
    format!("10.36.{number}.{host}")
}

fn v6(number: u8, host: u8) -> String {
    format!("fd36:{number}::{host}")
}

/// Lines for `ip -batch`: default routes of both families.
fn default_routes(number: u8, host: u8) -> String {
    let [v4, v6] = [v4(number, host), v6(number, host)];
    format!("route add default via {v4}\nroute add default via {v6}\n")
}
