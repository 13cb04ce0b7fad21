//! Veth pairs between two namespaces, with fixed addresses of every layer.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use super::{Namespace, wait_until};

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where it is.
    pub namespace: &'a Namespace,
    /// Name of the interface, at most 15 bytes.
    pub interface: &'a str,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Addresses with the length of their on-link prefix.
    pub addresses: &'a [IpNet],
}

/// What a veth pair leaves to the hardware it does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offloads {
    /// The kernel's defaults: partial checksums and segments larger than the MTU cross the pair.
    #[default]
    Default,
    /// The defaults and GRO, which veth has off: packets of a flow are merged as they come in.
    Gro,
    /// None: every frame is as it would be on a wire.
    None,
}

/// Joins two namespaces. Both interfaces are made inside their namespaces and are up when this
/// returns, with addresses that can be used at once.
///
/// # Errors
///
/// A name is taken or too long, an address is refused, or (for offloads other than the default)
/// there is no ethtool.
pub fn link(one: &End, other: &End, offloads: Offloads) -> Result<()> {
    let (mac, peer_mac) = (Mac(one.mac), Mac(other.mac));
    one.namespace.run(&format!(
        "ip link add name {} address {mac} type veth peer name {} address {peer_mac} netns {}",
        one.interface,
        other.interface,
        other.namespace.name()
    ))?;
    let of = |end: &End<'_>| format!("interface {} of {}", end.interface, end.namespace.role());
    for end in [one, other] {
        end.set_up(offloads).with_context(|| of(end))?;
    }
    for end in [one, other] {
        end.wait_until_up().with_context(|| of(end))?;
    }
    Ok(())
}

impl End<'_> {
    fn set_up(&self, offloads: Offloads) -> Result<()> {
        let Self { namespace, interface, .. } = self;
        match offloads {
            Offloads::Default => {}
            Offloads::Gro => drop(namespace.run(&format!("ethtool -K {interface} gro on"))?),
            Offloads::None => drop(namespace.run(&format!(
                "ethtool -K {interface} rx off tx off tso off gso off gro off rxvlan off txvlan off"
            ))?),
        }
        // A router asks for its neighbours from its link-local address: it needs one, at once.
        namespace.run(&format!("ip link set {interface} addrgenmode eui64"))?;
        namespace.run(&format!("ip link set {interface} up"))?;
        for address in self.addresses {
            let nodad = if matches!(address, IpNet::V6(_)) { " nodad" } else { "" };
            namespace.run(&format!("ip address add {address} dev {interface}{nodad}"))?;
        }
        Ok(())
    }

    /// The end that is set up first has no carrier until the other one is, and drops what it should send
    /// until a worker of the kernel has noticed (`linkwatch_do_dev`).
    fn wait_until_up(&self) -> Result<()> {
        let show = format!("ip -oneline link show dev {}", self.interface);
        wait_until("it has a carrier", PATIENCE, || {
            Ok(self.namespace.run(&show)?.contains(" state UP "))
        })
    }
}

/// How long a link may take to come up: far more than it does on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets = self.0.map(|octet| format!("{octet:02x}"));
        f.write_str(&octets.join(":"))
    }
}
