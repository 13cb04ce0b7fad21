//! What was decided: packets and bytes by hook and reason, by endpoint set and by own include.

use std::collections::BTreeMap;

use gateway_common::abi::Counter;
use gateway_common::{Fallback, Reason, Verdict};
use serde::{Deserialize, Serialize};

use super::SelfCheck;
use crate::datapath::{Attached, CounterSheet, Counts, Manifest, Program, ProgramRun};
use crate::policy::SetId;

/// Packets, and bytes of whole frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, link header included.
    pub bytes: u64,
}

/// Everything that was decided. Lists are ascending and have each key once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// By hook: each packet once, where it was decided.
    pub hooks: Vec<HookTraffic>,
    /// By endpoint set. A packet that several sets list counts for each of them.
    pub sets: Vec<SetTraffic>,
    /// By own include.
    pub own: Vec<OwnTraffic>,
    /// Proposals of XDP that tc took.
    pub metadata_accepted: Count,
    /// What came of checking proposals of XDP.
    #[serde(default)]
    pub self_check: SelfCheck,
    /// Packets that were drawn for `trace` and found no room.
    #[serde(default)]
    pub trace_lost: Count,
    /// What the programs have run; empty unless `kernel.bpf_stats_enabled` is set.
    #[serde(default)]
    pub programs: Vec<ProgramTime>,
}

/// What classifies the packets of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// XDP, native or generic.
    Xdp,
    /// tc.
    Tc,
}

/// What one hook has decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookTraffic {
    /// The interface; `None` is packets that came in by another one than they were classified on,
    /// such as a member of a bond.
    pub interface: Option<String>,
    /// What classified.
    pub carrier: Carrier,
    /// By reason, all of them, in the order of [`Reason::ALL`].
    pub reasons: Vec<ReasonTraffic>,
    /// Direct packets whose proposal could not be written: the driver has no XDP metadata. tc
    /// classified them itself.
    pub metadata_unsupported: Count,
    /// Direct packets that XDP sent to the uplink.
    #[serde(default)]
    pub redirected: Count,
    /// Direct packets that it was to send there and left to the stack, marked, by cause: all of them,
    /// in the order of [`Fallback::ALL`].
    #[serde(default)]
    pub fallbacks: Vec<FallbackTraffic>,
}

/// What was marked for one cause where it was to be redirected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackTraffic {
    /// [`Fallback::name`].
    pub cause: String,
    /// How much.
    #[serde(flatten)]
    pub count: Count,
}

/// What was decided for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonTraffic {
    /// [`Reason::name`].
    pub reason: String,
    /// How much.
    #[serde(flatten)]
    pub count: Count,
}

/// What went direct by one endpoint set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetTraffic {
    /// Its id in the feed.
    pub id: SetId,
    /// Its service area.
    pub service_area: String,
    /// Its category.
    pub category: String,
    /// How much.
    #[serde(flatten)]
    pub count: Count,
}

/// What went direct by one own include.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnTraffic {
    /// What the operator calls it.
    pub name: String,
    /// How much.
    #[serde(flatten)]
    pub count: Count,
}

/// What one BPF program has run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramTime {
    /// [`Program::name`].
    pub program: String,
    /// Nanoseconds, all runs together.
    pub nanoseconds: u64,
    /// How often it ran.
    pub runs: u64,
}

impl From<Counter> for Count {
    fn from(counter: Counter) -> Self {
        Self { packets: counter.packets, bytes: counter.bytes }
    }
}

impl Count {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }
}

/// The verdict that a reason of this name goes with.
#[must_use]
pub fn verdict_of(reason: &str) -> Verdict {
    if reason == Reason::Matched.name() { Verdict::Direct } else { Verdict::Inspect }
}

impl HookTraffic {
    fn of(interface: Option<String>, carrier: Carrier, sheet: &CounterSheet) -> Self {
        let reasons = Reason::ALL.into_iter().map(|reason| ReasonTraffic {
            reason: reason.name().to_owned(),
            count: sheet.reason(reason).into(),
        });
        let fallbacks = Fallback::ALL.into_iter().map(|cause| FallbackTraffic {
            cause: cause.name().to_owned(),
            count: sheet.fallback(cause).into(),
        });
        Self {
            interface,
            carrier,
            reasons: reasons.collect(),
            metadata_unsupported: sheet.metadata_unsupported().into(),
            redirected: sheet.redirected().into(),
            fallbacks: fallbacks.collect(),
        }
    }
}

impl Traffic {
    /// What one generation has decided. A hook of `attached` is there also where it has not
    /// decided anything yet.
    #[must_use]
    pub fn of_generation(
        manifest: &Manifest,
        counts: &BTreeMap<Option<String>, Counts>,
        runs: &BTreeMap<Program, ProgramRun>,
        attached: &[Attached],
    ) -> Self {
        let stands = |interface: Option<&str>, carrier| {
            attached.iter().any(|hook| {
                let its = if hook.xdp.is_some() { Carrier::Xdp } else { Carrier::Tc };
                interface.is_some() && hook.interface.as_deref() == interface && its == carrier
            })
        };
        let mut hooks = Vec::new();
        for (interface, counts) in counts {
            for (carrier, sheet) in [(Carrier::Xdp, &counts.xdp), (Carrier::Tc, &counts.tc)] {
                if !sheet.is_zero() || stands(interface.as_deref(), carrier) {
                    hooks.push(HookTraffic::of(interface.clone(), carrier, sheet));
                }
            }
        }
        let all = counts.values().fold(Counts::default(), |sum, counts| sum.plus(counts));
        let mut by_set: BTreeMap<SetId, Count> = BTreeMap::new();
        for (group, counter) in manifest.groups.iter().zip(all.decided().groups()) {
            for set in group {
                let count = by_set.entry(*set).or_default();
                *count = count.plus((*counter).into());
            }
        }
        let count_of = |id: &SetId| by_set.get(id).copied().unwrap_or_default();
        let sets = manifest.sets.iter().map(|set| SetTraffic {
            id: set.id,
            service_area: set.service_area.clone(),
            category: set.category.clone(),
            count: count_of(&set.id),
        });
        let own = manifest
            .own
            .iter()
            .map(|own| OwnTraffic { name: own.name.clone(), count: count_of(&own.id) });
        let programs = runs.iter().map(|(program, run)| ProgramTime {
            program: program.name().to_owned(),
            nanoseconds: u64::try_from(run.time.as_nanos()).unwrap_or(u64::MAX),
            runs: run.runs,
        });
        let generation = Self {
            hooks,
            sets: sets.collect(),
            own: own.collect(),
            metadata_accepted: all.tc_behind_xdp.metadata_accepted().into(),
            self_check: SelfCheck::of_generation(&all),
            trace_lost: all.decided().plus(&all.tc_behind_xdp).trace_lost().into(),
            programs: programs.collect(),
        };
        // Puts the lists in order, and equal keys together.
        Self::default().plus(&generation)
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            hooks: merge(
                &self.hooks,
                &other.hooks,
                |hook| (hook.interface.clone(), hook.carrier),
                |sum, hook| {
                    sum.reasons = merge(
                        &sum.reasons,
                        &hook.reasons,
                        |reason| place(&reason.reason),
                        |sum, reason| sum.count = sum.count.plus(reason.count),
                    );
                    sum.metadata_unsupported =
                        sum.metadata_unsupported.plus(hook.metadata_unsupported);
                    sum.redirected = sum.redirected.plus(hook.redirected);
                    sum.fallbacks = merge(
                        &sum.fallbacks,
                        &hook.fallbacks,
                        |fallback| place_of_cause(&fallback.cause),
                        |sum, fallback| sum.count = sum.count.plus(fallback.count),
                    );
                },
            ),
            sets: merge(
                &self.sets,
                &other.sets,
                |set| (set.id, set.service_area.clone(), set.category.clone()),
                |sum, set| sum.count = sum.count.plus(set.count),
            ),
            own: merge(
                &self.own,
                &other.own,
                |own| own.name.clone(),
                |sum, own| sum.count = sum.count.plus(own.count),
            ),
            metadata_accepted: self.metadata_accepted.plus(other.metadata_accepted),
            self_check: self.self_check.plus(other.self_check),
            trace_lost: self.trace_lost.plus(other.trace_lost),
            programs: merge(
                &self.programs,
                &other.programs,
                |program| program.program.clone(),
                |sum, program| {
                    sum.nanoseconds = sum.nanoseconds.wrapping_add(program.nanoseconds);
                    sum.runs = sum.runs.wrapping_add(program.runs);
                },
            ),
        }
    }

    /// Everything for one reason, over all hooks.
    #[must_use]
    pub fn reason(&self, reason: Reason) -> Count {
        let reasons = self.hooks.iter().flat_map(|hook| &hook.reasons);
        let counts = reasons.filter(|it| it.reason == reason.name()).map(|it| it.count);
        counts.fold(Count::default(), Count::plus)
    }

    /// Proposals that could not be written, over all hooks.
    #[must_use]
    pub fn metadata_unsupported(&self) -> Count {
        let counts = self.hooks.iter().map(|hook| hook.metadata_unsupported);
        counts.fold(Count::default(), Count::plus)
    }
}

/// Where a reason stands in lists; one of another version stands last.
fn place(reason: &str) -> (usize, String) {
    let known = Reason::ALL.iter().position(|it| it.name() == reason);
    (known.unwrap_or(usize::MAX), reason.to_owned())
}

fn place_of_cause(cause: &str) -> (usize, String) {
    let known = Fallback::ALL.iter().position(|it| it.name() == cause);
    (known.unwrap_or(usize::MAX), cause.to_owned())
}

/// Both lists in one, ascending by `key`, with `add` where both have one.
fn merge<T: Clone, K: Ord>(
    one: &[T],
    other: &[T],
    key: impl Fn(&T) -> K,
    mut add: impl FnMut(&mut T, &T),
) -> Vec<T> {
    let mut merged: BTreeMap<K, T> = BTreeMap::new();
    for item in one.iter().chain(other) {
        match merged.entry(key(item)) {
            std::collections::btree_map::Entry::Occupied(mut sum) => add(sum.get_mut(), item),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(item.clone());
            }
        }
    }
    merged.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(packets: u64) -> Count {
        Count { packets, bytes: packets * 100 }
    }

    fn hook(interface: &str, carrier: Carrier, packets: u64) -> HookTraffic {
        let reasons = Reason::ALL.into_iter().map(|reason| ReasonTraffic {
            reason: reason.name().to_owned(),
            count: count(packets + reason as u64),
        });
        HookTraffic {
            interface: Some(interface.to_owned()),
            carrier,
            reasons: reasons.collect(),
            metadata_unsupported: count(packets),
            redirected: count(packets),
            fallbacks: vec![FallbackTraffic { cause: "too_big".into(), count: count(packets) }],
        }
    }

    fn set(id: u32, category: &str, packets: u64) -> SetTraffic {
        SetTraffic {
            id,
            service_area: "Exchange".to_owned(),
            category: category.to_owned(),
            count: count(packets),
        }
    }

    #[test]
    fn what_two_generations_decided_adds_up_by_hook_and_set() {
        let one = Traffic {
            hooks: vec![hook("lan0", Carrier::Xdp, 1), hook("lan1", Carrier::Tc, 10)],
            sets: vec![set(1, "Optimize", 5), set(2, "Allow", 6)],
            own: vec![OwnTraffic { name: "lab".to_owned(), count: count(7) }],
            metadata_accepted: count(4),
            self_check: SelfCheck { checked: 9, disagreed: 1 },
            trace_lost: count(2),
            programs: vec![ProgramTime { program: "b365_tc".into(), nanoseconds: 50, runs: 5 }],
        };
        let other = Traffic {
            hooks: vec![hook("lan0", Carrier::Tc, 3), hook("lan0", Carrier::Xdp, 100)],
            // The category of set 2 has changed: that is another series, and the old one stays.
            sets: vec![set(2, "Optimize", 8), set(1, "Optimize", 1)],
            own: vec![],
            metadata_accepted: count(1),
            self_check: SelfCheck { checked: 1, disagreed: 0 },
            trace_lost: count(3),
            programs: vec![ProgramTime { program: "b365_tc".into(), nanoseconds: 7, runs: 1 }],
        };
        let sum = one.plus(&other);
        let hooks: Vec<_> = sum
            .hooks
            .iter()
            .map(|hook| (hook.interface.as_deref().unwrap(), hook.carrier))
            .collect();
        let expected =
            [("lan0", Carrier::Xdp), ("lan0", Carrier::Tc), ("lan1", Carrier::Tc)].to_vec();
        assert_eq!(hooks, expected);
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(sum.hooks[0].reasons[number].reason, reason.name());
            assert_eq!(sum.hooks[0].reasons[number].count, count(101 + 2 * reason as u64));
        }
        assert_eq!(sum.hooks[0].metadata_unsupported, count(101));
        assert_eq!(sum.hooks[0].redirected, count(101));
        assert_eq!(sum.hooks[0].fallbacks[0].count, count(101));
        assert_eq!(sum.sets, [set(1, "Optimize", 6), set(2, "Allow", 6), set(2, "Optimize", 8)]);
        assert_eq!((sum.own[0].count, sum.metadata_accepted), (count(7), count(5)));
        assert_eq!(sum.self_check, SelfCheck { checked: 10, disagreed: 1 });
        assert_eq!(sum.trace_lost, count(5));
        assert_eq!((sum.programs[0].nanoseconds, sum.programs[0].runs), (57, 6));
        assert_eq!(sum.reason(Reason::Matched), count(1 + 10 + 3 + 100));
        assert_eq!(Traffic::default().plus(&sum), sum);
        assert_eq!(sum.plus(&Traffic::default()), sum);
    }
}
