//! Access control lists of Squid.
//!
//! Options and their meaning: <https://www.squid-cache.org/Doc/config/acl/>. Every list that says
//! "direct" has `-n`: Squid would ask the DNS for the address of a name, or for the name of an
//! address, and whoever owns those answers could then choose to go past inspection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use gateway_common::Transport;
use ipnet::IpNet;

use super::{Export, ExportError, Name};
use crate::feed::Ports;

const EXPLANATION: &str = "\
breakout365_address   what goes direct by the address that a request names
breakout365_name      what goes direct by the host name that it names
breakout365           either
Where Squid intercepts, use breakout365_address alone: a name is then what the client claims, and
not where it goes. For a proxy that clients ask, in squid.conf, behind the include:
  always_direct allow breakout365
  acl step1 at_step SslBump1
  ssl_bump splice step1 breakout365
";

/// Direct by address, and by name.
const ADDRESS: &str = "breakout365_address";
const NAME: &str = "breakout365_name";
/// Excluded prefixes, for names that lead there.
const EXCLUDED: &str = "breakout365_excluded";
/// Names that are inspected even where a wider one is direct.
const INSPECTED: &str = "breakout365_inspected";

pub(super) fn render(export: &Export) -> Result<String, ExportError> {
    let mut lists = Lists { text: export.header("#", EXPLANATION), guards: String::new() };
    lists.guard(export);
    let addresses = by_address(export);
    for (number, (ports, prefixes)) in (1..).zip(&addresses) {
        lists.addresses(number, ports, prefixes);
    }
    let names = by_name(export)?;
    for (number, (ports, names)) in (1..).zip(&names) {
        lists.names(number, ports, names);
    }
    for (list, is_empty) in [(ADDRESS, addresses.is_empty()), (NAME, names.is_empty())] {
        if is_empty {
            lists.line(&format!("{list} all-of !all"));
        }
    }
    lists.line(&format!("breakout365 any-of {ADDRESS} {NAME}"));
    Ok(lists.text)
}

/// TCP alone: Squid forwards nothing else.
fn by_address(export: &Export) -> BTreeMap<String, BTreeSet<IpNet>> {
    let tcp = export.merged().into_iter().filter(|piece| piece.transport == Transport::Tcp);
    by_ports(tcp.map(|piece| (piece.prefix, piece.first..=piece.last)))
}

/// Prefixes that have the same ports.
fn by_ports(
    ranges: impl Iterator<Item = (IpNet, RangeInclusive<u16>)>,
) -> BTreeMap<String, BTreeSet<IpNet>> {
    let mut ports: BTreeMap<IpNet, Vec<_>> = BTreeMap::new();
    for (prefix, range) in ranges {
        ports.entry(prefix).or_default().push(range);
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
            let _ = write!(self.guards, " !{INSPECTED}");
        }
        // What is excluded everywhere is out of the names already, and Squid knows no such prefix.
        let somewhere = export.excluded_tcp().filter(|(prefix, _)| prefix.prefix_len() > 0);
        let excluded = by_ports(somewhere);
        for (number, (ports, prefixes)) in (1..).zip(&excluded) {
            self.line(&format!("{EXCLUDED}_port_{number} port {ports}"));
            for prefix in prefixes {
                // Without -n: it is asked where a name leads.
                self.line(&format!("{EXCLUDED}_in_{number} dst {prefix}"));
            }
            self.line(&format!(
                "{EXCLUDED} all-of {EXCLUDED}_port_{number} {EXCLUDED}_in_{number}"
            ));
        }
        if !excluded.is_empty() {
            let _ = write!(self.guards, " !{EXCLUDED}");
        }
    }

    fn addresses(&mut self, number: usize, ports: &str, prefixes: &BTreeSet<IpNet>) {
        self.line(&format!("{ADDRESS}_port_{number} port {ports}"));
        for prefix in prefixes {
            self.line(&format!("{ADDRESS}_in_{number} dst -n {prefix}"));
        }
        self.line(&format!("{ADDRESS} all-of {ADDRESS}_port_{number} {ADDRESS}_in_{number}"));
    }

    fn names(&mut self, number: usize, ports: &str, names: &BTreeSet<&Name>) {
        self.line(&format!("{NAME}_port_{number} port {ports}"));
        let list = format!("{NAME}_in_{number}");
        self.either(&list, names);
        let guards = self.guards.clone();
        self.line(&format!("{NAME} all-of {NAME}_port_{number} {list}{guards}"));
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
