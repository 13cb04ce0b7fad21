//! The nftables table as text: the first packet of a flow decides, the others follow.
//!
//! A flow's way stands in its connection mark: DECIDED is one bit, DIRECT the bits of the packet
//! mark. It is restored only to packets in the original direction that come in by an inside
//! interface; replies need no mark. So a change of the list never moves a live flow. What conntrack
//! cannot place, and a family without next hop, has its mark cleared: inspection.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::Wanted;
use super::routing::Family;

/// The name of the table, of family `inet`.
pub(super) const TABLE: &str = "breakout365";
/// In the listing of the table, what says that it is ours.
pub(super) const COMMENT: &str = "kept by breakout365";

/// What `nft -f` takes: the whole table in one transaction, in place of the one before. Families that
/// are `closed` are inspected, live flows included.
///
/// The chain stands before `mangle`, where TPROXY rules are, and after conntrack (-200): an
/// inspector on this machine sees the restored mark.
pub(super) fn text(wanted: &Wanted, closed: &BTreeSet<Family>) -> String {
    let (egress, mark) = (&wanted.egress, wanted.mark);
    let inside: Vec<String> = wanted.inside.iter().map(|name| format!("{name:?}")).collect();
    let inside = inside.join(", ");
    let is_direct = format!("mark & {:#010x} == {:#010x}", mark.mask, mark.value);
    let set_mark = format!("meta mark set meta mark & {:#010x}", !mark.mask);
    let set_ct = format!("ct mark set ct mark & {:#010x}", !(mark.mask | egress.decided));
    let (value, decided) = (mark.value, egress.decided);
    let both = value | decided;
    let mut no_hop = String::new();
    for (family, name, has_hop) in [
        (Family::V4, "ipv4", egress.gateway4.is_some()),
        (Family::V6, "ipv6", egress.gateway6.is_some()),
    ] {
        if !has_hop || closed.contains(&family) {
            writeln!(no_hop, "        meta nfproto {name} goto inspect").ok();
        }
    }
    let mut text = format!(
        r#"table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
    comment "{COMMENT}"
    chain prerouting {{
        type filter hook prerouting priority mangle - 10; policy accept;
        iifname {{ {inside} }} goto inside
    }}
    chain inside {{
        ct state invalid,untracked goto clear
        ct direction reply goto clear
{no_hop}        ct mark & {decided:#010x} != 0 goto restore
        ct state new meta {is_direct} goto direct
        ct {is_direct} goto direct
        goto inspect
    }}
    chain restore {{
        ct mark & {mask:#010x} != {value:#010x} goto clear
        {set_mark} | {value:#010x}
    }}
    chain direct {{
        {set_ct} | {both:#010x}
        {set_mark} | {value:#010x}
    }}
    chain inspect {{
        {set_ct} | {decided:#010x}
        {set_mark}
    }}
    chain clear {{
        {set_mark}
    }}
"#,
        mask = mark.mask,
    );
    let uplink = &egress.interface;
    if egress.clamp_mss {
        writeln!(
            text,
            r#"    chain forward {{
        type filter hook forward priority mangle; policy accept;
        oifname "{uplink}" ct {is_direct} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
        iifname "{uplink}" ct {is_direct} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    }}"#
        )
        .ok();
    }
    if egress.masquerade {
        writeln!(
            text,
            r#"    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{uplink}" ct {is_direct} masquerade
    }}"#
        )
        .ok();
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Action, Egress, Mark};

    fn wanted() -> Wanted {
        Wanted {
            egress: Egress {
                interface: "wan0".into(),
                gateway4: Some("192.0.2.1".parse().unwrap()),
                gateway6: Some("fe80::1".parse().unwrap()),
                table: 365,
                priority: 365,
                masquerade: false,
                clamp_mss: false,
                decided: 0x0200_0000,
                action: Action::Mark,
            },
            mark: Mark::default(),
            inside: ["lan1".to_owned(), "lan0".to_owned()].into(),
        }
    }

    #[test]
    fn the_bits_of_others_are_kept() {
        let text = text(&wanted(), &BTreeSet::new());
        for line in [
            "iifname { \"lan0\", \"lan1\" } goto inside",
            "ct mark & 0x02000000 != 0 goto restore",
            "ct state new meta mark & 0x01000000 == 0x01000000 goto direct",
            "ct mark set ct mark & 0xfcffffff | 0x03000000",
            "ct mark set ct mark & 0xfcffffff | 0x02000000",
            "meta mark set meta mark & 0xfeffffff | 0x01000000",
        ] {
            assert_eq!(
                text.matches(&format!("        {line}\n")).count(),
                if line.starts_with("meta") { 2 } else { 1 },
                "{line}"
            );
        }
        assert!(!text.contains("nfproto") && !text.contains("masquerade"), "{text}");
    }

    #[test]
    fn what_was_not_asked_for_is_not_in_it_and_what_was_is() {
        let mut wanted = wanted();
        wanted.egress.gateway6 = None;
        wanted.egress.masquerade = true;
        wanted.egress.clamp_mss = true;
        let text = text(&wanted, &BTreeSet::new());
        let at = |line: &str| text.find(line).unwrap_or_else(|| panic!("{line} is not in {text}"));
        assert!(at("meta nfproto ipv6 goto inspect") < at("goto restore"));
        assert!(!text.contains("nfproto ipv4"));
        at("oifname \"wan0\" ct mark & 0x01000000 == 0x01000000 masquerade");
        at("maxseg size set rt mtu");
    }
}
