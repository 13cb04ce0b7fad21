//! XDP, its metadata, and the programs of others on the same interface.

use super::{Check, Facts, Finding, InterfaceFacts, Link, Metadata, Severity};
use crate::config::HookMode;

/// `NETDEV_XDP_ACT_BASIC`: aborted, drop, pass and tx.
const BASIC: u64 = 1;
/// What attaches our programs where they are gone.
const PUBLISH_ANEW: &str = "breakout365 reload";
/// What attaches our programs in front of all others.
const ATTACH_ANEW: &str =
    "systemctl stop breakout365 && breakout365 down && systemctl start breakout365";

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![metadata(facts)];
    for (interface, hook, link) in facts.inside() {
        findings.push(xdp_mode(facts, interface, hook));
        findings.push(attached(facts, interface, link));
        findings.push(foreign_xdp(interface, hook, link));
        findings.extend(foreign_tc(interface));
    }
    findings
}

fn xdp_mode(facts: &Facts, interface: &InterfaceFacts, hook: HookMode) -> Finding {
    let (check, name) = (Check::XdpMode, &interface.name);
    let severity = match hook {
        HookMode::Tc => return Finding::ok(check, format_args!("{name}: tc alone is asked for")),
        HookMode::Generic => {
            let what = format_args!("{name}: generic XDP, which is for tests and not for speed");
            return Finding::of(check, Severity::Note, what).fixed_by(facts.edit());
        }
        HookMode::Auto => Severity::Note,
        HookMode::Xdp => Severity::Error,
    };
    match &interface.xdp_features {
        Ok(features) if features & BASIC != 0 => {
            Finding::ok(check, format_args!("{name}: native XDP (features {features:#x})"))
        }
        Ok(_) => {
            let what =
                format_args!("{name}: the driver has no native XDP; hook = \"tc\" asks for none");
            Finding::of(check, severity, what).fixed_by(facts.edit())
        }
        Err(why_not) => Finding::unseen(check, format_args!("{name}: {why_not}")),
    }
}

/// Told by real packets: only they show whether a driver has it.
fn metadata(facts: &Facts) -> Finding {
    let check = Check::Metadata;
    let Metadata { direct, redirected, unsupported, accepted } = match &facts.metadata {
        Ok(Some(counted)) => *counted,
        Ok(None) => return Finding::unseen(check, "nothing is loaded"),
        Err(why_not) => return Finding::unseen(check, why_not),
    };
    // Who is redirected needs none.
    let proposed = direct.saturating_sub(redirected);
    if proposed == 0 {
        let some = if redirected == 0 { "" } else { " that it did not redirect" };
        return Finding::unseen(check, format_args!("XDP has decided no direct packet yet{some}"));
    }
    if unsupported > 0 {
        let what = format_args!(
            "{unsupported} of {proposed} direct packets had no room for it: tc classifies them \
             again; hook = \"tc\" saves XDP's part"
        );
        return Finding::of(check, Severity::Note, what).fixed_by(facts.edit());
    }
    if accepted == 0 {
        let what = format_args!("{proposed} proposals were written and none came to tc");
        return Finding::of(check, Severity::Warning, what).fixed_by("breakout365 status");
    }
    Finding::ok(check, format_args!("{accepted} taken by tc, {proposed} written by XDP"))
}

/// Whether what we have pinned for it is on it, as the kernel says.
fn attached(facts: &Facts, interface: &InterfaceFacts, link: &Link) -> Finding {
    let (check, name) = (Check::Hook, &interface.name);
    let pinned = match &interface.pinned {
        Ok(Some(pinned)) => pinned,
        Ok(None) if matches!(facts.metadata, Ok(Some(_))) => {
            let what = format_args!("{name}: a generation is published, and not on it");
            return Finding::of(check, Severity::Error, what).fixed_by(PUBLISH_ANEW);
        }
        Ok(None) => return Finding::unseen(check, format_args!("{name}: nothing is loaded")),
        Err(why_not) => return Finding::unseen(check, format_args!("{name}: {why_not}")),
    };
    let at_tc = match pinned.tc {
        Some("tcx") => &interface.tcx,
        Some(_) => &interface.filters,
        None => &Ok(Vec::new()),
    };
    match at_tc {
        Ok(programs) if !programs.iter().any(|program| program.ours) => {
            let what = format_args!("{name}: our tc program is gone: nothing is marked");
            return Finding::of(check, Severity::Error, what).fixed_by(PUBLISH_ANEW);
        }
        Ok(_) => {}
        Err(why_not) => return Finding::unseen(check, format_args!("{name}, tc: {why_not}")),
    }
    if pinned.xdp.is_some() && !link.xdp.iter().any(|program| program.ours) {
        let what = format_args!("{name}: our XDP program is gone: tc classifies alone");
        return Finding::of(check, Severity::Warning, what).fixed_by(PUBLISH_ANEW);
    }
    Finding::ok(check, pinned)
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

/// Who else is at the ingress. TCX runs first, then the filters.
fn foreign_tc(interface: &InterfaceFacts) -> Vec<Finding> {
    let (check, name) = (Check::ForeignTc, &interface.name);
    let mut findings = Vec::new();
    let mut programs = Vec::new();
    for (carrier, seen) in [("TCX", &interface.tcx), ("filters", &interface.filters)] {
        match seen {
            Ok(seen) => programs.extend(seen.iter().map(|program| (carrier, program))),
            Err(why_not) => {
                let why_not = format_args!("{name}, {carrier}: {why_not}");
                findings.push(Finding::unseen(check, why_not));
            }
        }
    }
    let our_place = programs.iter().position(|(_, program)| program.ours);
    for (place, (carrier, program)) in programs.iter().enumerate() {
        if program.ours {
            continue;
        }
        let shown_by = match *carrier {
            "TCX" => format!("bpftool net show dev {name}"),
            _ => format!("tc filter show dev {name} ingress"),
        };
        let foreign = &program.name;
        findings.push(match our_place {
            Some(ours) if place < ours => {
                // A restart alone keeps the pinned link, and its place with it. A filter of ours has
                // the first priority already.
                let is_tcx = programs.get(ours).is_some_and(|(carrier, _)| *carrier == "TCX");
                let fix = if is_tcx { ATTACH_ANEW.to_owned() } else { shown_by };
                let what = format_args!("{name}: {foreign} runs before us");
                Finding::of(check, Severity::Warning, what).fixed_by(fix)
            }
            Some(_) => {
                let what = format_args!("{name}: {foreign} runs behind us");
                Finding::of(check, Severity::Note, what).fixed_by(shown_by)
            }
            None => {
                let what = format_args!("{name}: {foreign} is at the ingress, and we are not");
                Finding::of(check, Severity::Note, what).fixed_by(shown_by)
            }
        });
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
        for (direct, redirected, unsupported, accepted, severity) in [
            (0, 0, 0, 0, Severity::Note),
            (5, 0, 5, 0, Severity::Note),
            (5, 0, 0, 0, Severity::Warning),
            (5, 0, 0, 3, Severity::Ok),
            (5, 5, 0, 0, Severity::Note),
            (5, 4, 0, 0, Severity::Warning),
            (5, 4, 0, 1, Severity::Ok),
        ] {
            let counted = Metadata { direct, redirected, unsupported, accepted };
            facts.metadata = Ok(Some(counted));
            assert!(facts.told(severity).contains(&"metadata"), "{counted:?}");
        }
    }

    #[test]
    fn programs_of_others_are_told_by_their_place() {
        let mut facts = Facts::healthy();
        facts.interfaces[0].link.as_mut().unwrap().as_mut().unwrap().xdp = vec![foreign()];
        facts.interfaces[0].pinned.as_mut().unwrap().as_mut().unwrap().xdp = None;
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

    #[test]
    fn filters_run_behind_tcx_and_in_their_own_order() {
        let ours = || Program { name: "filter b365_tc".into(), ours: true };
        let mut facts = Facts::healthy();
        facts.interfaces[0].pinned.as_mut().unwrap().as_mut().unwrap().tc = Some("clsact");
        facts.interfaces[0].tcx = Ok(vec![foreign()]);
        facts.interfaces[0].filters = Ok(vec![ours()]);
        assert_eq!(facts.told(Severity::Warning), ["foreign-tc"], "TCX is before filters");
        facts.interfaces[0].tcx = Ok(Vec::new());
        facts.interfaces[0].filters = Ok(vec![foreign(), ours()]);
        assert_eq!(facts.told(Severity::Warning), ["foreign-tc"]);
        facts.interfaces[0].filters = Ok(vec![ours(), foreign()]);
        assert_eq!(facts.told(Severity::Note), ["foreign-tc"]);
    }

    #[test]
    fn who_is_alone_at_the_ingress_is_not_said_to_run_behind_us() {
        let mut facts = Facts::healthy();
        facts.interfaces[0].tcx = Ok(vec![foreign()]);
        let report = super::super::examine(&facts);
        let told =
            report.findings.iter().find(|finding| finding.check == Check::ForeignTc).unwrap();
        assert_eq!(told.severity, Severity::Note);
        assert!(told.what.ends_with("and we are not"), "{told:?}");
    }

    #[test]
    fn hooks_that_are_gone_are_told() {
        let mut facts = Facts::healthy();
        facts.interfaces[0].link.as_mut().unwrap().as_mut().unwrap().xdp.clear();
        assert_eq!(facts.told(Severity::Warning), ["hook"]);
        facts.interfaces[0].tcx.as_mut().unwrap().clear();
        assert_eq!(facts.told(Severity::Error), ["hook"]);
        let mut facts = Facts::healthy();
        facts.interfaces[0].pinned = Ok(None);
        assert_eq!(facts.told(Severity::Error), ["hook"], "another one has come in its place");
        facts.metadata = Ok(None);
        assert!(facts.told(Severity::Error).is_empty(), "nothing is loaded");
    }
}
