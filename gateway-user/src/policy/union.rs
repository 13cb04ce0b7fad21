//! Makes every prefix answer for itself: a longest-prefix match returns one value, so each prefix
//! gets the union of the rules of all prefixes that cover it.

use std::collections::{BTreeMap, BTreeSet};

use gateway_common::Transport;
use gateway_common::abi::{MAX_PORT_RANGES, PortRange, PortSet, Slot};
use ipnet::IpNet;

use super::{PolicyError, Rule};
use crate::feed::SetId;

/// Prefixes with their complete port sets.
pub(super) struct Union {
    pub(super) prefixes: BTreeMap<IpNet, u16>,
    pub(super) port_sets: Vec<PortSet>,
    pub(super) groups: Vec<BTreeSet<SetId>>,
}

/// What a rule says of its prefix.
type Clause = (Transport, u16, u16, SetId);
type Clauses = BTreeSet<Clause>;

/// Completes `rules`. Ids are given in the order of the prefixes, so the order of the rules does
/// not show.
pub(super) fn complete<I>(rules: I) -> Result<Union, PolicyError>
where
    I: IntoIterator<Item = Rule>,
{
    let mut own: BTreeMap<IpNet, Clauses> = BTreeMap::new();
    for Rule { prefix, transport, first, last, set } in rules {
        if prefix.prefix_len() == 0 {
            return Err(PolicyError::WholeInternet { prefix, set });
        }
        own.entry(prefix.trunc()).or_default().insert((transport, first, last, set));
    }
    if own.is_empty() {
        return Err(PolicyError::Empty);
    }
    let mut unions = Unions::default();
    let mut prefixes = BTreeMap::new();
    // The prefixes that cover the current one, outermost first: a covering prefix has the same or
    // a lower first address and then a shorter length, so it always comes earlier.
    let mut covering: Vec<(IpNet, usize)> = Vec::new();
    for (prefix, clauses) in own {
        while covering.last().is_some_and(|(outer, _)| !outer.contains(&prefix)) {
            covering.pop();
        }
        let inherited = covering.last().map(|(_, id)| *id);
        let id = unions.add(inherited, clauses);
        covering.push((prefix, id));
        prefixes.insert(prefix, unions.port_set(id, prefix)?);
    }
    Ok(Union {
        prefixes,
        port_sets: unions.port_sets.values.iter().map(|ranges| port_set(ranges)).collect(),
        groups: unions.groups.values,
    })
}

/// The distinct unions of clauses; thousands of prefixes share a few of them.
#[derive(Default)]
struct Unions {
    clauses: Interned<Clauses>,
    /// By the union that a prefix inherits and its own clauses: their union.
    sums: BTreeMap<(usize, usize), usize>,
    /// By union: its port set.
    ports: BTreeMap<usize, u16>,
    port_sets: Interned<Vec<Range>>,
    groups: Interned<BTreeSet<SetId>>,
}

/// A range of ports of one provenance group: protocol, first, last, group.
type Range = (Transport, u16, u16, u16);

impl Unions {
    /// The union of what a prefix inherits and its own clauses.
    fn add(&mut self, inherited: Option<usize>, own: Clauses) -> usize {
        let own = self.clauses.id(own);
        let Some(inherited) = inherited else { return own };
        if let Some(sum) = self.sums.get(&(inherited, own)) {
            return *sum;
        }
        let sum = [inherited, own]
            .into_iter()
            .filter_map(|id| self.clauses.values.get(id))
            .flatten()
            .copied()
            .collect();
        let sum = self.clauses.id(sum);
        self.sums.insert((inherited, own), sum);
        sum
    }

    /// The port set of a union; `prefix` is the first that has it.
    fn port_set(&mut self, union: usize, prefix: IpNet) -> Result<u16, PolicyError> {
        if let Some(id) = self.ports.get(&union) {
            return Ok(*id);
        }
        let mut ranges = Vec::new();
        for transport in [Transport::Tcp, Transport::Udp] {
            let spans: Vec<(u16, u16, SetId)> = self
                .clauses
                .values
                .get(union)
                .into_iter()
                .flatten()
                .filter(|(of, ..)| *of == transport)
                .map(|(_, first, last, set)| (*first, *last, *set))
                .collect();
            let split = split(&spans);
            if split.len() > MAX_PORT_RANGES {
                let sets = spans.iter().map(|(.., set)| *set).collect();
                let needed = split.len();
                return Err(PolicyError::TooManyRanges { prefix, transport, needed, sets });
            }
            for (first, last, sets) in split {
                let group = u16::try_from(self.groups.id(sets.clone()))
                    .ok()
                    .filter(|group| *group < u16::MAX)
                    .ok_or(PolicyError::TooManyGroups { prefix, sets })?;
                ranges.push((transport, first, last, group));
            }
        }
        let id = u16::try_from(self.port_sets.id(ranges))
            .ok()
            .filter(|id| Slot::port_set(*id).is_some())
            .ok_or(PolicyError::TooManyPortSets { prefix })?;
        self.ports.insert(union, id);
        Ok(id)
    }
}

/// Cuts overlapping spans into ascending, disjoint ranges, each with all sets that have it; a
/// range ends only where the combination of sets changes.
fn split(spans: &[(u16, u16, SetId)]) -> Vec<(u16, u16, BTreeSet<SetId>)> {
    // Where a combination may begin; one past the last port is in 32 bits.
    let edges: BTreeSet<u32> = spans
        .iter()
        .flat_map(|(first, last, _)| [u32::from(*first), u32::from(*last).saturating_add(1)])
        .collect();
    let mut ranges: Vec<(u16, u16, BTreeSet<SetId>)> = Vec::new();
    for (from, end) in edges.iter().zip(edges.iter().skip(1)) {
        let (Ok(from), Ok(to)) = (u16::try_from(*from), u16::try_from(end.saturating_sub(1)))
        else {
            continue;
        };
        let sets: BTreeSet<SetId> = spans
            .iter()
            .filter(|(first, last, _)| *first <= from && to <= *last)
            .map(|(.., set)| *set)
            .collect();
        match ranges.last_mut() {
            _ if sets.is_empty() => {}
            Some((_, last, same)) if *same == sets && last.checked_add(1) == Some(from) => {
                *last = to;
            }
            _ => ranges.push((from, to, sets)),
        }
    }
    ranges
}

fn port_set(ranges: &[Range]) -> PortSet {
    let of = |transport| {
        let mut filled = [PortRange::UNUSED; MAX_PORT_RANGES];
        let ranges = ranges.iter().filter(|(of, ..)| *of == transport);
        for (slot, (_, from, to, group)) in filled.iter_mut().zip(ranges) {
            *slot = PortRange { from: *from, to: *to, group: *group, reserved: 0 };
        }
        filled
    };
    PortSet { tcp: of(Transport::Tcp), udp: of(Transport::Udp) }
}

/// Values that are kept once, numbered in the order in which they came.
struct Interned<T> {
    ids: BTreeMap<T, usize>,
    values: Vec<T>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { ids: BTreeMap::new(), values: Vec::new() }
    }
}

impl<T: Ord + Clone> Interned<T> {
    fn id(&mut self, value: T) -> usize {
        if let Some(id) = self.ids.get(&value) {
            return *id;
        }
        let id = self.values.len();
        self.values.push(value.clone());
        self.ids.insert(value, id);
        id
    }
}
