//! The nftables table as text: the first packet of a flow decides, the others follow.
//!
//! A flow's way stands in its connection mark: DECIDED is one bit, DIRECT the bits of the packet
//! mark. It is restored only to packets in the original direction that come in by an inside
//! interface; replies need no mark. So a change of the list never moves a live flow. What conntrack
//! cannot place, and a family without next hop, has its mark cleared: inspection. Direct is what has both
//! words: so a flow that was decided by another `[mark]` is inspected, whatever its bits mean now.
//!
//! A direct flow that has lost its way is never handed to an inspector in its middle: TCP is reset, so
//! that the client connects anew. That is what the sets are for, and the chain `lost`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::nudge::Pair;
use super::routing::Family;
use super::{Wanted, Words};
use crate::config::{Action, OnFailure};

/// The name of the table, of family `inet`.
pub(super) const TABLE: &str = "breakout365";
/// In the listing of the table, what says that it is ours.
pub(super) const COMMENT: &str = "kept by breakout365";

/// How long the middle of a flow that was ended is answered with a reset. A client that has data to
/// send repeats it within seconds.
const ENDED: &str = "1m";

/// What TCP and IP without options take of a packet, bytes.
const HEADERS: [(Family, u32); 2] = [(Family::V4, 40), (Family::V6, 60)];

/// What becomes of a table that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// It may be anything: it goes.
    Unknown,
    /// It differs by rules alone: its sets stay, with the flows that were ended and whose clients have
    /// not been heard since.
    Alike,
}

/// What a table has to know of the way out before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    /// The words that programs mark by until the next ones are there: their marks are cleared, and what
    /// was direct by them is reset.
    pub(super) words: Option<Words>,
    /// Whether flows are direct that have no way any more and cannot be told from others: all are reset,
    /// and new ones inspected.
    pub(super) is_parting: bool,
    /// Interfaces that are still inside to those programs.
    pub(super) still_inside: BTreeSet<String>,
    /// Interfaces that are not inside any more: the middle of a direct flow that comes in by one is reset.
    pub(super) was_inside: BTreeSet<String>,
}

/// What `nft -f` takes: the whole table in one transaction, in place of the one before. Families that
/// are `closed` are inspected, or blocked; their live direct flows are reset. `mtus` are the largest
/// packets that the uplink takes, bytes. What is `past` comes first.
///
/// The chain stands before `mangle`, where TPROXY rules are, and after conntrack (-200): an
/// inspector on this machine sees the restored mark.
#[expect(clippy::too_many_lines, reason = "one text, to be read in one piece")]
pub(super) fn text(
    wanted: &Wanted,
    closed: &BTreeSet<Family>,
    mtus: &BTreeMap<Family, u32>,
    past: &Past,
    before: Before,
) -> String {
    let mut wanted = wanted.clone();
    let mut closed = closed.clone();
    if past.is_parting {
        // Not an uplink that is down, which may be asked to refuse.
        wanted.egress.on_failure = OnFailure::Inspect;
        closed = Family::ALL.into();
    }
    let (wanted, closed) = (&wanted, &closed);
    let (egress, mark) = (&wanted.egress, wanted.mark);
    let inside = names(wanted.inside.union(&past.still_inside));
    let is_direct = format!("mark & {:#010x} == {:#010x}", mark.mask, mark.value);
    let set_mark = format!("meta mark set meta mark & {:#010x}", !mark.mask);
    let set_ct = format!("ct mark set ct mark & {:#010x}", !wanted.words().bits());
    let (value, decided) = (mark.value, egress.decided);
    let both = wanted.words().direct();
    let flow_is_direct = flow_is_direct(wanted.words());
    let no_way = no_way(wanted, closed, &is_direct);
    let leaving = past.words.map(|words| left(words, wanted)).unwrap_or_default();
    let (to_outside, outside) = outside(wanted, &past.was_inside);
    let make_room = match before {
        Before::Unknown => format!("table inet {TABLE}\ndelete table inet {TABLE}"),
        Before::Alike => format!("flush table inet {TABLE}"),
    };
    let picked_up = picked_up(wanted, closed, &is_direct);
    let mut text = format!(
        r#"{make_room}
table inet {TABLE} {{
    comment "{COMMENT}"
    set ended4 {{
        type ipv4_addr . inet_service . ipv4_addr . inet_service
        flags timeout
        timeout {ENDED}
    }}
    set ended6 {{
        type ipv6_addr . inet_service . ipv6_addr . inet_service
        flags timeout
        timeout {ENDED}
    }}
    map nudged4 {{
        type ipv4_addr . inet_service . ipv4_addr : inet_service
        flags timeout
        timeout {ENDED}
    }}
    map nudged6 {{
        type ipv6_addr . inet_service . ipv6_addr : inet_service
        flags timeout
        timeout {ENDED}
    }}
    chain output {{
        type filter hook output priority raw; policy accept;
        meta mark {decided:#010x} fib saddr type != local meta l4proto tcp goto nudge
    }}
    chain nudge {{
        tcp sport set ip daddr . tcp dport . ip saddr map @nudged4 notrack
        tcp sport set ip6 daddr . tcp dport . ip6 saddr map @nudged6 notrack
    }}
    chain prerouting {{
        type filter hook prerouting priority mangle - 10; policy accept;
        iifname {{ {inside} }} goto inside
{to_outside}        meta {is_direct} goto clear
    }}
    chain inside {{
{leaving}        ct state invalid jump ended
        ct state invalid,untracked goto clear
        ct mark & {decided:#010x} == 0 jump ended
{picked_up}        ct direction reply goto clear
{no_way}        ct state related ct direction original meta l4proto {{ tcp, udp }} goto anew
        ct mark & {decided:#010x} != 0 goto restore
        ct state new meta {is_direct} goto direct
        goto inspect
    }}
    chain anew {{
        meta {is_direct} goto direct
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
    chain ended {{
        tcp flags & (syn | rst) != 0x0 return
        ip saddr . tcp sport . ip daddr . tcp dport @ended4 goto end_tcp
        ip6 saddr . tcp sport . ip6 daddr . tcp dport @ended6 goto end_tcp
    }}
    chain lost {{
        tcp flags & (syn | rst) == 0x0 goto end_tcp
        goto {otherwise}
    }}
    chain refuse {{
        meta l4proto tcp goto end_tcp
        reject with icmpx admin-prohibited
    }}
    chain end_tcp {{
        meta l4proto tcp reject with tcp reset
    }}
{outside}"#,
        mask = mark.mask,
        otherwise = match egress.on_failure {
            OnFailure::Inspect => "clear",
            OnFailure::Block => "refuse",
        },
    );
    let uplink = &egress.interface;
    if egress.clamp_mss {
        writeln!(
            text,
            r#"    chain forward {{
        type filter hook forward priority mangle; policy accept;
        oifname "{uplink}" {flow_is_direct} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
{of_replies}    }}"#,
            of_replies = size_of_replies(mtus, &flow_is_direct)
        )
        .ok();
    }
    if egress.masquerade {
        writeln!(
            text,
            r#"    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{uplink}" {flow_is_direct} masquerade
    }}"#
        )
        .ok();
    }
    text.push_str("}\n");
    text
}

/// The rules for what servers say that they take. It holds for the way back to them, which `rt mtu` does
/// not find: it looks for a route without the mark. A size is only ever made smaller
/// (`nft_exthdr_tcp_set_eval`).
fn size_of_replies(mtus: &BTreeMap<Family, u32>, flow_is_direct: &str) -> String {
    let mut rules = String::new();
    for (family, headers) in HEADERS {
        let left = mtus.get(&family).map_or(0, |mtu| mtu.saturating_sub(headers));
        if left == 0 {
            continue;
        }
        writeln!(
            rules,
            "        meta nfproto {} ct direction reply {flow_is_direct} tcp flags & (syn | rst) == syn tcp \
             option maxseg size set {}",
            family.name(),
            left.min(u16::MAX.into()),
        )
        .ok();
    }
    rules
}

/// What a connection mark is compared with that says direct by these words.
fn flow_is_direct(words: Words) -> String {
    format!("ct mark & {:#010x} == {:#010x}", words.bits(), words.direct())
}

/// The rules for what is marked, and was direct, by words that are left. Of flows that XDP redirected
/// conntrack knows nothing but replies: their middles are marked, and nobody has decided them, by these
/// words or by those that are wanted.
fn left(words: Words, wanted: &Wanted) -> String {
    let mark = words.mark;
    let of_redirected = match wanted.egress.action {
        Action::Mark => String::new(),
        Action::Redirect => format!(
            "        ct mark & {:#010x} == 0 meta mark & {:#010x} == {:#010x} tcp flags & (syn | rst) == 0x0 \
             goto lost\n",
            words.decided | wanted.egress.decided,
            mark.mask,
            mark.value,
        ),
    };
    format!(
        "{of_redirected}        meta mark set meta mark & {:#010x}\n        {} goto lost\n",
        !mark.mask,
        flow_is_direct(words)
    )
}

/// The jump and the chain for interfaces that are not inside any more. A direct flow from there is reset, or
/// where there is nothing to reset, is none any longer; and so is the middle of one that was ended, which
/// conntrack takes for a new flow. Other flows are not looked at.
fn outside(wanted: &Wanted, was_inside: &BTreeSet<String>) -> (String, String) {
    if was_inside.is_empty() {
        return Default::default();
    }
    let jump = format!("        iifname {{ {} }} jump outside\n", names(was_inside));
    let chain = format!(
        "    chain outside {{
        ct direction original {is_direct} tcp flags & (syn | rst) == 0x0 goto end_tcp
        ct direction original {is_direct} ct mark set ct mark & {:#010x} | {:#010x}
        ct state {{ invalid, new }} jump ended
    }}
",
        !wanted.words().bits(),
        wanted.egress.decided,
        is_direct = flow_is_direct(wanted.words()),
    );
    (jump, chain)
}

/// Interfaces as elements of a set.
fn names<'a>(interfaces: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<String> = interfaces.into_iter().map(|name| format!("{name:?}")).collect();
    names.join(", ")
}

/// The rules for families that are closed or have no next hop.
fn no_way(wanted: &Wanted, closed: &BTreeSet<Family>, is_direct: &str) -> String {
    let egress = &wanted.egress;
    let decided = egress.decided;
    let mut no_way = String::new();
    for (family, has_hop) in
        [(Family::V4, egress.gateway4.is_some()), (Family::V6, egress.gateway6.is_some())]
    {
        let name = family.name();
        if has_hop && !closed.contains(&family) {
            continue;
        }
        let flow_is_direct = flow_is_direct(wanted.words());
        writeln!(no_way, "        meta nfproto {name} {flow_is_direct} goto lost").ok();
        if has_hop && egress.action == Action::Redirect {
            writeln!(
                no_way,
                "        meta nfproto {name} ct state new meta {is_direct} tcp flags & (syn | rst) == 0x0 \
                 goto lost"
            )
            .ok();
        }
        if has_hop && egress.on_failure == OnFailure::Block {
            writeln!(
                no_way,
                "        meta nfproto {name} ct mark & {decided:#010x} == 0 meta {is_direct} goto refuse"
            )
            .ok();
        }
        writeln!(no_way, "        meta nfproto {name} goto inspect").ok();
    }
    no_way
}

/// The families that are closed in a table, as `nft` lists it.
pub(super) fn closed_in(listing: &str) -> BTreeSet<Family> {
    let is_closed = |family: &Family| {
        let begin = format!("meta nfproto {} ", family.name());
        let mut lines = listing.lines().map(str::trim);
        lines.any(|line| line.starts_with(&begin) && line.ends_with("goto lost"))
    };
    Family::ALL.into_iter().filter(is_closed).collect()
}

/// The rules for flows that XDP redirects. conntrack has seen their replies alone, if anything, and
/// takes the server for who began them; when the client's packets come here they are to keep their way,
/// or to lose it.
fn picked_up(wanted: &Wanted, closed: &BTreeSet<Family>, is_direct: &str) -> String {
    let egress = &wanted.egress;
    let mut picked_up = String::new();
    if egress.action == Action::Mark {
        return picked_up;
    }
    for (family, has_hop) in
        [(Family::V4, egress.gateway4.is_some()), (Family::V6, egress.gateway6.is_some())]
    {
        if !has_hop {
            continue;
        }
        writeln!(
            picked_up,
            "        meta nfproto {} ct direction reply ct mark & {:#010x} != {:#010x} meta {is_direct} \
             goto {}",
            family.name(),
            wanted.mark.mask | egress.decided,
            egress.decided,
            if closed.contains(&family) { "lost" } else { "direct" },
        )
        .ok();
    }
    picked_up
}

/// What `nft -f` takes to have the middle of these TCP flows, from client to server, reset.
pub(super) fn ended(flows: &[Pair]) -> String {
    let names = flows.iter().map(|(client, server)| {
        let name =
            format!("{} . {} . {} . {}", client.ip(), client.port(), server.ip(), server.port());
        (Family::of(server.ip()), name)
    });
    elements(["ended4", "ended6"], names)
}

/// What `nft -f` takes to have segments to these clients come from the port of their server.
pub(super) fn nudged(flows: &[Pair]) -> String {
    // Of two flows that differ by the server's port alone, one is enough to refuse the text.
    let ports: BTreeMap<_, _> =
        flows.iter().map(|(client, server)| ((*client, server.ip()), server.port())).collect();
    let names = ports.into_iter().map(|((client, server), port)| {
        let name = format!("{} . {} . {server} : {port}", client.ip(), client.port());
        (Family::of(server), name)
    });
    elements(["nudged4", "nudged6"], names)
}

fn elements(sets: [&str; 2], names: impl Iterator<Item = (Family, String)>) -> String {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (family, name) in names {
        match family {
            Family::V4 => v4.push(name),
            Family::V6 => v6.push(name),
        }
    }
    let mut text = String::new();
    for (set, names) in sets.into_iter().zip([v4, v6]) {
        if !names.is_empty() {
            writeln!(text, "add element inet {TABLE} {set} {{ {} }}", names.join(", ")).ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Mark, NextHop};

    fn wanted() -> Wanted {
        let mut wanted = Wanted::example();
        wanted.egress.gateway4 = Some(NextHop::Given("192.0.2.1".parse().unwrap()));
        wanted.egress.decided = 0x0200_0000;
        wanted.mark = Mark::default();
        wanted.inside = ["lan1".to_owned(), "lan0".to_owned()].into();
        wanted
    }

    #[test]
    fn the_bits_of_others_are_kept() {
        let text =
            text(&wanted(), &BTreeSet::new(), &BTreeMap::new(), &Past::default(), Before::Unknown);
        for line in [
            "iifname { \"lan0\", \"lan1\" } goto inside",
            "ct state related ct direction original meta l4proto { tcp, udp } goto anew",
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
        let mtus = [(Family::V4, 1400), (Family::V6, 50)].into();
        let text = text(&wanted, &BTreeSet::new(), &mtus, &Past::default(), Before::Unknown);
        let at = |line: &str| text.find(line).unwrap_or_else(|| panic!("{line} is not in {text}"));
        assert!(at("meta nfproto ipv6 goto inspect") < at("goto restore"));
        assert_eq!(text.matches("nfproto ipv4").count(), 1);
        at("oifname \"wan0\" ct mark & 0x03000000 == 0x03000000 masquerade");
        at("maxseg size set rt mtu");
        at("maxseg size set 1360\n");
        assert_eq!(text.matches("maxseg").count(), 2, "{text}");
    }

    #[test]
    fn a_family_that_is_closed_is_inspected_or_refused_and_its_direct_flows_are_reset() {
        let mut wanted = wanted();
        let closed = [Family::V4].into();
        let inspect = text(&wanted, &closed, &BTreeMap::new(), &Past::default(), Before::Alike);
        let lost = "meta nfproto ipv4 ct mark & 0x03000000 == 0x03000000 goto lost\n";
        let refused = "meta nfproto ipv4 ct mark & 0x02000000 == 0 meta mark & 0x01000000 == \
                       0x01000000 goto refuse\n";
        assert!(inspect.contains(lost), "{inspect}");
        assert!(!inspect.contains("goto refuse") && !inspect.contains("nfproto ipv6"), "{inspect}");
        wanted.egress.on_failure = OnFailure::Block;
        let block = text(&wanted, &closed, &BTreeMap::new(), &Past::default(), Before::Alike);
        let at =
            |line: &str| block.find(line).unwrap_or_else(|| panic!("{line} is not in {block}"));
        assert!(at(lost) < at(refused));
        assert!(at(refused) < at("meta nfproto ipv4 goto inspect"));
        assert_eq!((closed_in(&inspect), closed_in(&block)), (closed.clone(), closed));
        let open =
            text(&wanted, &BTreeSet::new(), &BTreeMap::new(), &Past::default(), Before::Unknown);
        assert_eq!(closed_in(&open), BTreeSet::new());
        assert!(!open.contains("nfproto"), "only while it is down: {open}");
    }

    #[test]
    fn what_is_marked_and_was_direct_by_words_that_are_left_is_cleared_and_reset_first() {
        let words = Words { mark: Mark { value: 0x10, mask: 0x30 }, decided: 0x40 };
        let mut wanted = wanted();
        let none = BTreeSet::new();
        let past = Past { words: Some(words), ..Past::default() };
        let of = |wanted: &Wanted| text(wanted, &none, &BTreeMap::new(), &past, Before::Unknown);
        let begin = "    chain inside {\n";
        let rules = "        meta mark set meta mark & 0xffffffcf\n        ct mark & 0x00000070 == \
                     0x00000050 goto lost\n        ct state invalid";
        let text = of(&wanted);
        assert!(text.contains(&format!("{begin}{rules}")), "{text}");
        assert!(closed_in(&text).is_empty());
        wanted.egress.action = Action::Redirect;
        let first = "        ct mark & 0x02000040 == 0 meta mark & 0x00000030 == 0x00000010 tcp flags & \
                     (syn | rst) == 0x0 goto lost\n";
        let text = of(&wanted);
        assert!(text.contains(&format!("{begin}{first}{rules}")), "{text}");
        assert!(closed_in(&text).is_empty());
    }

    #[test]
    fn while_an_uplink_is_left_direct_flows_are_reset_and_new_ones_inspected_never_refused() {
        let mut wanted = wanted();
        wanted.egress.on_failure = OnFailure::Block;
        let past = Past { is_parting: true, ..Past::default() };
        let text = text(&wanted, &BTreeSet::new(), &BTreeMap::new(), &past, Before::Unknown);
        for family in ["ipv4", "ipv6"] {
            let lost =
                format!("meta nfproto {family} ct mark & 0x03000000 == 0x03000000 goto lost\n");
            assert!(text.contains(&lost), "{text}");
            assert!(text.contains(&format!("meta nfproto {family} goto inspect\n")), "{text}");
        }
        assert!(!text.contains("goto refuse"), "{text}");
    }

    #[test]
    fn an_interface_is_inside_until_programs_know_and_has_its_direct_flows_reset_after_that() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let past = |still: &[&str], was: &[&str]| Past {
            still_inside: names(still),
            was_inside: names(was),
            ..Past::default()
        };
        let of =
            |past: &Past| text(&wanted(), &BTreeSet::new(), &BTreeMap::new(), past, Before::Alike);
        let still = of(&past(&["lan2"], &[]));
        assert!(
            still.contains("iifname { \"lan0\", \"lan1\", \"lan2\" } goto inside\n"),
            "{still}"
        );
        assert!(!still.contains("outside"), "{still}");
        let was = of(&past(&[], &["lan2"]));
        let jumps = "        iifname { \"lan0\", \"lan1\" } goto inside\n        iifname { \"lan2\" } \
                     jump outside\n        meta mark & 0x01000000 == 0x01000000 goto clear\n";
        assert!(was.contains(jumps), "{was}");
        let reset = "ct direction original ct mark & 0x03000000 == 0x03000000 tcp flags & (syn | rst) \
                     == 0x0 goto end_tcp\n";
        assert!(was.contains(reset), "{was}");
    }

    #[test]
    fn flows_that_were_ended_are_named_as_they_came_in() {
        let flow = |from: &str, to: &str| (from.parse().unwrap(), to.parse().unwrap());
        let flows = [
            flow("10.0.0.1:1000", "40.96.0.1:443"),
            flow("[fd00::1]:7", "[2603:1006::1]:443"),
            flow("10.0.0.2:1001", "40.96.0.1:443"),
        ];
        assert_eq!(
            ended(&flows),
            "add element inet breakout365 ended4 { 10.0.0.1 . 1000 . 40.96.0.1 . 443, 10.0.0.2 . \
             1001 . 40.96.0.1 . 443 }\nadd element inet breakout365 ended6 { fd00::1 . 7 . \
             2603:1006::1 . 443 }\n"
        );
        assert_eq!(
            nudged(&flows[1..2]),
            "add element inet breakout365 nudged6 { fd00::1 . 7 . 2603:1006::1 : 443 }\n"
        );
        assert_eq!(ended(&[]), "");
    }
}
