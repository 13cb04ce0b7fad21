//! How the series of the direct uplink are read, family by family.

use super::{Sample, Value};
use crate::egress::{ENDED_BY, faults};
use crate::observe::{EgressState, FamilyState, Observation};

/// Samples of each family that is to have a next hop, with the uplink's name and the family's as
/// their first labels.
fn each(
    state: &Observation,
    read: impl Fn(&FamilyState) -> Vec<(Option<&str>, Value)>,
) -> Vec<Sample> {
    let Some(egress) = &state.egress else { return Vec::new() };
    let mut samples = Vec::new();
    for family in &egress.families {
        for (label, value) in read(family) {
            let labels = [Some(egress.interface.as_str()), Some(&family.family), label];
            let labels: Vec<&str> = labels.into_iter().flatten().collect();
            samples.push(Sample { labels: Vec::new(), value }.with(&labels));
        }
    }
    samples
}

pub(super) fn settings(state: &Observation) -> Vec<Sample> {
    let of = |egress: &EgressState| Sample::whole(1).with(&[&egress.interface, &egress.on_failure]);
    state.egress.iter().map(of).collect()
}

pub(super) fn up(state: &Observation) -> Vec<Sample> {
    each(state, |family| vec![(None, Value::Whole(u64::from(family.state != "down")))])
}

pub(super) fn reason(state: &Observation) -> Vec<Sample> {
    each(state, |family| {
        let is = |fault| u64::from(family.reason.as_deref() == Some(fault));
        faults().map(|fault| (Some(fault), Value::Whole(is(fault)))).collect()
    })
}

pub(super) fn since(state: &Observation) -> Vec<Sample> {
    each(state, |family| {
        Sample::time(Some(&family.since)).into_iter().map(|sample| (None, sample.value)).collect()
    })
}

pub(super) fn transitions(state: &Observation) -> Vec<Sample> {
    each(state, |family| vec![(None, Value::Whole(family.transitions))])
}

pub(super) fn probes(state: &Observation) -> Vec<Sample> {
    each(state, |family| {
        let outcomes = [("answered", family.probes_answered), ("failed", family.probes_failed)];
        outcomes.map(|(outcome, count)| (Some(outcome), Value::Whole(count))).into()
    })
}

pub(super) fn rtt(state: &Observation) -> Vec<Sample> {
    each(state, |family| {
        family.probe_rtt_seconds.map(|rtt| (None, Value::Seconds(rtt))).into_iter().collect()
    })
}

pub(super) fn disputed(state: &Observation) -> Vec<Sample> {
    let redirects = state.loaded.as_ref().is_some_and(|loaded| loaded.redirects_to.is_some());
    let Some(egress) = state.egress.as_ref().filter(|_| redirects) else { return Vec::new() };
    let is = |family: &FamilyState| u64::from(egress.disputed.contains_key(&family.family));
    each(state, |family| vec![(None, Value::Whole(is(family)))])
}

pub(super) fn flows_ended(state: &Observation) -> Vec<Sample> {
    let of = |egress: &EgressState| {
        ENDED_BY.map(|cause| {
            let count = egress.flows_ended.get(cause).copied().unwrap_or_default();
            Sample::whole(count).with(&[cause])
        })
    };
    state.egress.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::LoadedState;

    fn labels(samples: &[Sample]) -> Vec<(String, Value)> {
        samples.iter().map(|sample| (sample.labels.join(" "), sample.value)).collect()
    }

    fn state() -> Observation {
        let family = |name: &str, fault: Option<&str>| FamilyState {
            family: name.to_owned(),
            state: if fault.is_some() { "down" } else { "unknown" }.to_owned(),
            reason: fault.map(str::to_owned),
            since: "2026-08-01T00:00:01Z".to_owned(),
            transitions: 3,
            probe_rtt_seconds: fault.is_none().then_some(0.25),
            probes_answered: 7,
            probes_failed: 2,
        };
        let egress = EgressState {
            interface: "wan0".to_owned(),
            gateway4: None,
            gateway6: None,
            table: 365,
            priority: 365,
            put_back: 0,
            problem: None,
            on_failure: "block".to_owned(),
            families: vec![family("ipv4", None), family("ipv6", Some("no_carrier"))],
            flows_ended: [("uplink_down".to_owned(), 9)].into(),
            disputed: [("ipv6".to_owned(), "rule 100 before ours".to_owned())].into(),
        };
        Observation { egress: Some(egress), ..Observation::default() }
    }

    #[test]
    fn each_family_has_its_own_and_one_reason_at_most() {
        let state = state();
        let whole = |text: &str, value| (text.to_owned(), Value::Whole(value));
        assert_eq!(labels(&up(&state)), [whole("wan0 ipv4", 1), whole("wan0 ipv6", 0)]);
        let given: Vec<_> = labels(&reason(&state))
            .into_iter()
            .filter(|(_, value)| *value == Value::Whole(1))
            .collect();
        assert_eq!(given, [whole("wan0 ipv6 no_carrier", 1)]);
        assert_eq!(reason(&state).len(), 2 * faults().count());
        assert_eq!(labels(&since(&state))[1], whole("wan0 ipv6", 1_785_542_401));
        assert_eq!(labels(&transitions(&state))[0], whole("wan0 ipv4", 3));
        assert_eq!(labels(&probes(&state))[3], whole("wan0 ipv6 failed", 2));
        assert_eq!(labels(&rtt(&state)), [("wan0 ipv4".to_owned(), Value::Seconds(0.25))]);
        assert_eq!(labels(&settings(&state)), [whole("wan0 block", 1)]);
        let ended = [whole("revoked", 0), whole("uplink_down", 9)];
        assert_eq!(labels(&flows_ended(&state)), ended);
    }

    #[test]
    fn disputed_is_the_way_of_who_is_redirected() {
        let mut state = state();
        let mut loaded = LoadedState::example();
        state.loaded = Some(loaded.clone());
        assert_eq!(disputed(&state), []);
        loaded.redirects_to = Some("wan0".to_owned());
        state.loaded = Some(loaded);
        let whole = |text: &str, value| (text.to_owned(), Value::Whole(value));
        assert_eq!(labels(&disputed(&state)), [whole("wan0 ipv4", 0), whole("wan0 ipv6", 1)]);
    }

    #[test]
    fn without_an_uplink_there_is_none_of_it() {
        let state = Observation::default();
        for read in [settings, up, reason, since, transitions, probes, rtt, disputed, flows_ended] {
            assert_eq!(read(&state), []);
        }
    }
}
