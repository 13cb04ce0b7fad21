//! Stretches of addresses or ports: how much is in them, and what one has that another lacks.

use std::net::IpAddr;

use gateway_common::abi::{EXCLUDED_GROUP, PortSet};
use ipnet::IpNet;

use crate::policy::Table;

/// Disjoint, ascending stretches with both ends included, none touching the next. Equal sets are
/// equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stretches(Vec<(u128, u128)>);

impl Stretches {
    /// What is here and not in `other`, in one sweep over both.
    pub(super) fn without(&self, other: &Self) -> Self {
        let mut rest = Vec::new();
        let mut gone = other.0.iter().peekable();
        for (first, last) in &self.0 {
            let mut from = Some(*first);
            while let Some((start, end)) = gone.peek() {
                let Some(first) = from.filter(|_| start <= last) else { break };
                if *start > first {
                    rest.push((first, start.saturating_sub(1)));
                }
                // What ends here may reach no further stretch; what ends behind may.
                if end > last {
                    from = None;
                    break;
                }
                from = end.checked_add(1).map(|next| next.max(first));
                gone.next();
            }
            if let Some(first) = from.filter(|first| first <= last) {
                rest.push((first, *last));
            }
        }
        Self(rest)
    }

    /// How many there are, at most [`u64::MAX`].
    pub(super) fn count(&self) -> u64 {
        let sum = self.0.iter().fold(0_u128, |sum, (first, last)| {
            sum.saturating_add(last.saturating_sub(*first)).saturating_add(1)
        });
        u64::try_from(sum).unwrap_or(u64::MAX)
    }

    /// The stretches.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, u128)> + '_ {
        self.0.iter().copied()
    }
}

/// Merges what overlaps or touches, in whatever order it comes.
impl FromIterator<(u128, u128)> for Stretches {
    fn from_iter<I: IntoIterator<Item = (u128, u128)>>(stretches: I) -> Self {
        let mut sorted: Vec<(u128, u128)> = stretches.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
}

/// The addresses that `table` sends direct with at least one port: IPv4 addresses, or, for `v6`,
/// the /64 networks that such an address is in.
pub(super) fn direct(table: &Table, v6: bool) -> Stretches {
    let mut sweep = Sweep::default();
    for (prefix, port_set) in table.prefixes() {
        if prefix.addr().is_ipv6() == v6 {
            let ports = table.port_sets().get(usize::from(port_set));
            sweep.open(prefix, ports.is_some_and(has_direct_port));
        }
    }
    sweep.close();
    let in_64s = |(first, last)| if v6 { (first >> 64, last >> 64) } else { (first, last) };
    sweep.found.into_iter().map(in_64s).collect()
}

/// Whether any port goes direct: a hole that an exclude makes has ports, but none that does.
fn has_direct_port(ports: &PortSet) -> bool {
    let ranges = ports.tcp.iter().chain(&ports.udp);
    ranges.into_iter().any(|range| range.from <= range.to && range.group != EXCLUDED_GROUP)
}

/// A walk over nested prefixes, where the longest that covers an address decides.
#[derive(Default)]
struct Sweep {
    /// The prefixes that cover the current one, outermost first: last address, whether direct.
    covering: Vec<(u128, bool)>,
    /// The first address that is not done with; `None` behind the last one there is.
    next: Option<u128>,
    found: Vec<(u128, u128)>,
}

impl Sweep {
    /// Goes on to `prefix`, which does not sort before the ones so far.
    fn open(&mut self, prefix: IpNet, direct: bool) {
        let (first, last) = ends(prefix);
        while let Some((outer, direct)) = self.covering.pop_if(|(outer, _)| *outer < first) {
            self.go_to(outer, direct);
        }
        if let (Some((_, direct)), Some(before)) = (self.covering.last(), first.checked_sub(1)) {
            self.go_to(before, *direct);
        }
        self.next = Some(first);
        self.covering.push((last, direct));
    }

    fn close(&mut self) {
        while let Some((outer, direct)) = self.covering.pop() {
            self.go_to(outer, direct);
        }
    }

    /// Everything up to `last` is done with.
    fn go_to(&mut self, last: u128, direct: bool) {
        let Some(next) = self.next.filter(|next| *next <= last) else { return };
        if direct {
            self.found.push((next, last));
        }
        self.next = last.checked_add(1);
    }
}

/// First and last address of a prefix, as numbers.
pub(super) fn ends(prefix: IpNet) -> (u128, u128) {
    (number(prefix.network()), number(prefix.broadcast()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}
