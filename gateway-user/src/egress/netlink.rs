//! Rules and routes of this network namespace, over rtnetlink.

use std::io;
use std::net::IpAddr;
use std::pin::pin;

use futures_util::{Stream, TryStreamExt as _};
use nix::libc;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::{Handle, IpVersion};
use tokio::task::JoinHandle;

use super::routing::{Family, Route, Rule, Seen, is_our_route, table};
use super::{EgressError, PROTOCOL};

/// A connection.
pub(super) struct Netlink {
    pub(super) handle: Handle,
    connection: JoinHandle<()>,
}

impl Netlink {
    /// Connects; strict, so that the kernel filters: a gateway may have a million routes
    /// (`NETLINK_GET_STRICT_CHK`, kernel 4.20).
    pub(super) fn open() -> Result<Self, EgressError> {
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .map_err(|source| EgressError::Netlink { what: "open a socket", source })?;
        // The last message of a list says whether it is whole.
        connection.set_forward_done(true);
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// All rules, the routes that are ours, and those in `in_table`.
    pub(super) async fn see(&self, in_table: Option<u32>) -> Result<Seen, EgressError> {
        let mut seen = Seen::default();
        for family in Family::ALL {
            let rules = match self.rules(family).await {
                // The kernel was started without IPv6: there is nothing of it.
                Err(error) if is_unknown_family(&error) => continue,
                rules => rules.map_err(|source| failed("list rules", source))?,
            };
            seen.rules.extend(rules.into_iter().map(|rule| (family, rule)));
            let mut ours = Self::filter(family);
            ours.header.protocol = RouteProtocol::Other(PROTOCOL);
            let ours = self.routes(ours).await?;
            let ours = ours.into_iter().filter(is_our_route);
            seen.routes.extend(ours.map(|route| (family, route)));
            let Some(number) = in_table else { continue };
            let mut inside = Self::filter(family);
            inside.attributes.push(RouteAttribute::Table(number));
            let inside = self.routes(inside).await?.into_iter();
            let foreign = inside.filter(|route| table(route) == number && !is_our_route(route));
            seen.routes.extend(foreign.map(|route| (family, route)));
        }
        Ok(seen)
    }

    /// All rules of a family.
    pub(super) async fn rules(&self, family: Family) -> io::Result<Vec<RuleMessage>> {
        let version = match family {
            Family::V4 => IpVersion::V4,
            Family::V6 => IpVersion::V6,
        };
        listed(self.handle.rule().get(version).execute()).await
    }

    /// The first of the routes that pass `filter` which is `wanted`. The connection is not to be asked for
    /// another list afterwards.
    pub(super) async fn find_route(
        &self,
        filter: RouteMessage,
        wanted: impl Fn(&RouteMessage) -> bool,
    ) -> io::Result<Option<RouteMessage>> {
        let mut routes = pin!(self.handle.route().get(filter).execute());
        while let Some(route) = unless_no_table(next(&mut routes).await)? {
            if wanted(&route) {
                return Ok(Some(route));
            }
        }
        Ok(None)
    }

    pub(super) async fn add_rule(&self, rule: &Rule) -> Result<(), EgressError> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule.message();
        request.execute().await.map_err(|error| failed("add a rule", errno(error)))
    }

    /// One that is gone already is no error.
    pub(super) async fn remove_rule(&self, rule: &RuleMessage) -> Result<(), EgressError> {
        let removed = self.handle.rule().del(rule.clone()).execute().await;
        unless_gone(removed).map_err(|source| failed("remove a rule", source))
    }

    /// Puts it in the place of another one in the same table.
    pub(super) async fn add_route(&self, route: &Route) -> io::Result<()> {
        self.handle.route().add(route.message()).replace().execute().await.map_err(errno)
    }

    /// One that is gone already is no error.
    pub(super) async fn remove_route(&self, route: &RouteMessage) -> Result<(), EgressError> {
        let mut message = route.clone();
        // What says which one it is; the rest describes it.
        message.attributes.retain(|attribute| {
            matches!(
                attribute,
                RouteAttribute::Table(_)
                    | RouteAttribute::Oif(_)
                    | RouteAttribute::Gateway(_)
                    | RouteAttribute::Destination(_)
                    | RouteAttribute::Priority(_)
                    | RouteAttribute::MultiPath(_)
            )
        });
        let removed = self.handle.route().del(message).execute().await;
        unless_gone(removed).map_err(|source| failed("remove a route", source))
    }

    /// Index of the interface that packets to `address` leave by; `None`, the kernel does not say.
    pub(super) async fn way_to(&self, address: IpAddr) -> Option<u32> {
        let mut message = Self::filter(Family::of(address));
        message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(address)));
        let mut replies = pin!(self.handle.route().get(message).execute());
        let route = replies.try_next().await.ok()??;
        route.attributes.iter().find_map(|attribute| {
            if let RouteAttribute::Oif(index) = attribute { Some(*index) } else { None }
        })
    }

    pub(super) fn filter(family: Family) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family.address_family();
        message
    }

    pub(super) async fn routes(
        &self,
        filter: RouteMessage,
    ) -> Result<Vec<RouteMessage>, EgressError> {
        let routes = listed(self.handle.route().get(filter).execute()).await;
        unless_no_table(routes).map_err(|source| failed("list routes", source))
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

pub(super) fn is_unknown_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP))
}

async fn listed<T>(reply: impl Stream<Item = Result<T, rtnetlink::Error>>) -> io::Result<Vec<T>> {
    let mut reply = pin!(reply);
    let mut all = Vec::new();
    while let Some(one) = next(&mut reply).await? {
        all.push(one);
    }
    Ok(all)
}

/// The next of a list. Its last message, which has no item, has the error that ended it, if one did
/// (`netlink_dump_done`, kernel `net/netlink/af_netlink.c`).
async fn next<T>(
    reply: &mut (impl Stream<Item = Result<T, rtnetlink::Error>> + Unpin),
) -> io::Result<Option<T>> {
    match reply.try_next().await {
        Ok(Some(one)) => Ok(Some(one)),
        Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(rtnetlink::Error::UnexpectedMessage(message)) => {
            let NetlinkPayload::Done(end) = message.payload else {
                return Err(io::Error::other("an unknown message in a list of the kernel's"));
            };
            if end.code == 0 {
                return Ok(None);
            }
            Err(io::Error::from_raw_os_error(end.code.saturating_abs()))
        }
        Err(error) => Err(errno(error)),
    }
}

/// Nothing, where there is no table of this number.
fn unless_no_table<T: Default>(outcome: io::Result<T>) -> io::Result<T> {
    match outcome {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(T::default()),
        outcome => outcome,
    }
}

fn unless_gone(outcome: Result<(), rtnetlink::Error>) -> io::Result<()> {
    match outcome.map_err(errno) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(()),
        outcome => outcome,
    }
}

pub(super) fn failed(what: &'static str, source: io::Error) -> EgressError {
    EgressError::Netlink { what, source }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only one of them carries an errno")]
pub(super) fn errno(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
