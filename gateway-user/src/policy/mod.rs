//! Policy: what the operator selects, compiled with a snapshot into the table the kernel holds.
//!
//! [`compile`] goes in three steps: `select` turns sets and own includes into [`Rule`]s and notes
//! what it leaves out, `union` makes every prefix answer for all prefixes that cover it, excludes
//! among them, and `index` puts a first-level index in front. All of it is pure: equal inputs, equal tables.

mod error;
mod hosts;
mod index;
mod note;
mod own;
mod rule;
mod select;
mod support;
mod table;
mod union;

use std::collections::BTreeSet;
use std::net::IpAddr;

use gateway_common::Transport;
use ipnet::IpNet;

use crate::feed::Snapshot;

pub use crate::feed::SetId;
pub use error::PolicyError;
pub use hosts::{Hosts, select_hosts};
pub use note::Note;
pub use own::{Exclude, Names, OwnInclude, Sources, feed_ids, own_id, own_place};
pub use rule::{Exclusion, Rule};
pub(crate) use select::NAMED_ONLY;
pub use select::{LeftOut, Policy, SIGN_IN_SET};
pub use support::{OpenWindow, Support, SupportIdentity, WindowSets};
pub use table::Table;

/// A policy compiled with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// What the kernel holds.
    pub table: Table,
    /// The rules the table was made from, by prefix, ascending.
    pub rules: Vec<Rule>,
    /// What was cut out of them, by prefix, ascending.
    pub exclusions: Vec<Exclusion>,
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

    /// The excludes, by their places in the policy, that take something away from the rules for
    /// `prefix`, an entry of the table.
    #[must_use]
    pub fn excludes_cutting(&self, prefix: IpNet) -> BTreeSet<u16> {
        let covers = |outer: &IpNet| outer.contains(&prefix);
        let exclusions: Vec<&Exclusion> =
            self.exclusions.iter().filter(|exclusion| covers(&exclusion.prefix)).collect();
        if exclusions.is_empty() {
            return BTreeSet::new();
        }
        let rules: Vec<&Rule> = self.rules.iter().filter(|rule| covers(&rule.prefix)).collect();
        exclusions
            .into_iter()
            .filter(|exclusion| rules.iter().any(|rule| exclusion.cuts_ports_of(rule)))
            .map(|exclusion| exclusion.exclude)
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
/// The policy names what the feed does not have, leaves nothing direct, or does not fit the table.
pub fn compile(snapshot: &Snapshot, policy: &Policy) -> Result<Compiled, PolicyError> {
    let select::Selection { mut rules, mut notes } = select::select(snapshot, policy)?;
    rules.sort_unstable();
    let exclusions = own::exclusions(policy);
    let names = Names::of(policy);
    let (table, cutting) =
        Table::complete(rules.iter().copied(), exclusions.iter().copied(), &names)?;
    let table = table.for_sources(policy.sources.clone());
    let places = (0..=u16::MAX).zip(&policy.excludes);
    notes.extend(
        places
            .filter(|(place, _)| !cutting.contains(place))
            .map(|(_, exclude)| Note::ExcludeCutsNothing { exclude: exclude.name.clone() }),
    );
    Ok(Compiled { table, rules, exclusions, notes })
}

/// The name of a protocol in text and JSON.
#[must_use]
pub const fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}
