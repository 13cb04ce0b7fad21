//! Proxy auto-config: selected hosts direct, all others by the proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde_json::{Value, json};

use super::{Export, ExportError, Name};
use crate::feed::Ports;

/// What the file does with its data; see there. ECMAScript 3, which old evaluators know.
const PROGRAM: &str = include_str!("program.pac.js");

const EXPLANATION: &str = "\
Hosts of the selected sets go direct, on their ports; everything else goes to the proxy, and so
does what is not understood. Names only: own entries of the policy are prefixes, and do not show.
";

/// What follows a PAC file's "else": proxies in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxies(String);

/// Why a text names no proxies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxiesError {
    /// Past all proxies.
    #[error("DIRECT is no proxy: when the others fail, traffic would go past inspection")]
    Direct,
    /// Anything else that is not understood.
    #[error(
        "{0:?} is not KIND HOST:PORT, as in \"PROXY proxy.example:3128\"; kinds are PROXY, HTTP, \
         HTTPS, SOCKS, SOCKS4, SOCKS5"
    )]
    NotAProxy(String),
}

impl FromStr for Proxies {
    type Err = ProxiesError;

    /// Reads proxies as a PAC file returns them, separated by semicolons.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let proxies: Result<Vec<String>, _> =
            text.split(';').map(|one| proxy(one.trim())).collect();
        proxies.map(|proxies| Self(proxies.join("; ")))
    }
}

impl fmt::Display for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn proxy(text: &str) -> Result<String, ProxiesError> {
    if text.eq_ignore_ascii_case("DIRECT") {
        return Err(ProxiesError::Direct);
    }
    let refused = || ProxiesError::NotAProxy(text.to_owned());
    let mut words = text.split_ascii_whitespace();
    let (Some(kind), Some(place), None) = (words.next(), words.next(), words.next()) else {
        return Err(refused());
    };
    let kind = kind.to_ascii_uppercase();
    let known = ["PROXY", "HTTP", "HTTPS", "SOCKS", "SOCKS4", "SOCKS5"].contains(&kind.as_str());
    let (host, port) = place.rsplit_once(':').ok_or_else(refused)?;
    let host_is_one = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port_is_one = digits && port.parse::<u16>().is_ok_and(|port| port != 0);
    if known && host_is_one && port_is_one { Ok(format!("{kind} {place}")) } else { Err(refused()) }
}

pub(super) fn render(export: &Export, proxies: &Proxies) -> Result<String, ExportError> {
    let names = export.names()?;
    let lists: BTreeSet<Vec<[u16; 2]>> = names.values().map(list).collect();
    let lists: Vec<Vec<[u16; 2]>> = lists.into_iter().collect();
    let direct: BTreeMap<&Name, usize> = names
        .iter()
        .filter_map(|(name, ports)| Some((*name, lists.binary_search(&list(ports)).ok()?)))
        .collect();
    // For these the port does not matter.
    let inspected: BTreeMap<&Name, usize> = export.inspected.iter().map(|name| (name, 0)).collect();
    let mut text = export.header("//", EXPLANATION);
    for (name, value) in [
        ("breakout365Proxies", json!(proxies.0)),
        ("breakout365Ports", json!(lists)),
        ("breakout365Direct", fixed(&direct)),
        ("breakout365DirectBetween", between(&direct)),
        ("breakout365Inspected", fixed(&inspected)),
        ("breakout365InspectedBetween", between(&inspected)),
    ] {
        // JSON is ECMAScript as long as it has no U+2028 and U+2029; all of this is ASCII.
        // Writing to a text cannot fail.
        let _ = if value.is_object() {
            write!(text, "\nvar {name} = {value:#};\n")
        } else {
            write!(text, "\nvar {name} = {value};\n")
        };
    }
    Ok(text + "\n" + PROGRAM)
}

fn list(ports: &Ports) -> Vec<[u16; 2]> {
    ports.ranges().map(|range| [*range.start(), *range.end()]).collect()
}

/// Names that are looked up; those for all below them begin with a dot.
fn fixed(names: &BTreeMap<&Name, usize>) -> Value {
    let entries = names.iter().filter_map(|(name, ports)| match name {
        Name::Exact(name) | Name::Under(name) => Some((name.clone(), json!(ports))),
        Name::Between(..) => None,
    });
    Value::Object(entries.collect())
}

fn between(names: &BTreeMap<&Name, usize>) -> Value {
    let entries = names.iter().filter_map(|(name, ports)| match name {
        Name::Between(before, after) => Some(json!([before, after, ports])),
        Name::Exact(_) | Name::Under(_) => None,
    });
    Value::Array(entries.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_what_a_pac_file_may_return_and_never_direct() {
        for (text, wanted) in [
            ("PROXY proxy.example:3128", "PROXY proxy.example:3128"),
            (" proxy a:1 ;HTTPS [2001:db8::1]:443", "PROXY a:1; HTTPS [2001:db8::1]:443"),
            ("SOCKS5 10.0.0.1:1080", "SOCKS5 10.0.0.1:1080"),
        ] {
            assert_eq!(text.parse().map(|Proxies(proxies)| proxies), Ok(wanted.to_owned()));
        }
        assert_eq!("PROXY a:1; direct".parse::<Proxies>(), Err(ProxiesError::Direct));
        for text in [
            "",
            ";",
            "proxy.example:3128",
            "PROXY a",
            "PROXY a:0",
            "PROXY a:70000",
            "PROXY a:+1",
            "PROXY a:1;",
            "PROXY a\":1",
            "PROXY a:1 b",
            "HTTP \u{2028}:1",
            "PROXY [a]:1",
        ] {
            assert!(matches!(text.parse::<Proxies>(), Err(ProxiesError::NotAProxy(_))), "{text:?}");
        }
    }
}
