//! The operator's own entries: what goes direct besides the feed's sets, what never does, and for
//! whom.

use std::collections::BTreeSet;
use std::net::IpAddr;

use gateway_common::Transport;
use ipnet::IpNet;

use super::{Exclusion, Policy, Rule};
use crate::feed::{FIRST_OWN_ID, Ports, SetId};

/// Traffic that goes direct although no selected set lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnInclude {
    /// What people call it; no other entry has the same name.
    pub name: String,
    /// Destination addresses.
    pub prefixes: BTreeSet<IpNet>,
    /// Protocol; `None` is both.
    pub protocol: Option<Transport>,
    /// Destination ports; `None` is all but those that have to be named.
    pub ports: Option<Ports>,
    /// Why it is there, in the operator's words.
    pub comment: String,
    /// Whether its prefixes may be shorter than a feed's.
    pub allow_wide: bool,
}

/// Traffic that is inspected whatever else is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclude {
    /// What people call it; no other entry has the same name.
    pub name: String,
    /// Destination addresses.
    pub prefixes: BTreeSet<IpNet>,
    /// Protocol; `None` is both.
    pub protocol: Option<Transport>,
    /// Destination ports; `None` is all.
    pub ports: Option<Ports>,
    /// Why it is there, in the operator's words.
    pub comment: String,
}

/// Whose traffic goes direct: that from one of the prefixes, and that which came in by one of the
/// interfaces. Both empty is everybody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Source addresses.
    pub prefixes: BTreeSet<IpNet>,
    /// Names of inside interfaces.
    pub interfaces: BTreeSet<String>,
}

impl Sources {
    /// Whether only listed sources go direct.
    #[must_use]
    pub fn are_listed(&self) -> bool {
        !(self.prefixes.is_empty() && self.interfaces.is_empty())
    }

    /// The longest listed prefix that covers `source`.
    #[must_use]
    pub fn covering(&self, source: IpAddr) -> Option<IpNet> {
        self.prefixes
            .iter()
            .filter(|prefix| prefix.contains(&source))
            .max_by_key(|prefix| prefix.prefix_len())
            .copied()
    }
}

/// The id of the own include at `place` in the policy.
#[must_use]
pub fn own_id(place: usize) -> SetId {
    FIRST_OWN_ID.saturating_add(u32::try_from(place).unwrap_or(u32::MAX))
}

/// The place in the policy of the own include with this id; `None` for a set of the feed.
#[must_use]
pub fn own_place(id: SetId) -> Option<usize> {
    id.checked_sub(FIRST_OWN_ID).and_then(|place| usize::try_from(place).ok())
}

/// What the operator's entries are called, by their places in the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    includes: Vec<String>,
    excludes: Vec<String>,
}

impl Names {
    /// The names in `policy`.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        Self {
            includes: policy.includes.iter().map(|include| include.name.clone()).collect(),
            excludes: policy.excludes.iter().map(|exclude| exclude.name.clone()).collect(),
        }
    }

    /// The name of the own include with this id; `None` for a set of the feed.
    #[must_use]
    pub fn include(&self, id: SetId) -> Option<String> {
        let place = own_place(id)?;
        Some(self.includes.get(place).cloned().unwrap_or_else(|| format!("number {place}")))
    }

    /// The name of the exclude at `place`.
    #[must_use]
    pub fn exclude(&self, place: u16) -> String {
        let name = self.excludes.get(usize::from(place));
        name.cloned().unwrap_or_else(|| format!("number {place}"))
    }

    /// The own includes among `ids`, by name.
    pub fn own<'a>(&self, ids: impl IntoIterator<Item = &'a SetId>) -> BTreeSet<String> {
        ids.into_iter().filter_map(|id| self.include(*id)).collect()
    }

    /// Sets and own entries in one text: `set 1, set 2, include "branch"`.
    pub(super) fn list(&self, ids: &BTreeSet<SetId>, excludes: &BTreeSet<u16>) -> String {
        let ids = ids.iter().map(|id| match self.include(*id) {
            Some(name) => format!("include {name:?}"),
            None => format!("set {id}"),
        });
        let excludes = excludes.iter().map(|place| format!("exclude {:?}", self.exclude(*place)));
        ids.chain(excludes).collect::<Vec<_>>().join(", ")
    }
}

/// The ids of sets of the feed among `ids`.
pub fn feed_ids<'a>(ids: impl IntoIterator<Item = &'a SetId>) -> BTreeSet<SetId> {
    ids.into_iter().copied().filter(|id| *id < FIRST_OWN_ID).collect()
}

/// The protocols that an entry is about.
pub(super) fn transports(protocol: Option<Transport>) -> impl Iterator<Item = Transport> {
    [Transport::Tcp, Transport::Udp]
        .into_iter()
        .filter(move |transport| protocol.is_none_or(|only| only == *transport))
}

/// The rules for `ports` of every one of `prefixes`.
pub(super) fn rules<'a>(
    prefixes: &'a [IpNet],
    transport: Transport,
    ports: &'a Ports,
    set: SetId,
) -> impl Iterator<Item = Rule> + 'a {
    prefixes.iter().flat_map(move |prefix| {
        ports.ranges().map(move |range| Rule {
            prefix: *prefix,
            transport,
            first: *range.start(),
            last: *range.end(),
            set,
        })
    })
}

/// Everything that `policy` excludes, by prefix, ascending. Excludes behind the 65,536th, which no
/// configuration has, are taken together with that one.
pub(super) fn exclusions(policy: &Policy) -> Vec<Exclusion> {
    let mut exclusions = Vec::new();
    for (place, entry) in policy.excludes.iter().enumerate() {
        let exclude = u16::try_from(place).unwrap_or(u16::MAX);
        // Port 0 is in no port text, but all is all.
        let ranges: Vec<_> =
            entry.ports.as_ref().map_or(vec![0..=u16::MAX], |ports| ports.ranges().collect());
        for prefix in &entry.prefixes {
            for transport in transports(entry.protocol) {
                exclusions.extend(ranges.iter().map(|range| Exclusion {
                    prefix: *prefix,
                    transport,
                    first: *range.start(),
                    last: *range.end(),
                    exclude,
                }));
            }
        }
    }
    exclusions.sort_unstable();
    exclusions
}
