//! Ending direct flows: their conntrack entries are removed, and what is left of them at the client
//! is reset, so that it connects anew and is decided anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::libc;
use tracing::warn;

use super::flows::{Conntrack, Ended, Flow};
use super::netlink::Netlink;
use super::nudge::{Pair, nudge};
use super::vanished::Vanished;
use super::{EgressError, Wanted, Words, nft, ruleset};

/// So many elements of a set go into one transaction: a text of some hundred kilobytes.
const AT_ONCE: usize = 4096;

/// Ends the flows that are direct by these words, and picked, and what is left of those that have
/// `vanished`. The next packet of a TCP flow without an entry, which is no SYN, is answered with a reset
/// by our nftables table; other protocols begin anew by themselves.
pub(super) async fn end(
    wanted: &Wanted,
    words: Words,
    vanished: Option<&Vanished>,
    picked: impl Fn(&Flow) -> bool,
) -> Result<Ended, EgressError> {
    let conntrack = Conntrack::open()?;
    let mut flows = conntrack.direct(words).await?;
    flows.retain(&picked);
    // After the list: what is not in it any more is in here.
    let mut gone = match vanished {
        Some(vanished) => vanished.recent().await,
        None => Vec::new(),
    };
    gone.retain(&picked);
    // First what resets them: in between, a packet would go on as a new flow.
    let tcp = flows.iter().filter(|flow| is_tcp(flow)).chain(&gone);
    let tcp: BTreeSet<Pair> = tcp.map(|flow| (flow.source, flow.destination)).collect();
    let tcp: Vec<Pair> = tcp.into_iter().collect();
    for some in tcp.chunks(AT_ONCE) {
        nft::apply(&ruleset::ended(some)).await?;
        // Without it, clients that only wait are not reset before they speak.
        if let Err(error) = nft::apply(&ruleset::nudged(some)).await {
            warn!("clients that only wait are not reset yet: {error}");
        }
    }
    let ended = conntrack.remove(&flows).await?;
    if !tcp.is_empty() {
        let mark = wanted.egress.decided;
        tokio::task::spawn_blocking(move || nudge(&tcp, mark));
    }
    if ended.left > 0 {
        warn!("{} direct flows are forwarded by hardware and go on until they end", ended.left);
    }
    Ok(ended)
}

/// By which interface, as an index, the source of each flow that is direct by these words, and picked, is
/// reached; those of which the kernel does not say are left out.
pub(super) async fn ways_back(
    words: Words,
    picked: impl Fn(&Flow) -> bool,
) -> Result<BTreeMap<IpAddr, u32>, EgressError> {
    let flows = Conntrack::open()?.direct(words).await?;
    let picked = flows.iter().filter(|flow| picked(flow));
    let sources: BTreeSet<IpAddr> = picked.map(|flow| flow.source.ip()).collect();
    let netlink = Netlink::open()?;
    let mut ways = BTreeMap::new();
    for source in sources {
        ways.extend(netlink.way_to(source).await.map(|index| (source, index)));
    }
    Ok(ways)
}

pub(super) fn is_tcp(flow: &Flow) -> bool {
    i32::from(flow.protocol) == libc::IPPROTO_TCP
}
