//! A plan as a person reads it: totals first, then set by set what changes and why.

use std::fmt::Display;

use super::output::table;
use crate::feed::{FIRST_OWN_ID, FeedIdentity};
use crate::plan::{ExcludeChange, FamilyTotals, Plan, Refusal, SetChange, Touched};

/// Prefixes or ports that one line lists: more is no longer read, and JSON has them all.
const LISTED: usize = 12;
/// Sets that are listed.
const LISTED_SETS: usize = 40;

/// The plan, and why it is refused where it is, without a line break at the end.
#[must_use]
pub fn text(plan: &Plan, refusals: &[Refusal]) -> String {
    let mut lines = vec![format!(
        "plan {}: {} -> {}",
        plan.id(),
        plan.old_feed.as_ref().map_or_else(|| "nothing".to_owned(), feed),
        feed(&plan.new_feed)
    )];
    lines.extend(refusals.iter().map(|refusal| format!("refused: {refusal}")));
    if plan.is_empty() {
        lines.push("nothing of what is direct changes".to_owned());
        return lines.join("\n");
    }
    lines.push(totals(plan));
    lines.extend(plan.sets.iter().take(LISTED_SETS).map(change));
    if let Some(more) = plan.sets.len().checked_sub(LISTED_SETS).filter(|more| *more > 0) {
        lines.push(format!("and {more} more sets (--json lists all)"));
    }
    if plan.sources_before != plan.sources_after {
        let [before, after] = [&plan.sources_before, &plan.sources_after].map(|sources| {
            sources.as_ref().map_or_else(|| "everybody".to_owned(), |listed| listed.join(", "))
        });
        lines.push(format!("sources: {before} -> {after}"));
    }
    for ExcludeChange { name, prefixes_entering, prefixes_leaving } in
        plan.excludes.iter().take(LISTED_SETS)
    {
        lines.push(format!("exclude {name:?}"));
        lines.extend(listed('+', prefixes_entering));
        lines.extend(listed('-', prefixes_leaving));
    }
    if let Some(more) = plan.excludes.len().checked_sub(LISTED_SETS).filter(|more| *more > 0) {
        lines.push(format!("and {more} more excludes (--json lists all)"));
    }
    lines.join("\n")
}

/// How much of today's direct traffic a plan touches, in one line.
#[must_use]
pub fn touched(touched: &Touched) -> String {
    let Touched { bytes, of_total } = touched;
    let percent = u128::from(*bytes).saturating_mul(100).checked_div(u128::from(*of_total));
    match percent {
        None => "no traffic has gone direct yet".to_owned(),
        Some(percent) => format!(
            "{bytes} of {of_total} bytes ({percent}%) that went direct are of sets that lose rules"
        ),
    }
}

fn feed(feed: &FeedIdentity) -> String {
    let instance = feed.instance.as_deref().unwrap_or("unknown instance");
    match &feed.version {
        Some(version) => format!("{instance} {version}"),
        // A digest is as long as a line; its start tells feeds apart.
        None => format!("{instance}, sha256 {}", feed.digest.get(..12).unwrap_or(&feed.digest)),
    }
}

fn totals(plan: &Plan) -> String {
    let heads = ["family", "prefixes", "enter", "leave", "direct space", "gained", "lost"];
    let mut table = table(&heads);
    for (family, unit, totals) in
        [("IPv4", "addresses", &plan.ipv4), ("IPv6", "/64 networks", &plan.ipv6)]
    {
        let FamilyTotals { prefixes_before, prefixes_after, space_before, space_after, .. } =
            *totals;
        table.add_row([
            family.to_owned(),
            from_to(prefixes_before, prefixes_after),
            totals.prefixes_entering.to_string(),
            totals.prefixes_leaving.to_string(),
            format!("{} {unit}", from_to(space_before, space_after)),
            totals.space_gained.to_string(),
            totals.space_lost.to_string(),
        ]);
    }
    table.to_string()
}

fn from_to(before: u64, after: u64) -> String {
    if before == after { before.to_string() } else { format!("{before} -> {after}") }
}

fn change(change: &SetChange) -> String {
    let SetChange { set, name, reasons, .. } = change;
    let what = match set.checked_sub(FIRST_OWN_ID) {
        Some(_) => format!("own entry {name:?}"),
        None => format!("set {set} ({name})"),
    };
    let mut lines = vec![format!("{what}: {}", reasons.join("; "))];
    lines.extend(listed('+', &change.prefixes_entering));
    lines.extend(listed('-', &change.prefixes_leaving));
    lines.extend(listed('+', &change.ports_entering));
    lines.extend(listed('-', &change.ports_leaving));
    lines.join("\n")
}

fn listed<T: Display>(sign: char, items: &[T]) -> Option<String> {
    let shown: Vec<String> = items.iter().take(LISTED).map(ToString::to_string).collect();
    let more = match items.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more (--json lists all)"),
    };
    (!shown.is_empty()).then(|| format!("  {sign} {}{more}", shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use gateway_common::Transport;

    use super::*;
    use crate::feed::{Snapshot, digest, embedded};
    use crate::plan::{Guard, Side};
    use crate::policy::{Exclude, OwnInclude, Policy, compile};

    fn changed(change: impl FnOnce(&mut Snapshot)) -> Plan {
        let old = embedded().unwrap();
        let mut new = old.clone();
        change(&mut new);
        new.digest = digest(&new.sets);
        let policy = Policy::default();
        let compiled = [&old, &new].map(|snapshot| compile(snapshot, &policy).unwrap());
        let [old, new] = [(&old, &compiled[0]), (&new, &compiled[1])]
            .map(|(snapshot, compiled)| Side { snapshot, policy: &policy, compiled });
        Plan::between(Some(&old), &new)
    }

    #[test]
    fn a_person_reads_what_changes_and_why() {
        let plan = changed(|snapshot| {
            snapshot.version = Some("2026083100".into());
            let set = snapshot.sets.get_mut(&31).unwrap();
            set.prefixes.remove(&"13.107.136.0/22".parse().unwrap());
            set.prefixes.insert("52.1.0.0/16".parse().unwrap());
            set.tcp = "443".parse().unwrap();
        });
        let refusal = Refusal {
            guard: Guard::PrefixesLeaving,
            what: "1 of 2 IPv4 prefixes leave".into(),
            limit: "at most 30% may".into(),
            accept: "so be it".into(),
        };
        let text = text(&plan, &[refusal]);
        let lines: Vec<&str> = text.lines().collect();
        let first = format!("plan {}: Worldwide 2026073100 -> Worldwide 2026083100", plan.id());
        assert_eq!(lines[0], first);
        assert_eq!(
            lines[1],
            "refused: prefixes_leaving: 1 of 2 IPv4 prefixes leave; at most 30% may; so be it"
        );
        let set = lines.iter().position(|line| line.starts_with("set 31")).unwrap();
        assert_eq!(
            lines[set],
            "set 31 (SharePoint, Optimize): Microsoft added 1 prefix; Microsoft removed 1 prefix; \
             Microsoft changed its TCP ports from 80,443 to 443"
        );
        assert_eq!(
            lines[set + 1..],
            ["  + 52.1.0.0/16", "  - 13.107.136.0/22", "  - tcp/80"],
            "{text}"
        );
    }

    #[test]
    fn own_entries_and_excludes_are_called_by_their_names() {
        let snapshot = embedded().unwrap();
        let before = Policy::default();
        let after = Policy {
            includes: vec![OwnInclude {
                name: "branch".into(),
                prefixes: ["9.0.0.0/20".parse().unwrap()].into(),
                protocol: Some(Transport::Tcp),
                ports: Some("443".parse().unwrap()),
                ..OwnInclude::default()
            }],
            excludes: vec![Exclude {
                name: "bank".into(),
                prefixes: ["52.97.0.0/16".parse().unwrap()].into(),
                ..Exclude::default()
            }],
            ..Policy::default()
        };
        let compiled = [&before, &after].map(|policy| compile(&snapshot, policy).unwrap());
        let [old, new] = [(&before, &compiled[0]), (&after, &compiled[1])]
            .map(|(policy, compiled)| Side { snapshot: &snapshot, policy, compiled });
        let plan = Plan::between(Some(&old), &new);
        assert_eq!((plan.ipv4.space_gained, plan.ipv4.space_lost), (1 << 12, 1 << 16));
        let text = text(&plan, &[]);
        let entry = "own entry \"branch\": the own entry is new\n  + 9.0.0.0/20\n  + tcp/443\n\
                     exclude \"bank\"\n  + 52.97.0.0/16";
        assert!(text.ends_with(entry), "{text}");
    }

    #[test]
    fn long_lists_are_cut_and_nothing_is_said_to_change_where_nothing_does() {
        let plan = changed(|snapshot| {
            let set = snapshot.sets.get_mut(&1).unwrap();
            set.prefixes.extend(
                (0..=255_u8).map(|n| format!("52.1.{n}.0/24").parse::<ipnet::IpNet>().unwrap()),
            );
        });
        let text = text(&plan, &[]);
        assert!(text.contains(", 52.1.11.0/24 and 244 more (--json lists all)"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 300), "{text}");

        let plan = changed(|snapshot| snapshot.version = Some("2026083100".into()));
        assert!(super::text(&plan, &[]).ends_with("\nnothing of what is direct changes"));
    }

    #[test]
    fn the_share_of_traffic_is_said_in_bytes_and_percent() {
        let line = |bytes, of_total| touched(&Touched { bytes, of_total });
        assert_eq!(
            line(23, 1123),
            "23 of 1123 bytes (2%) that went direct are of sets that lose rules"
        );
        assert_eq!(line(0, 0), "no traffic has gone direct yet");
    }
}
