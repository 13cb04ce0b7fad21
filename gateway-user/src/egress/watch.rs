//! News of rules and routes, over rtnetlink.

use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::EgressError;
use super::routing::is_our_route;

/// Somebody who removes one of ours mostly removes them all.
const SETTLE: Duration = Duration::from_millis(100);

/// A subscription to what may concern us.
pub(super) struct Watch {
    messages: BoxStream<'static, ()>,
    connection: JoinHandle<()>,
    /// When what was heard is told.
    due: Option<Instant>,
}

impl Watch {
    /// Subscribes.
    pub(super) fn listen() -> Result<Self, EgressError> {
        let groups = [
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, _, messages) = new_multicast_connection(&groups)
            .map_err(|source| EgressError::Netlink { what: "watch rules and routes", source })?;
        let messages =
            messages.filter_map(async |(message, _)| concerns_us(&message).then_some(()));
        Ok(Self { messages: messages.boxed(), connection: tokio::spawn(connection), due: None })
    }

    /// Waits for something that may concern us. May be dropped and called again at any time. Never
    /// returns once the subscription is broken: the daemon still looks every now and then.
    pub(super) async fn changed(&mut self) {
        let due = if let Some(due) = self.due {
            due
        } else {
            if self.messages.next().await.is_none() {
                std::future::pending::<()>().await;
            }
            *self.due.insert(Instant::now() + SETTLE)
        };
        sleep_until(due).await;
        while self.messages.next().now_or_never().flatten().is_some() {}
        self.due = None;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Any rule, there are few; of the routes, of which there may be a million, ours.
#[expect(clippy::wildcard_enum_match_arm, reason = "there are more messages every year")]
fn concerns_us(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(inner) => match inner {
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => true,
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                is_our_route(route)
            }
            _ => false,
        },
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}
