//! What the daemon tells of itself: one versioned document, on a socket it never reads.
//!
//! [`Observation`] holds all there is to see: what is loaded and what it has decided, where the feed
//! stands, which plan waits for a person, what has to be confirmed. `status` and the exporter render
//! that and nothing else; only where no daemon tells does `status` look at the pins
//! ([`LoadedState::of_pins`]).

mod loaded;
mod self_check;
mod socket;
mod traffic;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use gateway_common::Reason;
use gateway_common::abi::Slot;

use crate::datapath::{Standing, trie_capacity};
use crate::feed::FeedIdentity;
use crate::policy::Table;

pub use loaded::{LoadedState, MarkBits, Prefixes};
pub use self_check::SelfCheck;
pub(crate) use socket::FILE;
pub use socket::{read, read_within};
pub use traffic::{
    Carrier, Count, FallbackTraffic, HookTraffic, OwnTraffic, ProgramTime, ReasonTraffic,
    SetTraffic, Traffic, verdict_of,
};

/// Version of the document; another one is not understood.
pub const VERSION: u32 = 1;

/// The daemon's state. Times are RFC 3339, UTC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// [`VERSION`].
    pub version: u32,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started: String,
    /// The generation it published last; `None` while there is no feed yet.
    pub generation: Option<u64>,
    /// The switches over everything direct, when the daemon last looked; `None` before there is a
    /// generation.
    #[serde(default)]
    pub switches: Option<Switches>,
    /// The feed.
    pub feed: FeedState,
    /// The plan that waits for a person.
    pub pending: Option<PendingState>,
    /// What has to be confirmed, and until when.
    pub confirm_until: Option<String>,
    /// What went wrong last and has not come right since, one line.
    pub problem: Option<String>,
    /// The way out that it keeps; `None` where it keeps none.
    pub egress: Option<EgressState>,
    /// Its own version.
    #[serde(default)]
    pub breakout365: String,
    /// The generation that is published; `None` before there is one.
    #[serde(default)]
    pub loaded: Option<LoadedState>,
    /// What was decided since the daemon took over, with what the generation had counted that it
    /// found: it never goes back while the daemon runs. Read when somebody asked, or
    /// milliseconds before.
    #[serde(default)]
    pub traffic: Traffic,
    /// How full the table is; `None` while nothing serves.
    #[serde(default)]
    pub table: Option<TableState>,
    /// What became of generations.
    #[serde(default)]
    pub publications: Publications,
    /// Plans that a guard held, by its name; one that several held counts for each.
    #[serde(default)]
    pub plans_held: BTreeMap<String, u64>,
    /// When everything is inspected unless the daemon says before that it lives; `None` is never.
    #[serde(default)]
    pub deadline: Option<String>,
    /// The support windows that are open.
    #[serde(default)]
    pub support: Vec<WindowState>,
    /// What was attached and is not any more; all is attached again within ten seconds, or as soon as
    /// it can be.
    #[serde(default)]
    pub missing: Vec<MissingHook>,
}

/// A hook, or part of one, that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingHook {
    /// The interface.
    pub interface: String,
    /// What of it is not there: `interface`, `native`, `generic`, `tcx` or `clsact`.
    pub what: String,
}

/// How full the table is. What does not fit is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// Entries and capacity, by part: `prefixes_ipv4`, `prefixes_ipv6`, `port_sets`, `blocks`.
    pub parts: BTreeMap<String, Fill>,
}

impl TableState {
    /// Of `table`, in the kernel.
    #[must_use]
    pub fn of(table: &Table) -> Self {
        let (ipv4, ipv6) = table.count_by_family();
        let trie = |entries| Fill { entries, capacity: trie_capacity(entries) };
        let limited = |entries: usize, limit: u16| Fill {
            entries: u64::try_from(entries).unwrap_or(u64::MAX),
            capacity: u64::from(limit),
        };
        let parts = [
            ("prefixes_ipv4", trie(ipv4)),
            ("prefixes_ipv6", trie(ipv6)),
            ("port_sets", limited(table.port_sets().len(), Slot::MAX_PORT_SETS)),
            ("blocks", limited(table.blocks().len(), Slot::MAX_BLOCKS)),
        ];
        Self { parts: parts.into_iter().map(|(part, fill)| (part.to_owned(), fill)).collect() }
    }
}

/// Entries of something that has so much room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// What is used.
    pub entries: u64,
    /// What there is.
    pub capacity: u64,
}

/// What became of the generations that the daemon wanted to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publications {
    /// Those that serve or served.
    pub published: u64,
    /// Those that failed, so that what was before stayed.
    pub failed: u64,
    /// Of those, the ones whose programs and oracle disagreed.
    pub self_test_failed: u64,
    /// When the last one was published.
    pub last: Option<String>,
    /// How long that took, from load to switch.
    pub last_milliseconds: u64,
    /// How long all that were published took.
    pub total_milliseconds: u64,
}

/// A support window that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowState {
    /// Its id.
    pub id: u32,
    /// Source addresses.
    pub clients: std::collections::BTreeSet<ipnet::IpNet>,
    /// What goes direct, in words.
    pub sets: String,
    /// The operator's words about it.
    pub note: String,
    /// When it began.
    pub started: String,
    /// When it is over.
    pub until: String,
}

/// The way out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EgressState {
    /// The direct uplink.
    pub interface: String,
    /// Next hop of IPv4; without one, IPv4 is inspected.
    pub gateway4: Option<std::net::Ipv4Addr>,
    /// Next hop of IPv6; without one, IPv6 is inspected.
    pub gateway6: Option<std::net::Ipv6Addr>,
    /// The routing table.
    pub table: u32,
    /// Priority of the first of the two rules.
    pub priority: u32,
    /// How often the daemon had to put something back.
    pub put_back: u64,
    /// Why it is not in place, one line; `None` when it is.
    pub problem: Option<String>,
    /// What becomes of new flows while a family is down: `inspect` or `block`.
    #[serde(default)]
    pub on_failure: String,
    /// The families that are to have a next hop.
    #[serde(default)]
    pub families: Vec<FamilyState>,
    /// Direct flows whose conntrack entries were removed, by cause: `uplink_down`, `revoked`.
    #[serde(default)]
    pub flows_ended: std::collections::BTreeMap<String, u64>,
    /// Where direct packets are redirected: by whom the way of a family is disputed, which is looked up by
    /// all rules then and not in the table alone.
    #[serde(default)]
    pub disputed: std::collections::BTreeMap<String, String>,
}

/// How a family of the uplink stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FamilyState {
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// `up`, `down`, or `unknown`: it is up, but no probe has said so yet.
    pub state: String,
    /// Why it is down, in one word; `None` when it is not.
    pub reason: Option<String>,
    /// Since when it is up or down.
    pub since: String,
    /// How often it went from up to down or back.
    pub transitions: u64,
    /// How long the last answer to a probe took, in seconds; `None`, none came yet.
    pub probe_rtt_seconds: Option<f64>,
    /// Rounds of probes that were answered.
    pub probes_answered: u64,
    /// Rounds that were not.
    pub probes_failed: u64,
}

/// The kill switch and the dead man's switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switches {
    /// Whether the operator lets anything go direct.
    pub on: bool,
    /// Seconds until everything is inspected unless the daemon says that it lives; `None` is without
    /// end.
    pub deadline: Option<u64>,
    /// The reason why everything is inspected, if so.
    pub inspecting: Option<String>,
}

impl From<Standing> for Switches {
    fn from(Standing { on, deadline, refusal }: Standing) -> Self {
        let inspecting = refusal.map(Reason::name).map(str::to_owned);
        Self { on, deadline, inspecting }
    }
}

/// Where the feed stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedState {
    /// Where it comes from, in words.
    pub source: String,
    /// Which one serves.
    pub serving: Option<FeedIdentity>,
    /// When the source was last asked; never, for a file or the snapshot in the binary.
    pub last_check: Option<String>,
    /// When it last answered as it should.
    pub last_success: Option<String>,
    /// When it is asked next.
    pub next_check: Option<String>,
    /// Since when it is followed; never, for a file or the snapshot in the binary.
    #[serde(default)]
    pub since: Option<String>,
    /// Seconds between checks that succeed; as above.
    #[serde(default)]
    pub poll_interval: Option<u64>,
    /// Checks by what became of them: `ok` or the kind of failure.
    pub checks: std::collections::BTreeMap<String, u64>,
    /// Why the last check failed, one line; `None` when it did not.
    pub problem: Option<String>,
    /// The feed that the policy refuses, and why, one line.
    pub refused: Option<String>,
    /// Whether the last success is longer ago than `max-age`.
    pub stale: bool,
    /// Whether everything is inspected for that.
    pub inspecting: bool,
    /// Additions that wait for the day they become effective.
    pub held: Vec<HeldState>,
}

/// An addition that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldState {
    /// The endpoint set.
    pub set: u32,
    /// The prefix that was added to it.
    pub prefix: ipnet::IpNet,
    /// The day, `YYYY-MM-DD`.
    pub effective: String,
}

/// A plan that guards hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingState {
    /// What `plan accept` and `plan reject` take.
    pub id: String,
    /// Since when.
    pub since: String,
    /// The feed it leads to.
    pub feed: FeedIdentity,
    /// The plan in one line.
    pub summary: String,
    /// The guards that hold it, each with its limit, one line each.
    pub refusals: Vec<String>,
}
