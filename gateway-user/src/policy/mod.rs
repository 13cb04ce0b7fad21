//! Policy: what the operator selects, compiled with a snapshot into the table the kernel holds.
//!
//! [`compile`] goes in three steps: `select` turns sets into [`Rule`]s and notes
//! what it leaves out, `union` makes every prefix answer for all prefixes that cover it, and
//! `index` puts a first-level index in front. All of it is pure: equal inputs, equal tables.

mod index;
mod rule;
mod select;
mod table;
mod union;

use std::collections::BTreeSet;
use std::net::IpAddr;

use gateway_common::Transport;
use gateway_common::abi::{MAX_PORT_RANGES, Slot};
use ipnet::IpNet;

use crate::feed::Snapshot;

pub use crate::feed::SetId;
pub use rule::Rule;
pub use select::{Note, Policy, SIGN_IN_SET};
pub use table::Table;

/// A policy compiled with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// What the kernel holds.
    pub table: Table,
    /// The rules the table was made from, by prefix, ascending.
    pub rules: Vec<Rule>,
    /// What a person should know: what was left out and why, and what is dangerous.
    pub notes: Vec<Note>,
}

impl Compiled {
    /// The selected sets that have a rule for a prefix that covers `prefix`.
    #[must_use]
    pub fn sets_covering(&self, prefix: IpNet) -> BTreeSet<SetId> {
        self.rules
            .iter()
            .filter(|rule| rule.prefix.contains(&prefix))
            .map(|rule| rule.set)
            .collect()
    }

    /// The selected sets that have a rule for a prefix that covers `address`.
    #[must_use]
    pub fn sets_covering_address(&self, address: IpAddr) -> BTreeSet<SetId> {
        self.sets_covering(IpNet::from(address))
    }
}

/// Compiles `policy` with `snapshot`.
///
/// # Errors
///
/// The policy names what the feed does not have, selects no rule, or does not fit the table.
pub fn compile(snapshot: &Snapshot, policy: &Policy) -> Result<Compiled, PolicyError> {
    let select::Selection { mut rules, notes } = select::select(snapshot, policy)?;
    rules.sort_unstable();
    let table = Table::from_rules(rules.iter().copied())?;
    Ok(Compiled { table, rules, notes })
}

/// Why a policy is refused for a feed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A set is included or excluded by an id that the feed does not have.
    #[error(
        "the policy names set {set}, which this feed does not have; \
         `breakout365 feed show` lists the sets"
    )]
    UnknownSet {
        /// The id.
        set: SetId,
    },
    /// A service area is selected that no set of the feed belongs to.
    #[error(
        "the policy names service area {area:?}, which this feed does not have; it has {known}"
    )]
    UnknownArea {
        /// The name in the policy.
        area: String,
        /// The feed's names, in one text.
        known: String,
    },
    /// Nothing would go direct.
    #[error(
        "the policy selects no prefix of this feed; select more categories, service areas, sets \
         or address families"
    )]
    Empty,
    /// A selected prefix covers every address of its family.
    #[error("set {set} lists {prefix}, the whole internet; exclude it or take another feed")]
    WholeInternet {
        /// The prefix.
        prefix: IpNet,
        /// The set that lists it.
        set: SetId,
    },
    /// The ports of a prefix do not fit a port set.
    #[error(
        "{prefix} needs {needed} {} port ranges of sets {}, but {MAX_PORT_RANGES} fit; exclude one \
         of these sets",
        transport_name(*.transport),
        list(sets)
    )]
    TooManyRanges {
        /// The prefix.
        prefix: IpNet,
        /// The protocol whose ports do not fit.
        transport: Transport,
        /// How many ranges there would be.
        needed: usize,
        /// The sets that cover the prefix with this protocol.
        sets: BTreeSet<SetId>,
    },
    /// More distinct port sets than a table can name.
    #[error(
        "{prefix} needs one more port set than the {} that fit; select fewer sets",
        Slot::MAX_PORT_SETS
    )]
    TooManyPortSets {
        /// The first prefix whose port set does not fit.
        prefix: IpNet,
    },
    /// More combinations of sets than a table can name.
    #[error(
        "{prefix} needs one more combination of sets ({}) than the {} that fit; select fewer sets",
        list(sets),
        u16::MAX
    )]
    TooManyGroups {
        /// The first prefix whose combination does not fit.
        prefix: IpNet,
        /// The combination.
        sets: BTreeSet<SetId>,
    },
}

/// The name of a protocol in text and JSON.
#[must_use]
pub const fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

fn list(sets: &BTreeSet<SetId>) -> String {
    sets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
