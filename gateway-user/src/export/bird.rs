//! Prefix sets of BIRD 2.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::Export;

const EXPLANATION: &str = "\
Prefixes that have direct ports, and what is inside them. Ports are not told: the table sends only
some of them direct. Prefixes with an excluded port are left out as a whole.

In bird.conf:
  include \"/etc/bird/breakout365.conf\";
  filter breakout365 { if net ~ BREAKOUT365_V4 then accept; reject; }
";

pub(super) fn render(export: &Export) -> String {
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) =
        export.open.iter().partition(|prefix| matches!(prefix, IpNet::V4(_)));
    let mut text = export.header("#", EXPLANATION);
    for (name, prefixes, none) in [
        ("BREAKOUT365_V4", v4, "255.255.255.255/32"),
        ("BREAKOUT365_V6", v6, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"),
    ] {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "\ndefine {name} = [");
        let mut items: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}+")).collect();
        if items.is_empty() {
            // BIRD has no empty set of prefixes: this one is no route's.
            items.push(none.to_owned());
        }
        let _ = writeln!(text, "\t{}\n];", items.join(",\n\t"));
    }
    text
}
