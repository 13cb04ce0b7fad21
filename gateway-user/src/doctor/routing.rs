//! Forwarding, reverse path filtering, and the order of routing rules.

use super::{Check, Facts, Finding, InterfaceFacts, Role, Severity};
use crate::config::{Config, Egress};
use crate::egress::Family;
use crate::marks::RuleFacts;

/// The kernel's own table of its addresses.
const LOCAL: u32 = 255;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let egress = facts.config().and_then(|config| config.egress.as_ref());
    let mut findings = Vec::new();
    for interface in &facts.interfaces {
        if interface.is_inside() && matches!(interface.link, Ok(Some(_))) {
            findings.extend(forwarding(interface, egress));
        } else if interface.role == Role::Uplink {
            findings.push(rp_filter(interface, egress));
        }
    }
    if !facts.interfaces.iter().any(|interface| interface.role == Role::Uplink) {
        findings.push(Finding::unseen(Check::RpFilter, "no uplink is configured in [egress]"));
    }
    findings.extend(rule_order(facts));
    findings
}

fn forwarding(interface: &InterfaceFacts, egress: Option<&Egress>) -> Vec<Finding> {
    let (check, name) = (Check::Forwarding, &interface.name);
    let mut findings = Vec::new();
    for (family, forwards, is_wanted, fix) in [
        (
            "IPv4",
            interface.forwarding.v4,
            egress.is_none_or(|egress| egress.gateway4.is_some()),
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        (
            "IPv6",
            interface.forwarding.v6,
            egress.is_some_and(|egress| egress.gateway6.is_some()),
            "sysctl -w net.ipv6.conf.all.forwarding=1",
        ),
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

fn rp_filter(interface: &InterfaceFacts, egress: Option<&Egress>) -> Finding {
    let (check, name) = (Check::RpFilter, &interface.name);
    if egress.is_none_or(|egress| egress.gateway4.is_none()) {
        return Finding::ok(check, format_args!("{name}: no IPv4 goes direct"));
    }
    match &interface.rp_filter {
        // A dot in a name is a slash here, as slashes are dots.
        Ok(1) => Finding::of(check, Severity::Error, format_args!("{name}: strict"))
            .fixed_by(format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", name.replace('.', "/"))),
        Ok(2) => Finding::ok(check, format_args!("{name}: loose")),
        Ok(_) => Finding::ok(check, format_args!("{name}: off")),
        Err(why_not) => Finding::unseen(check, format_args!("{name}: {why_not}")),
    }
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
            // One that asks for more than a mark is mostly meant for other traffic.
            let takes_all = !rule.selects && !rule.suppresses;
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

/// Whether somebody else's rule takes packets that are marked before ours do.
fn goes_first(rule: &RuleFacts, config: &Config, egress: &Egress) -> bool {
    let takes_marked = match rule.fwmark {
        Some((value, mask)) => {
            let fits = (value ^ config.mark.value) & mask & config.mark.mask == 0;
            // Other bits are somebody's to set.
            fits || rule.inverted
        }
        None => true,
    };
    !rule.ours && rule.priority < egress.priority && rule.table != LOCAL && takes_marked
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
            (RuleFacts { fwmark: Some((1, 0xff)), ..rule(100) }, Severity::Warning),
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
