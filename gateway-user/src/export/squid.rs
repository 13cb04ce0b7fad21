//! Access control lists of Squid.
//!
//! Options and their meaning: <https://www.squid-cache.org/Doc/config/acl/>. Every list that says
//! "direct" has `-n`: Squid would ask the DNS for the address of a name, or for the name of an
//! address, and whoever owns those answers could then choose to go past inspection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use gateway_common::Transport;
use ipnet::IpNet;

use super::{Export, ExportError, Name};
use crate::feed::Ports;

const EXPLANATION: &str = "\
The list breakout365 has what goes direct: by address where a request names one, else by host name.
In squid.conf, behind the include:
  always_direct allow breakout365
  ssl_bump splice breakout365
";

/// Excluded prefixes, for names that lead there.
const EXCLUDED: &str = "breakout365_excluded";
/// Names that are inspected even where a wider one is direct.
const INSPECTED: &str = "breakout365_inspected";

pub(super) fn render(export: &Export) -> Result<String, ExportError> {
    let mut lists = Lists { text: export.header("#", EXPLANATION), guards: String::new() };
    lists.guard(export);
    let mut alternatives = 0;
    for (ports, prefixes) in by_address(export) {
        alternatives += 1;
        lists.addresses(alternatives, &ports, &prefixes);
    }
    for (ports, names) in by_name(export)? {
        alternatives += 1;
        lists.names(alternatives, &ports, &names);
    }
    if alternatives == 0 {
        lists.line("breakout365 all-of !all");
    }
    Ok(lists.text)
}

/// Prefixes by their TCP ports: Squid forwards nothing else.
fn by_address(export: &Export) -> BTreeMap<String, BTreeSet<IpNet>> {
    let mut ports: BTreeMap<IpNet, Vec<_>> = BTreeMap::new();
    for piece in export.merged() {
        if piece.transport == Transport::Tcp {
            ports.entry(piece.prefix).or_default().push(piece.first..=piece.last);
        }
    }
    let mut prefixes: BTreeMap<String, BTreeSet<IpNet>> = BTreeMap::new();
    for (prefix, ports) in ports {
        prefixes.entry(spaced(&ports.into_iter().collect())).or_default().insert(prefix);
    }
    prefixes
}

fn by_name(export: &Export) -> Result<BTreeMap<String, BTreeSet<&Name>>, ExportError> {
    let mut names: BTreeMap<String, BTreeSet<&Name>> = BTreeMap::new();
    for (name, ports) in export.names()? {
        names.entry(spaced(&ports)).or_default().insert(name);
    }
    Ok(names)
}

fn spaced(ports: &Ports) -> String {
    ports.to_string().replace(',', " ")
}

struct Lists {
    text: String,
    /// What a name must not be, besides being listed.
    guards: String,
}

impl Lists {
    fn line(&mut self, list: &str) {
        // Writing to a text cannot fail.
        let _ = writeln!(self.text, "acl {list}");
    }

    fn guard(&mut self, export: &Export) {
        if !export.inspected.is_empty() {
            let inspected: BTreeSet<&Name> = export.inspected.iter().collect();
            self.either(INSPECTED, &inspected);
            self.guards.push_str(" !breakout365_inspected");
        }
        for prefix in &export.excluded {
            self.line(&format!("{EXCLUDED} dst {prefix}"));
        }
        if !export.excluded.is_empty() {
            self.guards.push_str(" !breakout365_excluded");
        }
    }

    fn addresses(&mut self, number: usize, ports: &str, prefixes: &BTreeSet<IpNet>) {
        self.line(&format!("breakout365_port_{number} port {ports}"));
        for prefix in prefixes {
            self.line(&format!("breakout365_dst_{number} dst -n {prefix}"));
        }
        self.line(&format!(
            "breakout365 all-of breakout365_port_{number} breakout365_dst_{number}"
        ));
    }

    fn names(&mut self, number: usize, ports: &str, names: &BTreeSet<&Name>) {
        self.line(&format!("breakout365_port_{number} port {ports}"));
        let list = format!("breakout365_name_{number}");
        self.either(&list, names);
        let guards = self.guards.clone();
        self.line(&format!("breakout365 all-of breakout365_port_{number} {list}{guards}"));
    }

    /// A list of names: some as they are, some as patterns. A `dstdomain` with a leading dot would
    /// be shorter, but has the name without anything in front, too.
    fn either(&mut self, list: &str, names: &BTreeSet<&Name>) {
        let (exact, patterns): (Vec<&Name>, Vec<&Name>) =
            names.iter().partition(|name| matches!(name, Name::Exact(_)));
        let mut parts = Vec::new();
        if !exact.is_empty() {
            parts.push(format!("{list}_exact"));
        }
        for name in exact {
            self.line(&format!("{list}_exact dstdomain -n {name}"));
        }
        if !patterns.is_empty() {
            parts.push(format!("{list}_pattern"));
        }
        for name in patterns {
            self.line(&format!("{list}_pattern dstdom_regex -n -i {}", regex(name)));
        }
        self.line(&format!("{list} any-of {}", parts.join(" ")));
    }
}

/// A name has no character that means something in a regular expression, but for its dots.
fn regex(name: &Name) -> String {
    let literal = |text: &str| text.replace('.', "\\.");
    match name {
        Name::Exact(name) => format!("^{}$", literal(name)),
        Name::Under(name) => format!("^[a-z0-9._-]+{}$", literal(name)),
        Name::Between(before, after) => {
            format!("^{}[a-z0-9._-]*{}$", literal(before), literal(after))
        }
    }
}
