//! The gateway's own addresses and connected networks, over rtnetlink.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};

/// What the gateway is, and is connected to: sent out of the direct uplink, its own traffic would
/// leave by the wrong door.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayNetworks {
    /// The networks of its addresses, and the peers of point-to-point links; without host bits.
    /// Loopback and link-local ones are left out: they are special space anyway.
    pub addresses: BTreeSet<IpNet>,
}

/// The kernel does not say what the gateway's addresses are: the guard cannot look, so nothing
/// new should be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("netlink: cannot read this gateway's addresses: {0}; try again")]
pub struct GatewayError(String);

impl GatewayNetworks {
    /// Reads them from the current network namespace.
    ///
    /// # Errors
    ///
    /// See [`GatewayError`].
    pub async fn read() -> Result<Self, GatewayError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| GatewayError(error.to_string()))?;
        let connection = tokio::spawn(connection);
        let reply = handle.address().get().execute().try_collect::<Vec<_>>().await;
        connection.abort();
        let messages = reply.map_err(|error| GatewayError(error.to_string()))?;
        Ok(Self { addresses: messages.iter().flat_map(networks).collect() })
    }

    /// One of them that `prefix` overlaps, in whichever direction.
    #[must_use]
    pub fn overlapping(&self, prefix: IpNet) -> Option<IpNet> {
        let prefix = prefix.trunc();
        // Of the networks that sort from `prefix` on, those inside it come first.
        let inside = self.addresses.range(prefix..).next().filter(|net| prefix.contains(*net));
        let around = || {
            let mut outer = prefix;
            std::iter::from_fn(move || {
                outer = outer.supernet()?;
                Some(outer)
            })
        };
        inside.copied().or_else(|| around().find(|outer| self.addresses.contains(outer)))
    }
}

/// The networks that one address is in. `Address` is the peer where there is one, else the address
/// itself; `Local` is the address (`rtm_newaddr`, kernel `net/ipv4/devinet.c`).
fn networks(message: &AddressMessage) -> Vec<IpNet> {
    let length = message.header.prefix_len;
    message
        .attributes
        .iter()
        .filter_map(|attribute| {
            if let AddressAttribute::Address(address) = attribute
                // The whole internet on one link says nothing about it.
                && length > 0
            {
                return IpNet::new(*address, length).ok().map(|net| net.trunc());
            }
            let (AddressAttribute::Address(address) | AddressAttribute::Local(address)) = attribute
            else {
                return None;
            };
            Some(IpNet::from(*address))
        })
        .filter(|net| !is_left_out(net.addr()))
        .collect()
}

fn is_left_out(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn overlaps_are_found_in_both_directions_and_nowhere_else() {
        let addresses = ["192.0.2.0/24", "198.51.100.7/32", "2001:db8:1::/48"].map(net);
        let gateway = GatewayNetworks { addresses: addresses.into() };
        for (prefix, overlapped) in [
            ("192.0.2.0/24", Some("192.0.2.0/24")),
            ("192.0.2.128/25", Some("192.0.2.0/24")),
            ("192.0.0.0/16", Some("192.0.2.0/24")),
            ("192.0.3.0/24", None),
            ("192.0.1.0/24", None),
            ("198.51.100.6/31", Some("198.51.100.7/32")),
            ("198.51.100.8/31", None),
            ("2001:db8:1:2::/64", Some("2001:db8:1::/48")),
            ("2001:db8::/32", Some("2001:db8:1::/48")),
            ("2001:db8:2::/48", None),
            ("::/96", None),
        ] {
            assert_eq!(gateway.overlapping(net(prefix)), overlapped.map(net), "{prefix}");
        }
        assert_eq!(GatewayNetworks::default().overlapping(net("0.0.0.0/1")), None);
    }
}
