//! Whether anything goes direct at all: the daemon, the switches, the list, and the uplink as the daemon
//! sees it.

use super::{Check, Facts, Finding, Seen, Severity};
use crate::config::Mode;
use crate::observe::{EgressState, FamilyState, FeedState, Observation};

const LOG: &str = "journalctl -u breakout365 -n 50";
const RESTART: &str = "systemctl restart breakout365";
const STATUS: &str = "breakout365 status";

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![daemon(facts), mode(facts), kill_switch(facts), deadline(facts)];
    findings.extend(match told(facts) {
        Ok(told) => feed(&told.feed, told),
        Err(why_not) => vec![Finding::unseen(Check::Feed, why_not)],
    });
    findings.extend(uplink(facts));
    findings
}

/// What the daemon tells, or why it does not.
fn told(facts: &Facts) -> Seen<&Observation> {
    let daemon = facts.daemon.as_ref().map_err(Clone::clone)?;
    daemon.as_ref().ok_or_else(|| "no daemon runs that would tell".to_owned())
}

fn daemon(facts: &Facts) -> Finding {
    let check = Check::Daemon;
    let told = match &facts.daemon {
        Ok(Some(told)) => told,
        Ok(None) => {
            let start = "systemctl start breakout365";
            if matches!(facts.metadata, Ok(Some(_))) {
                let what = "none runs, and what it left is loaded: nobody looks after the list and \
                            the uplink";
                return Finding::of(check, Severity::Warning, what).fixed_by(start);
            }
            return Finding::of(check, Severity::Note, "none runs").fixed_by(start);
        }
        Err(why_not) => return Finding::unseen(check, why_not),
    };
    let problem = told.problem.as_deref();
    let Some(generation) = told.generation else {
        let why = problem.unwrap_or("it says no reason");
        let what = format_args!("it has published nothing, all is inspected: {why}");
        return Finding::of(check, Severity::Error, what).fixed_by(LOG);
    };
    if let Some(problem) = problem {
        return Finding::of(check, Severity::Warning, problem).fixed_by(LOG);
    }
    if let Some(until) = &told.confirm_until {
        let what = format_args!("what was applied ends at {until} unless it is confirmed");
        return Finding::of(check, Severity::Note, what).fixed_by("breakout365 confirm");
    }
    let started = &told.started;
    Finding::ok(check, format_args!("runs since {started}, generation {generation} is published"))
}

fn mode(facts: &Facts) -> Finding {
    let check = Check::Mode;
    // What is loaded counts; the configuration may be of another day.
    let loaded = told(facts).ok().and_then(|told| told.loaded.as_ref()).map(|it| it.mode);
    match loaded.or_else(|| facts.config().map(|config| config.mode)) {
        Some(Mode::Mark) => Finding::ok(check, "direct packets are marked or redirected"),
        Some(Mode::Shadow) => {
            let what = "shadow: direct packets are counted, and inspected all the same";
            Finding::of(check, Severity::Note, what).fixed_by(facts.edit())
        }
        None => Finding::unseen(check, "neither a daemon nor a configuration says"),
    }
}

fn kill_switch(facts: &Facts) -> Finding {
    let check = Check::KillSwitch;
    match &facts.switches {
        Ok(Some(switches)) if switches.on => Finding::ok(check, "on"),
        Ok(Some(_)) => Finding::of(check, Severity::Error, "off: nothing goes direct")
            .fixed_by("breakout365 on"),
        Ok(None) => Finding::unseen(check, "nothing is loaded"),
        Err(why_not) => Finding::unseen(check, why_not),
    }
}

fn deadline(facts: &Facts) -> Finding {
    let check = Check::Deadline;
    match facts.switches.as_ref().map(|switches| switches.as_ref().map(|it| it.deadline)) {
        Ok(Some(None)) => Finding::ok(check, "without end"),
        Ok(Some(Some(0))) => {
            let what = "it has passed without a sign of life from the daemon: nothing goes direct";
            Finding::of(check, Severity::Error, what).fixed_by(RESTART)
        }
        Ok(Some(Some(seconds))) => Finding::ok(check, format_args!("{seconds} s are left")),
        Ok(None) => Finding::unseen(check, "nothing is loaded"),
        Err(why_not) => Finding::unseen(check, why_not),
    }
}

fn feed(feed: &FeedState, told: &Observation) -> Vec<Finding> {
    let check = Check::Feed;
    let mut findings = Vec::new();
    let mut tell = |severity, what: String, fix: &str| {
        findings.push(Finding::of(check, severity, what).fixed_by(fix));
    };
    let last = feed.last_success.as_deref().unwrap_or("never");
    if feed.serving.is_none() {
        let what = format!("there is none, nothing goes direct; {}", feed.source);
        tell(Severity::Error, what, "breakout365 feed fetch");
    }
    if feed.inspecting {
        let what =
            format!("too old, so that nothing goes direct; the source last answered: {last}");
        tell(Severity::Error, what, "breakout365 feed fetch");
    } else if feed.stale {
        let what = format!("too old; the source last answered: {last}");
        tell(Severity::Warning, what, "breakout365 feed fetch");
    }
    if let Some(refused) = &feed.refused {
        tell(Severity::Warning, format!("a newer one is refused: {refused}"), LOG);
    }
    if let Some(pending) = &told.pending {
        let what = format!("a newer one waits for a person: {}", pending.summary);
        tell(Severity::Note, what, "breakout365 plan show");
    }
    if let Some(problem) = &feed.problem {
        let what = format!("the last check failed: {problem}");
        tell(Severity::Note, what, "breakout365 feed fetch");
    }
    if let Some(serving) = feed.serving.as_ref().filter(|_| findings.is_empty()) {
        findings.push(Finding::ok(check, format_args!("{serving} serves")));
    }
    findings
}

fn uplink(facts: &Facts) -> Vec<Finding> {
    let check = Check::Uplink;
    let wanted = facts.config().and_then(|config| config.egress.as_ref());
    let told = match told(facts) {
        Ok(told) => told,
        Err(why_not) => return vec![Finding::unseen(check, why_not)],
    };
    let Some(egress) = &told.egress else {
        let Some(wanted) = wanted.filter(|_| told.generation.is_some()) else {
            return vec![Finding::ok(check, "the daemon keeps none")];
        };
        let what = format_args!("{} is configured, and the daemon keeps none", wanted.interface);
        let finding = Finding::of(check, Severity::Warning, what);
        return vec![finding.fixed_by("breakout365 reload")];
    };
    let mut findings = Vec::new();
    if let Some(problem) = &egress.problem {
        let what = format_args!("{}: not in place: {problem}", egress.interface);
        findings.push(Finding::of(check, Severity::Error, what).fixed_by(STATUS));
    }
    findings.extend(egress.families.iter().map(|family| by_family(egress, family)));
    findings
}

fn by_family(egress: &EgressState, state: &FamilyState) -> Finding {
    let check = Check::Uplink;
    let (name, family) = (&egress.interface, &state.family);
    match state.state.as_str() {
        "up" => return Finding::ok(check, format_args!("{name}: {family} is up")),
        "unknown" => {
            let why_not = format_args!("{name}: {family}: no probe has been answered yet");
            return Finding::unseen(check, why_not);
        }
        _ => {}
    }
    let reason = state.reason.as_deref().unwrap_or("no reason");
    let fix = match reason {
        "no_interface" => "ip link".to_owned(),
        "set_down" => format!("ip link set {name} up"),
        "no_carrier" => format!("ethtool {name}"),
        "no_next_hop" => format!("ip route show table all default dev {name}"),
        "next_hop_failed" => format!("ip neighbour show dev {name}"),
        _ => STATUS.to_owned(),
    };
    let flows = match egress.on_failure.as_str() {
        "block" => "blocked",
        _ => "inspected",
    };
    // It comes back by itself.
    let severity = if reason == "settling" { Severity::Warning } else { Severity::Error };
    let what = format_args!(
        "{name}: {family} is down ({reason}) since {}: new flows are {flows}",
        state.since
    );
    Finding::of(check, severity, what).fixed_by(fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Switches;

    fn spoilt(spoil: impl FnOnce(&mut Observation)) -> Facts {
        let mut facts = Facts::healthy();
        spoil(facts.daemon.as_mut().unwrap().as_mut().unwrap());
        facts
    }

    #[test]
    fn a_daemon_that_is_not_there_or_has_published_nothing_is_told() {
        let mut facts = Facts::healthy();
        facts.daemon = Ok(None);
        assert_eq!(facts.told(Severity::Warning), ["daemon"]);
        facts.metadata = Ok(None);
        assert!(facts.told(Severity::Note).contains(&"daemon"), "as before the first start");
        let nothing = spoilt(|told| told.generation = None);
        assert_eq!(nothing.told(Severity::Error), ["daemon"]);
        let failed = spoilt(|told| told.problem = Some("the reload failed".into()));
        assert_eq!(failed.told(Severity::Warning), ["daemon"]);
        let trial = spoilt(|told| told.confirm_until = Some("2027-01-15T09:00:00Z".into()));
        assert_eq!(trial.told(Severity::Note), ["daemon"]);
    }

    #[test]
    fn switches_that_let_nothing_go_direct_are_errors() {
        let with = |on, deadline| {
            let mut facts = Facts::healthy();
            facts.switches = Ok(Some(Switches { on, deadline, inspecting: None }));
            facts.told(Severity::Error)
        };
        assert!(with(true, Some(1)).is_empty() && with(true, None).is_empty());
        assert_eq!(with(false, Some(60)), ["kill-switch"]);
        assert_eq!(with(true, Some(0)), ["deadline"]);
    }

    #[test]
    fn shadow_is_a_note_whether_it_is_loaded_or_only_configured() {
        let mut facts = Facts::healthy();
        facts.config.as_mut().unwrap().as_mut().unwrap().mode = Mode::Shadow;
        assert_eq!(facts.told(Severity::Note), ["mode"]);
    }

    #[test]
    fn lists_are_told_by_what_becomes_of_traffic() {
        let feed = |spoil: fn(&mut FeedState)| spoilt(|told| spoil(&mut told.feed));
        for (facts, severity) in [
            (feed(|feed| feed.serving = None), Severity::Error),
            (feed(|feed| (feed.stale, feed.inspecting) = (true, true)), Severity::Error),
            (feed(|feed| feed.stale = true), Severity::Warning),
            (feed(|feed| feed.refused = Some("too many".into())), Severity::Warning),
            (feed(|feed| feed.problem = Some("no route".into())), Severity::Note),
        ] {
            assert_eq!(facts.told(severity), ["feed"]);
        }
    }

    #[test]
    fn families_that_are_down_are_errors_until_they_settle() {
        let down = |reason: &str| {
            spoilt(|told| {
                let egress = told.egress.as_mut().unwrap();
                egress.families[1].state = "down".into();
                egress.families[1].reason = Some(reason.into());
            })
        };
        assert_eq!(down("no_carrier").told(Severity::Error), ["uplink"]);
        assert_eq!(down("settling").told(Severity::Warning), ["uplink"]);
        let gone = spoilt(|told| told.egress = None);
        assert_eq!(gone.told(Severity::Warning), ["uplink"]);
        let refused =
            spoilt(|told| told.egress.as_mut().unwrap().problem = Some("no such table".into()));
        assert_eq!(refused.told(Severity::Error), ["uplink"]);
    }
}
