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
pub(crate) struct Way {
    /// What says where a packet goes.
    pub(crate) by: By,
    /// Whether conntrack and the rules of a firewall are in the way.
    pub(crate) is_behind_firewall: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    Plain,
    PlainAgain,
    Rule,
    Floor,
    EmptyHooks,
    Ours {
        hook: Hook,
        direct: bool,
    },
    /// With the rules and the nftables table of `[egress]`.
    WithEgress {
        direct: bool,
    },
    NftInterval,
    NftPipapo,
    Ipset,
    IptablesRules,
    IpRules,
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

const fn ours(hook: Hook, direct: bool) -> By {
    By::Ours { hook, direct }
}

/// Those that are compared without a firewall.
const ALONE: [By; 17] = [
    By::Plain,
    By::PlainAgain,
    By::Rule,
    By::Floor,
    By::EmptyHooks,
    ours(Hook::Tc, true),
    ours(Hook::Xdp, true),
    ours(Hook::Redirect, true),
    ours(Hook::RedirectByRules, true),
    ours(Hook::Tc, false),
    ours(Hook::Xdp, false),
    ours(Hook::Redirect, false),
    By::NftInterval,
    By::NftPipapo,
    By::Ipset,
    By::IptablesRules,
    By::IpRules,
];

/// Those that are compared behind one.
const BEHIND_FIREWALL: [By; 15] = [
    By::Plain,
    By::Rule,
    ours(Hook::Tc, true),
    ours(Hook::Xdp, true),
    ours(Hook::Redirect, true),
    ours(Hook::Tc, false),
    ours(Hook::Xdp, false),
    ours(Hook::Redirect, false),
    By::WithEgress { direct: true },
    By::WithEgress { direct: false },
    By::NftInterval,
    By::NftPipapo,
    By::Ipset,
    By::IptablesRules,
    By::IpRules,
];

impl By {
    pub(crate) const fn alone(self) -> Way {
        Way { by: self, is_behind_firewall: false }
    }

    pub(crate) const fn behind_firewall(self) -> Way {
        Way { by: self, is_behind_firewall: true }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::PlainAgain => "plain, once more (A/A)",
            Self::Rule => "plain + one fwmark rule",
            Self::Floor => "floor: XDP that only sends on",
            Self::EmptyHooks => "plain + one fwmark rule, XDP and tc that do nothing",
            Self::Ours { hook: Hook::Tc, direct: true } => "ours, tc mark, direct",
            Self::Ours { hook: Hook::Tc, direct: false } => "ours, tc mark, other traffic",
            Self::Ours { hook: Hook::Xdp, direct: true } => "ours, XDP + tc mark, direct",
            Self::Ours { hook: Hook::Xdp, direct: false } => "ours, XDP + tc mark, other traffic",
            Self::Ours { hook: Hook::Redirect, direct: true } => "ours, redirect, direct",
            Self::Ours { hook: Hook::Redirect, direct: false } => "ours, redirect, other traffic",
            Self::Ours { hook: Hook::RedirectByRules, .. } => "ours, redirect by all rules, direct",
            Self::WithEgress { direct: true } => "ours with [egress], direct",
            Self::WithEgress { direct: false } => "ours with [egress], other traffic",
            Self::NftInterval => "nft interval set, mark + rules",
            Self::NftPipapo => "nft pipapo, mark + rules",
            Self::Ipset => "ipset, mark + rules",
            Self::IptablesRules => "100 iptables rules, mark + rules",
            Self::IpRules => "100 `ip rule to`",
        }
    }
}

impl Way {
    /// All of them, in the order of the report.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let alone = ALONE.into_iter().map(By::alone);
        alone.chain(BEHIND_FIREWALL.into_iter().map(By::behind_firewall))
    }

    /// For people and JSON: stable.
    pub(crate) fn name(self) -> String {
        match (self.is_behind_firewall, self.by) {
            (false, by) => by.name().to_owned(),
            (true, By::Plain) => "firewall of 50 stateful rules".to_owned(),
            (true, by) => format!("firewall, {}", by.name()),
        }
    }

    /// Whether its packets are to destinations in the list.
    pub(crate) const fn is_to_list(self) -> bool {
        !matches!(self.by, By::Ours { direct: false, .. } | By::WithEgress { direct: false })
    }

    /// Whether its packets are to leave by the direct uplink.
    pub(crate) const fn is_direct(self) -> bool {
        match self.by {
            By::Plain | By::PlainAgain | By::Rule | By::EmptyHooks => false,
            By::Ours { direct, .. } | By::WithEgress { direct } => direct,
            By::Floor
            | By::NftInterval
            | By::NftPipapo
            | By::Ipset
            | By::IptablesRules
            | By::IpRules => true,
        }
    }

    /// How ours is attached, if it is.
    pub(crate) const fn hook(self) -> Option<Hook> {
        if let By::Ours { hook, .. } = self.by {
            return Some(hook);
        }
        if matches!(self.by, By::WithEgress { .. }) { Some(Hook::Xdp) } else { None }
    }

    /// The connection mark of its flows, which are known before its first packet.
    pub(crate) const fn connection_mark(self) -> u32 {
        let By::WithEgress { direct } = self.by else { return 0 };
        if direct { MARK | DECIDED } else { DECIDED }
    }

    /// Puts in place what is not ours.
    pub(crate) fn set_up(self, gateway: &Namespace) -> Result<()> {
        if self.is_behind_firewall {
            gateway.nft(&firewall())?;
        }
        match self.by {
            By::Plain | By::PlainAgain | By::Floor | By::WithEgress { .. } => Ok(()),
            By::Rule | By::EmptyHooks => rule(gateway),
            By::Ours { .. } => rules(gateway),
            By::NftInterval => nft_interval(gateway),
            By::NftPipapo => nft_pipapo(gateway),
            By::Ipset => {
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
            By::IptablesRules => {
                rules(gateway)?;
                for prefix in prefixes()? {
                    gateway.run(&format!(
                        "iptables -t mangle -A PREROUTING -d {prefix} -p udp --dport 443 -j MARK \
                         --set-xmark {MARK:#x}/{MARK:#x}"
                    ))?;
                }
                Ok(())
            }
            By::IpRules => {
                let rules =
                    list(|prefix| format!("rule add to {prefix} lookup 365 priority 366\n"))?;
                gateway.ip(&rules)
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
