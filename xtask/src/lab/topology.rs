//! The lab's network: client, gateway, inspector, direct hop and far side, and no way out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use serde::Deserialize;
use xtask::testbed::{EchoServers, End, Namespace, Offloads, Owner, link};

/// The namespaces, joined:
///
/// ```text
/// client ── lan0 gateway insp0 ── in0 inspector out0 ── insp0 far
///                        up0 ──── in0 direct    out0 ── up0
/// ```
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) client: Namespace,
    pub(super) gateway: Namespace,
    pub(super) inspector: Namespace,
    pub(super) direct: Namespace,
    pub(super) far: Namespace,
}

/// Which way a connection came to the far side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// Past the inspector, by the direct hop.
    Direct,
    /// Through the inspector.
    Inspected,
}

/// The inside interface of the gateway: the one with the hook.
pub(super) const INSIDE: &str = "lan0";
/// A bit that no widely used software marks packets with.
pub(super) const MARK: u32 = 0x1000_0000;
/// The gateway's direct uplink.
pub(super) const UPLINK: &str = "up0";

/// A veth pair: its interfaces, its networks, its number in hardware addresses. The first end has
/// host number 1, the other 2.
struct Segment {
    interfaces: [&'static str; 2],
    networks: [&'static str; 2],
    number: u8,
}

const LAN: Segment =
    Segment { interfaces: [INSIDE, "eth0"], networks: ["10.36.1.0/24", "fd36:1::/64"], number: 1 };
const TO_INSPECTOR: Segment =
    Segment { interfaces: ["insp0", "in0"], networks: ["10.36.2.0/24", "fd36:2::/64"], number: 2 };
const TO_DIRECT: Segment =
    Segment { interfaces: [UPLINK, "in0"], networks: ["10.36.3.0/24", "fd36:3::/64"], number: 3 };
const BEHIND_INSPECTOR: Segment =
    Segment { interfaces: ["out0", "insp0"], networks: ["192.0.2.0/24", "fd36:4::/64"], number: 4 };
const BEHIND_DIRECT: Segment = Segment {
    interfaces: ["out0", "up0"],
    networks: ["198.51.100.0/24", "fd36:5::/64"],
    number: 5,
};

impl Topology {
    /// Makes the network. The far side owns the addresses of `far`.
    pub(super) fn build(owner: Owner, far: &BTreeSet<IpNet>) -> Result<Self> {
        let topology = Self {
            client: Namespace::owned("client", owner)?,
            gateway: Namespace::owned("gateway", owner)?,
            inspector: Namespace::owned("inspector", owner)?,
            direct: Namespace::owned("direct", owner)?,
            far: Namespace::owned("far", owner)?,
        };
        let Self { client, gateway, inspector, direct, far: server } = &topology;
        LAN.join(gateway, client)?;
        TO_INSPECTOR.join(gateway, inspector)?;
        TO_DIRECT.join(gateway, direct)?;
        BEHIND_INSPECTOR.join(inspector, server)?;
        BEHIND_DIRECT.join(direct, server)?;

        client.ip(&LAN.default_via(1))?;
        gateway.forward()?;
        // The way past the inspector is the product's to make.
        gateway.ip(&TO_INSPECTOR.default_via(2))?;
        for (hop, inside, outside) in
            [(inspector, &TO_INSPECTOR, &BEHIND_INSPECTOR), (direct, &TO_DIRECT, &BEHIND_DIRECT)]
        {
            hop.forward()?;
            hop.ip(&outside.default_via(2))?;
            hop.ip(&inside.route_via(1, &LAN))?;
            hop.nft(HOP_RULES)?;
        }
        EchoServers::own(server, far)?;
        topology.check_isolation()?;
        Ok(topology)
    }

    /// The gateway's next hops on the direct uplink, one of each family.
    pub(super) fn next_hops() -> impl Iterator<Item = IpAddr> {
        TO_DIRECT.addresses(2).map(|net| net.addr())
    }

    /// Which way a connection came that the far side saw come from `peer`.
    pub(super) fn way(peer: IpAddr) -> Option<Way> {
        let comes_by = |segment: &Segment| segment.addresses(1).any(|net| net.addr() == peer);
        match (comes_by(&BEHIND_DIRECT), comes_by(&BEHIND_INSPECTOR)) {
            (true, _) => Some(Way::Direct),
            (_, true) => Some(Way::Inspected),
            _ => None,
        }
    }

    /// Fragments that came to the inspector or the direct hop.
    pub(super) fn fragments(&self, way: Way) -> Result<u64> {
        let hop = match way {
            Way::Direct => &self.direct,
            Way::Inspected => &self.inspector,
        };
        let listed = hop.run("nft -j list counter inet lab fragments")?;
        let listed: serde_json::Value = serde_json::from_str(&listed)?;
        let packets = listed.pointer("/nftables/1/counter/packets");
        packets.and_then(serde_json::Value::as_u64).context("nft gives no counter")
    }

    /// Every namespace.
    pub(super) fn all(&self) -> [&Namespace; 5] {
        [&self.client, &self.gateway, &self.inspector, &self.direct, &self.far]
    }

    /// Leaves it all up.
    pub(super) fn release(self) {
        let Self { client, gateway, inspector, direct, far } = self;
        for namespace in [client, gateway, inspector, direct, far] {
            namespace.release();
        }
    }

    /// Fails unless every interface is a loopback or a veth whose other end is in one of our
    /// namespaces.
    fn check_isolation(&self) -> Result<()> {
        let ours: BTreeSet<&str> = self.all().into_iter().map(Namespace::name).collect();
        for namespace in self.all() {
            let ids: Vec<NamespaceId> =
                serde_json::from_str(&namespace.run("ip -j netns list-id")?)?;
            let links: Vec<Link> = serde_json::from_str(&namespace.run("ip -j -d link show")?)?;
            for link in links.iter().filter(|link| link.medium != "loopback") {
                let peer = ids.iter().find(|id| Some(id.nsid) == link.peer);
                let peer = peer.and_then(|id| id.name.as_deref());
                let kind = link.info.as_ref().and_then(|info| info.kind.as_deref());
                if kind != Some("veth") || !peer.is_some_and(|peer| ours.contains(peer)) {
                    bail!(
                        "{} of {} leads out of the lab (kind {kind:?}, other end in {peer:?})",
                        link.name,
                        namespace.name()
                    );
                }
            }
        }
        Ok(())
    }
}

impl Segment {
    fn join(&self, one: &Namespace, other: &Namespace) -> Result<()> {
        let [one_name, other_name] = self.interfaces;
        let (ones, others): (Vec<_>, Vec<_>) = (self.of(1)?, self.of(2)?);
        let mac = |host| [0x02, 0x36, 0x50, 0, self.number, host];
        link(
            &End { namespace: one, interface: one_name, mac: mac(1), addresses: &ones },
            &End { namespace: other, interface: other_name, mac: mac(2), addresses: &others },
            Offloads::Default,
        )
    }

    fn of(&self, host: u8) -> Result<Vec<IpNet>> {
        let addresses: Vec<_> = self.addresses(host).collect();
        if addresses.len() != self.networks.len() {
            bail!("{:?} are not networks", self.networks);
        }
        Ok(addresses)
    }

    /// The addresses of one end with the length of the network's prefix.
    fn addresses(&self, host: u8) -> impl Iterator<Item = IpNet> {
        self.networks.into_iter().filter_map(move |network| {
            let network: IpNet = network.parse().ok()?;
            let address = network.hosts().find(|address| match address {
                IpAddr::V4(v4) => v4.octets().last() == Some(&host),
                IpAddr::V6(v6) => v6.octets().last() == Some(&host),
            })?;
            IpNet::new(address, network.prefix_len()).ok()
        })
    }

    /// Lines for `ip -batch`: default routes of both families by one end of this segment.
    fn default_via(&self, host: u8) -> String {
        let vias = self.addresses(host).map(|net| net.addr());
        lines(vias.map(|via| format!("route add default via {via}")))
    }

    /// Lines for `ip -batch`: routes to the networks of `other` by one end of this segment.
    fn route_via(&self, host: u8, other: &Self) -> String {
        let vias = self.addresses(host).zip(other.networks);
        lines(vias.map(|(via, to)| format!("route add {to} via {}", via.addr())))
    }
}

fn lines(commands: impl Iterator<Item = String>) -> String {
    commands.collect::<Vec<_>>().join("\n") + "\n"
}

/// Source NAT to the hop's own address, and a count of fragments before they are put together
/// (which happens at priority -400).
const HOP_RULES: &str = r#"
table inet lab {
    counter fragments {}
    chain arrivals {
        type filter hook prerouting priority -450;
        ip frag-off & 0x3fff != 0 counter name fragments
        exthdr frag exists counter name fragments
    }
    chain source_nat {
        type nat hook postrouting priority srcnat;
        oifname "out0" masquerade
    }
}
"#;

/// A row of `ip -j netns list-id`.
#[derive(Debug, Deserialize)]
struct NamespaceId {
    nsid: i32,
    name: Option<String>,
}

/// A row of `ip -j -d link show`.
#[derive(Debug, Deserialize)]
struct Link {
    #[serde(rename = "ifname")]
    name: String,
    #[serde(rename = "link_type")]
    medium: String,
    #[serde(rename = "link_netnsid")]
    peer: Option<i32>,
    #[serde(rename = "linkinfo")]
    info: Option<LinkInfo>,
}

#[derive(Debug, Deserialize)]
struct LinkInfo {
    #[serde(rename = "info_kind")]
    kind: Option<String>,
}
