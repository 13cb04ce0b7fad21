//! News that come in bursts: told once, when a burst has had time to end.

use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, sleep_until};

/// A link on its way up has a message for every change, and somebody who removes one rule of ours
/// mostly removes them all.
const SETTLE: Duration = Duration::from_millis(100);

/// A stream of news, of which only that there are some matters.
pub(crate) struct Bursts {
    news: BoxStream<'static, ()>,
    /// When what was heard is told.
    due: Option<Instant>,
}

impl Bursts {
    pub(crate) fn of(news: BoxStream<'static, ()>) -> Self {
        Self { news, due: None }
    }

    /// Waits for news, and takes those with them that have come as well by then. May be dropped and
    /// called again at any time. Never returns once the stream has ended: whoever waits looks by
    /// itself every now and then.
    pub(crate) async fn next(&mut self) {
        let due = if let Some(due) = self.due {
            due
        } else {
            if self.news.next().await.is_none() {
                std::future::pending::<()>().await;
            }
            *self.due.insert(Instant::now() + SETTLE)
        };
        sleep_until(due).await;
        while self.news.next().now_or_never().flatten().is_some() {}
        self.due = None;
    }
}
