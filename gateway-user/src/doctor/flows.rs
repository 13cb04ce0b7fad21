//! Marks that others use, and flows that are forwarded past netfilter.

use super::{Check, Facts, Finding, Flowtable, Severity};
use crate::marks::Use;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![nft(facts)];
    findings.extend(collisions(facts));
    findings.extend(offload(facts));
    findings
}

fn collisions(facts: &Facts) -> Vec<Finding> {
    let check = Check::MarkCollision;
    let unseen = facts.marks.unseen.iter().chain(facts.rules.as_ref().err());
    let mut findings: Vec<Finding> =
        unseen.map(|why_not| Finding::unseen(check, why_not)).collect();
    findings.extend(facts.marks.collisions.iter().map(|collision| {
        let severity = match collision.does {
            Use::Compares => Severity::Note,
            Use::Reads | Use::Writes => Severity::Warning,
        };
        let what = format_args!("{collision}: {}", collision.remedy());
        let fix =
            if collision.place.starts_with("nft") { "nft -a list ruleset" } else { "ip rule" };
        let fix = if collision.place.starts_with("ip") && collision.place.contains("tables") {
            "iptables-save"
        } else {
            fix
        };
        Finding::of(check, severity, what).fixed_by(fix)
    }));
    if findings.is_empty() {
        findings.push(Finding::ok(check, "nobody else uses our bits"));
    }
    findings
}

fn nft(facts: &Facts) -> Finding {
    let check = Check::Nft;
    match facts.marks.has_nft {
        Some(true) => return Finding::ok(check, "there is one"),
        Some(false) => {}
        None => return Finding::unseen(check, "it could not be run"),
    }
    let has_egress = facts.config().is_some_and(|config| config.egress.is_some());
    let (severity, what) = if has_egress {
        (Severity::Error, "there is none here, and [egress] needs it")
    } else {
        (Severity::Note, "there is none here; without [egress] none is needed")
    };
    Finding::of(check, severity, what).fixed_by("apt-get install nftables || dnf install nftables")
}

fn offload(facts: &Facts) -> Vec<Finding> {
    let check = Check::FlowOffload;
    let tables = match &facts.flowtables {
        Ok(tables) if tables.is_empty() => return vec![Finding::ok(check, "no flowtable")],
        Ok(tables) => tables,
        Err(why_not) => return vec![Finding::unseen(check, why_not)],
    };
    let told = tables.iter().map(|Flowtable { place, in_hardware }| {
        let (severity, where_to) = if *in_hardware {
            (Severity::Warning, "in hardware: neither XDP nor tc sees its flows")
        } else {
            (Severity::Note, "in software: its flows keep the route they had")
        };
        let what = format_args!("flowtable {place} forwards {where_to}");
        Finding::of(check, severity, what).fixed_by(format!("nft list flowtable {place}"))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::{Collision, MarkOf};

    #[test]
    fn flowtables_are_told_by_where_they_forward() {
        let mut facts = Facts::healthy();
        for (in_hardware, severity) in [(false, Severity::Note), (true, Severity::Warning)] {
            facts.flowtables = Ok(vec![Flowtable { place: "inet t f".into(), in_hardware }]);
            assert_eq!(facts.told(severity), ["flow-offload"]);
        }
    }

    #[test]
    fn nft_is_missed_where_a_way_out_is_to_be_kept() {
        let mut facts = Facts::healthy();
        facts.marks.has_nft = Some(false);
        assert_eq!(facts.told(Severity::Error), ["nft"]);
        facts.config.as_mut().unwrap().as_mut().unwrap().egress = None;
        assert!(facts.told(Severity::Error).is_empty());
    }

    #[test]
    fn collisions_are_told_by_what_they_do() {
        for (does, severity) in [
            (Use::Compares, Severity::Note),
            (Use::Reads, Severity::Warning),
            (Use::Writes, Severity::Warning),
        ] {
            let mut facts = Facts::healthy();
            let collision =
                Collision { place: "ip rule 1".into(), of: MarkOf::Packet, does, bits: 1 };
            facts.marks.collisions.insert(collision);
            assert_eq!(facts.told(severity), ["mark-collision"]);
        }
    }
}
