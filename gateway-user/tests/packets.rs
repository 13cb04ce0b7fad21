//! Packets of every shape are decided by every program as by the oracle and as written here, and
//! go on unchanged. Needs root.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use gateway_common::Transport::{self, Tcp, Udp};
use gateway_common::abi::Counter;
use gateway_common::{Decision, Reason, Verdict, classify};
use gateway_user::datapath::{
    Control, CounterSheet, Counts, Generation, Loaded, Mark, Outcome, Pins, Program, Published,
    RunOptions, XdpRequest, bring_up, run_tc, run_xdp,
};
use gateway_user::policy::{Exclusion, Sources, Table};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use xtask::testbed::{BpfFs, Extension, Frame, Protocol, VlanTag, Wire};

use crate::support::foreign::Foreign;
use crate::support::{self, Site, rules};

/// What `BPF_PROG_TEST_RUN` takes: an Ethernet header.
const SHORTEST: usize = 14;

/// A packet and what must become of it.
struct Row {
    what: String,
    frame: Vec<u8>,
    reason: Reason,
}

fn row(what: impl Into<String>, frame: &Frame, reason: Reason) -> Row {
    Row { what: what.into(), frame: frame.build().unwrap(), reason }
}

fn table() -> Table {
    let all = rules("40.96.0.0/13", Tcp, 80..=80, 1)
        .chain(rules("40.96.0.0/13", Tcp, 443..=443, 1))
        .chain(rules("40.96.0.0/13", Udp, 443..=443, 1))
        .chain(rules("52.112.0.0/14", Udp, 3478..=3481, 11))
        // Inside each other and divided below a /24: these reach the trie.
        .chain(rules("198.51.100.64/26", Tcp, 443..=443, 2))
        .chain(rules("198.51.100.77/32", Tcp, 25..=25, 3))
        .chain(rules("203.0.113.0/25", Tcp, 0..=0, 4))
        .chain(rules("203.0.113.0/25", Udp, 65_535..=65_535, 4))
        .chain(rules("2603:1006::/40", Tcp, 80..=80, 1))
        .chain(rules("2603:1006::/40", Tcp, 443..=443, 1))
        .chain(rules("2620:1ec:908::/46", Udp, 3478..=3481, 11))
        .chain(rules("2620:1ec:c11::203/128", Tcp, 443..=443, 2));
    Table::from_rules(all).unwrap()
}

/// The programs, loaded and counting, attached to nothing.
struct Bench {
    table: Table,
    /// Why nothing goes direct, if so.
    refusal: Option<Reason>,
    published: Published,
    bpffs: BpfFs,
}

impl Bench {
    fn new() -> Self {
        Self::of(table())
    }

    fn of(table: Table) -> Self {
        let bpffs = BpfFs::new().unwrap();
        let lock = Pins::new(bpffs.pins()).lock().unwrap();
        let published = bring_up(&lock, &support::blueprint(&table), &[], &mut |_| Ok(())).unwrap();
        Self { table, refusal: None, published, bpffs }
    }

    fn control(&self) -> Control {
        Control::open(&Pins::new(self.bpffs.pins())).unwrap().unwrap()
    }

    fn generation(&self) -> &Generation {
        &self.published.generation
    }

    /// Why the programs and the oracle do not all say that `frame` has this decision; nothing if
    /// they do.
    fn objections(&self, frame: &[u8], expected: Decision) -> Vec<String> {
        let mut objections = Vec::new();
        let given = expected;
        for program in self.generation().programs() {
            if !can_run(*program, frame) {
                continue;
            }
            let expected = if *program == Program::TcIp && !begins_with_ip(frame) {
                Decision::inspect(Reason::NotIp)
            } else {
                given
            };
            let outcome = self.run(*program, frame);
            let right = if *program == Program::Explain {
                outcome.action == expected.counter()
            } else {
                outcome.verdict == expected.verdict() && outcome.passed
            };
            if !right {
                objections.push(format!("{}: {outcome:?}, not {expected:?}", program.name()));
            }
        }
        objections
    }

    fn run(&self, program: Program, frame: &[u8]) -> Outcome {
        let options = RunOptions::default();
        // A bit of somebody else's, to be left alone.
        let mark = Mark { before: 0x40, direct: 0x40 | support::MARK.value };
        let run = |fd: std::os::fd::BorrowedFd<'_>| {
            if program.is_xdp() {
                run_xdp(fd, frame, options)
            } else {
                run_tc(fd, frame, mark, options)
            }
        };
        self.generation().ask(program, run).unwrap()
    }

    /// Checks every row: the oracle, each program, and that each program counted it once under
    /// its reason with all its bytes.
    fn check(&self, rows: &[Row]) {
        assert_eq!(self.generation().programs(), Program::ALL, "this kernel has them all");
        let before = self.counts();
        let mut tally: BTreeMap<(Option<usize>, Reason), Counter> = BTreeMap::new();
        let mut failures = Vec::new();
        for Row { what, frame, reason } in rows {
            let refusal = || self.refusal;
            let oracle = classify(frame.as_slice(), &self.table).unless(refusal);
            let verdict =
                if *reason == Reason::Matched { Verdict::Direct } else { Verdict::Inspect };
            if (oracle.reason(), oracle.verdict()) != (*reason, verdict) {
                failures.push(format!("{what}: the oracle says {oracle:?}, not {reason:?}"));
            }
            let objections = self.objections(frame, oracle);
            failures.extend(objections.into_iter().map(|objection| format!("{what}: {objection}")));
            for program in Program::ALL.into_iter().filter(|program| can_run(*program, frame)) {
                let is_odd = program == Program::TcIp && !begins_with_ip(frame);
                let reason = if is_odd { Reason::NotIp } else { *reason };
                let count = tally.entry((sheet(program), reason)).or_default();
                count.packets += 1;
                count.bytes += u64::try_from(frame.len()).unwrap();
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        for (number, (before, after)) in before.iter().zip(&self.counts()).enumerate() {
            for reason in Reason::ALL {
                let expected = tally.get(&(Some(number), reason)).copied().unwrap_or_default();
                let (before, after) = (before.reason(reason), after.reason(reason));
                let counted = Counter {
                    packets: after.packets - before.packets,
                    bytes: after.bytes - before.bytes,
                };
                assert_eq!(counted, expected, "{reason:?} on counter sheet {number}");
            }
        }
    }

    /// By number as [`sheet`] gives it.
    fn counts(&self) -> [CounterSheet; 3] {
        let loaded = Loaded::open(&Pins::new(self.bpffs.pins())).unwrap();
        let counts = loaded.counts().unwrap();
        [counts.xdp, counts.tc_behind_xdp, counts.tc]
    }
}

/// Which of [`Bench::counts`] a program counts on.
fn sheet(program: Program) -> Option<usize> {
    match program {
        Program::Xdp | Program::XdpFrags => Some(0),
        Program::TcBehindXdp => Some(1),
        Program::Tc | Program::TcIp => Some(2),
        Program::Explain => None,
    }
}

/// Whether a device without an Ethernet header could have this packet: no tag, and nothing but IP.
fn begins_with_ip(frame: &[u8]) -> bool {
    matches!(frame.get(12..SHORTEST), Some([0x08, 0x00] | [0x86, 0xdd]))
}

/// Whether `BPF_PROG_TEST_RUN` takes this frame: it wants an Ethernet header and, for tc, the IP
/// header that the ethertype promises. Shorter ones come over a wire, in a test of their own.
fn can_run(program: Program, frame: &[u8]) -> bool {
    let ip = match frame.get(12..SHORTEST) {
        Some([0x08, 0x00]) => 20,
        Some([0x86, 0xdd]) => 40,
        Some(_) => 1,
        None => return false,
    };
    program.is_xdp() || frame.len() >= SHORTEST + ip
}

fn to(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn tcp4() -> Frame {
    Frame::tcp(to("40.96.0.1:443"))
}

fn udp4() -> Frame {
    Frame::udp(to("40.96.0.1:443"))
}

fn tcp6() -> Frame {
    Frame::tcp(to("[2603:1006::1]:443"))
}

fn udp6() -> Frame {
    Frame::udp(to("[2620:1ec:908::1]:3478"))
}

fn plain() -> [(&'static str, Frame); 4] {
    [("tcp4", tcp4()), ("udp4", udp4()), ("tcp6", tcp6()), ("udp6", udp6())]
}

#[test]
fn plain_and_tagged_packets() {
    let mut rows = Vec::new();
    for (name, frame) in plain() {
        rows.push(row(format!("{name} plain"), &frame, Reason::Matched));
        rows.push(row(format!("{name} padded"), &frame.clone().padding(40), Reason::Matched));
        rows.push(row(format!("{name} empty"), &frame.clone().payload(&[]), Reason::Matched));
        let long = frame.clone().payload(&[0xff; 1400]);
        rows.push(row(format!("{name} long"), &long, Reason::Matched));
        // Every order of the two kinds of tag, up to one too many.
        for tags in 1..=5_u32 {
            for order in 0..1_u32 << tags {
                let tagged = (0..tags).fold(frame.clone(), |frame, at| {
                    let service = order >> at & 1 == 1;
                    frame.tag(if service { VlanTag::Service } else { VlanTag::Customer }, 4094)
                });
                let reason = if tags <= 4 { Reason::Matched } else { Reason::TooManyTags };
                rows.push(row(format!("{name} {tags} tags {order:05b}"), &tagged, reason));
            }
        }
        // Priority and drop-eligible bits are no part of the ethertype.
        let mut frame = frame.tag(VlanTag::Customer, 0).build().unwrap();
        frame[14] = 0xf0;
        rows.push(Row { what: format!("{name} priority tag"), frame, reason: Reason::Matched });
    }
    Bench::new().check(&rows);
}

#[test]
fn what_is_not_ip() {
    let rows = [0x0806, 0x8847, 0x8848, 0x8863, 0x8864, 0x88cc, 0x0040, 0x0000, 0xffff, 0x9100]
        .into_iter()
        .flat_map(|ethertype| {
            let frame = tcp4().ethertype(ethertype);
            let tagged = frame.clone().tag(VlanTag::Customer, 1);
            [
                row(format!("ethertype {ethertype:#06x}"), &frame, Reason::NotIp),
                row(format!("tagged ethertype {ethertype:#06x}"), &tagged, Reason::NotIp),
            ]
        });
    Bench::new().check(&rows.collect::<Vec<_>>());
}

#[test]
fn ipv4_headers() {
    let mut rows = Vec::new();
    for words in 0..=10_u8 {
        let options = vec![1; usize::from(words) * 4];
        for (name, frame) in [("tcp", tcp4()), ("udp", udp4())] {
            let ihl = words + 5;
            rows.push(row(format!("{name} IHL {ihl}"), &frame.options(&options), Reason::Matched));
        }
    }
    for words in 0..5 {
        let frame = tcp4().header_words(words);
        rows.push(row(format!("IHL {words}"), &frame, Reason::BadHeader));
    }
    for version in (0..16).filter(|version| *version != 4) {
        let frame = tcp4().version(version);
        rows.push(row(format!("version {version}"), &frame, Reason::BadHeader));
    }
    // Length of the IP header, of both headers, and beside them.
    for (what, frame, length, reason) in [
        ("no length", tcp4(), 0, Reason::BadHeader),
        ("length below the IP header", tcp4(), 19, Reason::BadHeader),
        ("length of the IP header", tcp4(), 20, Reason::Truncated),
        ("length within the TCP header", tcp4(), 39, Reason::Truncated),
        ("length of both headers", tcp4(), 40, Reason::Matched),
        ("length within the UDP header", udp4(), 27, Reason::Truncated),
        ("length of IP and UDP", udp4(), 28, Reason::Matched),
        ("length within the options", tcp4().options(&[1; 8]), 27, Reason::BadHeader),
        ("length up to the options", tcp4().options(&[1; 8]), 28, Reason::Truncated),
        ("length of all with options", tcp4().options(&[1; 8]), 48, Reason::Matched),
    ] {
        rows.push(row(what, &frame.length(length), reason));
    }
    for (what, offset, more, reason) in [
        ("may be fragmented", 0, false, Reason::Matched),
        ("first fragment", 0, true, Reason::FirstFragment),
        ("second fragment", 1, true, Reason::LaterFragment),
        ("last fragment", 185, false, Reason::LaterFragment),
        ("farthest fragment", 0x1fff, true, Reason::LaterFragment),
    ] {
        rows.push(row(format!("tcp {what}"), &tcp4().fragment(offset, more), reason));
        rows.push(row(format!("udp {what}"), &udp4().fragment(offset, more), reason));
    }
    let mut evil = tcp4().build().unwrap();
    evil[20] |= 0x80;
    rows.push(Row { what: "reserved flag".to_owned(), frame: evil, reason: Reason::Matched });
    Bench::new().check(&rows);
}

#[test]
fn protocols() {
    let mut rows = Vec::new();
    let protocol = |to: SocketAddr, number| {
        Frame::new(to, Protocol::Other(number)).payload(&tcp4().build().unwrap()[34..])
    };
    for number in 0..=255 {
        let (v4, v6) = match number {
            // TCP and UDP; the payload is a SYN to port 443, which is too short for neither.
            6 | 17 => (Reason::Matched, Reason::Matched),
            // ESP and AH.
            50 | 51 => (Reason::Ipsec, Reason::Ipsec),
            // Hop-by-hop, routing, fragment, destination options are headers in IPv6 and walked;
            // other tests have them.
            0 | 43 | 44 | 60 => (Reason::ProtocolOther, Reason::Matched),
            // Mobility, HIP, Shim6, experimental.
            135 | 139 | 140 | 253 | 254 => (Reason::ProtocolOther, Reason::ExtensionUnknown),
            _ => (Reason::ProtocolOther, Reason::ProtocolOther),
        };
        rows.push(row(format!("IPv4 {number}"), &protocol(to("40.96.0.1:0"), number), v4));
        if !matches!(number, 0 | 17 | 43 | 44 | 60) {
            rows.push(row(format!("IPv6 {number}"), &protocol(to("[2603:1006::1]:0"), number), v6));
        }
    }
    Bench::new().check(&rows);
}

#[test]
fn ipv6_headers() {
    use Extension::{Authentication, Destination, Fragment, HopByHop, Number, Routing};
    let mut rows = Vec::new();
    for version in (0..16).filter(|version| *version != 6) {
        let frame = tcp6().version(version);
        rows.push(row(format!("version {version}"), &frame, Reason::BadHeader));
    }
    for (what, frame, length, reason) in [
        ("no length, as of a jumbogram", tcp6(), 0, Reason::Truncated),
        ("length within the TCP header", tcp6(), 19, Reason::Truncated),
        ("length of the TCP header", tcp6(), 20, Reason::Matched),
        ("length within the UDP header", udp6(), 7, Reason::Truncated),
        ("length of the UDP header", udp6(), 8, Reason::Matched),
        ("length within an extension", tcp6().extension(Destination(0)), 7, Reason::Truncated),
        ("length behind an extension", tcp6().extension(Destination(0)), 27, Reason::Truncated),
        ("length of all with an extension", tcp6().extension(Destination(0)), 28, Reason::Matched),
    ] {
        rows.push(row(what, &frame.length(length), reason));
    }
    let chains: &[(&[Extension], Reason)] = &[
        (&[HopByHop(0)], Reason::Matched),
        (&[HopByHop(7)], Reason::Matched),
        (&[Destination(0)], Reason::Matched),
        (&[Destination(255)], Reason::Matched),
        (&[Routing(0)], Reason::Matched),
        (&[Routing(1)], Reason::SourceRouted),
        (&[Routing(255)], Reason::SourceRouted),
        (&[Fragment(0, true)], Reason::FirstFragment),
        (&[Fragment(1, true)], Reason::LaterFragment),
        (&[Fragment(0x1fff, false)], Reason::LaterFragment),
        // An atomic fragment: whole, but it says it is a piece.
        (&[Fragment(0, false)], Reason::FirstFragment),
        (&[Authentication(3)], Reason::Ipsec),
        (&[Number(50)], Reason::Ipsec),
        (&[Number(135)], Reason::ExtensionUnknown),
        (&[Number(139)], Reason::ExtensionUnknown),
        (&[Number(140)], Reason::ExtensionUnknown),
        (&[Number(253)], Reason::ExtensionUnknown),
        (&[Number(254)], Reason::ExtensionUnknown),
        (&[Number(59)], Reason::ProtocolOther),
        (&[HopByHop(0), Destination(1), Routing(0)], Reason::Matched),
        (&[HopByHop(0), Destination(1), Routing(2)], Reason::SourceRouted),
        (&[Destination(0), HopByHop(0)], Reason::ExtensionUnknown),
        (&[HopByHop(0), HopByHop(0)], Reason::ExtensionUnknown),
        (&[Destination(2), Fragment(0, true)], Reason::FirstFragment),
        (&[Destination(2), Fragment(9, true)], Reason::LaterFragment),
        (&[HopByHop(0), Destination(0), Authentication(5)], Reason::Ipsec),
        (&[Destination(0), Number(59)], Reason::ProtocolOther),
        (&[Destination(0); 6], Reason::Matched),
        (
            &[HopByHop(1), Destination(2), Routing(0), Destination(0), Destination(3), Routing(0)],
            Reason::Matched,
        ),
        (&[Destination(0); 7], Reason::ExtensionChainTooLong),
        (
            &[
                HopByHop(0),
                Destination(0),
                Destination(0),
                Destination(0),
                Destination(0),
                Destination(0),
                Fragment(0, true),
            ],
            Reason::ExtensionChainTooLong,
        ),
        (
            &[
                Destination(0),
                Destination(0),
                Destination(0),
                Destination(0),
                Destination(0),
                Destination(0),
                Authentication(1),
            ],
            Reason::Ipsec,
        ),
        (
            &[
                Destination(0),
                Destination(0),
                Destination(0),
                Destination(0),
                Destination(0),
                Destination(0),
                Number(135),
            ],
            Reason::ExtensionUnknown,
        ),
    ];
    for (chain, reason) in chains {
        for (name, frame) in [("tcp", tcp6()), ("udp", udp6())] {
            let frame = chain.iter().fold(frame, |frame, header| frame.extension(*header));
            rows.push(row(format!("{name} behind {chain:?}"), &frame, *reason));
            let tagged = (0..4).fold(frame, |frame, id| frame.tag(VlanTag::Service, id));
            rows.push(row(format!("tagged {name} behind {chain:?}"), &tagged, *reason));
        }
    }
    Bench::new().check(&rows);
}

#[test]
fn ports_at_their_edges() {
    let mut rows = Vec::new();
    let listed: &[(Transport, &str, &[u16])] = &[
        (Tcp, "40.96.0.1", &[80, 443]),
        (Udp, "40.96.0.1", &[443]),
        (Tcp, "52.112.0.1", &[]),
        (Udp, "52.112.0.1", &[3478, 3479, 3480, 3481]),
        (Tcp, "198.51.100.77", &[25, 443]),
        (Tcp, "198.51.100.78", &[443]),
        (Tcp, "203.0.113.1", &[0]),
        (Udp, "203.0.113.1", &[65_535]),
        (Tcp, "2603:1006::1", &[80, 443]),
        (Udp, "2603:1006::1", &[]),
        (Udp, "2620:1ec:908::1", &[3478, 3479, 3480, 3481]),
        (Tcp, "2620:1ec:c11::203", &[443]),
    ];
    let edges = [0, 1, 24, 25, 26, 79, 80, 81, 442, 443, 444, 3477, 3478, 3479, 3480, 3481, 3482];
    for (transport, address, ports) in listed {
        for port in edges.into_iter().chain([0x7fff, 0x8000, 65_534, 65_535]) {
            let destination = SocketAddr::new(address.parse().unwrap(), port);
            let frame = match transport {
                Tcp => Frame::tcp(destination),
                Udp => Frame::udp(destination),
            };
            let reason =
                if ports.contains(&port) { Reason::Matched } else { Reason::PortNotListed };
            rows.push(row(format!("{destination} {transport:?}"), &frame, reason));
        }
    }
    Bench::new().check(&rows);
}

#[test]
fn prefixes_at_their_edges() {
    let mut rows = Vec::new();
    for (destination, reason) in [
        ("40.95.255.255:443", Reason::NoPrefix),
        ("40.96.0.0:443", Reason::Matched),
        ("40.96.255.255:443", Reason::Matched),
        ("40.97.0.0:443", Reason::Matched),
        ("40.103.255.255:443", Reason::Matched),
        ("40.104.0.0:443", Reason::NoPrefix),
        ("198.51.100.63:443", Reason::NoPrefix),
        ("198.51.100.64:443", Reason::Matched),
        ("198.51.100.64:25", Reason::PortNotListed),
        ("198.51.100.76:25", Reason::PortNotListed),
        ("198.51.100.77:25", Reason::Matched),
        ("198.51.100.77:443", Reason::Matched),
        ("198.51.100.78:25", Reason::PortNotListed),
        ("198.51.100.127:443", Reason::Matched),
        ("198.51.100.128:443", Reason::NoPrefix),
        ("203.0.112.255:0", Reason::NoPrefix),
        ("203.0.113.127:0", Reason::Matched),
        ("203.0.113.128:0", Reason::NoPrefix),
        ("0.0.0.0:443", Reason::NoPrefix),
        ("255.255.255.255:443", Reason::NoPrefix),
        ("[2603:1005:ffff:ffff:ffff:ffff:ffff:ffff]:443", Reason::NoPrefix),
        ("[2603:1006::]:443", Reason::Matched),
        ("[2603:1006:ff:ffff:ffff:ffff:ffff:ffff]:443", Reason::Matched),
        ("[2603:1006:100::]:443", Reason::NoPrefix),
        ("[2620:1ec:907:ffff:ffff:ffff:ffff:ffff]:443", Reason::NoPrefix),
        ("[2620:1ec:908::]:443", Reason::PortNotListed),
        ("[2620:1ec:90b:ffff:ffff:ffff:ffff:ffff]:443", Reason::PortNotListed),
        ("[2620:1ec:90c::]:443", Reason::NoPrefix),
        ("[2620:1ec:c11::202]:443", Reason::NoPrefix),
        ("[2620:1ec:c11::203]:443", Reason::Matched),
        ("[2620:1ec:c11::204]:443", Reason::NoPrefix),
        ("[::]:443", Reason::NoPrefix),
        ("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:443", Reason::NoPrefix),
        // IPv4-mapped: an IPv6 packet is matched by IPv6 prefixes only.
        ("[::ffff:40.96.0.1]:443", Reason::NoPrefix),
    ] {
        rows.push(row(destination, &Frame::tcp(to(destination)), reason));
    }
    Bench::new().check(&rows);
}

#[test]
fn what_is_excluded_is_inspected_and_counted_as_such() {
    let rules = rules("40.96.0.0/13", Tcp, 80..=80, 1)
        .chain(rules("40.96.0.0/13", Tcp, 443..=443, 1))
        .chain(rules("40.96.0.0/13", Udp, 443..=443, 1))
        .chain(rules("40.97.7.0/24", Tcp, 8443..=8443, 2))
        .chain(rules("2603:1006::/40", Tcp, 443..=443, 1));
    let exclusion = |prefix: &str, transport, ports: std::ops::RangeInclusive<u16>| Exclusion {
        prefix: prefix.parse().unwrap(),
        transport,
        first: *ports.start(),
        last: *ports.end(),
        exclude: 0,
    };
    let exclusions = [
        exclusion("40.97.0.0/16", Tcp, 443..=443),
        exclusion("40.98.1.77/32", Tcp, 0..=65_535),
        exclusion("40.98.1.77/32", Udp, 0..=65_535),
        exclusion("0.0.0.0/0", Udp, 443..=443),
        exclusion("2603:1006:8::/48", Tcp, 0..=1023),
    ];
    let bench = Bench::of(Table::from_rules_except(rules, exclusions).unwrap());
    let mut rows = Vec::new();
    for (transport, destination, reason) in [
        (Tcp, "40.96.0.1:443", Reason::Matched),
        (Tcp, "40.96.255.255:443", Reason::Matched),
        (Tcp, "40.97.0.0:443", Reason::Excluded),
        (Tcp, "40.97.255.255:443", Reason::Excluded),
        (Tcp, "40.98.0.0:443", Reason::Matched),
        (Tcp, "40.97.0.0:80", Reason::Matched),
        (Tcp, "40.97.0.0:444", Reason::PortNotListed),
        // A rule inside an exclude: its own port only.
        (Tcp, "40.97.7.1:443", Reason::Excluded),
        (Tcp, "40.97.7.1:8443", Reason::Matched),
        (Tcp, "40.98.1.76:443", Reason::Matched),
        (Tcp, "40.98.1.77:443", Reason::Excluded),
        (Tcp, "40.98.1.77:80", Reason::Excluded),
        (Tcp, "40.98.1.77:81", Reason::PortNotListed),
        (Tcp, "40.98.1.78:443", Reason::Matched),
        (Udp, "40.96.0.1:443", Reason::Excluded),
        (Udp, "40.98.1.77:443", Reason::Excluded),
        (Udp, "40.96.0.1:444", Reason::PortNotListed),
        // Where nothing is selected, nothing is excluded.
        (Udp, "203.0.113.1:443", Reason::NoPrefix),
        (Tcp, "[2603:1006:7:ffff:ffff:ffff:ffff:ffff]:443", Reason::Matched),
        (Tcp, "[2603:1006:8::]:443", Reason::Excluded),
        (Tcp, "[2603:1006:8:ffff:ffff:ffff:ffff:ffff]:443", Reason::Excluded),
        (Tcp, "[2603:1006:9::]:443", Reason::Matched),
        (Tcp, "[2603:1006:8::]:80", Reason::PortNotListed),
    ] {
        let frame = match transport {
            Tcp => Frame::tcp(to(destination)),
            Udp => Frame::udp(to(destination)),
        };
        rows.push(row(format!("{transport:?} {destination}"), &frame, reason));
    }
    bench.check(&rows);
}

/// `frame` from `source`.
fn sent_by(frame: &Frame, source: &str) -> Frame {
    frame.clone().from(SocketAddr::new(source.parse().unwrap(), 49_152))
}

#[test]
fn only_listed_sources_go_direct() {
    let sources = Sources {
        prefixes: ["10.1.0.0/16", "10.9.9.9/32", "fd00:1::/32"]
            .map(|prefix| prefix.parse().unwrap())
            .into(),
        interfaces: BTreeSet::new(),
    };
    let bench = Bench::of(table().for_sources(sources));
    let (tcp4, udp4, tcp6) = (tcp4(), udp4(), tcp6());
    let mut rows = Vec::new();
    for (frame, source, listed) in [
        (&tcp4, "10.0.255.255", false),
        (&tcp4, "10.1.0.0", true),
        (&udp4, "10.1.255.255", true),
        (&tcp4, "10.2.0.0", false),
        (&udp4, "10.9.9.8", false),
        (&tcp4, "10.9.9.9", true),
        (&tcp4, "192.0.2.1", false),
        (&tcp4, "0.0.0.0", false),
        (&tcp4, "255.255.255.255", false),
        (&tcp6, "fd00:0:ffff:ffff:ffff:ffff:ffff:ffff", false),
        (&tcp6, "fd00:1::", true),
        (&tcp6, "fd00:1:ffff:ffff:ffff:ffff:ffff:ffff", true),
        (&tcp6, "fd00:2::", false),
        // Not the IPv4 source of that number.
        (&tcp6, "::ffff:10.1.0.0", false),
    ] {
        let reason = if listed { Reason::Matched } else { Reason::SourceNotListed };
        let mut frame = sent_by(frame, source);
        rows.push(row(source, &frame, reason));
        for tags in 1..=5 {
            frame = frame.tag(if tags % 2 == 0 { VlanTag::Service } else { VlanTag::Customer }, 7);
            let reason = if tags > 4 { Reason::TooManyTags } else { reason };
            rows.push(row(format!("{source} behind {tags} tags"), &frame, reason));
        }
    }
    // Why a packet is inspected anyway comes before who has sent it.
    for (frame, reason) in [
        (Frame::tcp(to("40.96.0.1:444")), Reason::PortNotListed),
        (Frame::tcp(to("203.0.114.1:443")), Reason::NoPrefix),
    ] {
        rows.push(row("an unlisted source", &frame, reason));
        rows.push(row("a listed source", &sent_by(&frame, "10.1.0.1"), reason));
    }
    let options = sent_by(&tcp4, "10.1.0.1").options(&[1; 12]);
    rows.push(row("a listed source with IP options", &options, Reason::Matched));
    let options = tcp4.clone().options(&[1; 12]);
    rows.push(row("an unlisted source with IP options", &options, Reason::SourceNotListed));
    let chain = sent_by(&tcp6, "fd00:1::7").extension(Extension::Destination(0));
    rows.push(row("a listed source behind an extension", &chain, Reason::Matched));
    let chain = tcp6.clone().extension(Extension::Destination(0));
    rows.push(row("an unlisted source with an extension", &chain, Reason::SourceNotListed));
    bench.check(&rows);
}

#[test]
fn a_family_without_a_listed_source_goes_direct_from_nobody() {
    let sources =
        Sources { prefixes: ["0.0.0.0/0".parse().unwrap()].into(), interfaces: BTreeSet::new() };
    let bench = Bench::of(table().for_sources(sources));
    bench.check(&[
        row("any IPv4 source", &tcp4(), Reason::Matched),
        row("any IPv6 source", &tcp6(), Reason::SourceNotListed),
    ]);
}

#[test]
fn what_would_go_direct_is_inspected_while_off_or_without_a_daemon_and_counted_as_such() {
    let mut bench = Bench::new();
    let rows = |refusal: Option<Reason>| {
        let mut rows = Vec::new();
        for (name, frame) in plain() {
            let reason = refusal.unwrap_or(Reason::Matched);
            rows.push(row(name, &frame, reason));
            let tagged = frame.tag(VlanTag::Service, 7).tag(VlanTag::Customer, 8);
            rows.push(row(format!("{name} tagged"), &tagged, reason));
        }
        // Why a packet is inspected anyway comes first.
        for (name, frame, reason) in [
            ("another port", Frame::tcp(to("40.96.0.1:444")), Reason::PortNotListed),
            ("elsewhere", Frame::tcp(to("203.0.114.1:443")), Reason::NoPrefix),
            ("a fragment", tcp4().fragment(0, true), Reason::FirstFragment),
            ("ESP", Frame::new(to("40.96.0.1:0"), Protocol::Other(50)), Reason::Ipsec),
        ] {
            rows.push(row(name, &frame, reason));
        }
        rows
    };
    bench.check(&rows(None));
    let a_moment = Duration::from_nanos(1);
    for (on, deadline, refusal) in [
        (false, None, Some(Reason::SwitchedOff)),
        (true, None, None),
        (true, Some(a_moment), Some(Reason::DaemonGone)),
        // The switch comes before the deadline.
        (false, Some(a_moment), Some(Reason::SwitchedOff)),
        (true, Some(support::PATIENCE), None),
    ] {
        let mut control = bench.control();
        control.switch(on).unwrap();
        control.renew(deadline).unwrap();
        bench.refusal = refusal;
        bench.check(&rows(refusal));
    }
}

#[test]
fn headers_in_the_second_buffer_are_inspected_while_off() {
    let bench = Bench::new();
    bench.control().switch(false).unwrap();
    let frame = Frame::tcp(to("[2603:1006::1]:443"))
        .extension(Extension::Destination(255))
        .extension(Extension::Destination(255))
        .build()
        .unwrap();
    assert_eq!(classify(frame.as_slice(), &bench.table).reason(), Reason::Matched);
    let outcome = bench.run(Program::XdpFrags, &frame);
    assert_eq!((outcome.verdict, outcome.passed), (Verdict::Inspect, true));
}

#[test]
fn packets_cut_off_at_every_byte() {
    let tagged_udp = udp4().options(&[1; 8]).tag(VlanTag::Service, 7).tag(VlanTag::Customer, 8);
    let chained_tcp = tcp6().extension(Extension::HopByHop(0)).extension(Extension::Destination(1));
    // The last byte of the transport header is the last that is needed.
    let cases = [
        ("tcp4", tcp4(), 14 + 20 + 20),
        ("tagged udp4 with options", tagged_udp, 14 + 2 * 4 + 28 + 8),
        ("tcp6 behind two headers", chained_tcp, 14 + 40 + 8 + 16 + 20),
    ];
    let mut rows = Vec::new();
    for (what, frame, headers) in cases {
        for length in 0..=frame.build().unwrap().len() {
            let reason = if length < headers { Reason::Truncated } else { Reason::Matched };
            rows.push(row(
                format!("{what}, {length} bytes"),
                &frame.clone().truncated(length),
                reason,
            ));
        }
    }
    Bench::new().check(&rows);
}

/// Frames as they come in from a wire, where no test run refuses the short ones.
#[test]
fn packets_cut_off_at_every_byte_on_a_wire() {
    for (xdp, count) in [
        (XdpRequest::No, (|counts| &counts.tc) as fn(&Counts) -> &CounterSheet),
        (XdpRequest::Native, |counts| &counts.xdp),
        (XdpRequest::Generic, |counts| &counts.xdp),
    ] {
        let site = Site::new();
        let lock = site.lock();
        site.publish(&lock, &table(), &[site.hook(support::LAN, xdp)]).unwrap();
        let mut wire = Wire::open(&site.client, support::CLIENT).unwrap();
        let (mut cut, mut matched) = (0, 0);
        for (frame, headers) in [(tcp4(), 14 + 20 + 20), (tcp6(), 14 + 40 + 20)] {
            for length in SHORTEST..=frame.build().unwrap().len() {
                wire.send(&frame.clone().truncated(length).build().unwrap()).unwrap();
                *if length < headers { &mut cut } else { &mut matched } += 1;
            }
        }
        let expected = [(Reason::Truncated, cut), (Reason::Matched, matched)];
        let mut counted = expected;
        support::wait_until("every frame is counted", || {
            let counts = site.counts();
            counted = expected.map(|(reason, _)| (reason, count(&counts).reason(reason).packets));
            support::decided(count(&counts)) == cut + matched
        });
        assert_eq!(counted, expected, "{xdp:?}");
    }
}

#[test]
fn headers_in_the_second_buffer_of_xdp() {
    let bench = Bench::new();
    for (port, reason) in [(443, Reason::Matched), (444, Reason::PortNotListed)] {
        let destination = SocketAddr::new("2603:1006::1".parse().unwrap(), port);
        let frame = Frame::tcp(destination)
            .extension(Extension::Destination(255))
            .extension(Extension::Destination(255))
            .build()
            .unwrap();
        let oracle = classify(frame.as_slice(), &bench.table);
        assert_eq!(oracle.reason(), reason);
        let outcome = bench.run(Program::XdpFrags, &frame);
        assert_eq!((outcome.verdict, outcome.passed), (oracle.verdict(), true), "port {port}");
    }
}

#[test]
fn metadata_of_somebody_else_in_front() {
    let bench = Bench::new();
    let pins = bench.bpffs.pins().join("current");
    let open = |program: Program| {
        Xdp::from_pin(pins.join(program.name()), XdpAttachType::Interface).unwrap()
    };
    let (xdp, explain) = (open(Program::Xdp), open(Program::Explain));
    for words in 0..=4 {
        let mut foreign = Foreign::with_metadata(&vec![0x5a5a_5a5a; words]);
        for (name, frame) in plain() {
            let frame = frame.build().unwrap();
            let outcome = foreign.run_in_front_of(&xdp, &frame);
            assert_eq!((outcome.verdict, outcome.passed), (Verdict::Direct, true), "{name}");
            let answer = foreign.run_in_front_of(&explain, &frame).action;
            assert_eq!(answer, classify(frame.as_slice(), &bench.table).counter(), "{name}");
        }
        let frame = Frame::tcp(to("40.96.0.1:444")).build().unwrap();
        let outcome = foreign.run_in_front_of(&xdp, &frame);
        assert_eq!((outcome.verdict, outcome.passed), (Verdict::Inspect, true));
    }
}

/// Bytes to overwrite, and where to cut off.
type Mutation = (Vec<(prop::sample::Index, u8)>, Option<prop::sample::Index>);

fn mutation() -> impl Strategy<Value = Mutation> {
    // Mostly in the headers, where bytes mean something.
    let byte = (any::<prop::sample::Index>(), any::<u8>());
    (prop::collection::vec(byte, 0..6), prop::option::weighted(0.2, any::<prop::sample::Index>()))
}

fn mutate(mut frame: Vec<u8>, (bytes, cut): &Mutation) -> Vec<u8> {
    let headers = frame.len().min(110);
    for (at, byte) in bytes {
        frame[at.index(headers)] = *byte;
    }
    if let Some(cut) = cut {
        frame.truncate(SHORTEST + cut.index(frame.len() - SHORTEST));
    }
    frame
}

#[test]
fn mutations_of_valid_packets() {
    let bench = Bench::new();
    let mut seeds: Vec<Frame> = plain().into_iter().map(|(_, frame)| frame).collect();
    seeds.push(udp4().options(&[1; 12]).tag(VlanTag::Service, 1).tag(VlanTag::Customer, 2));
    seeds.push(tcp6().extension(Extension::HopByHop(0)).extension(Extension::Routing(0)));
    seeds.push((0..6).fold(udp6(), |frame, _| frame.extension(Extension::Destination(0))));
    let seeds: Vec<_> = seeds.iter().map(|frame| frame.build().unwrap()).collect();
    let config = ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() };
    TestRunner::new(config)
        .run(&(prop::sample::select(seeds), mutation()), |(seed, mutation)| {
            let frame = mutate(seed, &mutation);
            let oracle = classify(frame.as_slice(), &bench.table);
            let objections = bench.objections(&frame, oracle);
            prop_assert!(objections.is_empty(), "{}", objections.join("\n"));
            Ok(())
        })
        .unwrap();
}

#[test]
fn tc_takes_our_bits_off_a_packet_that_is_inspected() {
    let bench = Bench::new();
    let elsewhere = Frame::tcp(to("9.9.9.9:443")).build().unwrap();
    let before = 0x40 | support::MARK.value;
    for program in [Program::Tc, Program::TcIp, Program::TcBehindXdp] {
        // Somebody has marked it Direct before us: it must not stay so.
        let marked = Mark { before, direct: before };
        let outcome = bench
            .generation()
            .ask(program, |fd| run_tc(fd, &elsewhere, marked, RunOptions::default()))
            .unwrap();
        assert_eq!(outcome.verdict, Verdict::Inspect, "{}", program.name());
        let cleared = Mark { before, direct: 0x40 };
        let outcome = bench
            .generation()
            .ask(program, |fd| run_tc(fd, &elsewhere, cleared, RunOptions::default()))
            .unwrap();
        assert_eq!(outcome.verdict, Verdict::Direct, "only our bits went: {}", program.name());
    }
}
