//! XDP, its metadata, and the programs of others on the same interface.

use super::{Check, Facts, Finding, InterfaceFacts, Link, Metadata, Severity};
use crate::config::HookMode;

/// `NETDEV_XDP_ACT_BASIC`: aborted, drop, pass and tx.
const BASIC: u64 = 1;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![metadata(facts)];
    for (interface, hook, link) in facts.inside() {
        findings.push(xdp_mode(interface, hook));
        findings.push(foreign_xdp(interface, hook, link));
        findings.extend(foreign_tc(interface));
    }
    findings
}

fn xdp_mode(interface: &InterfaceFacts, hook: HookMode) -> Finding {
    let (check, name) = (Check::XdpMode, &interface.name);
    let severity = match hook {
        HookMode::Tc => return Finding::ok(check, format_args!("{name}: tc alone is asked for")),
        HookMode::Generic => {
            let what = format_args!("{name}: generic XDP, which is for tests and not for speed");
            return Finding::of(check, Severity::Note, what);
        }
        HookMode::Auto => Severity::Note,
        HookMode::Xdp => Severity::Error,
    };
    match &interface.xdp_features {
        Ok(features) if features & BASIC != 0 => {
            Finding::ok(check, format_args!("{name}: native XDP (features {features:#x})"))
        }
        Ok(_) => {
            let what = format_args!("{name}: the driver has no native XDP");
            Finding::of(check, severity, what)
        }
        Err(why_not) => Finding::unseen(check, format_args!("{name}: {why_not}")),
    }
}

/// Told by real packets: only they show whether a driver has it.
fn metadata(facts: &Facts) -> Finding {
    let check = Check::Metadata;
    let counted = match &facts.metadata {
        Ok(Some(counted)) => *counted,
        Ok(None) => return Finding::unseen(check, "nothing is loaded"),
        Err(why_not) => return Finding::unseen(check, why_not),
    };
    match counted {
        Metadata { direct: 0, .. } => {
            Finding::unseen(check, "XDP has decided no direct packet yet")
        }
        Metadata { unsupported: 1.., .. } => {
            let what = format_args!(
                "{} of {} direct packets had no room for it: tc classifies them again; hook = \"tc\" \
                 saves XDP's part",
                counted.unsupported, counted.direct
            );
            Finding::of(check, Severity::Note, what)
        }
        Metadata { accepted: 0, direct, .. } => {
            let what = format_args!("{direct} proposals were written and none came to tc");
            Finding::of(check, Severity::Warning, what).fixed_by("breakout365 status")
        }
        Metadata { accepted, direct, .. } => {
            Finding::ok(check, format_args!("{accepted} taken by tc, {direct} written by XDP"))
        }
    }
}

fn foreign_xdp(interface: &InterfaceFacts, hook: HookMode, link: &Link) -> Finding {
    let (check, name) = (Check::ForeignXdp, &interface.name);
    let Some(foreign) = link.xdp.iter().find(|program| !program.ours) else {
        return Finding::ok(check, format_args!("{name}: none"));
    };
    let severity = match hook {
        HookMode::Xdp | HookMode::Generic => Severity::Error,
        HookMode::Auto | HookMode::Tc => Severity::Warning,
    };
    let dispatcher =
        if foreign.name.contains("xdp_dispatcher") { ", libxdp's dispatcher," } else { "" };
    let what = format_args!(
        "{name}: {}{dispatcher} is there and stays: tc classifies what it lets pass",
        foreign.name
    );
    Finding::of(check, severity, what).fixed_by(format!("ip -d link show {name}"))
}

fn foreign_tc(interface: &InterfaceFacts) -> Vec<Finding> {
    let (check, name) = (Check::ForeignTc, &interface.name);
    let mut findings = Vec::new();
    match &interface.tcx {
        Ok(programs) => {
            let before = programs.iter().take_while(|program| !program.ours).count();
            let attached = before < programs.len();
            for (at, program) in programs.iter().enumerate().filter(|(_, it)| !it.ours) {
                let finding = if attached && at < before {
                    let what = format_args!("{name}: {} runs before us", program.name);
                    Finding::of(check, Severity::Warning, what)
                        .fixed_by("systemctl restart breakout365")
                } else {
                    let what = format_args!("{name}: {} runs behind us", program.name);
                    Finding::of(check, Severity::Note, what)
                };
                findings.push(finding);
            }
        }
        Err(why_not) => {
            findings.push(Finding::unseen(check, format_args!("{name}, TCX: {why_not}")));
        }
    }
    match &interface.filters {
        Ok(filters) => {
            findings.extend(filters.iter().filter(|filter| !filter.ours).map(|filter| {
                let what = format_args!("{name}: {} is at the ingress", filter.name);
                Finding::of(check, Severity::Note, what)
                    .fixed_by(format!("tc filter show dev {name} ingress"))
            }));
        }
        Err(why_not) => {
            findings.push(Finding::unseen(check, format_args!("{name}, filters: {why_not}")));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(check, format_args!("{name}: none")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::{Program, Role};
    use super::*;

    fn foreign() -> Program {
        Program { name: "xdp_dispatcher".into(), ours: false }
    }

    #[test]
    fn drivers_without_xdp_matter_where_it_is_asked_for() {
        let mut facts = Facts::healthy();
        facts.interfaces[0].xdp_features = Ok(0);
        assert_eq!(facts.told(Severity::Note), ["xdp-mode"]);
        facts.interfaces[0].role = Role::Inside(HookMode::Xdp);
        assert_eq!(facts.told(Severity::Error), ["xdp-mode"]);
    }

    #[test]
    fn packets_tell_whether_metadata_survives() {
        let mut facts = Facts::healthy();
        for (direct, unsupported, accepted, severity) in [
            (0, 0, 0, Severity::Note),
            (5, 5, 0, Severity::Note),
            (5, 0, 0, Severity::Warning),
            (5, 0, 3, Severity::Ok),
        ] {
            facts.metadata = Ok(Some(Metadata { direct, unsupported, accepted }));
            assert!(
                facts.told(severity).contains(&"metadata"),
                "{direct} {unsupported} {accepted}"
            );
        }
    }

    #[test]
    fn programs_of_others_are_told_by_their_place() {
        let mut facts = Facts::healthy();
        facts.interfaces[0].link.as_mut().unwrap().as_mut().unwrap().xdp = vec![foreign()];
        assert_eq!(facts.told(Severity::Warning), ["foreign-xdp"]);
        facts.interfaces[0].role = Role::Inside(HookMode::Xdp);
        assert_eq!(facts.told(Severity::Error), ["foreign-xdp"]);
        let mut facts = Facts::healthy();
        facts.interfaces[0].tcx.as_mut().unwrap().push(foreign());
        assert_eq!(facts.told(Severity::Note), ["foreign-tc"]);
        facts.interfaces[0].tcx.as_mut().unwrap().rotate_right(1);
        assert_eq!(facts.told(Severity::Warning), ["foreign-tc"]);
        let mut facts = Facts::healthy();
        facts.interfaces[0].filters = Ok(vec![foreign()]);
        assert_eq!(facts.told(Severity::Note), ["foreign-tc"]);
    }
}
