//! What `status` says of redirecting: how many packets it has sent, and why it left others to the
//! stack.

use std::collections::BTreeMap;

use gateway_common::Fallback;
use serde::Serialize;

use crate::datapath::Counts;

/// Direct packets of a generation that redirects.
#[derive(Debug, Serialize)]
pub(super) struct Redirecting {
    /// The uplink.
    to: String,
    /// Sent there by XDP.
    packets: u64,
    /// Marked instead, by cause.
    fallbacks: BTreeMap<&'static str, u64>,
}

impl Redirecting {
    /// As the counters have it, for the uplink `to`.
    pub(super) fn of(to: &str, counts: &Counts) -> Self {
        let packets = |cause: Fallback| (cause.name(), counts.xdp.fallback(cause).packets);
        Self {
            to: to.to_owned(),
            packets: counts.xdp.redirected().packets,
            fallbacks: Fallback::ALL.into_iter().map(packets).collect(),
        }
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
