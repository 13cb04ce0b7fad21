//! Inspection chains for nftables and iptables, that let direct flows past.
//!
//! They ask the connection mark, which our table writes at priority -160, before any of them. Where the
//! table is missing nobody writes it, and the chains inspect what is marked all the same: so a packet
//! that is handed to a proxy loses our bits, which could route it past the proxy. Before routing they ask
//! the packet mark as well: a direct flow's packet that has lost it would leave by the main table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Inspector;
use crate::config::Config;
use crate::feed::Ports;
use crate::marks::Ours;

/// Where inspectors get their packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Tproxy,
    Redirect,
    Forward,
}

/// The routing table for what TPROXY has marked.
const DELIVERY_TABLE: u32 = 3650;
/// The kernel's rule for its main table.
const MAIN_PRIORITY: u32 = 32_766;
/// Behind our rules, where they have their default place.
const PRIORITY: u32 = 367;

/// What `nft -f` takes.
pub(super) fn nft(config: &Config, to: &[Inspector]) -> String {
    let inside: Vec<String> =
        config.interfaces.iter().map(|interface| format!("\"{}\"", interface.name)).collect();
    let inside = inside.join(", ");
    let mark = config.mark;
    let says_direct = |of| format!("{of} mark & {:#010x} == {:#010x}", mark.mask, mark.value);
    let bit = tproxy_bit(config);
    let delivered =
        format!("meta mark set meta mark & {:#010x} | {bit:#010x} accept", !(mark.mask | bit));
    let mut text = String::from(
        "# Inspection that lets direct flows past; load it with `nft -f`, again whenever it changes.\n\
         # What matters is the line that ends in \"direct\": it comes first in a chain of your own, too.\n",
    );
    text.push_str(what_is_asked(config));
    if to.iter().any(|inspector| place(inspector) == Place::Tproxy) {
        text.push_str(&delivery(config));
    }
    text.push_str(
        "\ntable inet breakout365_inspection\ndelete table inet breakout365_inspection\n\
         table inet breakout365_inspection {\n",
    );
    for (place, inspectors) in placed(to) {
        let (name, hook) = match place {
            Place::Tproxy => ("to_tproxy", "filter hook prerouting priority mangle"),
            Place::Redirect => ("to_redirect", "nat hook prerouting priority dstnat"),
            Place::Forward => ("forwarded", "filter hook forward priority filter"),
        };
        let direct: Vec<String> =
            asked(config, place, "ct", "meta").into_iter().map(says_direct).collect();
        let mut rules = vec![format!("{} accept comment \"direct\"", direct.join(" "))];
        if place == Place::Tproxy {
            // Replies to a proxy that keeps the clients' addresses.
            rules.push(format!("meta l4proto tcp socket transparent 1 {delivered}"));
        }
        for inspector in inspectors {
            let taken = |ports: &Ports| {
                let ports = ports.to_string().replace(',', ", ");
                format!("iifname {{ {inside} }} tcp dport {{ {ports} }}")
            };
            let both_ways = |verdict: &str| {
                ["iifname", "oifname"].map(|side| format!("{side} {{ {inside} }} {verdict}"))
            };
            match inspector {
                Inspector::Tproxy(port, ports) => {
                    rules.push(format!("{} tproxy to :{port} {delivered}", taken(ports)));
                }
                Inspector::Redirect(port, ports) => {
                    rules.push(format!("{} redirect to :{port}", taken(ports)));
                }
                Inspector::Queue(number) => rules.extend(both_ways(&format!("queue num {number}"))),
                Inspector::Drop => rules.extend(both_ways("drop")),
            }
        }
        // Writing to a text cannot fail.
        let _ = writeln!(text, "\tchain {name} {{\n\t\ttype {hook}; policy accept;");
        for rule in rules {
            let _ = writeln!(text, "\t\t{rule}");
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}

/// What `iptables-restore` and `ip6tables-restore` take.
pub(super) fn iptables(config: &Config, to: &[Inspector]) -> String {
    let mark = config.mark;
    let says_direct = |of| format!("-m {of} --mark {:#x}/{:#x}", mark.value, mark.mask);
    let bit = tproxy_bit(config);
    let delivered = format!("{bit:#x}/{:#x}", mark.mask | bit);
    let mut text = String::from(
        "# Inspection that lets direct flows past; load it with `iptables-restore --noflush` and\n\
         # `ip6tables-restore --noflush`, again whenever it changes: only these chains are replaced.\n\
         # What matters is their first rule.\n",
    );
    text.push_str(what_is_asked(config));
    text.push_str("# once, so that packets come there:\n");
    let mut tables = String::new();
    for (place, inspectors) in placed(to) {
        let (table, chain) = match place {
            Place::Tproxy => ("mangle", "B365_TPROXY"),
            Place::Redirect => ("nat", "B365_REDIRECT"),
            Place::Forward => ("filter", "B365_FORWARD"),
        };
        for program in ["iptables", "ip6tables"] {
            for jump in jumps(config, place) {
                let _ = writeln!(text, "# {program} -t {table} -A {jump} -j {chain}");
            }
        }
        let direct: Vec<String> =
            asked(config, place, "connmark", "mark").into_iter().map(says_direct).collect();
        let mut rules = vec![format!("{} -j RETURN", direct.join(" "))];
        if place == Place::Tproxy {
            for target in [&format!("MARK --set-xmark {delivered}"), "ACCEPT"] {
                rules.push(format!("-p tcp -m socket --transparent -j {target}"));
            }
        }
        for inspector in inspectors {
            let taken = |ports: &Ports, target: &str| -> Vec<String> {
                let ports = ports.to_string().replace('-', ":");
                let names = config.interfaces.iter().map(|interface| &interface.name);
                names
                    .map(|name| {
                        format!("-i {name} -p tcp -m multiport --dports {ports} -j {target}")
                    })
                    .collect()
            };
            rules.extend(match inspector {
                Inspector::Tproxy(port, ports) => {
                    taken(ports, &format!("TPROXY --on-port {port} --tproxy-mark {delivered}"))
                }
                Inspector::Redirect(port, ports) => {
                    taken(ports, &format!("REDIRECT --to-ports {port}"))
                }
                Inspector::Queue(number) => vec![format!("-j NFQUEUE --queue-num {number}")],
                Inspector::Drop => vec!["-j DROP".to_owned()],
            });
        }
        let _ = writeln!(tables, "*{table}\n:{chain} - [0:0]");
        for rule in rules {
            let _ = writeln!(tables, "-A {chain} {rule}");
        }
        tables.push_str("COMMIT\n");
    }
    if to.iter().any(|inspector| place(inspector) == Place::Tproxy) {
        text.push_str(&delivery(config));
    }
    text + &tables
}

fn place(inspector: &Inspector) -> Place {
    match inspector {
        Inspector::Tproxy(..) => Place::Tproxy,
        Inspector::Redirect(..) => Place::Redirect,
        Inspector::Queue(_) | Inspector::Drop => Place::Forward,
    }
}

fn placed(to: &[Inspector]) -> BTreeMap<Place, Vec<&Inspector>> {
    let mut placed: BTreeMap<Place, Vec<&Inspector>> = BTreeMap::new();
    for inspector in to {
        placed.entry(place(inspector)).or_default().push(inspector);
    }
    placed
}

/// From which chains of iptables, and for which packets, it goes to ours.
fn jumps(config: &Config, place: Place) -> Vec<String> {
    let names = config.interfaces.iter().map(|interface| &interface.name);
    match place {
        // Replies to the proxy come in by other interfaces.
        Place::Tproxy => vec!["PREROUTING -p tcp".to_owned()],
        Place::Redirect => names.map(|name| format!("PREROUTING -i {name}")).collect(),
        Place::Forward => names
            .flat_map(|name| ["-i", "-o"].map(|side| format!("FORWARD {side} {name}")))
            .collect(),
    }
}

/// Which marks have to say direct. Without a way out nobody writes the connection's.
fn asked<'a>(config: &Config, place: Place, connection: &'a str, packet: &'a str) -> Vec<&'a str> {
    match place {
        _ if config.egress.is_none() => vec![packet],
        Place::Tproxy | Place::Redirect => vec![connection, packet],
        // Replies have no packet mark.
        Place::Forward => vec![connection],
    }
}

fn what_is_asked(config: &Config) -> &'static str {
    if config.egress.is_some() {
        "# It asks the connection mark, which our table writes at priority -160: without that table everything\n\
         # is inspected. Before routing it asks the packet mark, too; replies, behind routing, have none.\n"
    } else {
        "# It asks the packet mark: without [egress] nobody keeps a connection's. Replies have none.\n"
    }
}

/// A bit of the packet mark that is not ours, for what TPROXY needs a routing rule for.
fn tproxy_bit(config: &Config) -> u32 {
    let ours = Ours::of(config);
    let taken = ours.mark.mask | ours.decided;
    (0..u32::BITS).map(|bit| 1 << bit).find(|bit| taken & bit == 0).unwrap_or(1)
}

/// The routing rule and route by which packets for a transparent proxy are delivered here.
fn delivery(config: &Config) -> String {
    let bit = tproxy_bit(config);
    let priority = delivery_priority(config);
    let mut text = String::from("# once, so that what TPROXY has marked is delivered here:\n");
    for (family, any) in [("-4", "0.0.0.0/0"), ("-6", "::/0")] {
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "# ip {family} rule add pref {priority} fwmark {bit:#x}/{bit:#x} lookup {DELIVERY_TABLE}\n\
             # ip {family} route add local {any} dev lo table {DELIVERY_TABLE}"
        );
    }
    text
}

/// Behind our two rules, so that it does not route what is direct; before the main table, if there is
/// room.
fn delivery_priority(config: &Config) -> u32 {
    let Some(egress) = &config.egress else { return PRIORITY };
    let behind = egress.priority.saturating_add(2);
    if behind < MAIN_PRIORITY { behind } else { egress.priority.saturating_sub(1) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(more: &str) -> Config {
        let text = format!("version = 1\n[[interface]]\nname = \"lan0\"\n{more}");
        Config::parse(&text, Path::new("c.toml")).unwrap()
    }

    const EGRESS: &str = "[egress]\ninterface = \"wan0\"\ngateway4 = \"192.0.2.1\"\n";

    #[test]
    fn the_bit_for_tproxy_is_never_one_of_ours() {
        for (mark, bit) in [("value = 1", 2), ("value = 0x10", 1), ("value = 1\ndecided = 2", 4)] {
            let config = config(&format!("[mark]\n{mark}\n{EGRESS}"));
            assert_eq!(tproxy_bit(&config), bit, "{mark}");
        }
    }

    #[test]
    fn the_rule_for_tproxy_stands_between_ours_and_the_main_table() {
        for (priority, expected) in [(365, 367), (7, 9), (32_763, 32_765), (32_764, 32_763)] {
            let config = config(&format!("{EGRESS}priority = {priority}\n"));
            assert_eq!(delivery_priority(&config), expected, "{priority}");
        }
    }

    /// Nobody writes the connection mark then.
    #[test]
    fn without_a_way_out_the_packet_mark_is_asked() {
        let all: Vec<Inspector> =
            ["tproxy:1", "redirect:2", "queue:0"].map(|text| text.parse().unwrap()).into();
        for (more, connection, packet) in [("", 0, 3), (EGRESS, 3, 2)] {
            let config = config(more);
            let count = |text: &str, asks: &str| text.matches(asks).count();
            let text = nft(&config, &all);
            assert_eq!(
                count(&text, "\t\tct mark & 0x01000000 == 0x01000000 "),
                connection,
                "{text}"
            );
            assert_eq!(
                count(&text, "meta mark & 0x01000000 == 0x01000000 accept"),
                packet,
                "{text}"
            );
            let text = iptables(&config, &all);
            assert_eq!(
                count(&text, "-m connmark --mark 0x1000000/0x1000000 "),
                connection,
                "{text}"
            );
            assert_eq!(
                count(&text, "-m mark --mark 0x1000000/0x1000000 -j RETURN"),
                packet,
                "{text}"
            );
        }
    }
}
