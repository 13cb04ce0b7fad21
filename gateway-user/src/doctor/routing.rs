//! Forwarding, reverse path filtering, and the order of routing rules.

use super::{Advertisements, Check, Facts, Finding, Forwarding, InterfaceFacts, Role, Severity};
use crate::config::{Config, Egress, NextHop};
use crate::egress::{Family, STRICT, reverse_path_remedy};
use crate::marks::RuleFacts;

/// The kernel's own table of its addresses.
const LOCAL: u32 = 255;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let egress = facts.config().and_then(|config| config.egress.as_ref());
    let mut findings = Vec::new();
    for interface in facts.interfaces.iter().filter(|it| matches!(it.link, Ok(Some(_)))) {
        findings.extend(forwarding(facts, interface, egress));
    }
    if let Some(uplink) = uplink(facts) {
        findings.push(advertisements(facts, uplink, egress));
        findings.push(rp_filter(facts, uplink, egress));
    } else {
        let why_not = match egress {
            Some(egress) => format!("{} was not asked about", egress.interface),
            None => "no uplink is configured in [egress]".to_owned(),
        };
        findings.push(Finding::unseen(Check::RouterAdvertisements, &why_not));
        findings.push(Finding::unseen(Check::RpFilter, why_not));
    }
    findings.extend(rule_order(facts));
    findings
}

fn uplink(facts: &Facts) -> Option<&InterfaceFacts> {
    facts.interfaces.iter().find(|interface| interface.role == Role::Uplink)
}

/// Of inside interfaces for the packets of clients, of the uplink for the replies.
fn forwarding(facts: &Facts, interface: &InterfaceFacts, egress: Option<&Egress>) -> Vec<Finding> {
    let (check, name) = (Check::Forwarding, &interface.name);
    let Forwarding { v4_at_large, v4, v6 } = interface.forwarding;
    // Where the host forwards, the interface was excepted, for some reason.
    let v4_fix = match v4_at_large {
        Some(true) => format!("sysctl -w net.ipv4.conf.{}.forwarding=1", name.replace('.', "/")),
        _ => "sysctl -w net.ipv4.ip_forward=1".to_owned(),
    };
    let mut findings = Vec::new();
    for (family, forwards, is_wanted, fix) in [
        ("IPv4", v4, egress.is_none_or(|egress| egress.gateway4.is_some()), v4_fix),
        ("IPv6", v6, egress.is_some_and(|egress| egress.gateway6.is_some()), v6_fix(facts)),
    ] {
        match forwards {
            _ if !is_wanted => {}
            Some(true) => findings.push(Finding::ok(check, format_args!("{name}: {family}"))),
            Some(false) => {
                let what = format_args!("{name}: {family} is not forwarded");
                findings.push(Finding::of(check, Severity::Error, what).fixed_by(fix));
            }
            None => {
                let why_not = format_args!("{name}: the kernel has no setting of {family} for it");
                findings.push(Finding::unseen(check, why_not));
            }
        }
    }
    findings
}

/// A host that begins to forward forgets the default routes that it took from router advertisements
/// (kernel `Documentation/networking/ip-sysctl.rst`, `forwarding`): first the uplink is told to take them
/// all the same.
fn v6_fix(facts: &Facts) -> String {
    let forward = "sysctl -w net.ipv6.conf.all.forwarding=1";
    let uplink = uplink(facts).filter(|it| it.advertisements.is_some_and(|it| it.accept == 1));
    match uplink {
        Some(uplink) => format!("{} && {forward}", accept(&uplink.name)),
        None => forward.to_owned(),
    }
}

fn accept(name: &str) -> String {
    format!("sysctl -w net.ipv6.conf.{}.accept_ra=2", name.replace('.', "/"))
}

fn advertisements(facts: &Facts, uplink: &InterfaceFacts, egress: Option<&Egress>) -> Finding {
    let (check, name) = (Check::RouterAdvertisements, &uplink.name);
    if egress.is_none_or(|egress| egress.gateway6 != Some(NextHop::Learned)) {
        return Finding::ok(check, format_args!("{name}: no next hop is taken from them"));
    }
    match uplink.advertisements {
        Some(Advertisements { accept: 1, is_router: true }) if !is_up(facts, Family::V6) => {
            let what = format_args!(
                "{name}: gateway6 = \"auto\", and it takes none, as a router with accept_ra = 1"
            );
            Finding::of(check, Severity::Warning, what).fixed_by(accept(name))
        }
        Some(Advertisements { accept: 1, is_router: true }) => {
            Finding::ok(check, format_args!("{name}: none are taken, and there is a next hop"))
        }
        Some(Advertisements { accept: 0, .. }) => {
            Finding::ok(check, format_args!("{name}: left to another program"))
        }
        Some(_) => Finding::ok(check, format_args!("{name}: they are taken")),
        None => Finding::unseen(check, format_args!("{name}: the kernel has no IPv6 for it")),
    }
}

/// Whether the daemon says that a family of the uplink is up.
fn is_up(facts: &Facts, family: Family) -> bool {
    let told = facts.daemon.as_ref().ok().and_then(Option::as_ref);
    let families = told.and_then(|told| told.egress.as_ref()).map(|egress| &egress.families);
    families.into_iter().flatten().any(|it| it.family == family.name() && it.state == "up")
}

/// Strict is wrong where the uplink is not where packets without a mark go, as replies are.
fn rp_filter(facts: &Facts, uplink: &InterfaceFacts, egress: Option<&Egress>) -> Finding {
    let (check, name) = (Check::RpFilter, &uplink.name);
    if egress.is_none_or(|egress| egress.gateway4.is_none()) {
        return Finding::ok(check, format_args!("{name}: no IPv4 goes direct"));
    }
    match &uplink.rp_filter {
        Ok(STRICT) => {}
        Ok(2) => return Finding::ok(check, format_args!("{name}: loose")),
        Ok(_) => return Finding::ok(check, format_args!("{name}: off")),
        Err(why_not) => return Finding::unseen(check, format_args!("{name}: {why_not}")),
    }
    let index = uplink.link.as_ref().ok().and_then(Option::as_ref).map(|link| link.index);
    let (severity, meaning) = match facts.unmarked_way {
        Ok(Some(way)) if Some(way) == index => {
            let what = format_args!("{name}: strict, and what is not marked leaves by it too");
            return Finding::ok(check, what);
        }
        Ok(_) => (Severity::Error, "and what is not marked leaves elsewhere"),
        Err(_) => (Severity::Warning, "and where unmarked packets leave could not be seen"),
    };
    Finding::of(check, severity, format_args!("{name}: strict, {meaning}"))
        .fixed_by(reverse_path_remedy(name))
}

fn rule_order(facts: &Facts) -> Vec<Finding> {
    let check = Check::RuleOrder;
    let rules = match &facts.rules {
        Ok(rules) => rules,
        Err(why_not) => return vec![Finding::unseen(check, why_not)],
    };
    let Some(config) = facts.config() else {
        return vec![Finding::unseen(check, "there is no configuration")];
    };
    let Some(egress) = &config.egress else { return vec![own_way(rules, config)] };
    let mut findings = Vec::new();
    for family in wanted(egress) {
        let of_family = || rules.iter().filter(move |rule| rule.family == family);
        let ours = of_family().filter(|rule| rule.ours).count();
        if ours < 2 {
            let severity = if facts.runs() { Severity::Error } else { Severity::Note };
            let what = format_args!("{family}: our rules are not there");
            findings.push(Finding::of(check, severity, what).fixed_by("breakout365 status"));
        }
        for rule in of_family().filter(|rule| goes_first(rule, config, egress)) {
            // One that asks for more than our mark is mostly meant for other traffic.
            let takes_all = !rule.selects && !rule.suppresses && !asks_others(rule, config);
            let severity = if takes_all { Severity::Warning } else { Severity::Note };
            let what = format_args!("{} is looked at before ours", rule.place());
            findings.push(Finding::of(check, severity, what).fixed_by("ip rule"));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(check, "ours are looked at first"));
    }
    findings
}

fn wanted(egress: &Egress) -> impl Iterator<Item = Family> {
    let hops = [(Family::V4, egress.gateway4.is_some()), (Family::V6, egress.gateway6.is_some())];
    hops.into_iter().filter_map(|(family, has_hop)| has_hop.then_some(family))
}

/// Whether somebody else's rule may take packets that are marked before ours do.
fn goes_first(rule: &RuleFacts, config: &Config, egress: &Egress) -> bool {
    let ours = config.mark;
    let may_take = rule.fwmark.is_none_or(|(value, mask)| {
        let fits = (value ^ ours.value) & mask & ours.mask == 0;
        // Other bits are somebody's to set.
        let is_settled = mask & !ours.mask == 0;
        if rule.inverted { !(fits && is_settled) } else { fits }
    });
    !rule.ours && rule.priority < egress.priority && rule.table != LOCAL && may_take
}

/// Whether it takes only packets that have bits set which are not ours: TPROXY's, say.
fn asks_others(rule: &RuleFacts, config: &Config) -> bool {
    let others = |(value, mask): (u32, u32)| value & mask & !config.mark.mask != 0;
    !rule.inverted && rule.fwmark.is_some_and(others)
}

/// Without `[egress]`, somebody's rule has to ask for our mark.
fn own_way(rules: &[RuleFacts], config: &Config) -> Finding {
    let (check, mark) = (Check::RuleOrder, config.mark);
    let mut theirs = rules.iter().filter(|rule| rule.fwmark == Some((mark.value, mark.mask)));
    if let Some(rule) = theirs.next() {
        return Finding::ok(check, format_args!("{} takes what is marked", rule.place()));
    }
    let what = "no [egress], and no rule asks for our mark: marked packets go as all others do";
    let fix = format!("ip rule add fwmark {:#x}/{:#x} lookup TABLE", mark.value, mark.mask);
    Finding::of(check, Severity::Note, what).fixed_by(fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mark of the healthy machine.
    const OURS: u32 = 0x0100_0000;

    fn rule(priority: u32) -> RuleFacts {
        RuleFacts {
            family: Family::V4,
            priority,
            fwmark: None,
            table: 99,
            inverted: false,
            selects: false,
            suppresses: false,
            ours: false,
        }
    }

    #[test]
    fn a_gateway_that_does_not_forward_or_filters_strictly_is_told() {
        let mut facts = Facts::healthy();
        facts.interfaces[0].forwarding.v6 = Some(false);
        facts.interfaces[1].rp_filter = Ok(1);
        assert_eq!(facts.told(Severity::Error), ["forwarding", "rp-filter"]);
        facts.interfaces[0].forwarding.v6 = Some(true);
        facts.interfaces[1].rp_filter = Ok(2);
        assert!(facts.told(Severity::Error).is_empty());
    }

    #[test]
    fn replies_have_to_be_forwarded_too() {
        let mut facts = Facts::healthy();
        facts.interfaces[1].forwarding.v4 = Some(false);
        assert_eq!(facts.told(Severity::Error), ["forwarding"]);
        assert_eq!(fix(&facts, Check::Forwarding), "sysctl -w net.ipv4.conf.wan0.forwarding=1");
        facts.interfaces[1].forwarding.v4_at_large = Some(false);
        assert_eq!(fix(&facts, Check::Forwarding), "sysctl -w net.ipv4.ip_forward=1");
    }

    #[test]
    fn forwarding_is_not_to_cost_the_default_route_of_the_uplink() {
        let mut facts = Facts::healthy();
        facts.interfaces[1].forwarding.v6 = Some(false);
        let forward = "sysctl -w net.ipv6.conf.all.forwarding=1";
        let both = format!("sysctl -w net.ipv6.conf.wan0.accept_ra=2 && {forward}");
        assert_eq!(fix(&facts, Check::Forwarding), both);
        facts.interfaces[1].advertisements.as_mut().unwrap().accept = 0;
        assert_eq!(fix(&facts, Check::Forwarding), forward);
    }

    #[test]
    fn a_router_that_takes_no_advertisements_has_no_next_hop_from_them() {
        let mut facts = Facts::healthy();
        let config = facts.config.as_mut().unwrap().as_mut().unwrap();
        config.egress.as_mut().unwrap().gateway6 = Some(NextHop::Learned);
        assert!(facts.told(Severity::Warning).is_empty(), "somebody else has set the route");
        facts.daemon = Ok(None);
        facts.metadata = Ok(None);
        assert_eq!(facts.told(Severity::Warning), ["router-advertisements"]);
        facts.interfaces[1].advertisements.as_mut().unwrap().accept = 2;
        assert!(facts.told(Severity::Warning).is_empty());
    }

    #[test]
    fn strict_filtering_is_wrong_only_where_replies_are_expected_elsewhere() {
        let mut facts = Facts::healthy();
        facts.interfaces[1].rp_filter = Ok(STRICT);
        for (way, severity) in [
            (Ok(Some(4)), Severity::Error),
            (Ok(None), Severity::Error),
            (Err("denied".to_owned()), Severity::Warning),
            (Ok(Some(3)), Severity::Ok),
        ] {
            facts.unmarked_way = way;
            assert!(facts.told(severity).contains(&"rp-filter"), "{:?}", facts.unmarked_way);
        }
    }

    #[test]
    fn an_uplink_that_nobody_asked_about_is_not_said_to_be_missing() {
        let mut facts = Facts::healthy();
        facts.interfaces.pop();
        let report = super::super::examine(&facts);
        let found = report.findings.iter().find(|it| it.check == Check::RpFilter).unwrap();
        assert_eq!(found.what, "not looked at: wan0 was not asked about");
    }

    /// The command of what is worst of a check.
    fn fix(facts: &Facts, check: Check) -> String {
        let report = super::super::examine(facts);
        let found = report.findings.into_iter().filter(|finding| finding.check == check);
        found.max_by_key(|finding| finding.severity).unwrap().fix.unwrap()
    }

    #[test]
    fn only_rules_before_ours_that_can_take_marked_packets_are_told() {
        let with = |rule: RuleFacts| {
            let mut facts = Facts::healthy();
            facts.rules.as_mut().unwrap().push(rule);
            facts
        };
        for (rule, severity) in [
            (rule(100), Severity::Warning),
            (rule(32_766), Severity::Ok),
            (RuleFacts { selects: true, ..rule(100) }, Severity::Note),
            (RuleFacts { table: LOCAL, ..rule(0) }, Severity::Ok),
            (RuleFacts { fwmark: Some((1, u32::MAX)), ..rule(100) }, Severity::Ok),
            (RuleFacts { fwmark: Some((1, 0xff)), ..rule(100) }, Severity::Note),
            (RuleFacts { fwmark: Some((1, 1)), ..rule(100) }, Severity::Note),
            (RuleFacts { fwmark: Some((0, 1)), ..rule(100) }, Severity::Warning),
            (RuleFacts { fwmark: Some((OURS, OURS)), ..rule(100) }, Severity::Warning),
            (RuleFacts { fwmark: Some((OURS, OURS)), inverted: true, ..rule(100) }, Severity::Ok),
            (
                RuleFacts { fwmark: Some((1, u32::MAX)), inverted: true, ..rule(100) },
                Severity::Warning,
            ),
        ] {
            assert!(with(rule.clone()).told(severity).contains(&"rule-order"), "{rule:?}");
        }
    }

    #[test]
    fn rules_that_are_missing_are_an_error_while_a_daemon_runs() {
        let mut facts = Facts::healthy();
        facts.rules = Ok(vec![rule(32_766)]);
        assert_eq!(facts.told(Severity::Error), ["rule-order", "rule-order"]);
        facts.daemon = Ok(None);
        assert!(facts.told(Severity::Error).is_empty());
    }
}
