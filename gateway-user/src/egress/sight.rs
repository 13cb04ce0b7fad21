//! What the kernel says of the uplink: link, default routes, neighbours, over rtnetlink.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::{StreamExt as _, TryStreamExt as _};
use nix::libc;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkFlags, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};

use super::EgressError;
use super::fault::{Link, Neighbour, Sight};
use super::hop::{Hop, next_hops};
use super::netlink::{Netlink, failed};
use super::routing::{Family, Route, is_our_route};
use crate::config::{Egress, NextHop};

impl Netlink {
    /// Looks at the uplink of `egress`, and has the kernel ask its next hops for their link layer
    /// addresses, so that they are known before the first packet and one that is gone is missed.
    pub(super) async fn see_uplink(&self, egress: &Egress) -> Result<Sight, EgressError> {
        let Some(link) = self.link(&egress.interface).await? else { return Ok(Sight::default()) };
        let mut hops = BTreeMap::new();
        for (family, wanted) in next_hops(egress) {
            let hop = match wanted {
                NextHop::Given(hop) => Some(Hop::Via(hop)),
                NextHop::Learned => self.default_route(family, &link).await?,
            };
            let Some(hop) = hop else { continue };
            let Some(address) = hop.address() else {
                hops.insert(family, (hop, Neighbour::Known));
                continue;
            };
            let state = self.neighbour(link.index, address).await;
            if link.is_running && !is_settled(state) {
                self.ask(link.index, address).await;
            }
            hops.insert(family, (hop, known(state)));
        }
        Ok(Sight { link: Some(link), hops })
    }

    /// What is seen where the uplink was set down or has gone since a `sight` of it that is up: with it the
    /// kernel takes its routes, which nobody has removed then and nobody can put back.
    pub(super) async fn went(&self, sight: &Sight, egress: &Egress) -> Option<Sight> {
        let is_up = |link: Option<Link>| link.is_some_and(|link| link.is_up);
        let link = self.link(&egress.interface).await.ok()?;
        (is_up(sight.link) && !is_up(link)).then(|| Sight { link, hops: sight.hops.clone() })
    }

    async fn link(&self, name: &str) -> Result<Option<Link>, EgressError> {
        let reply = self.handle.link().get().match_name(name).execute().try_next().await;
        let link = match reply {
            Ok(link) => link,
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => None,
            Err(error) => return Err(failed("read a link", super::netlink::errno(error))),
        };
        Ok(link.map(|link| {
            let (mtu4, mtu6) = mtus(&link);
            Link {
                index: link.header.index,
                is_up: link.header.flags.contains(LinkFlags::Up),
                is_running: link.header.flags.contains(LinkFlags::Running),
                has_one_end: link
                    .header
                    .flags
                    .intersects(LinkFlags::Pointopoint | LinkFlags::Noarp),
                mtu4,
                mtu6,
            }
        }))
    }

    /// The next hop of the default route that is preferred on a link, in whatever table, which is not
    /// ours. Without an address it is one only where the link has one other end.
    async fn default_route(&self, family: Family, link: &Link) -> Result<Option<Hop>, EgressError> {
        let mut filter = Self::filter(family);
        filter.attributes.push(RouteAttribute::Oif(link.index));
        let routes = self.routes(filter).await?;
        let others = routes.iter().filter(|route| !is_our_route(route));
        let read = others.filter_map(|message| {
            let route = Route::read(family, message)?;
            let leads_on = route.hop != Hop::Link || link.has_one_end;
            (route.interface == link.index && leads_on)
                .then(|| (metric(message), route.table, route.hop))
        });
        Ok(read.min().map(|(.., hop)| hop))
    }

    /// [`NeighbourState::None`] where there is no entry, or it cannot be read: the question stays open.
    async fn neighbour(&self, interface: u32, hop: IpAddr) -> NeighbourState {
        let mut message = NeighbourMessage::default();
        message.header.family = Family::of(hop).address_family();
        message.header.ifindex = interface;
        message.attributes.push(NeighbourAttribute::Destination(address(hop)));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(message));
        request.header.flags = NLM_F_REQUEST;
        let Ok(mut replies) = self.handle.clone().request(request) else {
            return NeighbourState::None;
        };
        // An error is that there is none.
        if let Some(NetlinkMessage {
            payload: NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)),
            ..
        }) = replies.next().await
        {
            return message.header.state;
        }
        NeighbourState::None
    }

    /// As a packet would (`NTF_USE`). What does not work is seen as an open question.
    async fn ask(&self, interface: u32, hop: IpAddr) {
        let request = self.handle.neighbours().add(interface, hop);
        let request = request.state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
        request.execute().await.ok();
    }
}

/// Whether there is nothing to ask. A permanent entry that is used this way is one no longer
/// (`NEIGH_UPDATE_F_USE` in `__neigh_update`, kernel 5.16): it is somebody's, and stays as it is.
fn is_settled(state: NeighbourState) -> bool {
    matches!(state, NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp)
}

/// The state of a neighbour, as far as it matters.
fn known(state: NeighbourState) -> Neighbour {
    match state {
        NeighbourState::Failed => Neighbour::Failed,
        NeighbourState::Incomplete | NeighbourState::None | NeighbourState::Other(_) => {
            Neighbour::Open
        }
        NeighbourState::Reachable
        | NeighbourState::Stale
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Noarp
        | NeighbourState::Permanent => Neighbour::Known,
        _ => Neighbour::Open,
    }
}

fn address(hop: IpAddr) -> NeighbourAddress {
    match hop {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }
}

/// The largest packets of both families, bytes. For IPv6, a router may have said that it is less than the
/// link's own.
fn mtus(link: &LinkMessage) -> (u32, u32) {
    let (mut mtu4, mut mtu6) = (0, None);
    for attribute in &link.attributes {
        if let LinkAttribute::Mtu(mtu) = attribute {
            mtu4 = *mtu;
        } else if let LinkAttribute::AfSpecUnspec(families) = attribute {
            for family in families {
                let AfSpecUnspec::Inet6(parts) = family else { continue };
                mtu6 = parts.iter().find_map(|part| {
                    let AfSpecInet6::DevConf(settings) = part else { return None };
                    u32::try_from(settings.mtu6).ok()
                });
            }
        }
    }
    (mtu4, mtu6.map_or(mtu4, |mtu6| mtu6.min(mtu4)))
}

/// What the kernel prefers the lower of.
fn metric(message: &RouteMessage) -> u32 {
    let metric = message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Priority(metric) = attribute { Some(*metric) } else { None }
    });
    metric.unwrap_or(0)
}
