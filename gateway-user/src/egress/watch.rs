//! News of rules, routes, of the uplink's addresses and neighbours, and of our nftables table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::StreamExt as _;
use futures_util::stream::select;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::JoinHandle;

use super::routing::is_our_route;
use super::{EgressError, nft_news};
use crate::bursts::Bursts;

/// A subscription to what may concern us.
pub(super) struct Watch {
    news: Bursts,
    connections: [JoinHandle<()>; 2],
    /// Index of the uplink; zero, it is not there.
    uplink: Arc<AtomicU32>,
}

impl Watch {
    /// Subscribes.
    pub(super) fn listen() -> Result<Self, EgressError> {
        let groups = [
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Neigh,
        ];
        let (connection, _, messages) = new_multicast_connection(&groups)
            .map_err(|source| EgressError::Netlink { what: "watch rules and routes", source })?;
        let uplink = Arc::new(AtomicU32::new(0));
        let index = Arc::clone(&uplink);
        let messages = messages.filter_map(move |(message, _)| {
            let concerns_us = concerns_us(&message, index.load(Ordering::Relaxed));
            std::future::ready(concerns_us.then_some(()))
        });
        let (of_table, table) = nft_news::listen()?;
        let news = Bursts::of(select(messages, of_table).boxed());
        Ok(Self { news, connections: [tokio::spawn(connection), table], uplink })
    }

    /// Hears from now on of the addresses, default routes and neighbours of this interface.
    pub(super) fn follow(&self, uplink: u32) {
        self.uplink.store(uplink, Ordering::Relaxed);
    }

    /// Waits for something that may concern us, see [`Bursts::next`].
    pub(super) async fn changed(&mut self) {
        self.news.next().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for connection in &self.connections {
            connection.abort();
        }
    }
}

/// Any rule, there are few; of the routes, of which there may be a million, ours and the uplink's
/// default routes; of the neighbours those of the uplink that were found or not.
#[expect(clippy::wildcard_enum_match_arm, reason = "there are more messages every year")]
fn concerns_us(message: &NetlinkMessage<RouteNetlinkMessage>, uplink: u32) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(inner) => match inner {
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => true,
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                is_our_route(route) || is_default_route(route, uplink)
            }
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                address.header.index == uplink
            }
            RouteNetlinkMessage::NewNeighbour(neighbour) => says_something(neighbour, uplink),
            _ => false,
        },
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

fn is_default_route(route: &RouteMessage, interface: u32) -> bool {
    route.header.destination_prefix_length == 0
        && route.attributes.contains(&RouteAttribute::Oif(interface))
}

fn says_something(neighbour: &NeighbourMessage, interface: u32) -> bool {
    let header = &neighbour.header;
    header.ifindex == interface
        && matches!(header.state, NeighbourState::Failed | NeighbourState::Reachable)
}
