//! Snippets for what an operator has already: inspection chains that let direct flows past, and a
//! drop-in that keeps our rules from being removed. They follow from the configuration alone.

use std::fmt::Write as _;
use std::str::FromStr;

use crate::config::Config;
use crate::marks::Ours;

/// What a snippet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Snippet {
    /// A table of inspection chains for `nft -f`
    ChainNft,
    /// Inspection chains for `iptables-restore --noflush`, and `ip6tables-restore`
    ChainIptables,
    /// A drop-in for systemd-networkd
    Networkd,
}

/// What an inspection chain hands packets to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Inspector {
    /// A transparent proxy: TCP 80 and 443 to its port.
    Tproxy(u16),
    /// A proxy that asks where a connection was going: TCP 80 and 443 to its port.
    Redirect(u16),
    /// A program behind a queue of this number: everything that is forwarded.
    Queue(u16),
}

/// Why a text names no inspector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of tproxy:PORT, redirect:PORT and queue:NUMBER")]
pub struct InspectorError(String);

impl FromStr for Inspector {
    type Err = InspectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (kind, number) = text.split_once(':')?;
            let number: u16 = number.parse().ok()?;
            match kind {
                "tproxy" if number > 0 => Some(Self::Tproxy(number)),
                "redirect" if number > 0 => Some(Self::Redirect(number)),
                "queue" => Some(Self::Queue(number)),
                _ => None,
            }
        };
        parse().ok_or_else(|| InspectorError(text.to_owned()))
    }
}

impl Snippet {
    /// Whether it has inspection chains in it.
    #[must_use]
    pub fn has_chains(self) -> bool {
        self != Self::Networkd
    }

    /// The snippet, ending in a line break. `to` is what its chains hand packets to.
    #[must_use]
    pub fn render(self, config: &Config, to: &[Inspector]) -> String {
        match self {
            Self::ChainNft => nft(config, to),
            Self::ChainIptables => iptables(config, to),
            Self::Networkd => NETWORKD.to_owned(),
        }
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
    let mut text = String::from("# once, so that what TPROXY has marked is delivered here:\n");
    for (family, any) in [("-4", "0.0.0.0/0"), ("-6", "::/0")] {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "# ip {family} rule add fwmark {bit:#x}/{bit:#x} lookup 3650");
        let _ = writeln!(text, "# ip {family} route add local {any} dev lo table 3650");
    }
    text
}

fn nft(config: &Config, to: &[Inspector]) -> String {
    let (direct, ours) = (config.mark.value, config.mark.mask);
    let inside: Vec<String> =
        config.interfaces.iter().map(|interface| format!("\"{}\"", interface.name)).collect();
    let inside = inside.join(", ");
    let direct = format!("mark & {ours:#010x} == {direct:#010x} accept comment \"direct\"");
    let mut text = String::from(
        "# Inspection that lets direct flows past; load it with `nft -f`, again whenever it changes.\n\
         # What matters is the line that ends in \"direct\": it comes first in a chain of your own, too.\n\
         # Before routing it asks the packet mark, in a chain behind priority -160; behind routing\n\
         # (forward) the connection mark, which replies have as well.\n",
    );
    if to.iter().any(|it| matches!(it, Inspector::Tproxy(_))) {
        text.push_str(&delivery(config));
    }
    text.push_str(
        "\ntable inet breakout365_inspection\ndelete table inet breakout365_inspection\n\
         table inet breakout365_inspection {\n",
    );
    for inspector in to {
        let (name, hook, mark, rules) = match inspector {
            Inspector::Tproxy(port) => {
                let bit = tproxy_bit(config);
                let rule = format!(
                    "iifname {{ {inside} }} tcp dport {{ 80, 443 }} tproxy to :{port} \
                     meta mark set meta mark | {bit:#x} accept"
                );
                ("to_tproxy", "filter hook prerouting priority mangle", "meta", vec![rule])
            }
            Inspector::Redirect(port) => {
                let rule =
                    format!("iifname {{ {inside} }} tcp dport {{ 80, 443 }} redirect to :{port}");
                ("to_redirect", "nat hook prerouting priority dstnat", "meta", vec![rule])
            }
            Inspector::Queue(number) => {
                let rules = ["iifname", "oifname"]
                    .map(|side| format!("{side} {{ {inside} }} queue num {number}"));
                ("to_queue", "filter hook forward priority filter", "ct", rules.into())
            }
        };
        let _ = writeln!(text, "\tchain {name} {{\n\t\ttype {hook}; policy accept;");
        let _ = writeln!(text, "\t\t{mark} {direct}");
        for rule in rules {
            let _ = writeln!(text, "\t\t{rule}");
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}

fn iptables(config: &Config, to: &[Inspector]) -> String {
    let direct = format!("--mark {:#x}/{:#x} -j RETURN", config.mark.value, config.mark.mask);
    let mut text = String::from(
        "# Inspection that lets direct flows past; load it with `iptables-restore --noflush` and\n\
         # `ip6tables-restore --noflush`, again whenever it changes: only these chains are replaced.\n\
         # What matters is their first rule. Before routing it asks the packet mark, behind routing\n\
         # (FORWARD) the connection mark, which replies have as well.\n\
         # once, so that packets come there:\n",
    );
    let mut tables = String::new();
    for inspector in to {
        let (table, chain, jump, sides, asks, rule): (_, _, _, &[&str], _, _) = match inspector {
            Inspector::Tproxy(port) => {
                let bit = tproxy_bit(config);
                let rule = format!(
                    "-p tcp -m multiport --dports 80,443 -j TPROXY --on-port {port} \
                     --tproxy-mark {bit:#x}/{bit:#x}"
                );
                ("mangle", "B365_TPROXY", "PREROUTING", &["-i"], "mark", rule)
            }
            Inspector::Redirect(port) => {
                let rule =
                    format!("-p tcp -m multiport --dports 80,443 -j REDIRECT --to-ports {port}");
                ("nat", "B365_REDIRECT", "PREROUTING", &["-i"], "mark", rule)
            }
            Inspector::Queue(number) => {
                let rule = format!("-j NFQUEUE --queue-num {number}");
                ("filter", "B365_QUEUE", "FORWARD", &["-i", "-o"], "connmark", rule)
            }
        };
        for program in ["iptables", "ip6tables"] {
            for interface in &config.interfaces {
                for side in sides {
                    let name = &interface.name;
                    let _ =
                        writeln!(text, "# {program} -t {table} -A {jump} {side} {name} -j {chain}");
                }
            }
        }
        let _ = writeln!(tables, "*{table}\n:{chain} - [0:0]");
        let _ = writeln!(tables, "-A {chain} -m {asks} {direct}");
        let _ = writeln!(tables, "-A {chain} {rule}\nCOMMIT");
    }
    if to.iter().any(|it| matches!(it, Inspector::Tproxy(_))) {
        text.push_str(&delivery(config));
    }
    text + &tables
}

const NETWORKD: &str = "\
# /etc/systemd/networkd.conf.d/breakout365.conf
# systemd-networkd removes rules and routes that are in no .network file, and so ours, whenever it
# starts or an interface changes. Then: systemctl restart systemd-networkd
[Network]
ManageForeignRoutingPolicyRules=no
ManageForeignRoutes=no
";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_bit_for_tproxy_is_never_one_of_ours() {
        for (mark, bit) in [("value = 1", 2), ("value = 0x10", 1), ("value = 1\ndecided = 2", 4)] {
            let text = format!(
                "version = 1\n[[interface]]\nname = \"lan0\"\n[mark]\n{mark}\n[egress]\n\
                 interface = \"wan0\"\ngateway4 = \"192.0.2.1\"\n"
            );
            let config = Config::parse(&text, Path::new("c.toml")).unwrap();
            assert_eq!(tproxy_bit(&config), bit, "{mark}");
        }
    }

    #[test]
    fn inspectors_are_named_in_one_way() {
        assert_eq!("tproxy:3129".parse(), Ok(Inspector::Tproxy(3129)));
        assert_eq!("queue:0".parse(), Ok(Inspector::Queue(0)));
        for text in ["", "tproxy", "tproxy:0", "redirect:65536", "queue:-1", "icap:1"] {
            assert_eq!(text.parse::<Inspector>(), Err(InspectorError(text.to_owned())));
        }
    }
}
