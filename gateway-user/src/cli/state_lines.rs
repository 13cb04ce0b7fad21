//! The state in lines, as `status` and `top` both show it: what asks for a person begins in capitals.

use crate::config::Mode;
use crate::datapath::carrier_name;
use crate::observe::{
    EgressState, FamilyState, MissingHook, Observation, SelfCheck, Switches, WindowState,
};

/// A line of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    /// Whether it asks for a person.
    pub(super) urgent: bool,
}

impl Line {
    pub(super) fn calm(text: impl Into<String>) -> Self {
        Self { text: text.into(), urgent: false }
    }

    pub(super) fn urgent(text: impl Into<String>) -> Self {
        Self { text: text.into(), urgent: true }
    }
}

/// Why nothing goes direct.
pub(super) fn switched_off(switches: &Switches) -> Option<Line> {
    if !switches.on {
        return Some(Line::urgent("OFF     everything is inspected until `breakout365 on`"));
    }
    switches.inspecting.as_ref().map(|_| {
        Line::urgent(
            "GONE    no daemon has given a sign of life within its deadline: everything is inspected \
             until one does",
        )
    })
}

/// Where nothing is marked.
pub(super) fn shadow(mode: Mode) -> Option<Line> {
    (mode == Mode::Shadow)
        .then(|| Line::calm("mode    shadow: direct packets are counted, none is marked"))
}

/// A hook, or part of one, that is not there.
pub(super) fn missing(hook: &MissingHook) -> Line {
    let MissingHook { interface, what } = hook;
    let what = carrier_name(what);
    Line::urgent(format!("MISSING {interface}: {what} is gone; the daemon attaches it again"))
}

/// Where XDP was wrong.
pub(super) fn mismatch(self_check: SelfCheck) -> Option<Line> {
    let SelfCheck { checked, disagreed } = self_check;
    (disagreed > 0).then(|| {
        Line::urgent(format!(
            "MISMATCH {disagreed} of {checked} proposals of XDP that tc checked were wrong, and \
             inspected; report this"
        ))
    })
}

/// Where the feed and the uplink stand, and what waits for a person.
pub(super) fn of_daemon(daemon: &Observation) -> Vec<Line> {
    let feed = &daemon.feed;
    let mut lines = vec![Line::calm(format!("source  {}", feed.source))];
    if let Some(success) = &feed.last_success {
        let next = feed.next_check.as_deref().unwrap_or("never");
        lines.push(Line::calm(format!("checked {success}, next {next}")));
    }
    if feed.stale {
        let kept = if feed.inspecting { "everything is inspected" } else { "the last one is kept" };
        lines
            .push(Line::urgent(format!("STALE   the feed was not checked within max-age; {kept}")));
    }
    lines.extend(feed.problem.iter().map(|problem| Line::urgent(format!("feed    {problem}"))));
    lines.extend(feed.refused.iter().map(|refused| Line::urgent(format!("refused {refused}"))));
    lines.extend(feed.held.iter().map(|held| {
        Line::calm(format!("held    set {}: {} until {}", held.set, held.prefix, held.effective))
    }));
    lines.extend(daemon.egress.iter().flat_map(egress_lines));
    lines.extend(daemon.support.iter().map(window_line));
    if let Some(pending) = &daemon.pending {
        let (id, since, summary) = (&pending.id, &pending.since, &pending.summary);
        lines.push(Line::urgent(format!("PLAN    {id} waits since {since}: {summary}")));
        let refusals = pending.refusals.iter();
        lines.extend(refusals.map(|refusal| Line::urgent(format!("        {refusal}"))));
    }
    if let Some(until) = &daemon.confirm_until {
        lines.push(Line::urgent(format!(
            "TRIAL   `breakout365 confirm` before {until}, or it goes back"
        )));
    }
    lines.extend(daemon.problem.iter().map(|problem| Line::urgent(format!("PROBLEM {problem}"))));
    lines
}

fn egress_lines(egress: &EgressState) -> Vec<Line> {
    let mut lines = vec![Line::calm(egress_line(egress))];
    lines.extend(egress.families.iter().map(|family| family_line(egress, family)));
    lines.extend(egress.disputed.iter().map(|(family, who)| {
        Line::calm(format!("look-up {family} by all rules, not in our table alone: {who}"))
    }));
    lines.extend(egress.problem.iter().map(|problem| Line::urgent(format!("EGRESS  {problem}"))));
    lines
}

fn window_line(window: &WindowState) -> Line {
    let clients: Vec<_> = window.clients.iter().map(ToString::to_string).collect();
    let WindowState { id, sets, note, until, .. } = window;
    let clients = clients.join(", ");
    Line::urgent(format!("SUPPORT window {id} for {clients}: {sets}, until {until} ({note})"))
}

fn egress_line(egress: &EgressState) -> String {
    let hop = |family: &str, gateway: Option<String>| {
        let is_this = |it: &&FamilyState| it.family.eq_ignore_ascii_case(family);
        let state = egress.families.iter().find(is_this);
        let is_up = state.is_some_and(|it| it.reason.is_none());
        match gateway {
            Some(hop) => format!("{family} via {hop}"),
            // A point-to-point link.
            None if is_up => format!("{family} without next hop"),
            None => format!("{family} inspected"),
        }
    };
    format!(
        "egress  {}, {}, {}, table {}, rules {} and {}, put back {} times",
        egress.interface,
        hop("IPv4", egress.gateway4.map(|hop| hop.to_string())),
        hop("IPv6", egress.gateway6.map(|hop| hop.to_string())),
        egress.table,
        egress.priority,
        egress.priority.saturating_add(1),
        egress.put_back,
    )
}

/// In capitals where it is down.
fn family_line(egress: &EgressState, family: &FamilyState) -> Line {
    let FamilyState { state, since, transitions, probes_answered, probes_failed, .. } = family;
    let name = family.family.replace("ipv", "IPv");
    let changes = format!("{transitions} changes");
    if let Some(reason) = &family.reason {
        let new = if egress.on_failure == "block" { "refused" } else { "inspected" };
        return Line::urgent(format!(
            "DOWN    {name} since {since}: {reason}; new flows are {new}; {changes}"
        ));
    }
    let probes = match family.probe_rtt_seconds {
        Some(rtt) => format!(
            "; answered in {:.1} ms, {probes_answered} of {} rounds",
            rtt * 1000.0,
            probes_answered.saturating_add(*probes_failed)
        ),
        None => String::new(),
    };
    Line::calm(format!("uplink  {name} {state} since {since}; {changes}{probes}"))
}
