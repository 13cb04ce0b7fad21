//! `[egress]`: the way out that the daemon installs and keeps.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Deserialize;
use toml::Spanned;

use super::health::{self, Health};
use super::validate::{Source, bad_interface_name};
use super::{ConfigError, HookMode, Interface, Mark};

/// The routing table of direct traffic.
const TABLE: u32 = 365;
/// Before the rules of the VPNs, uplink balancers and inspectors we know, whose lowest is 1001
/// (mwan3), and behind those of Cilium (up to 111): direct traffic is not theirs to route.
const PRIORITY: u32 = 365;
/// The second rule has to stand before the one for the main table (32766).
const LAST_PRIORITY: u32 = 32_764;
/// What a next hop is that is taken from the uplink's default route.
const LEARNED: &str = "auto";
/// The bit beside the default mark.
const DECIDED: u32 = 0x0200_0000;

/// The direct uplink, and how traffic gets there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Its name; none of the inside interfaces.
    pub interface: String,
    /// Next hop of IPv4; `None`, IPv4 is inspected. Of the two at least one is there.
    pub gateway4: Option<NextHop<Ipv4Addr>>,
    /// Next hop of IPv6; `None`, IPv6 is inspected.
    pub gateway6: Option<NextHop<Ipv6Addr>>,
    /// Number of the routing table for direct traffic; none of the kernel's own.
    pub table: u32,
    /// Priority of the first of two rules, 1 to 32764; the second has the next one.
    pub priority: u32,
    /// Whether direct traffic gets the uplink's own address.
    pub masquerade: bool,
    /// Whether TCP's segment size is cut to what the uplink takes.
    pub clamp_mss: bool,
    /// The bit of the connection mark that says a flow's way is decided; not in the mark's mask.
    pub decided: u32,
    /// What becomes of new flows while the uplink is down.
    pub on_failure: OnFailure,
    /// How it is probed; `None`, only link and next hop are watched.
    pub health: Option<Health>,
    /// How Direct packets get to the uplink.
    pub action: Action,
}

/// How Direct packets get to the uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// They are marked; rules, routes and netfilter do the rest.
    #[default]
    Mark,
    /// XDP sends them there by itself, past netfilter; what it cannot send is marked.
    Redirect,
}

/// Where the address of a next hop is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop<A> {
    /// The configuration.
    Given(A),
    /// The default route that somebody (a DHCP client, router advertisements, PPP) keeps on the
    /// uplink; on a point-to-point link it may have none.
    Learned,
}

impl<A> NextHop<A> {
    /// With the address as another kind of it.
    pub fn map<B>(self, kind: impl FnOnce(A) -> B) -> NextHop<B> {
        match self {
            Self::Given(address) => NextHop::Given(kind(address)),
            Self::Learned => NextHop::Learned,
        }
    }
}

/// `on-failure`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// New flows are inspected.
    #[default]
    Inspect,
    /// New flows that would go direct are refused.
    Block,
}

impl OnFailure {
    /// Its name in the configuration, JSON and text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::Block => "block",
        }
    }
}

/// `[egress]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Spec {
    interface: Spanned<String>,
    gateway4: Option<Spanned<String>>,
    gateway6: Option<Spanned<String>>,
    table: Option<Spanned<u32>>,
    priority: Option<Spanned<u32>>,
    #[serde(default)]
    masquerade: bool,
    #[serde(default)]
    clamp_mss: bool,
    #[serde(default)]
    on_failure: OnFailure,
    health: Option<health::Spec>,
    action: Option<Spanned<Action>>,
}

/// What the section means; `decided` is from `[mark]`.
pub(super) fn egress(
    source: &Source<'_>,
    spec: Option<Spanned<Spec>>,
    decided: Option<Spanned<u32>>,
    mark: Mark,
    inside: &[Interface],
) -> Result<Option<Egress>, ConfigError> {
    if let Some(at) = &decided {
        let bit = *at.get_ref();
        if bit.count_ones() != 1 {
            let problem = format_args!("{bit:#x} is not one bit");
            return Err(source.refuse(at, "mark.decided", problem));
        }
        if bit & mark.mask != 0 {
            let problem = format_args!("{bit:#x} is in mark.mask {:#x}; take another", mark.mask);
            return Err(source.refuse(at, "mark.decided", problem));
        }
    }
    let Some(section) = spec else { return Ok(None) };
    let decided = match decided {
        Some(bit) => bit.into_inner(),
        None if mark.mask & DECIDED == 0 => DECIDED,
        None => {
            let problem = format_args!(
                "mark.mask {:#x} has the bit {DECIDED:#x} in it, which says that a flow's way is \
                 decided; set mark.decided to another one",
                mark.mask
            );
            return Err(source.refuse(&section, "egress", problem));
        }
    };
    if section.get_ref().gateway4.is_none() && section.get_ref().gateway6.is_none() {
        let problem = "neither gateway4 nor gateway6: nothing would go direct";
        return Err(source.refuse(&section, "egress", problem));
    }
    let spec = section.into_inner();
    let action = action(source, &spec, inside)?;
    let interface = uplink(source, spec.interface, inside)?;
    let gateway4 = next_hop(source, spec.gateway4.as_ref(), "egress.gateway4", is_host4)?;
    let gateway6 = next_hop(source, spec.gateway6.as_ref(), "egress.gateway6", is_host6)?;
    if let Some(at) = spec.table.as_ref().filter(|at| matches!(at.get_ref(), 0 | 253..=255)) {
        let problem = format_args!("{} is one of the kernel's own tables", at.get_ref());
        return Err(source.refuse(at, "egress.table", problem));
    }
    let priorities = 1..=LAST_PRIORITY;
    if let Some(at) = spec.priority.as_ref().filter(|at| !priorities.contains(at.get_ref())) {
        let problem = format_args!("{} is no priority from 1 to {LAST_PRIORITY}", at.get_ref());
        return Err(source.refuse(at, "egress.priority", problem));
    }
    Ok(Some(Egress {
        interface,
        gateway4,
        gateway6,
        table: spec.table.map_or(TABLE, Spanned::into_inner),
        priority: spec.priority.map_or(PRIORITY, Spanned::into_inner),
        masquerade: spec.masquerade,
        clamp_mss: spec.clamp_mss,
        decided,
        on_failure: spec.on_failure,
        health: spec.health.as_ref().map(|spec| health::health(source, spec)).transpose()?,
        action,
    }))
}

/// Redirecting is refused with whatever netfilter would have to do, and where no native XDP is.
fn action(source: &Source<'_>, spec: &Spec, inside: &[Interface]) -> Result<Action, ConfigError> {
    let Some(at) = spec.action.as_ref().filter(|at| *at.get_ref() == Action::Redirect) else {
        return Ok(Action::Mark);
    };
    let without_xdp =
        inside.iter().find(|one| matches!(one.hook, HookMode::Tc | HookMode::Generic));
    let problem = if spec.masquerade {
        "\"redirect\" passes netfilter by: no masquerade; use \"mark\"".to_owned()
    } else if spec.clamp_mss {
        "\"redirect\" passes netfilter by: no clamp-mss; use \"mark\"".to_owned()
    } else if let Some(Interface { name, .. }) = without_xdp {
        format!("\"redirect\" is for native XDP, which the hook of {name:?} is not; use \"mark\"")
    } else {
        return Ok(Action::Redirect);
    };
    Err(source.refuse(at, "egress.action", problem))
}

fn next_hop<A: Copy + std::fmt::Display + std::str::FromStr>(
    source: &Source<'_>,
    key: Option<&Spanned<String>>,
    field: &str,
    is_host: impl Fn(A) -> bool,
) -> Result<Option<NextHop<A>>, ConfigError> {
    let Some(at) = key else { return Ok(None) };
    if at.get_ref() == LEARNED {
        return Ok(Some(NextHop::Learned));
    }
    let Ok(address) = at.get_ref().parse::<A>() else {
        let problem =
            format_args!("{:?} is neither an address of this family nor {LEARNED:?}", at.get_ref());
        return Err(source.refuse(at, field, problem));
    };
    if !is_host(address) {
        return Err(source.refuse(
            at,
            field,
            format_args!("{address} is no address of a next hop"),
        ));
    }
    Ok(Some(NextHop::Given(address)))
}

fn uplink(
    source: &Source<'_>,
    name: Spanned<String>,
    inside: &[Interface],
) -> Result<String, ConfigError> {
    if let Some(problem) = bad_interface_name(name.get_ref()) {
        let problem = format_args!("{:?} {problem}", name.get_ref());
        return Err(source.refuse(&name, "egress.interface", problem));
    }
    let inside_names = || inside.iter().map(|interface| &interface.name);
    if inside_names().any(|inside| inside == name.get_ref()) {
        let problem = format_args!("{:?} is an inside [[interface]] too", name.get_ref());
        return Err(source.refuse(&name, "egress.interface", problem));
    }
    if let Some(odd) = inside_names().chain([name.get_ref()]).find(|name| !fits_nftables(name)) {
        let problem = format_args!(
            "{odd:?} cannot be named in an nftables ruleset (quote, backslash or asterisk)"
        );
        return Err(source.refuse(&name, "egress.interface", problem));
    }
    Ok(name.into_inner())
}

/// There, quotes end a name, and an asterisk stands for other names as well.
fn fits_nftables(name: &str) -> bool {
    !name.contains(['"', '\\', '*'])
}

fn is_host4(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast())
}

fn is_host6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    /// What a file says whose `[egress]`, in line 4, has `keys` from line 5 on.
    fn parse(keys: &str) -> Result<Option<Egress>, String> {
        let text = format!("version = 1\n[[interface]]\nname = \"lan0\"\n[egress]\n{keys}");
        let config = Config::parse(&text, Path::new("c.toml"));
        config.map(|config| config.egress).map_err(|error| error.to_string())
    }

    #[test]
    fn every_key_has_its_meaning() {
        let smallest = Egress {
            interface: "wan0".into(),
            gateway4: Some(NextHop::Given(Ipv4Addr::new(192, 0, 2, 1))),
            gateway6: None,
            table: 365,
            priority: 365,
            masquerade: false,
            clamp_mss: false,
            decided: 0x0200_0000,
            on_failure: OnFailure::Inspect,
            health: None,
            action: Action::Mark,
        };
        let keys = "interface = \"wan0\"\ngateway4 = \"192.0.2.1\"\n";
        assert_eq!(parse(keys), Ok(Some(smallest.clone())));
        let keys = "interface = \"wan0\"\ngateway6 = \"fe80::1\"\ntable = 7\npriority = 32764\n\
                    masquerade = true\nclamp-mss = true\n[mark]\nvalue = 1\ndecided = 2";
        let all = Egress {
            gateway4: None,
            gateway6: Some(NextHop::Given("fe80::1".parse().unwrap())),
            table: 7,
            priority: 32_764,
            masquerade: true,
            clamp_mss: true,
            decided: 2,
            ..smallest.clone()
        };
        assert_eq!(parse(keys), Ok(Some(all)));
        let keys = "interface = \"wan0\"\ngateway4 = \"auto\"\non-failure = \"block\"\n";
        let all =
            Egress { gateway4: Some(NextHop::Learned), on_failure: OnFailure::Block, ..smallest };
        assert_eq!(parse(keys), Ok(Some(all)));
        let keys = "interface = \"wan0\"\ngateway4 = \"192.0.2.1\"\naction = \"redirect\"\n";
        let redirect = parse(keys).unwrap().unwrap();
        assert_eq!(redirect.action, Action::Redirect);
    }

    #[test]
    fn what_leads_nowhere_is_refused_with_line_and_field() {
        let hop = "gateway4 = \"192.0.2.1\"";
        let wan = "interface = \"wan0\"";
        for (keys, refusal) in [
            (
                wan.to_owned(),
                "c.toml:4: egress: neither gateway4 nor gateway6: nothing would go direct",
            ),
            (
                format!("{hop}\ninterface = \"lan0\""),
                "c.toml:6: egress.interface: \"lan0\" is an inside [[interface]] too",
            ),
            (
                format!("{hop}\ninterface = \"a/b\""),
                "c.toml:6: egress.interface: \"a/b\" holds '/', which no interface name does",
            ),
            (
                format!("{hop}\ninterface = \"wan*\""),
                "c.toml:6: egress.interface: \"wan*\" cannot be named in an nftables ruleset (quote, \
                 backslash or asterisk)",
            ),
            (
                format!("{wan}\ngateway4 = \"0.0.0.0\""),
                "c.toml:6: egress.gateway4: 0.0.0.0 is no address of a next hop",
            ),
            (
                format!("{wan}\ngateway6 = \"ff02::1\""),
                "c.toml:6: egress.gateway6: ff02::1 is no address of a next hop",
            ),
            (
                format!("{wan}\ngateway6 = \"192.0.2.1\""),
                "c.toml:6: egress.gateway6: \"192.0.2.1\" is neither an address of this family nor \
                 \"auto\"",
            ),
            (
                format!("{wan}\n{hop}\ntable = 254"),
                "c.toml:7: egress.table: 254 is one of the kernel's own tables",
            ),
            (
                format!("{wan}\n{hop}\npriority = 32765"),
                "c.toml:7: egress.priority: 32765 is no priority from 1 to 32764",
            ),
            (
                format!("{wan}\n{hop}\nmasquerade = true\naction = \"redirect\""),
                "c.toml:8: egress.action: \"redirect\" passes netfilter by: no masquerade; use \"mark\"",
            ),
            (
                format!("{wan}\n{hop}\nclamp-mss = true\naction = \"redirect\""),
                "c.toml:8: egress.action: \"redirect\" passes netfilter by: no clamp-mss; use \"mark\"",
            ),
            (
                format!(
                    "{wan}\n{hop}\naction = \"redirect\"\n[[interface]]\nname = \"lan1\"\nhook = \"tc\""
                ),
                "c.toml:7: egress.action: \"redirect\" is for native XDP, which the hook of \"lan1\" is \
                 not; use \"mark\"",
            ),
            (
                format!("{wan}\n{hop}\n[mark]\nvalue = 0x02000000"),
                "c.toml:4: egress: mark.mask 0x2000000 has the bit 0x2000000 in it, which says that a \
                 flow's way is decided; set mark.decided to another one",
            ),
            (
                format!("{wan}\n{hop}\n[mark]\nvalue = 1\nmask = 3\ndecided = 2"),
                "c.toml:10: mark.decided: 0x2 is in mark.mask 0x3; take another",
            ),
            (
                format!("{wan}\n{hop}\n[mark]\nvalue = 1\ndecided = 6"),
                "c.toml:9: mark.decided: 0x6 is not one bit",
            ),
        ] {
            assert_eq!(parse(&keys), Err(refusal.to_owned()));
        }
    }
}
