//! News of interfaces coming and going, over rtnetlink.

use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::exit::{Exit, Failure};

/// Messages come in bursts, one for every change of a link on its way up; the last one counts.
const SETTLE: Duration = Duration::from_millis(100);

/// A subscription to link messages.
pub(super) struct Links {
    messages: BoxStream<'static, ()>,
    connection: JoinHandle<()>,
    /// When what was heard is told.
    due: Option<Instant>,
}

impl Links {
    /// Subscribes.
    pub(super) fn listen() -> Result<Self, Failure> {
        let (connection, _, messages) =
            new_multicast_connection(&[MulticastGroup::Link]).map_err(|error| {
                Failure::new(Exit::System, format!("netlink: cannot watch interfaces: {error}"))
            })?;
        let (messages, connection) = (messages.map(|_| ()).boxed(), tokio::spawn(connection));
        Ok(Self { messages, connection, due: None })
    }

    /// Waits for a message, and takes those with it that have come as well by then. May be dropped and
    /// called again at any time. Never returns once the subscription is broken: the daemon still looks
    /// by itself every now and then.
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

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
