//! `off` inspects everything from the next packet on, with or without a daemon, until `on`; and
//! without a sign of life from the daemon, everything is inspected by itself. Needs root.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData};
use aya::programs::XdpMode;
use gateway_common::Reason;
use gateway_common::abi::Metadata;
use gateway_common::control;
use gateway_user::datapath::{Control, Step, XdpRequest};
use gateway_user::exit::Exit;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::foreign::Foreign;
use crate::support::product::{Daemon, Product, with_hook};
use crate::support::{
    self, DIRECT, LAN, Marked, Sender, Site, one_table, other_table, traffic, wait_until,
};

const HOOKS: [&str; 3] = ["auto", "tc", "generic"];

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap()
}

/// A configuration with this deadline.
fn with_deadline(hook: &str, deadline: &str) -> String {
    format!("deadline = \"{deadline}\"\n{}", with_hook(LAN, hook))
}

/// Packets that would go direct, counted under `reason`.
fn counted(product: &Product<'_>, reason: Reason) -> u64 {
    let status = product.status();
    let reasons = status["reasons"].as_array().unwrap();
    let found = reasons.iter().find(|entry| entry["reason"] == reason.name()).unwrap();
    found["packets"].as_u64().unwrap()
}

/// What `explain` says of direct traffic.
fn explained(product: &Product<'_>) -> String {
    let config = product.config();
    product.text(&["explain", "40.96.0.0", "tcp/443", "--config", config.to_str().unwrap()])
}

#[test]
fn off_acts_within_one_packet_and_on_brings_it_back_with_the_daemon_alive_and_killed() {
    for hook in HOOKS {
        let site = Site::new();
        let product = Product::new(&site, hook);
        let daemon = product.start();
        let off_and_on = |refused: u64| {
            site.assert_it_marks();
            assert_eq!(product.json(&["off"])["was_on"], true);
            site.assert_it_marks_nothing();
            assert_eq!(counted(&product, Reason::SwitchedOff), refused, "{hook}");
            assert_eq!(product.json(&["on"])["was_on"], false);
            site.assert_it_marks();
        };
        off_and_on(count(DIRECT));
        daemon.end(Signal::SIGKILL);
        off_and_on(2 * count(DIRECT));
    }
}

#[test]
fn what_is_off_says_so_everywhere() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    let status = product.status();
    assert_eq!(status["switches"]["on"], true);
    assert_eq!(status["switches"]["inspecting"], json!(null));
    let deadline = status["switches"]["deadline"].as_u64().unwrap();
    assert!((30..=60).contains(&deadline), "{deadline}");
    assert!(!product.text(&["status"]).contains("OFF"));
    let explanation = explained(&product);
    assert!(explanation.contains("says direct (matched)"), "{explanation}");

    assert_eq!(product.text(&["off"]), "off: everything is inspected until `breakout365 on`\n");
    let status = product.status();
    assert_eq!(status["switches"]["on"], false);
    assert_eq!(status["switches"]["inspecting"], "switched_off");
    let text = product.text(&["status"]);
    assert!(text.starts_with("OFF     everything is inspected until"), "{text}");
    let explanation = explained(&product);
    for words in ["  OFF: everything is inspected", "says inspect (switched_off)"] {
        assert!(explanation.contains(words), "{explanation}");
    }
    // The daemon notices with what it does next.
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("switched off: everything is inspected", 1);
    wait_until("the daemon says so", || {
        product.status()["daemon"]["switches"]["inspecting"] == "switched_off"
    });

    assert_eq!(product.text(&["on"]), "on: what is selected goes direct\n");
    let history = product.json(&["feed", "history"]);
    let entries = history["entries"].as_array().unwrap();
    let switched: Vec<_> = entries.iter().filter(|entry| entry["outcome"] == "switched").collect();
    let [off, on] = switched[..] else { panic!("{history}") };
    assert_eq!((&off["trigger"], &on["trigger"]), (&json!("off"), &json!("on")));
    assert_eq!((&off["generation"], &on["generation"]), (&json!(1), &json!(2)));
    daemon.terminate();
}

#[test]
fn off_stays_off_over_reload_publication_restart_and_only_down_forgets_it() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    product.text(&["off"]);
    for publications in 2..=3 {
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_log("published", publications);
        site.assert_it_marks_nothing();
    }
    product.configure(&with_hook(LAN, "tc"));
    product.json(&["reload"]);
    site.assert_it_marks_nothing();
    daemon.terminate();
    site.assert_it_marks_nothing();
    let daemon = product.start();
    daemon.wait_for_log("switched off: everything is inspected", 1);
    site.assert_it_marks_nothing();
    daemon.end(Signal::SIGKILL);
    let daemon = product.start();
    site.assert_it_marks_nothing();
    product.text(&["on"]);
    site.assert_it_marks();
    product.text(&["off"]);
    daemon.terminate();
    product.text(&["down"]);
    assert!(!site.pins().root().exists());
    let daemon = product.start();
    site.assert_it_marks();
    daemon.terminate();
}

/// A boot takes the BPF file system, and with it the switch.
#[test]
fn off_stays_off_over_a_boot_until_on_is_said() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let boot = |daemon: Daemon| {
        daemon.end(Signal::SIGKILL);
        fs::remove_dir_all(site.pins().root()).unwrap();
        product.start()
    };
    let daemon = product.start();
    product.text(&["off"]);
    let daemon = boot(daemon);
    assert_eq!(product.status()["switches"]["on"], false);
    site.assert_it_marks_nothing();
    product.text(&["on"]);
    site.assert_it_marks();
    let daemon = boot(daemon);
    site.assert_it_marks();
    daemon.terminate();
}

#[test]
fn a_stop_that_takes_everything_back_does_not_switch_on() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    product.configure(&with_hook(LAN, "auto").replacen('\n', "\non-stop = \"detach\"\n", 1));
    let daemon = product.start();
    product.text(&["off"]);
    daemon.terminate();
    let daemon = product.start();
    site.assert_it_marks_nothing();
    daemon.terminate();
}

#[test]
fn under_traffic_every_packet_before_off_is_direct_and_every_one_after_it_is_not() {
    for hook in HOOKS {
        let site = Site::new();
        let product = Product::new(&site, hook);
        let daemon = product.start();
        let frames = traffic(DIRECT);
        let sender = Sender::start(&site, move |sent| {
            frames[usize::try_from(sent).unwrap() % frames.len()].clone()
        });
        wait_until("some packets are marked", || site.marked().direct > 20);
        assert_eq!(site.marked().none, 0);
        product.text(&["off"]);
        // One that was on its way may still be counted.
        sleep(Duration::from_millis(100));
        let off = site.marked();
        wait_until("some packets are inspected", || site.marked().none > off.none + 20);
        assert_eq!(site.marked().direct, off.direct, "{hook}");
        product.text(&["on"]);
        sleep(Duration::from_millis(100));
        let on = site.marked();
        wait_until("some packets are marked again", || site.marked().direct > on.direct + 20);
        assert_eq!(site.marked().none, on.none, "{hook}");
        assert_every_packet_came(&site, sender, hook);
        daemon.terminate();
    }
}

/// Stops the sender: what it sent came in, once, whatever its mark.
fn assert_every_packet_came(site: &Site, sender: Sender, hook: &str) {
    let sent = sender.stop();
    wait_until("every packet came in", || {
        let Marked { direct, none, odd } = site.marked();
        direct + none + odd >= sent
    });
    let Marked { direct, none, odd } = site.marked();
    assert_eq!((direct + none, odd), (sent, 0), "{hook}");
}

/// XDP in front decides by itself and is not switched off: tc has the last word.
#[test]
fn tc_takes_no_proposal_while_off() {
    let site = Site::new();
    let lock = site.lock();
    let hook = site.hook(LAN, XdpRequest::Native);
    site.publish(&lock, &one_table(), &[hook]).unwrap();
    let link = fs::read_dir(site.pins().root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().ends_with("-xdp"))
        .unwrap();
    fs::remove_file(link).unwrap();
    let mut foreign = Foreign::with_metadata(&[Metadata::MAGIC, Metadata::DIRECT]);
    let mut attached = None;
    wait_until("our XDP is gone", || {
        if support::foreign::xdp_program(&site.gateway, LAN).is_none() && attached.is_none() {
            attached = Some(foreign.attach_xdp(&site.gateway, LAN, XdpMode::Driver));
        }
        attached.is_some()
    });
    let direct = traffic(DIRECT);
    let all = count(DIRECT);
    let mut control = Control::open(&site.pins()).unwrap().unwrap();
    assert_eq!(site.send_from(support::CLIENT, &direct).direct, all);
    assert_eq!(site.counts().tc_behind_xdp.metadata_accepted().packets, all);
    control.switch(false).unwrap();
    site.assert_it_marks_nothing();
    let counts = site.counts().tc_behind_xdp;
    assert_eq!(counts.reason(Reason::SwitchedOff).packets, all);
    assert_eq!(counts.metadata_accepted().packets, all);
    control.switch(true).unwrap();
    assert_eq!(site.send_from(support::CLIENT, &direct).direct, all);
}

#[test]
fn when_the_daemon_is_killed_traffic_is_inspected_after_the_deadline_until_the_next_one() {
    for hook in ["auto", "tc"] {
        let site = Site::new();
        let product = Product::new(&site, hook);
        product.configure(&with_deadline(hook, "4s"));
        let daemon = product.start();
        let frames = traffic(DIRECT);
        let sender = Sender::start(&site, move |sent| {
            frames[usize::try_from(sent).unwrap() % frames.len()].clone()
        });
        // Alive, it is longer than the deadline.
        sleep(Duration::from_secs(6));
        assert_eq!(site.marked().none, 0, "{hook}: {}", daemon.log());
        let killed = Instant::now();
        daemon.end(Signal::SIGKILL);
        wait_until("the first packet is inspected", || site.marked().none > 0);
        let took = killed.elapsed();
        assert!((Duration::from_secs(1)..Duration::from_secs(9)).contains(&took), "{took:?}");
        let gone = site.marked();
        wait_until("more are", || site.marked().none > gone.none + 100);
        assert!(site.marked().direct <= gone.direct + 1, "{hook}");
        let text = product.text(&["status"]);
        assert!(text.starts_with("GONE    no daemon has given a sign of life"), "{text}");
        let explanation = explained(&product);
        for words in ["  GONE: no daemon has given a sign of life", "says inspect (daemon_gone)"] {
            assert!(explanation.contains(words), "{explanation}");
        }
        assert!(product.text(&["on"]).starts_with("on, but no daemon has given"));
        let daemon = product.start();
        let back = site.marked();
        wait_until("some packets are marked again", || site.marked().direct > back.direct + 100);
        assert_eq!(site.marked().none, back.none, "{hook}");
        assert_every_packet_came(&site, sender, hook);
        daemon.terminate();
    }
}

#[test]
fn a_daemon_that_is_stopped_leaves_its_deadline_counting() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let site = Site::new();
        let product = Product::new(&site, "auto");
        product.configure(&with_deadline("auto", "4s"));
        let daemon = product.start();
        daemon.end(signal);
        site.assert_it_marks();
        sleep(Duration::from_millis(4500));
        site.assert_it_marks_nothing();
        assert_eq!(product.status()["switches"]["inspecting"], "daemon_gone", "{signal}");
        let daemon = product.start();
        site.assert_it_marks();
        daemon.terminate();
    }
}

#[test]
fn without_a_deadline_the_data_plane_marks_on_after_a_stop_and_after_a_kill() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let site = Site::new();
        let product = Product::new(&site, "auto");
        product.configure(&with_deadline("auto", "0s"));
        product.start().end(signal);
        sleep(Duration::from_millis(2500));
        site.assert_it_marks();
        assert_eq!(product.status()["switches"]["deadline"], json!(null), "{signal}");
    }
}

/// An upgrade to a version that refuses the configuration: nobody follows the list any more.
#[test]
fn a_start_that_fails_leaves_a_deadline_whatever_the_daemon_before_it_left() {
    for (left, state) in [(Some(4), true), (None, true), (None, false)] {
        let site = Site::new();
        let product = Product::new(&site, "auto");
        product.configure(&with_deadline("auto", "4s"));
        product.start().terminate();
        let mut control = Control::open(&site.pins()).unwrap().unwrap();
        control.renew(left.map(Duration::from_secs)).unwrap();
        product.configure(&with_deadline("auto", "4s").replace("version = 1", "version = 2"));
        if !state {
            fs::remove_dir_all(product.state_dir()).unwrap();
        }
        product.assert_refused(&["run"], Exit::Config as i32, &["version"]);
        site.assert_it_marks();
        let deadline = product.status()["switches"]["deadline"].as_u64();
        // Where nothing is known of what serves, it is the default.
        let longest = if state { 4 } else { 60 };
        assert!(deadline.is_some_and(|left| left <= longest), "{left:?} {state}: {deadline:?}");
        if state {
            sleep(Duration::from_millis(4500));
            site.assert_it_marks_nothing();
        }
    }
}

#[test]
fn a_daemon_that_hangs_is_gone() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    product.configure(&with_deadline("auto", "2s"));
    let daemon = product.start();
    daemon.signal(Signal::SIGSTOP);
    sleep(Duration::from_millis(2500));
    site.assert_it_marks_nothing();
    daemon.signal(Signal::SIGCONT);
    wait_until("it gives a sign of life", || product.status()["switches"]["inspecting"].is_null());
    site.assert_it_marks();
    daemon.terminate();
}

#[test]
fn a_reload_changes_the_deadline_and_a_failed_start_does_not() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    let deadline = || product.status()["switches"]["deadline"].as_u64();
    product.configure(&with_deadline("auto", "1h"));
    product.json(&["reload"]);
    assert!(deadline() > Some(3000), "{:?}", deadline());
    product.configure(&with_deadline("auto", "0s"));
    product.json(&["reload"]);
    assert_eq!(deadline(), None);
    daemon.terminate();
    product.configure(&with_deadline("auto", "2s").replace(LAN, "absent0"));
    product.assert_refused(&["run"], Exit::Interface as i32, &["absent0"]);
    assert_eq!(deadline(), None);
    site.assert_it_marks();
}

#[test]
fn a_publication_renews_the_deadline_only_when_something_newer_serves_or_nothing_had_passed() {
    let site = Site::new();
    let lock = site.lock();
    let hooks = [site.hook(LAN, XdpRequest::Native)];
    site.publish(&lock, &one_table(), &hooks).unwrap();
    let mut control = Control::open(&site.pins()).unwrap().unwrap();
    let (passed, hour) = (Some(Duration::from_nanos(1)), Some(Duration::from_hours(1)));
    for (deadline, refusal) in [(passed, Some(Reason::DaemonGone)), (hour, None), (None, None)] {
        control.renew(deadline).unwrap();
        let before = control.standing().unwrap();
        assert_eq!(before.refusal, refusal);
        let doomed = &mut |step: &Step| {
            let now = Control::open(&site.pins()).unwrap().unwrap().standing().unwrap();
            assert_eq!(now.refusal, refusal, "before {step}");
            if *step == Step::Current { Err("on purpose".to_owned()) } else { Ok(()) }
        };
        assert!(site.publish_unless(&lock, &other_table(), &hooks, doomed).is_err());
        let after = control.standing().unwrap();
        assert_eq!((after.refusal, after.deadline.is_some()), (refusal, deadline.is_some()));
    }
    control.renew(passed).unwrap();
    site.assert_it_marks_nothing();
    site.publish(&lock, &other_table(), &hooks).unwrap();
    site.assert_it_marks();
}

#[test]
fn what_is_not_the_control_map_is_refused_and_stays() {
    let array = |entries| Array::<MapData, u64>::create(entries, 0).unwrap();
    let site = Site::new();
    let product = Product::new(&site, "auto");
    fs::create_dir(site.pins().root()).unwrap();
    let pin = site.pins().root().join("control");
    let path = pin.display().to_string();
    let refused = |words: &[&str]| {
        let all: Vec<_> = [path.as_str()].into_iter().chain(words.iter().copied()).collect();
        product.assert_refused(&["run"], Exit::Datapath as i32, &all);
        site.assert_it_marks_nothing();
        assert!(pin.exists(), "{words:?}");
    };
    let down = "nothing was changed: stop the daemon, then `breakout365 down` removes it";
    // Another size, other values, another kind of map, a program, no pin at all.
    array(control::WORDS + 1).pin(&pin).unwrap();
    refused(&["9 entries of 4 and 8 bytes", down]);
    fs::remove_file(&pin).unwrap();
    Array::<MapData, u32>::create(control::WORDS, 0).unwrap().pin(&pin).unwrap();
    refused(&["8 entries of 4 and 4 bytes", down]);
    product.assert_refused(&["off"], Exit::Datapath as i32, &[&path, down]);
    fs::remove_file(&pin).unwrap();
    let mut foreign = Foreign::load();
    foreign.attach_xdp_by_netlink(&site.gateway, LAN, &pin);
    refused(&["not the control map", down]);
    site.gateway.run(&format!("ip link set dev {LAN} xdpdrv off")).unwrap();
    fs::remove_file(&pin).unwrap();
    fs::create_dir(&pin).unwrap();
    refused(&["not the control map", down]);
    fs::remove_dir(&pin).unwrap();
    // The right shape, and nothing that we have written.
    array(control::WORDS).pin(&pin).unwrap();
    refused(&["neither on nor off", "`breakout365 on`"]);
    product.text(&["off"]);
    let daemon = product.start();
    site.assert_it_marks_nothing();
    product.text(&["on"]);
    site.assert_it_marks();
    daemon.terminate();
}

#[test]
fn a_damaged_pin_under_a_running_daemon_stops_the_next_generation_and_not_this_one() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    let pin = site.pins().root().join("control");
    fs::remove_file(&pin).unwrap();
    product.assert_refused(&["off"], Exit::Datapath as i32, &["no switch is there"]);
    Array::<MapData, u64>::create(1, 0).unwrap().pin(&pin).unwrap();
    product.assert_refused(&["reload"], Exit::Datapath as i32, &["not the control map"]);
    site.assert_it_marks();
    fs::remove_file(&pin).unwrap();
    product.json(&["reload"]);
    site.assert_it_marks();
    product.text(&["off"]);
    site.assert_it_marks_nothing();
    daemon.terminate();
}

#[test]
fn without_anything_loaded_there_is_nothing_to_switch() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    for verb in ["off", "on"] {
        product.assert_refused(&[verb], Exit::Datapath as i32, &["no switch is there"]);
    }
    assert!(!site.pins().root().exists());
}
