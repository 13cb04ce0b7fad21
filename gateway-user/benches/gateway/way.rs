//! The ways that are compared: what a gateway has in place, and where its packets go.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use gateway_user::datapath::XdpRequest;
use ipnet::Ipv4Net;
use xtask::testbed::Namespace;

/// What says Direct.
pub(crate) const MARK: u32 = 0x0100_0000;
/// What says in a connection mark that a flow's way is decided.
pub(crate) const DECIDED: u32 = 0x0200_0000;

/// A way to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    Plain,
    PlainAgain,
    Rule,
    Floor,
    EmptyHooks,
    Ours {
        hook: Hook,
        direct: bool,
        firewall: bool,
    },
    /// Behind the firewall, with the rules and the nftables table of `[egress]`.
    WithEgress {
        direct: bool,
    },
    NftInterval,
    NftPipapo,
    Ipset,
    IptablesRules,
    IpRules,
    Firewall,
    FirewallNftInterval,
    FirewallNftPipapo,
}

/// How ours is attached, and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hook {
    Tc,
    Xdp,
    Redirect,
    /// Somebody disputes the way, so it is looked up by all rules.
    RedirectByRules,
}

impl Hook {
    pub(crate) const fn request(self) -> XdpRequest {
        match self {
            Self::Tc => XdpRequest::No,
            Self::Xdp | Self::Redirect | Self::RedirectByRules => XdpRequest::Native,
        }
    }
}

const fn ours(hook: Hook, direct: bool, firewall: bool) -> Way {
    Way::Ours { hook, direct, firewall }
}

impl Way {
    pub(crate) const ALL: [Self; 24] = [
        Self::Plain,
        Self::PlainAgain,
        Self::Rule,
        Self::Floor,
        Self::EmptyHooks,
        ours(Hook::Tc, true, false),
        ours(Hook::Xdp, true, false),
        ours(Hook::Redirect, true, false),
        ours(Hook::RedirectByRules, true, false),
        ours(Hook::Tc, false, false),
        ours(Hook::Xdp, false, false),
        ours(Hook::Redirect, false, false),
        Self::NftInterval,
        Self::NftPipapo,
        Self::Ipset,
        Self::IptablesRules,
        Self::IpRules,
        Self::Firewall,
        Self::FirewallNftInterval,
        Self::FirewallNftPipapo,
        ours(Hook::Xdp, true, true),
        ours(Hook::Redirect, true, true),
        Self::WithEgress { direct: true },
        Self::WithEgress { direct: false },
    ];

    /// For people and JSON: stable.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::PlainAgain => "plain, once more (A/A)",
            Self::Rule => "plain + one fwmark rule",
            Self::Floor => "floor: XDP that only sends on",
            Self::EmptyHooks => "plain + one fwmark rule, XDP and tc that do nothing",
            Self::Ours { hook: Hook::Tc, direct: true, .. } => "ours, tc mark, direct",
            Self::Ours { hook: Hook::Tc, direct: false, .. } => "ours, tc mark, other traffic",
            Self::Ours { hook: Hook::Xdp, direct: true, firewall: false } => {
                "ours, XDP + tc mark, direct"
            }
            Self::Ours { hook: Hook::Xdp, direct: true, firewall: true } => {
                "firewall, ours, XDP + tc mark, direct"
            }
            Self::Ours { hook: Hook::Xdp, direct: false, .. } => {
                "ours, XDP + tc mark, other traffic"
            }
            Self::Ours { hook: Hook::Redirect, direct: true, firewall: false } => {
                "ours, redirect, direct"
            }
            Self::Ours { hook: Hook::Redirect, direct: true, firewall: true } => {
                "firewall, ours, redirect, direct"
            }
            Self::Ours { hook: Hook::Redirect, direct: false, .. } => {
                "ours, redirect, other traffic"
            }
            Self::Ours { hook: Hook::RedirectByRules, .. } => "ours, redirect by all rules, direct",
            Self::WithEgress { direct: true } => "firewall, ours with [egress], direct",
            Self::WithEgress { direct: false } => "firewall, ours with [egress], other traffic",
            Self::NftInterval => "nft interval set, mark + rules",
            Self::NftPipapo => "nft pipapo, mark + rules",
            Self::Ipset => "ipset, mark + rules",
            Self::IptablesRules => "100 iptables rules, mark + rules",
            Self::IpRules => "100 `ip rule to`",
            Self::Firewall => "firewall of 50 stateful rules",
            Self::FirewallNftInterval => "firewall, nft interval set, mark + rules",
            Self::FirewallNftPipapo => "firewall, nft pipapo, mark + rules",
        }
    }

    /// Whether its packets are to destinations in the list.
    pub(crate) const fn is_to_list(self) -> bool {
        !matches!(self, Self::Ours { direct: false, .. } | Self::WithEgress { direct: false })
    }

    /// Whether its packets are to leave by the direct uplink.
    pub(crate) const fn is_direct(self) -> bool {
        match self {
            Self::Plain | Self::PlainAgain | Self::Rule | Self::EmptyHooks | Self::Firewall => {
                false
            }
            Self::Ours { direct, .. } | Self::WithEgress { direct } => direct,
            Self::Floor
            | Self::NftInterval
            | Self::NftPipapo
            | Self::Ipset
            | Self::IptablesRules
            | Self::IpRules
            | Self::FirewallNftInterval
            | Self::FirewallNftPipapo => true,
        }
    }

    /// Whether conntrack and the rules of a firewall are in the way.
    pub(crate) const fn is_behind_firewall(self) -> bool {
        matches!(
            self,
            Self::Firewall
                | Self::FirewallNftInterval
                | Self::FirewallNftPipapo
                | Self::Ours { firewall: true, .. }
                | Self::WithEgress { .. }
        )
    }

    /// How ours is attached, if it is.
    pub(crate) const fn hook(self) -> Option<Hook> {
        if let Self::Ours { hook, .. } = self {
            return Some(hook);
        }
        if matches!(self, Self::WithEgress { .. }) { Some(Hook::Xdp) } else { None }
    }

    /// The connection mark of its flows, which are known before its first packet.
    pub(crate) const fn connection_mark(self) -> u32 {
        let Self::WithEgress { direct } = self else { return 0 };
        if direct { MARK | DECIDED } else { DECIDED }
    }

    /// Puts in place what is not ours.
    pub(crate) fn set_up(self, gateway: &Namespace) -> Result<()> {
        match self {
            Self::Plain | Self::PlainAgain | Self::Floor => Ok(()),
            Self::Rule | Self::EmptyHooks => rule(gateway),
            Self::Ours { firewall, .. } => {
                rules(gateway)?;
                if firewall { gateway.nft(&self::firewall()) } else { Ok(()) }
            }
            Self::NftInterval => nft_interval(gateway),
            Self::NftPipapo => nft_pipapo(gateway),
            Self::Ipset => {
                rules(gateway)?;
                // ipset is not bound to one namespace by name: it is the one of who asks.
                gateway.run("ipset create list hash:net")?;
                for prefix in prefixes()? {
                    gateway.run(&format!("ipset add list {prefix}"))?;
                }
                gateway
                    .run(&format!(
                        "iptables -t mangle -A PREROUTING -p udp --dport 443 -m set --match-set list dst \
                         -j MARK --set-xmark {MARK:#x}/{MARK:#x}"
                    ))
                    .map(drop)
            }
            Self::IptablesRules => {
                rules(gateway)?;
                for prefix in prefixes()? {
                    gateway.run(&format!(
                        "iptables -t mangle -A PREROUTING -d {prefix} -p udp --dport 443 -j MARK \
                         --set-xmark {MARK:#x}/{MARK:#x}"
                    ))?;
                }
                Ok(())
            }
            Self::IpRules => {
                let rules =
                    list(|prefix| format!("rule add to {prefix} lookup 365 priority 366\n"))?;
                gateway.ip(&rules)
            }
            Self::Firewall | Self::WithEgress { .. } => gateway.nft(&firewall()),
            Self::FirewallNftInterval => {
                gateway.nft(&firewall())?;
                nft_interval(gateway)
            }
            Self::FirewallNftPipapo => {
                gateway.nft(&firewall())?;
                nft_pipapo(gateway)
            }
        }
    }
}

/// A hundred neighbouring prefixes, no two of which can be merged by who takes them one by one.
pub(crate) fn prefixes() -> Result<Vec<Ipv4Net>> {
    let all: Ipv4Net = "40.96.0.0/13".parse()?;
    Ok(all.subnets(20).context("subnets")?.take(100).collect())
}

fn list(text: impl Fn(Ipv4Net) -> String) -> Result<String> {
    Ok(prefixes()?.into_iter().map(text).collect())
}

/// Those of the daemon, whoever marks: the main table but for its default routes goes first, else marked
/// packets would leave local networks by the uplink.
fn rules(gateway: &Namespace) -> Result<()> {
    gateway.ip(&format!(
        "rule add fwmark {MARK:#x}/{MARK:#x} lookup main suppress_prefixlength 0 priority 365\n"
    ))?;
    rule(gateway)
}

fn rule(gateway: &Namespace) -> Result<()> {
    gateway.ip(&format!("rule add fwmark {MARK:#x}/{MARK:#x} lookup 365 priority 366\n"))
}

fn nft_interval(gateway: &Namespace) -> Result<()> {
    rules(gateway)?;
    let elements = list(|prefix| format!("{prefix}, "))?;
    gateway.nft(&marking("ipv4_addr", &elements, "ip daddr @listed udp dport 443"))
}

fn nft_pipapo(gateway: &Namespace) -> Result<()> {
    rules(gateway)?;
    let elements = list(|prefix| format!("{prefix} . udp . 443, "))?;
    gateway.nft(&marking(
        "ipv4_addr . inet_proto . inet_service",
        &elements,
        "ip daddr . meta l4proto . th dport @listed",
    ))
}

fn marking(kind: &str, elements: &str, matches: &str) -> String {
    format!(
        "table inet way {{
            set listed {{ type {kind}; flags interval; elements = {{ {elements} }}; }}
            chain pre {{
                type filter hook prerouting priority mangle
                {matches} meta mark set meta mark or {MARK:#x}
            }}
        }}"
    )
}

/// Connection tracking, and fifty rules that a new flow goes through before it is accepted.
fn firewall() -> String {
    let mut rules = String::new();
    for port in 1..=48 {
        writeln!(rules, "iifname \"lan0\" udp dport {port} ip daddr 192.0.2.0/24 drop").ok();
    }
    format!(
        "table inet firewall {{
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                {rules}
                iifname \"lan0\" accept
            }}
        }}"
    )
}
