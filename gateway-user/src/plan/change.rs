//! What enters and what leaves: the plan, how it is applied, and what of today's traffic it touches.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::sets::{self, ExcludeChange, SetChange};
use super::{space, wire};
use crate::feed::{FeedIdentity, SetId, Snapshot};
use crate::policy::{Compiled, Exclusion, Policy, Rule, Sources};

/// Hexadecimal digits of [`Plan::id`].
const ID_DIGITS: usize = 12;

/// One side of a plan: a feed, a policy, and what they compile to.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The feed.
    pub snapshot: &'a Snapshot,
    /// The policy.
    pub policy: &'a Policy,
    /// Both, compiled.
    pub compiled: &'a Compiled,
}

/// The difference between what is live and what would be. Everything in it is sorted, so equal
/// sides give equal plans, down to the bytes of their JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The feed that is live; `None` where nothing is.
    pub old_feed: Option<FeedIdentity>,
    /// The feed that would be.
    pub new_feed: FeedIdentity,
    /// IPv4: prefixes, and space in addresses.
    pub ipv4: FamilyTotals,
    /// IPv6: prefixes, and space in /64 networks; a longer prefix is the one /64 it is in.
    pub ipv6: FamilyTotals,
    /// The endpoint sets and own entries whose rules change, by id.
    pub sets: Vec<SetChange>,
    /// The excludes whose exclusions change, by name.
    pub excludes: Vec<ExcludeChange>,
    /// Whose traffic goes direct now: addresses and interfaces; `None` is everybody's.
    pub sources_before: Option<Vec<String>>,
    /// Whose traffic would go direct.
    pub sources_after: Option<Vec<String>>,
    /// Rules that come, ascending.
    #[serde(with = "wire::rules")]
    pub rules_entering: Vec<Rule>,
    /// Rules that go, ascending.
    #[serde(with = "wire::rules")]
    pub rules_leaving: Vec<Rule>,
    /// Exclusions that come, ascending.
    #[serde(with = "wire::exclusions")]
    pub exclusions_entering: Vec<Exclusion>,
    /// Exclusions that go, ascending.
    #[serde(with = "wire::exclusions")]
    pub exclusions_leaving: Vec<Exclusion>,
}

/// Totals of one address family. Prefixes are the distinct ones of rules. Space is what is direct
/// with at least one port, each address counted once, however many prefixes cover it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyTotals {
    /// Prefixes now.
    pub prefixes_before: u64,
    /// Prefixes then.
    pub prefixes_after: u64,
    /// Prefixes then that are not there now.
    pub prefixes_entering: u64,
    /// Prefixes now that would not be there.
    pub prefixes_leaving: u64,
    /// Direct space now.
    pub space_before: u64,
    /// Direct space then.
    pub space_after: u64,
    /// Space that is inspected now and would be direct.
    pub space_gained: u64,
    /// Space that is direct now and would be inspected.
    pub space_lost: u64,
}

impl Plan {
    /// The plan that leads from `old`, or from nothing, to `new`.
    #[must_use]
    pub fn between(old: Option<&Side<'_>>, new: &Side<'_>) -> Self {
        let compiled = old.map(|old| old.compiled);
        let old_rules = compiled.map_or(&[][..], |compiled| &compiled.rules);
        let old_exclusions = compiled.map_or(&[][..], |compiled| &compiled.exclusions);
        let rules_entering = missing(&new.compiled.rules, old_rules);
        let rules_leaving = missing(old_rules, &new.compiled.rules);
        let changed: BTreeSet<SetId> =
            rules_entering.iter().chain(&rules_leaving).map(|rule| rule.set).collect();
        let exclusions_entering = missing(&new.compiled.exclusions, old_exclusions);
        let exclusions_leaving = missing(old_exclusions, &new.compiled.exclusions);
        Self {
            old_feed: old.map(|old| old.snapshot.identity()),
            new_feed: new.snapshot.identity(),
            ipv4: FamilyTotals::between(compiled, new.compiled, false),
            ipv6: FamilyTotals::between(compiled, new.compiled, true),
            sets: sets::between(old, new, &changed),
            excludes: sets::excludes(old, new, &exclusions_entering, &exclusions_leaving),
            sources_before: old.and_then(|old| listed(&old.policy.sources)),
            sources_after: listed(&new.policy.sources),
            rules_entering,
            rules_leaving,
            exclusions_entering,
            exclusions_leaving,
        }
    }

    /// Whether no packet's decision changes, nor the sets it is direct for. The feeds may still
    /// differ: a new version often changes nothing of what is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules_entering.is_empty()
            && self.rules_leaving.is_empty()
            && self.exclusions_entering.is_empty()
            && self.exclusions_leaving.is_empty()
            && self.sources_before == self.sources_after
    }

    /// What `rules` are after this plan: the new side's, when they are the old side's.
    #[must_use]
    pub fn apply(&self, rules: &[Rule]) -> Vec<Rule> {
        applied(rules, &self.rules_leaving, &self.rules_entering)
    }

    /// What `exclusions` are after this plan: the new side's, when they are the old side's.
    #[must_use]
    pub fn apply_to_exclusions(&self, exclusions: &[Exclusion]) -> Vec<Exclusion> {
        applied(exclusions, &self.exclusions_leaving, &self.exclusions_entering)
    }

    /// What enters and leaves, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let family = |name: &str, totals: &FamilyTotals| {
            let FamilyTotals { prefixes_before, prefixes_after, .. } = totals;
            let FamilyTotals { prefixes_entering, prefixes_leaving, .. } = totals;
            format!(
                "{name} {prefixes_before} -> {prefixes_after} prefixes (+{prefixes_entering} \
                 -{prefixes_leaving})"
            )
        };
        let exclusions =
            self.exclusions_entering.len().saturating_add(self.exclusions_leaving.len());
        let exclusions = match exclusions {
            0 => String::new(),
            count => format!(", {count} exclusions change"),
        };
        format!(
            "{}, {}, {} sets change{exclusions}",
            family("IPv4", &self.ipv4),
            family("IPv6", &self.ipv6),
            self.sets.len()
        )
    }

    /// The name by which a person accepts or rejects it: twelve hexadecimal digits of the SHA-256
    /// of its JSON. Equal plans have equal names.
    #[must_use]
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        // Hashing cannot fail to be written to, and a plan is texts, numbers and lists of them.
        serde_json::to_writer(&mut hash, self).ok();
        let mut id = format!("{:x}", hash.finalize());
        id.truncate(ID_DIGITS);
        id
    }
}

impl FamilyTotals {
    fn between(old: Option<&Compiled>, new: &Compiled, v6: bool) -> Self {
        let old_prefixes = old.map(|old| prefixes(old, v6)).unwrap_or_default();
        let new_prefixes = prefixes(new, v6);
        let old_space = old.map(|old| space::direct(&old.table, v6)).unwrap_or_default();
        let new_space = space::direct(&new.table, v6);
        Self {
            prefixes_before: count(old_prefixes.len()),
            prefixes_after: count(new_prefixes.len()),
            prefixes_entering: count(new_prefixes.difference(&old_prefixes).count()),
            prefixes_leaving: count(old_prefixes.difference(&new_prefixes).count()),
            space_before: old_space.count(),
            space_after: new_space.count(),
            space_gained: new_space.without(&old_space).count(),
            space_lost: old_space.without(&new_space).count(),
        }
    }
}

fn listed(sources: &Sources) -> Option<Vec<String>> {
    let prefixes = sources.prefixes.iter().map(ToString::to_string);
    let all = prefixes.chain(sources.interfaces.iter().cloned()).collect();
    sources.are_listed().then_some(all)
}

fn prefixes(compiled: &Compiled, v6: bool) -> BTreeSet<IpNet> {
    let rules = compiled.rules.iter().filter(|rule| rule.prefix.addr().is_ipv6() == v6);
    rules.map(|rule| rule.prefix).collect()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// What is in `all` and not in `others`; both ascend.
fn missing<T: Ord + Copy>(all: &[T], others: &[T]) -> Vec<T> {
    let mut others = others.iter().peekable();
    all.iter()
        .filter(|item| {
            while others.next_if(|other| other < item).is_some() {}
            others.peek() != Some(item)
        })
        .copied()
        .collect()
}

fn applied<T: Ord + Copy>(all: &[T], leaving: &[T], entering: &[T]) -> Vec<T> {
    let mut after = missing(all, leaving);
    after.extend(missing(entering, all));
    after.sort_unstable();
    after
}

/// How much of today's direct traffic a plan touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// Bytes that went direct for a combination of sets of which at least one loses rules.
    pub bytes: u64,
    /// Bytes that went direct at all.
    pub of_total: u64,
}

/// How much of the direct traffic in `counters` (bytes by combination of sets, as the counters of
/// provenance groups have it) belongs to sets that lose rules. An upper bound: counters do not say
/// which of a set's prefixes the traffic went to.
#[must_use]
pub fn touched(plan: &Plan, counters: &[(BTreeSet<SetId>, u64)]) -> Touched {
    let losing: BTreeSet<SetId> = plan.rules_leaving.iter().map(|rule| rule.set).collect();
    counters.iter().fold(Touched::default(), |sum, (sets, bytes)| Touched {
        bytes: if sets.is_disjoint(&losing) { sum.bytes } else { sum.bytes.saturating_add(*bytes) },
        of_total: sum.of_total.saturating_add(*bytes),
    })
}
