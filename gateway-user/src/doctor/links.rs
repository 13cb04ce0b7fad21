//! What kind of link an interface is, and what the card does to packets before XDP sees them.

use super::system::has_fragments;
use super::{Check, Facts, Finding, InterfaceFacts, Link, LinkLayer, Role, Severity};
use crate::config::{Action, HookMode};

/// `NETDEV_XDP_ACT_RX_SG`: the driver gives XDP packets of several buffers (kernel
/// `include/uapi/linux/netdev.h`).
const RX_SG: u64 = 1 << 5;
/// A page less the headroom of XDP (256) and the shared info behind a packet (320) and an Ethernet
/// header, as veth counts it.
const ONE_BUFFER: u32 = 4096 - 256 - 320 - 14;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = facts.interfaces.iter().map(presence).collect();
    if facts.interfaces.is_empty() {
        let why_not = "no interface is named: see breakout365 doctor --help";
        findings.push(Finding::unseen(Check::Interface, why_not));
    }
    for (interface, hook, link) in facts.inside() {
        findings.extend([
            link_layer(facts, interface, hook, link),
            bond(facts, interface, link),
            bridge(facts, interface, link),
            vlan(facts, interface, link),
            lro(interface),
            vlan_offload(facts, interface, hook, link),
            mtu(facts, interface, hook, link),
        ]);
    }
    findings
}

fn presence(interface: &InterfaceFacts) -> Finding {
    let (check, name) = (Check::Interface, &interface.name);
    let link = match &interface.link {
        Ok(Some(link)) => link,
        Ok(None) => {
            return Finding::of(check, Severity::Error, format_args!("{name}: not found"))
                .fixed_by("ip link");
        }
        Err(why_not) => return Finding::unseen(check, format_args!("{name}: {why_not}")),
    };
    // Nothing comes in by an inside interface without a carrier, and nothing is lost by that.
    let severity = if interface.is_inside() { Severity::Warning } else { Severity::Error };
    if !link.is_up {
        return Finding::of(check, severity, format_args!("{name}: it is set down"))
            .fixed_by(format!("ip link set {name} up"));
    }
    if !link.has_carrier {
        return Finding::of(check, severity, format_args!("{name}: it has no carrier"))
            .fixed_by(format!("ethtool {name}"));
    }
    let kind = link.kind.as_ref().or(interface.driver.as_ref().ok());
    let kind = kind.map(|kind| format!(" ({kind})")).unwrap_or_default();
    Finding::ok(check, format_args!("{name}: there{kind}"))
}

fn link_layer(facts: &Facts, interface: &InterfaceFacts, hook: HookMode, link: &Link) -> Finding {
    let (check, name) = (Check::LinkLayer, &interface.name);
    let kind = link.kind.as_deref().unwrap_or("no Ethernet");
    let what = match link.layer {
        LinkLayer::Ethernet => return Finding::ok(check, format_args!("{name}: Ethernet")),
        LinkLayer::Ip if hook == HookMode::Tc => {
            let what = format_args!("{name}: {kind}, no Ethernet header: tc classifies");
            return Finding::ok(check, what);
        }
        LinkLayer::Ip => {
            format!("{name}: {kind}, no Ethernet header: XDP cannot classify; use hook = \"auto\"")
        }
        LinkLayer::Other => format!(
            "{name}: {kind}, no Ethernet device: no hook goes on it, what comes in by it is \
             inspected; name the Ethernet interfaces that traffic comes in by"
        ),
    };
    Finding::of(check, Severity::Error, what).fixed_by(facts.edit())
}

fn bond(facts: &Facts, interface: &InterfaceFacts, link: &Link) -> Finding {
    let (check, name) = (Check::Bond, &interface.name);
    match &link.member_of {
        Some((bond, kind)) if kind == "bond" || kind == "team" => {
            let what = format_args!("{name}: a member of {kind} {bond}; name {bond} in its place");
            Finding::of(check, Severity::Warning, what).fixed_by(facts.edit())
        }
        _ if matches!(link.kind.as_deref(), Some("bond" | "team")) => {
            let what =
                format_args!("{name}: whether it has native XDP depends on mode and members");
            Finding::of(check, Severity::Note, what).fixed_by(format!("ip -d link show {name}"))
        }
        _ => Finding::ok(check, format_args!("{name}: no bond")),
    }
}

fn bridge(facts: &Facts, interface: &InterfaceFacts, link: &Link) -> Finding {
    let (check, name) = (Check::Bridge, &interface.name);
    match &link.member_of {
        Some((bridge, kind)) if kind == "bridge" || kind == "openvswitch" => {
            let what =
                format_args!("{name}: a port of {kind} {bridge}; name {bridge} in its place");
            Finding::of(check, Severity::Warning, what).fixed_by(facts.edit())
        }
        _ if link.kind.as_deref() == Some("bridge") => {
            let what =
                format_args!("{name}: a bridge, classified by tc where its traffic is routed");
            Finding::of(check, Severity::Note, what).fixed_by(format!("ip -d link show {name}"))
        }
        _ => Finding::ok(check, format_args!("{name}: no bridge")),
    }
}

fn vlan(facts: &Facts, interface: &InterfaceFacts, link: &Link) -> Finding {
    let (check, name) = (Check::Vlan, &interface.name);
    if link.kind.as_deref() == Some("vlan") {
        let what = format_args!("{name}: a VLAN, which has no native XDP: tc classifies");
        return Finding::of(check, Severity::Note, what)
            .fixed_by(format!("ip -d link show {name}"));
    }
    if link.vlans.is_empty() {
        return Finding::ok(check, format_args!("{name}: no VLAN on it"));
    }
    let vlans: Vec<&str> = link.vlans.iter().map(String::as_str).collect();
    let is_ours = facts.config().is_some_and(|config| config.egress.is_some());
    let meaning = if is_ours {
        "and are inspected all the same; name those that are inside"
    } else {
        "too; name the VLANs in its place where not all are inside"
    };
    let what = format_args!("{name}: {} on it pass its hook {meaning}", vlans.join(", "));
    Finding::of(check, Severity::Note, what).fixed_by(facts.edit())
}

fn lro(interface: &InterfaceFacts) -> Finding {
    let (check, name) = (Check::Lro, &interface.name);
    let offloads = match &interface.offloads {
        Ok(offloads) => offloads,
        Err(why_not) => return Finding::unseen(check, format_args!("{name}: {why_not}")),
    };
    let on = |feature| offloads.get(feature) == Some(&true);
    if on("rx-lro") {
        Finding::of(check, Severity::Warning, format_args!("{name}: the card merges packets (LRO)"))
            .fixed_by(format!("ethtool -K {name} lro off"))
    } else if on("rx-gro-hw") {
        Finding::of(check, Severity::Note, format_args!("{name}: the card merges packets (GRO)"))
            .fixed_by(format!("ethtool -K {name} rx-gro-hw off"))
    } else {
        Finding::ok(check, format_args!("{name}: off"))
    }
}

/// It matters where XDP sends packets on: which VLAN they are of, it cannot see then. Where they are
/// marked, a tag decides nothing.
fn vlan_offload(facts: &Facts, interface: &InterfaceFacts, hook: HookMode, link: &Link) -> Finding {
    let (check, name) = (Check::VlanOffload, &interface.name);
    if hook == HookMode::Tc {
        return Finding::ok(check, format_args!("{name}: no XDP is asked for"));
    }
    let offloads = match &interface.offloads {
        Ok(offloads) => offloads,
        Err(why_not) => return Finding::unseen(check, format_args!("{name}: {why_not}")),
    };
    let takes_off = offloads.get("rx-vlan-hw-parse") == Some(&true);
    if !takes_off || link.vlans.is_empty() {
        return Finding::ok(check, format_args!("{name}: no tag is hidden"));
    }
    let egress = facts.config().and_then(|config| config.egress.as_ref());
    let redirects = egress.is_some_and(|egress| egress.action == Action::Redirect);
    let (severity, meaning) = if redirects {
        (Severity::Warning, "XDP redirects them as if they were of none")
    } else {
        (Severity::Note, "XDP classifies them without")
    };
    let what = format_args!("{name}: the card takes off the tags of the VLANs on it: {meaning}");
    Finding::of(check, severity, what).fixed_by(format!("ethtool -K {name} rxvlan off"))
}

fn mtu(facts: &Facts, interface: &InterfaceFacts, hook: HookMode, link: &Link) -> Finding {
    let (check, name, mtu) = (Check::Mtu, &interface.name, link.mtu);
    if mtu <= ONE_BUFFER || hook == HookMode::Tc {
        return Finding::ok(check, format_args!("{name}: {mtu}"));
    }
    let has_frags = has_fragments(facts);
    match &interface.xdp_features {
        Ok(features) if has_frags && features & RX_SG != 0 => {
            Finding::ok(check, format_args!("{name}: {mtu}, with fragments"))
        }
        Err(why_not) if has_frags => Finding::unseen(
            check,
            format_args!("{name}: {mtu}, whether the driver has fragments: {why_not}"),
        ),
        _ => {
            let what = format_args!("{name}: {mtu} is too long for its XDP: tc classifies alone");
            let severity = if hook == HookMode::Xdp { Severity::Error } else { Severity::Warning };
            Finding::of(check, severity, what).fixed_by(format!("ip link set {name} mtu 1500"))
        }
    }
}

impl InterfaceFacts {
    /// Whether packets that come in by it are classified.
    pub(super) fn is_inside(&self) -> bool {
        matches!(self.role, Role::Inside(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoilt(spoil: impl FnOnce(&mut InterfaceFacts)) -> Facts {
        let mut facts = Facts::healthy();
        spoil(facts.interfaces.first_mut().unwrap());
        facts
    }

    fn link(spoil: impl FnOnce(&mut Link)) -> Facts {
        spoilt(|interface| spoil(interface.link.as_mut().unwrap().as_mut().unwrap()))
    }

    #[test]
    fn kinds_of_links_are_told() {
        assert_eq!(spoilt(|it| it.link = Ok(None)).told(Severity::Error), ["interface"]);
        let gre = link(|link| (link.layer, link.kind) = (LinkLayer::Other, Some("gre".into())));
        assert_eq!(gre.told(Severity::Error), ["link-layer"]);
        let mut tun = link(|link| link.layer = LinkLayer::Ip);
        assert!(tun.told(Severity::Error).is_empty());
        tun.interfaces[0].role = Role::Inside(HookMode::Xdp);
        assert_eq!(tun.told(Severity::Error), ["link-layer"]);
        for (kind, name) in [("bond", "bond"), ("bridge", "bridge")] {
            let member = link(|link| link.member_of = Some(("m0".into(), kind.into())));
            assert_eq!(member.told(Severity::Warning), [name]);
            let itself = link(|link| link.kind = Some(kind.into()));
            assert_eq!(itself.told(Severity::Note), [name]);
        }
        assert_eq!(link(|link| link.kind = Some("vlan".into())).told(Severity::Note), ["vlan"]);
    }

    #[test]
    fn links_that_are_down_are_told_by_what_they_are_for() {
        let down = |at: usize, spoil: fn(&mut Link)| {
            let mut facts = Facts::healthy();
            spoil(facts.interfaces[at].link.as_mut().unwrap().as_mut().unwrap());
            facts
        };
        for spoil in
            [|link: &mut Link| link.is_up = false, |link: &mut Link| link.has_carrier = false]
        {
            assert_eq!(down(0, spoil).told(Severity::Warning), ["interface"]);
            assert_eq!(down(1, spoil).told(Severity::Error), ["interface"]);
        }
    }

    #[test]
    fn what_the_card_does_is_told() {
        let on = |feature: &str| spoilt(|it| it.offloads = Ok([(feature.into(), true)].into()));
        assert_eq!(on("rx-lro").told(Severity::Warning), ["lro"]);
        assert_eq!(on("rx-gro-hw").told(Severity::Note), ["lro"]);
        assert!(on("rx-vlan-hw-parse").told(Severity::Warning).is_empty());
        let mut trunk = link(|link| link.vlans = ["lan0.7".to_owned()].into());
        assert_eq!(trunk.told(Severity::Note), ["vlan"]);
        trunk.interfaces[0].offloads = Ok([("rx-vlan-hw-parse".to_owned(), true)].into());
        assert_eq!(trunk.told(Severity::Note), ["vlan", "vlan-offload"]);
        let config = trunk.config.as_mut().unwrap().as_mut().unwrap();
        config.egress.as_mut().unwrap().action = Action::Redirect;
        assert_eq!(trunk.told(Severity::Warning), ["vlan-offload"]);
        trunk.interfaces[0].role = Role::Inside(HookMode::Tc);
        assert_eq!(trunk.told(Severity::Note), ["vlan"]);
    }

    #[test]
    fn long_packets_need_fragments() {
        let mut jumbo = link(|link| link.mtu = 9000);
        assert!(jumbo.told(Severity::Warning).is_empty(), "the driver has them");
        jumbo.interfaces[0].xdp_features = Ok(1);
        assert_eq!(jumbo.told(Severity::Warning), ["mtu"]);
        jumbo.interfaces[0].role = Role::Inside(HookMode::Xdp);
        assert_eq!(jumbo.told(Severity::Error), ["mtu"]);
        jumbo.interfaces[0].role = Role::Inside(HookMode::Tc);
        assert!(jumbo.told(Severity::Error).is_empty());
    }
}
