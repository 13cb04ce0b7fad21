//! News of interfaces coming and going, over rtnetlink.

use futures_util::StreamExt as _;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::JoinHandle;

use crate::bursts::Bursts;
use crate::exit::{Exit, Failure};

/// A subscription to link messages.
pub(super) struct Links {
    news: Bursts,
    connection: JoinHandle<()>,
}

impl Links {
    /// Subscribes.
    pub(super) fn listen() -> Result<Self, Failure> {
        let (connection, _, messages) =
            new_multicast_connection(&[MulticastGroup::Link]).map_err(|error| {
                Failure::new(Exit::System, format!("netlink: cannot watch interfaces: {error}"))
            })?;
        let news = Bursts::of(messages.map(|_| ()).boxed());
        Ok(Self { news, connection: tokio::spawn(connection) })
    }

    /// Waits for news, see [`Bursts::next`].
    pub(super) async fn changed(&mut self) {
        self.news.next().await;
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
