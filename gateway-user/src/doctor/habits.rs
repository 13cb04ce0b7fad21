//! Programs that manage networks, and what they do with what is not theirs.

use super::{Check, Facts, Finding, Severity};

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    vec![networkd(facts), network_manager(facts)]
}

fn networkd(facts: &Facts) -> Finding {
    let check = Check::Networkd;
    let removes = match facts.habits.networkd {
        None => return Finding::ok(check, "does not run"),
        Some((false, false)) => return Finding::ok(check, "leaves the rules and routes of others"),
        Some((true, false)) => "rules",
        Some((false, true)) => "routes",
        Some((true, true)) => "rules and routes",
    };
    let has_egress = facts.config().is_some_and(|config| config.egress.is_some());
    let severity = if has_egress { Severity::Warning } else { Severity::Note };
    let what = format_args!("removes the {removes} of others; the daemon puts ours back each time");
    Finding::of(check, severity, what).fixed_by(
        "mkdir -p /etc/systemd/networkd.conf.d && breakout365 export --format networkd --out \
         /etc/systemd/networkd.conf.d/breakout365.conf && systemctl restart systemd-networkd",
    )
}

fn network_manager(facts: &Facts) -> Finding {
    let check = Check::NetworkManager;
    let Some(managed) = &facts.habits.network_manager else {
        return Finding::ok(check, "does not run");
    };
    if managed.is_empty() {
        return Finding::ok(check, "manages none of these interfaces");
    }
    let names: Vec<&str> = managed.iter().map(String::as_str).collect();
    let what = format_args!(
        "manages {}: when it takes one down, the way out is put back once it is up again",
        names.join(", ")
    );
    let commands = names.iter().map(|name| format!("nmcli device set {name} managed no"));
    Finding::of(check, Severity::Note, what).fixed_by(commands.collect::<Vec<_>>().join(" && "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_removes_what_is_not_theirs_is_told() {
        let mut facts = Facts::healthy();
        facts.habits.networkd = Some((true, true));
        facts.habits.network_manager = Some(["wan0".to_owned()].into());
        assert_eq!(facts.told(Severity::Warning), ["networkd"]);
        assert_eq!(facts.told(Severity::Note), ["network-manager"]);
        facts.habits.networkd = Some((false, false));
        facts.habits.network_manager = Some(std::collections::BTreeSet::new());
        assert!(facts.told(Severity::Warning).is_empty());
        assert!(facts.told(Severity::Note).is_empty());
    }
}
