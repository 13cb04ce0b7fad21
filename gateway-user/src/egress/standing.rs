//! How each family of the uplink stands, since when, and how often that changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{error, info};

use super::fault::Fault;
use super::hold::Hold;
use super::hop::next_hops;
use super::hysteresis::Hysteresis;
use super::probe::Round;
use super::routing::Family;
use crate::config::{Egress, OnFailure};
use crate::observe::FamilyState;
use crate::rfc3339::seconds;

/// One family.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// Why it is down; `None`, it is up.
    pub(super) fault: Option<Fault>,
    /// Its direct flows are still to be ended.
    pub(super) owes: bool,
    since: Timestamp,
    probes: Option<Hysteresis>,
    /// Where no probe says when it is up.
    hold: Hold,
    /// How long the last answer took.
    rtt: Option<Duration>,
}

/// What was counted of a family since the daemon started.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    transitions: u64,
    answered: u64,
    silent: u64,
}

/// A family went down or came up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// When.
    pub time: Timestamp,
    /// The direct uplink.
    pub interface: String,
    /// Which family.
    pub family: Family,
    /// Why it is down, in words; `None`, it is up.
    pub fault: Option<String>,
}

/// The families that are to have a next hop.
#[derive(Clone, Debug, Default)]
pub(super) struct Standings {
    pub(super) families: BTreeMap<Family, Standing>,
    /// Also of families that are asked for no more, and may be again: counters never go back.
    counts: BTreeMap<Family, Counts>,
    /// What nobody has been told yet.
    news: Vec<Transition>,
}

impl Standings {
    /// Those of another configuration: what is still asked for goes on counting. What `health` asks
    /// for anew is not known yet.
    pub(super) fn with(&self, egress: &Egress, is_same_health: bool) -> Self {
        let probes = egress.health.as_ref().map(Hysteresis::new);
        let families = next_hops(egress).into_keys().map(|family| {
            let mut standing = self.families.get(&family).cloned().unwrap_or_else(Standing::new);
            if !is_same_health {
                standing.probes.clone_from(&probes);
                // Down is down until probes say otherwise, also those that are asked for from now on.
                if standing.fault.is_some() {
                    standing.fell(Instant::now());
                }
            }
            (family, standing)
        });
        Self { families: families.collect(), ..self.without_families() }
    }

    /// Nothing is to have a next hop; what was counted, and what is to be told, stays.
    pub(super) fn without_families(&self) -> Self {
        let (counts, news) = (self.counts.clone(), self.news.clone());
        Self { families: BTreeMap::new(), counts, news }
    }

    /// What went down or came up since the last call.
    pub(super) fn news(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.news)
    }

    /// An earlier process has left these families closed: where they are probed, they are down until
    /// probes say otherwise.
    pub(super) fn were_closed(&mut self, families: &BTreeSet<Family>) {
        let of = self.families.iter_mut().filter(|(family, _)| families.contains(family));
        for probes in of.filter_map(|(_, standing)| standing.probes.as_mut()) {
            probes.fell();
        }
    }

    /// Takes a round in; gives whether it changes a state.
    pub(super) fn note(&mut self, family: Family, round: Round) -> bool {
        let Some(standing) = self.families.get_mut(&family) else { return false };
        let counts = self.counts.entry(family).or_default();
        let is_good = match round {
            Round::Unasked => return false,
            Round::Answered(time) => {
                standing.rtt = Some(time);
                counts.answered = counts.answered.saturating_add(1);
                true
            }
            Round::Silent => {
                counts.silent = counts.silent.saturating_add(1);
                false
            }
        };
        standing.probes.as_mut().is_some_and(|probes| probes.note(is_good))
    }

    /// Takes in why families are down now, those that are not in `faults` are up, and says what
    /// changes.
    pub(super) fn take(&mut self, egress: &Egress, faults: &BTreeMap<Family, Fault>) {
        let now = Instant::now();
        for (family, standing) in &mut self.families {
            let fault = faults.get(family).copied();
            let before = std::mem::replace(&mut standing.fault, fault);
            let name = &egress.interface;
            match (before, fault) {
                (None, Some(fault)) => {
                    let new = match egress.on_failure {
                        OnFailure::Inspect => "inspected",
                        OnFailure::Block => "refused",
                    };
                    error!(
                        event = "uplink_down",
                        interface = name,
                        family = family.name(),
                        reason = fault.name(),
                        "uplink {name}: {family} is down: {fault}; new flows are {new}, direct ones \
                         are ended"
                    );
                    standing.owes = true;
                    standing.fell(now);
                }
                (Some(_), None) => {
                    info!(
                        event = "uplink_up",
                        interface = name,
                        family = family.name(),
                        "uplink {name}: {family} is up again: new flows go direct"
                    );
                    standing.owes = false;
                    standing.hold.rose(now);
                }
                (Some(before), Some(fault)) if before != fault => {
                    info!("uplink {name}: {family} stays down: {fault}");
                }
                (None, None) | (Some(_), Some(_)) => {}
            }
            if fault.is_some() {
                standing.hold.note(fault == Some(Fault::Settling), now);
            }
            if before.is_some() != fault.is_some() {
                let counts = self.counts.entry(*family).or_default();
                counts.transitions = counts.transitions.saturating_add(1);
                standing.since = Timestamp::now();
                self.news.push(Transition {
                    time: standing.since,
                    interface: name.clone(),
                    family: *family,
                    fault: fault.map(|fault| fault.to_string()),
                });
            }
        }
    }

    /// Whether something has no message when it comes right.
    pub(super) fn is_waiting(&self) -> bool {
        self.families.values().any(|standing| {
            standing.owes
                || matches!(
                    standing.fault,
                    Some(Fault::NextHopFailed | Fault::NotInPlace | Fault::Settling)
                )
        })
    }

    /// For the observation.
    pub(super) fn states(&self) -> Vec<FamilyState> {
        let counts = |family| self.counts.get(family).copied().unwrap_or_default();
        let families = self.families.iter();
        families.map(|(family, standing)| standing.state(*family, counts(family))).collect()
    }
}

impl Standing {
    fn new() -> Self {
        Self {
            fault: None,
            owes: false,
            since: Timestamp::now(),
            probes: None,
            hold: Hold::default(),
            rtt: None,
        }
    }

    /// It comes up by good rounds of probes, or without them when it has been good for a while.
    fn fell(&mut self, now: Instant) {
        match &mut self.probes {
            Some(probes) => probes.fell(),
            None => self.hold.fell(now),
        }
    }

    /// Why it is down although link and next hop are there: its probes, or without them that these
    /// came back a moment ago.
    pub(super) fn probed(&self) -> Option<Fault> {
        match &self.probes {
            Some(probes) => (probes.is_up() == Some(false)).then_some(Fault::ProbesFailed),
            None => self.hold.holds(Instant::now()).then_some(Fault::Settling),
        }
    }

    fn state(&self, family: Family, counts: Counts) -> FamilyState {
        let is_known = self.probes.as_ref().is_none_or(|probes| probes.is_up().is_some());
        let state = match self.fault {
            Some(_) => "down",
            None if is_known => "up",
            None => "unknown",
        };
        FamilyState {
            family: family.name().to_owned(),
            state: state.to_owned(),
            reason: self.fault.map(|fault| fault.name().to_owned()),
            since: seconds(self.since),
            transitions: counts.transitions,
            probe_rtt_seconds: self.rtt.map(|rtt| rtt.as_secs_f64()),
            probes_answered: counts.answered,
            probes_failed: counts.silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Health;
    use crate::egress::Wanted;

    fn egress(fall: u32) -> Egress {
        let second = Duration::from_secs(1);
        Egress {
            gateway6: None,
            health: Some(Health {
                probes: Vec::new(),
                interval: second,
                timeout: second,
                fall,
                rise: 2,
            }),
            ..Wanted::example().egress
        }
    }

    #[test]
    fn what_is_down_stays_down_when_it_is_probed_otherwise() {
        let answered = Round::Answered(Duration::from_millis(1));
        let probed = |standings: &Standings| standings.families[&Family::V4].probed();
        let mut standings = Standings::default().with(&egress(1), false);
        assert!(standings.note(Family::V4, Round::Silent));
        standings.take(&egress(1), &[(Family::V4, Fault::ProbesFailed)].into());
        let mut standings = standings.with(&egress(5), false);
        assert_eq!(probed(&standings), Some(Fault::ProbesFailed), "nobody has answered");
        assert!(!standings.note(Family::V4, answered));
        assert!(standings.note(Family::V4, answered), "by as many rounds as are asked for");
        assert_eq!(probed(&standings), None);
        // Where it was up, nothing is known, and that closes nothing.
        standings.take(&egress(5), &BTreeMap::new());
        assert_eq!(probed(&standings.with(&egress(3), false)), None);
    }
}
