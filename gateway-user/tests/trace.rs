//! `trace` shows what the programs decide, says what it lost, and costs nothing once it is gone.
//! Needs root.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::process::Output;
use std::thread::sleep;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use gateway_common::{Reason, Transport, control};
use gateway_user::datapath::{Control, DatapathError, Traced, Tracer, XdpRequest};
use gateway_user::exit::Exit;
use gateway_user::policy::Table;
use nix::sys::signal::Signal;
use serde_json::Value;
use xtask::testbed::{Frame, Wire};

use crate::support::product::Product;
use crate::support::{
    CLIENT, DIRECT, INSPECTED, LAN, PATIENCE, Site, frame, one_table, other_table, traffic,
    wait_until,
};

const EVERY: NonZeroU32 = NonZeroU32::MIN;

/// Everything that is drawn until `expected` packets were read.
fn read(site: &Site, tracer: &mut Tracer, expected: usize) -> Vec<Traced> {
    let mut all = Vec::new();
    wait_until("every packet is read", || {
        // Names of interfaces are those of the namespace.
        let read = || {
            tracer.read(&mut |_, traced| {
                all.push(traced);
                Ok(())
            })
        };
        site.gateway.enter(read).unwrap().unwrap().unwrap();
        all.len() >= expected
    });
    assert_eq!(all.len(), expected);
    all
}

/// Packets of every kind that has a reason of its own.
fn all_kinds() -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = traffic(DIRECT);
    frames.extend(traffic(INSPECTED));
    let direct = frame(DIRECT[0]);
    // A VLAN tag, which the kernel takes off before tc.
    let tagged = [&direct[..12], &[0x81, 0, 0, 7], &direct[12..]].concat();
    // ESP in place of TCP: the checksum of the IP header is nothing that anyone here looks at.
    let mut esp = direct.clone();
    esp[23] = 50;
    let mut fragment = direct.clone();
    fragment[20] = 0x20;
    let mut arp = direct.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let to = "40.96.0.1:443".parse().unwrap();
    let long = Frame::tcp(to).payload(&[0xa5; 1000]).build().unwrap();
    frames.extend([tagged, esp, fragment, arp, long]);
    frames
}

fn assert_equals_oracle(traced: &Traced, table: &Table, sent: &[u8]) {
    let expected = table.decide_frame(sent, None);
    assert_eq!(traced.answer.reason, expected.reason(), "{traced:?}");
    let sets = expected.group().map(|group| table.groups()[usize::from(group)].clone());
    let sets: Vec<u32> = sets.into_iter().flatten().collect();
    assert_eq!(traced.answer.sets, sets, "{traced:?}");
}

#[test]
fn every_packet_that_is_drawn_is_what_was_sent_and_what_the_oracle_says_of_it() {
    for (xdp, hook) in
        [(XdpRequest::Native, "xdp"), (XdpRequest::Generic, "xdp"), (XdpRequest::No, "tc")]
    {
        let site = Site::new();
        let lock = site.lock();
        site.publish(&lock, &one_table(), &[site.hook(LAN, xdp)]).unwrap();
        let mut tracer = Tracer::start(&site.pins(), EVERY).unwrap();
        let frames = all_kinds();
        let mut wire = Wire::open(&site.client, CLIENT).unwrap();
        for frame in &frames {
            wire.send(frame).unwrap();
        }
        let all = read(&site, &mut tracer, frames.len());
        for (traced, sent) in all.iter().zip(&frames) {
            assert_eq!(traced.hook.name(), hook);
            assert_eq!(traced.interface.as_deref(), Some(LAN));
            assert_equals_oracle(traced, &one_table(), sent);
            // In tc, and in generic XDP before that, a tag may be beside the frame.
            let tagged = sent[12..14] == [0x81, 0];
            if tagged {
                continue;
            }
            let length = usize::try_from(traced.length).unwrap();
            assert_eq!(length, sent.len());
            // `b365_xdp` reads words of two bytes.
            let whole = sent.len().min(128);
            assert!((whole - 1..=whole).contains(&traced.head.len()), "{traced:?}");
            assert_eq!(traced.head, sent[..traced.head.len()]);
        }
        let first = &all[0].packet;
        assert_eq!(first.destination, Some("40.96.0.0".parse().unwrap()));
        assert_eq!((first.destination_port, first.protocol), (Some(443), Some(6)));
        assert_eq!(tracer.lost().unwrap(), 0);
    }
}

#[test]
fn what_finds_no_room_is_counted_as_lost_and_never_held_up() {
    let site = Site::new();
    let lock = site.lock();
    site.publish(&lock, &one_table(), &[site.hook(LAN, XdpRequest::Native)]).unwrap();
    let mut tracer = Tracer::start(&site.pins(), EVERY).unwrap();
    let frames = vec![frame(DIRECT[0]); 2500];
    let marked = site.send_from(CLIENT, &frames);
    assert_eq!(marked.direct, 2500);
    let lost = tracer.lost().unwrap();
    let kept = frames.len() - usize::try_from(lost).unwrap();
    // 256 KiB, of 168 bytes each.
    assert!((1500..1600).contains(&kept), "{kept}");
    read(&site, &mut tracer, kept);
    // What another tracer lost is not this one's.
    drop(tracer);
    assert_eq!(Tracer::start(&site.pins(), EVERY).unwrap().lost().unwrap(), 0);
}

#[test]
fn a_tracer_follows_to_the_next_generation_and_explains_by_it() {
    let site = Site::new();
    let lock = site.lock();
    let hooks = [site.hook(LAN, XdpRequest::Native)];
    site.publish(&lock, &one_table(), &hooks).unwrap();
    let mut tracer = Tracer::start(&site.pins(), EVERY).unwrap();
    for (generation, table) in [(1, one_table()), (2, other_table()), (3, one_table())] {
        if generation > 1 {
            site.publish(&lock, &table, &hooks).unwrap();
            // It looks at what serves with the next read.
            read(&site, &mut tracer, 0);
        }
        let frames = traffic(DIRECT);
        site.send_from(CLIENT, &frames);
        for (traced, sent) in read(&site, &mut tracer, frames.len()).iter().zip(&frames) {
            assert_eq!(traced.generation, generation);
            assert_equals_oracle(traced, &table, sent);
        }
    }
}

#[test]
fn one_in_so_many_is_drawn() {
    let site = Site::new();
    let lock = site.lock();
    site.publish(&lock, &one_table(), &[site.hook(LAN, XdpRequest::Native)]).unwrap();
    let mut tracer = Tracer::start(&site.pins(), NonZeroU32::new(10).unwrap()).unwrap();
    let frames = vec![frame(DIRECT[0]); 4000];
    site.send_from(CLIENT, &frames);
    let mut drawn = 0;
    let read = || {
        tracer.read(&mut |_, _| {
            drawn += 1;
            Ok(())
        })
    };
    site.gateway.enter(read).unwrap().unwrap().unwrap();
    // 400, with a standard deviation of 19.
    assert!((280..520).contains(&drawn), "{drawn}");
}

#[test]
fn while_nobody_traces_and_while_a_generation_is_tested_nothing_is_drawn() {
    let site = Site::new();
    let lock = site.lock();
    let hooks = [site.hook(LAN, XdpRequest::Native)];
    site.publish(&lock, &one_table(), &hooks).unwrap();
    site.send_from(CLIENT, &traffic(DIRECT));
    let mut tracer = Tracer::start(&site.pins(), EVERY).unwrap();
    // With more than 20 probes.
    site.publish(&lock, &other_table(), &hooks).unwrap();
    read(&site, &mut tracer, 0);
    read(&site, &mut tracer, 0);
    site.send_from(CLIENT, &traffic(INSPECTED));
    read(&site, &mut tracer, INSPECTED.len());
    drop(tracer);
    assert_eq!(Control::open(&site.pins()).unwrap().unwrap().sampling().unwrap(), 0);
    site.send_from(CLIENT, &traffic(DIRECT));
    let mut tracer = Tracer::start(&site.pins(), EVERY).unwrap();
    read(&site, &mut tracer, 0);
}

#[test]
fn a_second_tracer_is_refused_while_one_is_there() {
    let site = Site::new();
    let lock = site.lock();
    site.publish(&lock, &one_table(), &[site.hook(LAN, XdpRequest::Native)]).unwrap();
    let one = Tracer::start(&site.pins(), EVERY).unwrap();
    let Err(error) = Tracer::start(&site.pins(), EVERY) else { panic!("two at a time") };
    assert!(matches!(error, DatapathError::Traced { .. }), "{error}");
    let product = Product::new(&site, "auto");
    product.assert_refused(&["trace"], Exit::Busy as i32, &["another `breakout365 trace`"]);
    drop(one);
    drop(Tracer::start(&site.pins(), EVERY).unwrap());
    site.take_down(lock).unwrap();
    assert!(!site.pins().root().exists());
    product.assert_refused(&["trace"], Exit::Datapath as i32, &["nothing is loaded"]);
}

/// `trace` in the gateway, ended by `signal` after `packets` were shown, and what it printed.
fn traced_by_command(site: &Site, product: &Product<'_>, options: &[&str]) -> Output {
    let arguments = [&["trace", "--sample", "1"], options].concat();
    let output = std::thread::scope(|scope| {
        let running = scope.spawn(|| product.verb(&arguments));
        wait_until("it draws", || sampling(site) == 1);
        site.send_from(CLIENT, &traffic(DIRECT));
        site.send_from(CLIENT, &traffic(INSPECTED));
        running.join().unwrap()
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn sampling(site: &Site) -> u64 {
    Control::open(&site.pins()).unwrap().unwrap().sampling().unwrap()
}

#[test]
fn the_command_prints_lines_and_filters_them() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    let all = (DIRECT.len() + INSPECTED.len()).to_string();
    let output = traced_by_command(&site, &product, &["--json", "--count", &all]);
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for line in &lines {
        *reasons.entry(line["reason"].as_str().unwrap()).or_default() += 1;
        assert_eq!(line["interface"], LAN);
    }
    let expected = BTreeMap::from([("matched", 4), ("no_prefix", 4), ("port_not_listed", 2)]);
    assert_eq!(reasons, expected);
    let first = &lines[0];
    assert_eq!((&first["verdict"], &first["sets"]), (&"direct".into(), &vec![1].into()));
    assert_eq!((&first["protocol"], &first["hook"]), (&"tcp".into(), &"xdp".into()));
    assert_eq!(
        (&first["destination"], &first["destination_port"]),
        (&"40.96.0.0".into(), &443.into())
    );

    let options = ["--verdict", "inspect", "--prefix", "40.96.0.0/13", "--count", "1"];
    let output = traced_by_command(&site, &product, &options);
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.trim_end();
    assert!(line.contains(" lan0 xdp 192.0.2."), "{line}");
    assert!(line.contains(" > 40.96.0.0:444 tcp "), "{line}");
    assert!(line.ends_with(": inspect (port_not_listed)"), "{line}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.ends_with("trace: 1 shown, 0 lost\n"), "{told}");
    assert_eq!(sampling(&site), 0);
    daemon.terminate();
}

#[test]
fn a_tracer_that_is_killed_draws_nothing_after_its_lease() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    let mut tracer = product.spawn(&["trace", "--sample", "1"], "trace.log");
    wait_until("it draws", || sampling(&site) == 1);
    tracer.signal(Signal::SIGKILL).unwrap();
    tracer.wait_for(PATIENCE).unwrap().unwrap();
    assert_eq!(sampling(&site), 1);
    sleep(Duration::from_millis(3500));
    // The first packet after that ends it, daemon or no daemon.
    daemon.end(Signal::SIGKILL);
    site.send_from(CLIENT, &traffic(DIRECT));
    assert_eq!(sampling(&site), 0);
    let mut next = Tracer::start(&site.pins(), EVERY).unwrap();
    read(&site, &mut next, 0);
    assert_eq!(next.lost().unwrap(), 0);
}

/// The lease is renewed: longer than it, and it still draws.
#[test]
fn a_tracer_that_lives_goes_on() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    let running = std::thread::scope(|scope| {
        let running = scope.spawn(|| product.verb(&["trace", "--sample", "1", "--count", "1"]));
        wait_until("it draws", || sampling(&site) == 1);
        sleep(Duration::from_secs(5));
        while !running.is_finished() {
            site.send_from(CLIENT, &[frame((Transport::Tcp, "40.96.0.9:443"))]);
        }
        running.join().unwrap()
    });
    let text = String::from_utf8(running.stdout).unwrap();
    assert!(text.contains("40.96.0.9:443"), "{text}");
    daemon.terminate();
}

/// Whoever may write the map may say anything: a word that is no share draws little or nothing, and
/// decides nothing.
#[test]
fn no_word_about_drawing_changes_a_decision() {
    let site = Site::new();
    let lock = site.lock();
    site.publish(&lock, &one_table(), &[site.hook(LAN, XdpRequest::Native)]).unwrap();
    let pin = Control::open(&site.pins()).unwrap().unwrap().path().to_owned();
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let mut words: Array<_, u64> = map.try_into().unwrap();
    for word in [1, 2, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        for until in [0, u64::MAX] {
            words.set(control::SAMPLE_UNTIL, until, 0).unwrap();
            words.set(control::SAMPLE, word, 0).unwrap();
            site.assert_it_marks();
        }
    }
    let counts = site.counts();
    let refused = [Reason::SwitchedOff, Reason::DaemonGone];
    assert!(refused.iter().all(|reason| counts.xdp.reason(*reason).packets == 0));
}
