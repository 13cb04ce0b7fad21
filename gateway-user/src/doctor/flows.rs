//! Marks that others use, and flows that are forwarded past netfilter.

use serde_json::Value;

use super::{Check, Facts, Finding, Severity};
use crate::marks::Use;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = collisions(facts);
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

fn offload(facts: &Facts) -> Vec<Finding> {
    let check = Check::FlowOffload;
    let Some(ruleset) = &facts.marks.ruleset else {
        return vec![Finding::unseen(check, "the nftables rules could not be listed")];
    };
    let objects = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let tables: Vec<&Value> = objects.iter().filter_map(|object| object.get("flowtable")).collect();
    if tables.is_empty() {
        return vec![Finding::ok(check, "no flowtable")];
    }
    let told = tables.into_iter().map(|table| {
        let text = |key: &str| table[key].as_str().unwrap_or("?");
        let (family, of, name) = (text("family"), text("table"), text("name"));
        let is_hardware = table["flags"].to_string().contains("offload");
        let (severity, where_to) = if is_hardware {
            (Severity::Warning, "in hardware: neither XDP nor tc sees its flows")
        } else {
            (Severity::Note, "in software: its flows keep the route they had")
        };
        let what = format_args!("flowtable {name} of {family} {of} forwards {where_to}");
        Finding::of(check, severity, what)
            .fixed_by(format!("nft list flowtable {family} {of} {name}"))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::marks::{Collision, MarkOf};

    #[test]
    fn flowtables_are_told_by_where_they_forward() {
        let mut facts = Facts::healthy();
        let mut table = json!({ "family": "inet", "table": "t", "name": "f", "hook": "ingress" });
        facts.marks.ruleset = Some(json!({ "nftables": [{ "flowtable": table }] }));
        assert_eq!(facts.told(Severity::Note), ["flow-offload"]);
        table["flags"] = json!(["offload"]);
        facts.marks.ruleset = Some(json!({ "nftables": [{ "flowtable": table }] }));
        assert_eq!(facts.told(Severity::Warning), ["flow-offload"]);
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
