//! `replay` counts what classifying each packet by itself gives, whatever file holds them, and no
//! file makes it panic. One test needs root and tcpdump: it replays a capture of a real interface.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use gateway_common::{Reason, Verdict, classify};
use gateway_user::feed;
use gateway_user::policy::{Policy, Table, compile};
use gateway_user::replay::{CaptureError, Count, End, Moment, Tally, replay};
use proptest::prelude::*;
use serde_json::{Value, json};
use xtask::testbed::{End as LinkEnd, Extension, Frame, Namespace, Offloads, VlanTag, Wire, link};

use crate::captures;
use crate::captures::{Bytes, Capture, Order, Piece, pcap, pcapng};

fn table() -> Table {
    compile(&feed::embedded().unwrap(), &Policy::default()).unwrap().table
}

fn to(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// Frames of every kind: direct ones of several sets, and inspected ones of many reasons.
fn frames() -> Vec<Bytes> {
    let frames = [
        Frame::tcp(to("40.96.0.1:443")),
        Frame::tcp(to("40.96.0.1:443")).payload(&[7; 1200]),
        Frame::tcp(to("40.96.0.1:444")),
        Frame::udp(to("52.112.0.1:3478")).payload(&[1; 160]),
        Frame::udp(to("[2603:1016::1]:443")),
        Frame::tcp(to("[2603:1016::1]:25")),
        Frame::tcp(to("13.107.136.1:80")).tag(VlanTag::Service, 7).tag(VlanTag::Customer, 9),
        Frame::tcp(to("9.9.9.9:443")),
        Frame::udp(to("40.96.0.1:443")).fragment(0, true),
        Frame::udp(to("[2603:1016::1]:443")).extension(Extension::Fragment(3, false)),
        Frame::tcp(to("40.96.0.1:443")).ethertype(0x0806),
        Frame::tcp(to("40.96.0.1:443")).version(5),
    ];
    frames.iter().map(|frame| frame.build().unwrap()).collect()
}

/// Frames that have an IP header right behind the Ethernet one, as every link type can carry.
fn plain_frames() -> Vec<Bytes> {
    let plain = |frame: &Bytes| {
        matches!(frame[12..14], [0x08, 0x00] | [0x86, 0xdd]) && matches!(frame[14] >> 4, 4 | 6)
    };
    frames().into_iter().filter(plain).collect()
}

/// What the classifier says of each frame by itself.
fn expected(table: &Table, frames: &[Bytes], length: impl Fn(&Bytes) -> usize) -> Tally {
    let mut tally = Tally::default();
    for frame in frames {
        let decision = classify(frame.as_slice(), table);
        let bytes = length(frame) as u64;
        let add = |count: &mut Count| {
            *count = count.plus(Count { packets: 1, bytes });
        };
        add(tally.reasons.entry(decision.reason()).or_default());
        if decision.verdict() == Verdict::Direct {
            add(tally.groups.entry(decision.group().unwrap()).or_default());
        }
    }
    tally
}

fn replayed(bytes: &[u8], table: &Table) -> Tally {
    replay(bytes, table, None).unwrap()
}

#[test]
fn ethernet_captures_of_both_formats_and_byte_orders_count_alike() {
    let table = table();
    let frames = frames();
    let mut wanted = expected(&table, &frames, Vec::len);
    wanted.span = Some((Moment(1_785_456_000_000_000_000), Moment(1_785_456_011_000_011_000)));
    assert!(wanted.reasons.len() >= 7, "{wanted:?}");
    assert!(wanted.groups.len() >= 2, "{wanted:?}");
    let pieces: Vec<Piece> =
        (0_u32..).zip(&frames).map(|(at, frame)| Piece::at(at, frame)).collect();
    for order in [Order::Little, Order::Big] {
        for nanoseconds in [false, true] {
            let capture = Capture { order, nanoseconds, link: 1 };
            assert_eq!(replayed(&pcap(capture, &pieces), &table), wanted, "pcap {capture:?}");
            assert_eq!(replayed(&pcapng(capture, &pieces), &table), wanted, "pcapng {capture:?}");
        }
    }
}

#[test]
fn every_link_type_that_is_understood_leads_to_the_same_decisions() {
    let table = table();
    let frames = plain_frames();
    for order in [Order::Little, Order::Big] {
        for (name, link, head) in captures::link_types(order) {
            let of_family = |frame: &&Bytes| match link {
                228 => frame[12] == 0x08,
                229 => frame[12] == 0x86,
                _ => true,
            };
            let frames: Vec<Bytes> = frames.iter().filter(of_family).cloned().collect();
            let packets: Vec<Bytes> = frames.iter().map(&head).collect();
            let mut wanted = expected(&table, &frames, |frame| head(frame).len());
            assert!(wanted.groups.len() + wanted.reasons.len() >= 3, "{name}: {wanted:?}");
            let pieces: Vec<Piece> = packets.iter().map(|packet| Piece::at(0, packet)).collect();
            let start = Moment(1_785_456_000_000_000_000);
            wanted.span = Some((start, start));
            let capture = Capture { order, nanoseconds: false, link };
            assert_eq!(replayed(&pcap(capture, &pieces), &table), wanted, "pcap, {name}");
            assert_eq!(replayed(&pcapng(capture, &pieces), &table), wanted, "pcapng, {name}");
        }
    }
}

#[test]
fn each_interface_of_a_pcapng_file_has_its_own_link_type_and_clock() {
    let table = table();
    let frame = Frame::tcp(to("40.96.0.1:443")).build().unwrap();
    let raw = &frame[14..];
    for order in [Order::Little, Order::Big] {
        let file = [
            captures::section(order),
            captures::interface(order, 1, 0, &[]),
            // Milliseconds, and ten seconds later than they say.
            captures::interface(
                order,
                101,
                0,
                &[(9, vec![3]), (14, captures::number64(order, 10))],
            ),
            captures::enhanced(order, 1, 5_000, raw, raw.len()),
            captures::enhanced(order, 0, 20_000_000, &frame, frame.len()),
            // A block that nobody knows, and the next section, in the other byte order.
            captures::block(order, 0x0bad_cafe, &[1, 2, 3, 4]),
            captures::section(order.other()),
            captures::interface(order.other(), 12, 0, &[]),
            captures::simple(order.other(), raw, raw.len()),
        ]
        .concat();
        let tally = replayed(&file, &table);
        assert_eq!(tally.direct().packets, 3, "{order:?}");
        let bytes = frame.len() + 2 * raw.len();
        assert_eq!(tally.total(), Count { packets: 3, bytes: bytes as u64 }, "{order:?}");
        let (first, last) = (Moment(15_000_000_000), Moment(20_000_000_000));
        assert_eq!(tally.span, Some((first, last)), "{order:?}");
    }
}

#[test]
fn packets_that_the_capture_cut_count_whole_and_are_named_where_too_little_is_left() {
    let table = table();
    let frame = Frame::tcp(to("40.96.0.1:443")).payload(&[0; 900]).build().unwrap();
    for order in [Order::Little, Order::Big] {
        let kept = [frame.len(), 54, 53, 20, 0];
        let pieces: Vec<Piece> = kept.iter().map(|kept| Piece::at(0, &frame).cut(*kept)).collect();
        let capture = Capture { order, nanoseconds: false, link: 1 };
        let simple = [
            captures::section(order),
            captures::interface(order, 1, 54, &[]),
            captures::simple(order, &frame[..54], frame.len()),
        ]
        .concat();
        for file in [pcap(capture, &pieces), pcapng(capture, &pieces)] {
            let tally = replayed(&file, &table);
            let length = frame.len() as u64;
            assert_eq!(tally.direct(), Count { packets: 2, bytes: 2 * length });
            assert_eq!(tally.cut, Count { packets: 3, bytes: 3 * length });
            assert_eq!(tally.reasons[&Reason::Truncated], tally.cut);
        }
        let tally = replayed(&simple, &table);
        assert_eq!(tally.direct(), Count { packets: 1, bytes: frame.len() as u64 });
    }
    // Short on the wire already: truncated, and not by the capture.
    let capture = Capture { order: Order::Little, nanoseconds: false, link: 1 };
    let tally = replayed(&pcap(capture, &[Piece::at(0, &frame[..30])]), &table);
    assert_eq!((tally.cut.packets, tally.reasons[&Reason::Truncated].packets), (0, 1));
}

#[test]
fn a_file_that_ends_within_a_packet_counts_what_came_before() {
    let table = table();
    let frames = frames();
    let pieces: Vec<Piece> = frames.iter().map(|frame| Piece::at(0, frame)).collect();
    let capture = Capture { order: Order::Little, nanoseconds: false, link: 1 };
    for write in [pcap, pcapng] {
        let ends: Vec<usize> =
            (0..=pieces.len()).map(|count| write(capture, &pieces[..count]).len()).collect();
        let file = write(capture, &pieces);
        // Each byte where a packet ends, and some in between.
        let lengths = (ends[0]..=file.len())
            .filter(|length| length % 37 == 0 || ends.iter().any(|end| end.abs_diff(*length) < 3));
        for length in lengths {
            let tally = replayed(&file[..length], &table);
            let whole = ends.iter().filter(|end| **end <= length).count() as u64 - 1;
            assert_eq!(tally.total().packets, whole, "{length} bytes");
            let end = if ends.contains(&length) { End::Whole } else { End::WithinPacket };
            assert_eq!(tally.end, end, "{length} bytes");
        }
    }
}

#[test]
fn what_is_no_capture_is_damaged_or_has_another_link_type_is_refused() {
    let table = table();
    let frame = Frame::tcp(to("40.96.0.1:443")).build().unwrap();
    let refused = |file: &[u8]| replay(file, &table, None).unwrap_err();
    for file in [&b""[..], b"\x1f\x8b\x08", b"#!/bin/sh\nexit 0\n", &[0; 4096], &[0xff; 4096]] {
        assert!(matches!(refused(file), CaptureError::NotACapture), "{file:?}");
    }
    let order = Order::Little;
    for link in [9, 105, 127, 147, 239, 60_000] {
        let capture = Capture { order, nanoseconds: false, link };
        // Without packets there is nothing to misunderstand.
        assert_eq!(replayed(&pcap(capture, &[]), &table), Tally::default());
        for file in
            [pcap(capture, &[Piece::at(0, &frame)]), pcapng(capture, &[Piece::at(0, &frame)])]
        {
            let error = refused(&file);
            assert!(
                matches!(error, CaptureError::LinkType { packet: 1, number } if number == link),
                "{link}: {error}"
            );
            assert!(error.to_string().contains(&format!("link type {link} (")), "{error}");
        }
    }
    let capture = Capture { order, nanoseconds: false, link: 1 };
    let good = pcapng(capture, &[Piece::at(0, &frame)]);
    let damaged = [
        ("no interface", captures::enhanced(order, 7, 0, &frame, frame.len())),
        ("shorter than its header", [&b"\x06\0\0\0"[..], &[8, 0, 0, 0], &[0; 64]].concat()),
        ("other length at its end", {
            let mut block = captures::block(order, 5, &[0; 16]);
            let at = block.len() - 4;
            block[at] ^= 4;
            // The end is not compared for blocks that are skipped: put a packet behind it.
            [block, captures::enhanced(order, 9, 0, &frame, frame.len())].concat()
        }),
        ("more bytes than its block", {
            let mut block = captures::enhanced(order, 0, 0, &frame, frame.len());
            block[20..24].copy_from_slice(&60_000_u32.to_le_bytes());
            // More than the packet claims, so that waiting for it would swallow all of this.
            [block, vec![0; 70_000]].concat()
        }),
        ("longer than any block", [&b"\x06\0\0\0"[..], &[0, 0, 0, 0x7f], &[0; 64]].concat()),
    ];
    for (what, block) in damaged {
        let error = refused(&[good.clone(), block].concat());
        assert!(matches!(error, CaptureError::Damaged { packets: 1 }), "{what}: {error}");
    }
    let obsolete = [good, captures::block(order, 2, &[0; 32])].concat();
    assert!(matches!(refused(&obsolete), CaptureError::Obsolete));
    let long = Piece::at(0, &frame).claim(0x7fff_ffff);
    let file = pcap(capture, &[Piece::at(0, &frame), long]);
    assert!(matches!(refused(&file), CaptureError::Damaged { packets: 1 }));
}

#[test]
fn a_packet_longer_than_the_buffer_is_read_and_pipes_may_give_a_byte_at_a_time() {
    struct Drip<'a>(&'a [u8]);
    impl std::io::Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let [byte, rest @ ..] = self.0 else { return Ok(0) };
            self.0 = rest;
            buffer[0] = *byte;
            Ok(1)
        }
    }
    let table = table();
    let mut frame = Frame::tcp(to("40.96.0.1:443")).build().unwrap();
    frame.resize(3 << 20, 0);
    let pieces = [Piece::at(0, &frame), Piece::at(1, &frame)];
    let capture = Capture { order: Order::Big, nanoseconds: true, link: 1 };
    for file in [pcap(capture, &pieces), pcapng(capture, &pieces)] {
        for tally in [replayed(&file, &table), replay(Drip(&file), &table, None).unwrap()] {
            assert_eq!(tally.direct(), Count { packets: 2, bytes: 2 * (3 << 20) });
            assert_eq!(tally.end, End::Whole);
        }
    }
}

#[test]
fn a_reader_that_fails_is_told_from_a_damaged_file() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is on fire"))
        }
    }
    let error = replay(Broken, &table(), None).unwrap_err();
    assert_eq!(error.to_string(), "cannot be read: the disk is on fire");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn totals_are_those_of_each_packet(
        packets in prop::collection::vec((0_usize..12, 0_usize..1400, 0_u32..1000), 0..40),
        big in any::<bool>(),
        nanoseconds in any::<bool>(),
        ng in any::<bool>(),
    ) {
        let (table, all) = (table(), frames());
        let order = if big { Order::Big } else { Order::Little };
        let capture = Capture { order, nanoseconds, link: 1 };
        let pieces: Vec<Piece> = packets
            .iter()
            .map(|(which, kept, at)| Piece::at(*at, &all[*which]).cut(*kept))
            .collect();
        let file = if ng { pcapng(capture, &pieces) } else { pcap(capture, &pieces) };
        let mut wanted = BTreeMap::<Reason, Count>::new();
        for ((which, kept, _), frame) in packets.iter().map(|packet| (packet, &all[packet.0])) {
            let captured = &frame[..(*kept).min(frame.len())];
            let count = wanted.entry(classify(captured, &table).reason()).or_default();
            *count = count.plus(Count { packets: 1, bytes: all[*which].len() as u64 });
        }
        let tally = replayed(&file, &table);
        prop_assert_eq!(tally.reasons, wanted);
        let times = packets.iter().map(|(.., at)| i64::from(*at));
        let span = times.clone().min().zip(times.max());
        let seconds = tally.span.map(|(first, last)| {
            (first.0 / 1_000_000_000 - 1_785_456_000, last.0 / 1_000_000_000 - 1_785_456_000)
        });
        prop_assert_eq!(seconds, span);
    }

    #[test]
    fn no_file_makes_it_panic(
        big in any::<bool>(),
        ng in any::<bool>(),
        link in prop::sample::select(vec![0_u16, 1, 12, 101, 113, 228, 229, 276]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let table = table();
        let order = if big { Order::Big } else { Order::Little };
        let capture = Capture { order, nanoseconds: false, link };
        let frames = frames();
        let pieces: Vec<Piece> = frames.iter().map(|frame| Piece::at(0, frame)).collect();
        let mut file = if ng { pcapng(capture, &pieces) } else { pcap(capture, &pieces) };
        for (at, value) in changes {
            // Half of them in front, where the headers are.
            let length = if value % 2 == 0 { file.len() } else { 200 };
            file[at.index(length)] = value;
        }
        file.extend(&noise);
        file.truncate(cut.index(file.len() + 1));
        let _ = replay(file.as_slice(), &table, None);
        let _ = replay(noise.as_slice(), &table, None);
    }
}

fn breakout365(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_breakout365")).args(arguments).output().unwrap()
}

#[test]
fn the_verb_reports_verdicts_reasons_sets_time_and_share() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("site.pcap");
    let frames: Vec<Bytes> = [
        Frame::tcp(to("40.96.0.1:443")).payload(&[0; 246]),
        Frame::udp(to("52.112.0.1:3478")).payload(&[0; 58]),
        Frame::tcp(to("9.9.9.9:443")).payload(&[0; 546]),
    ]
    .iter()
    .map(|frame| frame.build().unwrap())
    .collect();
    let pieces: Vec<Piece> =
        (0_u32..).zip(&frames).map(|(at, frame)| Piece::at(at, frame)).collect();
    let capture = Capture { order: Order::Little, nanoseconds: false, link: 1 };
    let mut file = pcap(capture, &pieces);
    std::fs::write(&path, &file).unwrap();
    let name = path.to_str().unwrap();
    let output = breakout365(&["replay", name, "--json"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (field, wanted) in [
        ("packets", json!(3)),
        ("bytes", json!(1000)),
        ("direct_share", json!(0.4)),
        ("first", json!("2026-07-31T00:00:00Z")),
        ("last", json!("2026-07-31T00:00:02Z")),
        ("seconds", json!(2.000_002)),
        ("incomplete", json!(false)),
        ("cut", json!({"packets": 0, "bytes": 0})),
        (
            "verdicts",
            json!({
                "direct": {"packets": 2, "bytes": 400},
                "inspect": {"packets": 1, "bytes": 600},
            }),
        ),
        (
            "sets",
            json!([
                {"id": 1, "own": null, "service_area": "Exchange", "category": "Optimize",
                 "packets": 1, "bytes": 300},
                {"id": 11, "own": null, "service_area": "Skype", "category": "Optimize",
                 "packets": 1, "bytes": 100},
                {"id": 31, "own": null, "service_area": "SharePoint", "category": "Optimize",
                 "packets": 0, "bytes": 0},
            ]),
        ),
    ] {
        assert_eq!(report[field], wanted, "{field}");
    }
    assert_eq!(report["reasons"].as_array().unwrap().len(), Reason::ALL.len());
    let text = String::from_utf8(breakout365(&["replay", name]).stdout).unwrap();
    for words in
        ["3 packets, 1000 bytes", "(2.000 s): 40.0% of the bytes would go direct", "no_prefix"]
    {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }

    file.truncate(file.len() - 1);
    std::fs::write(&path, &file).unwrap();
    let output = breakout365(&["replay", name, "--json"]);
    assert!(output.status.success(), "{output:?}");
    let warning = String::from_utf8(output.stderr).unwrap();
    let wanted =
        format!("breakout365: {name}: ends within a packet; the 2 packets before it are counted\n");
    assert_eq!(warning, wanted);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["incomplete"], &report["packets"]), (&json!(true), &json!(2)));

    std::fs::write(&path, "no capture").unwrap();
    for name in [name, "/nowhere/at/all.pcap", "/tmp"] {
        let output = breakout365(&["replay", name]);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(13), "{line}");
        assert!(output.stdout.is_empty() && line.lines().count() == 1, "{line}");
        assert!(line.starts_with(&format!("breakout365: {name}: ")), "{line}");
    }
}

#[test]
fn own_includes_are_named_excludes_counted_and_sources_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| -> String {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let frames: Vec<Bytes> = ["198.18.0.1:8443", "40.96.1.1:443", "40.96.2.1:443"]
        .iter()
        .map(|destination| Frame::tcp(to(destination)).build().unwrap())
        .collect();
    let pieces: Vec<Piece> = frames.iter().map(|frame| Piece::at(0, frame)).collect();
    let capture = Capture { order: Order::Little, nanoseconds: false, link: 1 };
    let capture = write("site.pcap", &pcap(capture, &pieces));
    let config = write(
        "config.toml",
        br#"
        version = 1
        [[interface]]
        name = "lan0"
        [[policy.include]]
        name = "branch"
        prefixes = ["198.18.0.0/15"]
        [[policy.exclude]]
        name = "lab"
        prefixes = ["40.96.1.0/24"]
        [policy.sources]
        interfaces = ["lan0"]
        "#,
    );
    let report = |more: &[&str]| -> Value {
        let output =
            breakout365(&[&["replay", &capture, "--config", &config, "--json"], more].concat());
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let packets = |report: &Value, reason: &str| {
        let mut reasons = report["reasons"].as_array().unwrap().iter();
        reasons.find(|row| row["reason"] == reason).unwrap()["packets"].as_u64().unwrap()
    };
    let inside = report(&["--in", "lan0"]);
    let of_reasons = ["matched", "excluded", "source_not_listed"];
    assert_eq!(of_reasons.map(|reason| packets(&inside, reason)), [2, 1, 0]);
    let own = inside["sets"].as_array().unwrap().last().unwrap();
    assert_eq!((&own["own"], &own["packets"]), (&json!("branch"), &json!(1)));
    for elsewhere in [&["--in", "lan1"][..], &[]] {
        let report = report(elsewhere);
        assert_eq!(of_reasons.map(|reason| packets(&report, reason)), [0, 1, 2], "{elsewhere:?}");
    }
}

/// Needs root, and tcpdump.
#[test]
fn a_capture_by_tcpdump_counts_what_was_sent() {
    let (client, gateway) = (Namespace::new("client").unwrap(), Namespace::new("gateway").unwrap());
    let end = |namespace, interface, last| LinkEnd {
        namespace,
        interface,
        mac: [2, 0, 0, 0, 0, last],
        addresses: &[],
    };
    link(&end(&client, "eth0", 1), &end(&gateway, "lan0", 2), Offloads::None).unwrap();
    let directory = tempfile::tempdir().unwrap();
    // Cooked by "any", and plain Ethernet.
    for interface in ["lan0", "any"] {
        let path = directory.path().join(format!("{interface}.pcap"));
        let mut dump = gateway
            .spawn(
                Command::new("tcpdump")
                    .args(["-i", interface, "-n", "-U", "-c", "3", "-w"])
                    .arg(&path)
                    .arg("tcp or udp port 3478")
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped()),
            )
            .unwrap();
        let errors = dump.child().stderr.take().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(errors));
        assert!(
            lines.any(|line| line.unwrap().contains("listening on")),
            "tcpdump does not listen"
        );
        let mut wire = Wire::open(&client, "eth0").unwrap();
        for frame in [
            Frame::tcp(to("40.96.0.1:443")),
            Frame::udp(to("52.112.0.1:3478")),
            Frame::tcp(to("9.9.9.9:443")),
        ] {
            wire.send(&frame.build().unwrap()).unwrap();
        }
        let status = dump.wait_for(Duration::from_secs(20)).unwrap();
        assert!(status.is_some_and(|status| status.success()), "{interface}: {status:?}");
        let tally = replay(std::fs::File::open(&path).unwrap(), &table(), None).unwrap();
        assert_eq!((tally.total().packets, tally.direct().packets), (3, 2), "{interface}");
        assert_eq!(tally.end, End::Whole, "{interface}");
    }
}
