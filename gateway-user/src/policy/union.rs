//! Makes every prefix answer for itself: a longest-prefix match returns one value, so each prefix
//! gets the union of the rules of all prefixes that cover it, less what is excluded there.

use std::collections::{BTreeMap, BTreeSet};

use gateway_common::Transport;
use gateway_common::abi::{EXCLUDED_GROUP, MAX_PORT_RANGES, PortRange, PortSet, Slot};
use ipnet::IpNet;

use super::{Exclusion, Names, PolicyError, Rule};
use crate::feed::SetId;

/// Prefixes with their complete port sets.
pub(super) struct Union {
    pub(super) prefixes: BTreeMap<IpNet, u16>,
    pub(super) port_sets: Vec<PortSet>,
    pub(super) groups: Vec<BTreeSet<SetId>>,
    /// The excludes that take something away.
    pub(super) cutting: BTreeSet<u16>,
}

/// Who says something of a prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Set(SetId),
    Exclude(u16),
}

/// What a rule or an exclusion says of its prefix.
type Clause = (Transport, u16, u16, Origin);
type Clauses = BTreeSet<Clause>;

/// Completes `rules`. Ids are given in the order of the prefixes, so the order of the rules does
/// not show.
pub(super) fn complete<I, E>(rules: I, exclusions: E, names: &Names) -> Result<Union, PolicyError>
where
    I: IntoIterator<Item = Rule>,
    E: IntoIterator<Item = Exclusion>,
{
    let mut own: BTreeMap<IpNet, Clauses> = BTreeMap::new();
    for Rule { prefix, transport, first, last, set } in rules {
        if prefix.prefix_len() == 0 {
            let of = names.list(&BTreeSet::from([set]), &BTreeSet::new());
            return Err(PolicyError::WholeInternet { prefix, of });
        }
        let clause = (transport, first, last, Origin::Set(set));
        own.entry(prefix.trunc()).or_default().insert(clause);
    }
    if own.is_empty() {
        return Err(PolicyError::Empty);
    }
    for Exclusion { prefix, transport, first, last, exclude } in exclusions {
        let clause = (transport, first, last, Origin::Exclude(exclude));
        own.entry(prefix.trunc()).or_default().insert(clause);
    }
    let mut unions = Unions::new(names);
    let mut prefixes = BTreeMap::new();
    // The prefixes that cover the current one, outermost first: a covering prefix has the same or
    // a lower first address and then a shorter length, so it always comes earlier.
    let mut covering: Vec<Covering> = Vec::new();
    for (prefix, clauses) in own {
        while covering.last().is_some_and(|outer| !outer.prefix.contains(&prefix)) {
            covering.pop();
        }
        let outer = covering.last();
        let has_rule = clauses.iter().any(is_rule);
        let union = unions.add(outer.map(|outer| outer.union), clauses);
        let port_set = unions.port_set(union, prefix)?;
        if let Some(port_set) = port_set
            && (has_rule || outer.and_then(|outer| outer.port_set) != Some(port_set))
        {
            prefixes.insert(prefix, port_set);
        }
        covering.push(Covering { prefix, union, port_set });
    }
    if !leaves_something(&prefixes, &unions.port_sets.values) {
        return Err(PolicyError::Empty);
    }
    Ok(Union {
        prefixes,
        port_sets: unions.port_sets.values.iter().map(|ranges| port_set(ranges)).collect(),
        groups: unions.groups.values,
        cutting: unions.cutting,
    })
}

/// A prefix that covers others.
struct Covering {
    prefix: IpNet,
    union: usize,
    /// `None` outside every rule: an exclude has nothing to say there.
    port_set: Option<u16>,
}

fn is_rule((.., origin): &Clause) -> bool {
    matches!(origin, Origin::Set(_))
}

/// Whether any address has direct traffic: more than one exclude together may cover a prefix, and
/// then nothing looks up what it says.
fn leaves_something(prefixes: &BTreeMap<IpNet, u16>, port_sets: &[Vec<Range>]) -> bool {
    // The covering prefixes, outermost first, each with its addresses that no inner one has.
    let mut covering: Vec<(IpNet, u16, u128)> = Vec::new();
    let is_direct = |port_set: u16| {
        let ranges = port_sets.get(usize::from(port_set));
        ranges.is_some_and(|ranges| ranges.iter().any(|(.., group)| *group != EXCLUDED_GROUP))
    };
    for (prefix, port_set) in prefixes {
        while let Some((outer, of_outer, rest)) = covering.last_mut() {
            if outer.contains(prefix) {
                *rest = rest.saturating_sub(addresses(*prefix));
                break;
            }
            if *rest > 0 && is_direct(*of_outer) {
                return true;
            }
            covering.pop();
        }
        covering.push((*prefix, *port_set, addresses(*prefix)));
    }
    covering.iter().any(|(_, port_set, rest)| *rest > 0 && is_direct(*port_set))
}

/// How many addresses a prefix has; a whole family, which no table holds, has one fewer.
fn addresses(prefix: IpNet) -> u128 {
    let host_bits = prefix.max_prefix_len().saturating_sub(prefix.prefix_len());
    1_u128.checked_shl(host_bits.into()).unwrap_or(u128::MAX)
}

/// The distinct unions of clauses; thousands of prefixes share a few of them.
struct Unions<'a> {
    names: &'a Names,
    clauses: Interned<Clauses>,
    /// By the union that a prefix inherits and its own clauses: their union.
    sums: BTreeMap<(usize, usize), usize>,
    /// By union: its port set, where it has a rule.
    ports: BTreeMap<usize, Option<u16>>,
    port_sets: Interned<Vec<Range>>,
    groups: Interned<BTreeSet<SetId>>,
    cutting: BTreeSet<u16>,
}

/// A range of ports of one provenance group: protocol, first, last, group.
type Range = (Transport, u16, u16, u16);

impl<'a> Unions<'a> {
    fn new(names: &'a Names) -> Self {
        Self {
            names,
            clauses: Interned::default(),
            sums: BTreeMap::new(),
            ports: BTreeMap::new(),
            port_sets: Interned::default(),
            groups: Interned::default(),
            cutting: BTreeSet::new(),
        }
    }

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

    /// The port set of a union, `None` where it has no rule; `prefix` is the first that has it.
    fn port_set(&mut self, union: usize, prefix: IpNet) -> Result<Option<u16>, PolicyError> {
        if let Some(id) = self.ports.get(&union) {
            return Ok(*id);
        }
        let id = match self.clauses.values.get(union) {
            Some(clauses) if clauses.iter().any(is_rule) => {
                let clauses = clauses.clone();
                Some(self.new_port_set(&clauses, prefix)?)
            }
            _ => None,
        };
        self.ports.insert(union, id);
        Ok(id)
    }

    fn new_port_set(&mut self, clauses: &Clauses, prefix: IpNet) -> Result<u16, PolicyError> {
        let mut ranges = Vec::new();
        for transport in [Transport::Tcp, Transport::Udp] {
            let spans: Vec<Span> = clauses
                .iter()
                .filter(|(of, ..)| *of == transport)
                .map(|(_, first, last, origin)| (*first, *last, *origin))
                .collect();
            let parts = self.split(&spans);
            if parts.len() > MAX_PORT_RANGES {
                let (sets, excludes) = origins(spans.iter().map(|(.., origin)| *origin));
                return Err(PolicyError::TooManyRanges {
                    prefix,
                    transport,
                    needed: parts.len(),
                    of: self.names.list(&sets, &excludes),
                });
            }
            for (first, last, part) in parts {
                let group = match part {
                    Part::Excluded => EXCLUDED_GROUP,
                    Part::Direct(sets) => self.group(&sets, prefix)?,
                };
                ranges.push((transport, first, last, group));
            }
        }
        u16::try_from(self.port_sets.id(ranges))
            .ok()
            .filter(|id| Slot::port_set(*id).is_some())
            .ok_or(PolicyError::TooManyPortSets { prefix })
    }

    fn group(&mut self, sets: &BTreeSet<SetId>, prefix: IpNet) -> Result<u16, PolicyError> {
        let id = self.groups.id(sets.clone());
        u16::try_from(id).ok().filter(|group| *group < EXCLUDED_GROUP).ok_or_else(|| {
            PolicyError::TooManyGroups { prefix, of: self.names.list(sets, &BTreeSet::new()) }
        })
    }

    /// Cuts overlapping spans into ascending, disjoint ranges, each with all sets that have it; a
    /// range ends only where the combination of sets changes, or an exclude begins or ends.
    fn split(&mut self, spans: &[Span]) -> Vec<(u16, u16, Part)> {
        // Where a combination may begin; one past the last port is in 32 bits.
        let edges: BTreeSet<u32> = spans
            .iter()
            .flat_map(|(first, last, _)| [u32::from(*first), u32::from(*last).saturating_add(1)])
            .collect();
        let mut ranges: Vec<(u16, u16, Part)> = Vec::new();
        for (from, end) in edges.iter().zip(edges.iter().skip(1)) {
            let (Ok(from), Ok(to)) = (u16::try_from(*from), u16::try_from(end.saturating_sub(1)))
            else {
                continue;
            };
            let (sets, excludes) = origins(
                spans
                    .iter()
                    .filter(|(first, last, _)| *first <= from && to <= *last)
                    .map(|(.., origin)| *origin),
            );
            if sets.is_empty() {
                continue;
            }
            let part = if excludes.is_empty() { Part::Direct(sets) } else { Part::Excluded };
            self.cutting.extend(excludes);
            match ranges.last_mut() {
                Some((_, last, same)) if *same == part && last.checked_add(1) == Some(from) => {
                    *last = to;
                }
                _ => ranges.push((from, to, part)),
            }
        }
        ranges
    }
}

/// First port, last port, and who says so.
type Span = (u16, u16, Origin);

/// What becomes of a range of ports.
#[derive(PartialEq, Eq)]
enum Part {
    /// It goes direct by these sets.
    Direct(BTreeSet<SetId>),
    /// It would, but for an exclude.
    Excluded,
}

fn origins(all: impl Iterator<Item = Origin>) -> (BTreeSet<SetId>, BTreeSet<u16>) {
    let (mut sets, mut excludes) = (BTreeSet::new(), BTreeSet::new());
    for origin in all {
        match origin {
            Origin::Set(set) => sets.insert(set),
            Origin::Exclude(exclude) => excludes.insert(exclude),
        };
    }
    (sets, excludes)
}

fn port_set(ranges: &[Range]) -> PortSet {
    let of = |transport| {
        let mut filled = [PortRange::UNUSED; MAX_PORT_RANGES];
        let ranges = ranges.iter().filter(|(of, ..)| *of == transport);
        for (slot, (_, from, to, group)) in filled.iter_mut().zip(ranges) {
            *slot = PortRange { from: *from, to: *to, group: *group, windows: 0 };
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
