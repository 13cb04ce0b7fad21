//! News of interfaces coming and going, over rtnetlink.

use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::exit::{Exit, Failure};

/// Messages come in bursts, one for every change of a link on its way up; the last one counts.
const SETTLE: Duration = Duration::from_millis(100);

/// A subscription to link messages.
pub(super) struct Links {
    messages: BoxStream<'static, ()>,
    connection: JoinHandle<()>,
}

impl Links {
    /// Subscribes.
    pub(super) fn listen() -> Result<Self, Failure> {
        let (connection, _, messages) =
            new_multicast_connection(&[MulticastGroup::Link]).map_err(|error| {
                Failure::new(Exit::System, format!("netlink: cannot watch interfaces: {error}"))
            })?;
        Ok(Self { messages: messages.map(|_| ()).boxed(), connection: tokio::spawn(connection) })
    }

    /// Waits for a message, and takes those with it that have come as well by then. Never returns once the subscription is broken: the daemon still looks
    /// by itself every now and then.
    pub(super) async fn changed(&mut self) {
        if self.messages.next().await.is_none() {
            std::future::pending::<()>().await;
        }
        sleep(SETTLE).await;
        while self.messages.next().now_or_never().flatten().is_some() {}
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
