//! What `status` says of redirecting: how many packets it has sent, and why it left others to the
//! stack.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::observe::Traffic;

/// Direct packets where XDP redirects.
#[derive(Debug, Serialize)]
pub(super) struct Redirecting {
    /// The uplink.
    to: String,
    /// Sent there by XDP.
    packets: u64,
    /// Marked instead, by cause.
    fallbacks: BTreeMap<String, u64>,
}

impl Redirecting {
    /// As was counted, for the uplink `to`.
    pub(super) fn of(to: &str, traffic: &Traffic) -> Self {
        let mut fallbacks = BTreeMap::new();
        for fallback in traffic.hooks.iter().flat_map(|hook| &hook.fallbacks) {
            let packets: &mut u64 = fallbacks.entry(fallback.cause.clone()).or_default();
            *packets = packets.saturating_add(fallback.count.packets);
        }
        let redirected = traffic.hooks.iter().map(|hook| hook.redirected.packets);
        Self { to: to.to_owned(), packets: redirected.sum(), fallbacks }
    }

    /// For people: one line, causes only that there were.
    pub(super) fn line(&self) -> String {
        let causes = self.fallbacks.iter().filter(|(_, packets)| **packets > 0);
        let causes: Vec<_> = causes.map(|(cause, packets)| format!("{packets} {cause}")).collect();
        let marked = if causes.is_empty() { "none".to_owned() } else { causes.join(", ") };
        format!(
            "action  {} packets redirected to {}, marked instead: {marked}",
            self.packets, self.to
        )
    }
}
