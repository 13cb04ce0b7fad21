//! The binary as operators meet it: the daemon holds, follows and leaves as it promises, and what
//! it cannot do it refuses in one line with its exit code. Needs root.

#![expect(clippy::float_cmp, reason = "flags are whole")]

use std::fs;

use aya::programs::XdpMode;
use gateway_user::datapath::{HookRequest, TcCarrier, XdpRequest};
use gateway_user::exit::Exit;
use nix::sys::signal::Signal;

use crate::support::foreign::{Foreign, tcx_programs, xdp_program};
use crate::support::product::{Product, with_hook};
use crate::support::scrape::{metrics, samples, start};
use crate::support::{
    self, CLIENT, DIRECT, LAN, Marked, Sender, Site, one_table, traffic, wait_until,
};

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap()
}

#[test]
fn it_publishes_and_status_shows_it() {
    for (hook, xdp) in [
        ("auto", Some("native")),
        ("xdp", Some("native")),
        ("tc", None),
        ("generic", Some("generic")),
    ] {
        let site = Site::new();
        let product = Product::new(&site, hook);
        let daemon = product.start();
        site.assert_it_marks();
        let status = product.status();
        assert_eq!(status["generation"], 1);
        assert_eq!(status["daemon_running"], true);
        assert_eq!(status["prefixes"]["ipv4"], 1);
        assert_eq!(status["prefixes"]["ipv6"], 1);
        assert_eq!(status["hooks"].as_array().unwrap().len(), 1);
        assert_eq!(status["hooks"][0]["interface"], LAN);
        assert_eq!(status["hooks"][0]["xdp"].as_str(), xdp);
        assert_eq!(status["verdicts"]["direct"]["packets"], count(DIRECT));
        assert_eq!(status["verdicts"]["inspect"]["packets"], count(support::INSPECTED));
        assert_eq!(status["sets"][0]["id"], 1);
        assert_eq!(status["sets"][0]["packets"], count(DIRECT));
        daemon.terminate();
        assert_eq!(product.status()["daemon_running"], false);
    }
}

#[test]
fn sighup_takes_a_good_configuration_into_use() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    site.assert_it_marks();
    product.configure(&format!("{}[policy]\nipv6 = false\n", with_hook(LAN, "tc")));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("published", 2);
    let marked = site.send_from(CLIENT, &traffic(DIRECT));
    assert_eq!(marked, Marked { direct: 2, none: 2, odd: 0 }, "two of each family");
    let status = product.status();
    assert_eq!(status["generation"], 2);
    assert_eq!(status["prefixes"]["ipv6"], 0);
    assert_eq!(status["hooks"][0]["xdp"].as_str(), None);
    daemon.terminate();
}

#[test]
fn sighup_refuses_a_bad_configuration_and_the_policy_before_stays() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    let good = with_hook(LAN, "auto");
    let place = |line: u32| format!("{}:{line}: ", product.config().display());
    let cases = [
        (format!("{good}[mark]\nvalue = 0\n"), place(7)),
        (format!("{good}[policy]\nurls = []\n"), place(7)),
        ("version = 1\n".to_owned(), "no [[interface]]".to_owned()),
        (format!("{good}[policy]\ninclude-sets = [4711]\n"), "4711".to_owned()),
        (with_hook("absent0", "auto"), "interface absent0: not found".to_owned()),
        (with_hook("lo", "auto"), "interface lo: not an Ethernet device".to_owned()),
        (good.replace("feed.json", "absent.json"), "absent.json".to_owned()),
    ];
    for (refusals, (text, word)) in (1..).zip(&cases) {
        product.configure(text);
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_log("reload refused, the policy before stays", refusals);
        let log = daemon.log();
        let refusal = log.lines().rfind(|line| line.contains("reload refused")).unwrap();
        assert!(refusal.contains(word.as_str()), "{word:?} is not in {refusal:?}");
        assert_eq!(product.status()["generation"], 1, "{refusal}");
        site.assert_it_marks();
    }
    product.configure(&good);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("published", 2);
    site.assert_it_marks();
    daemon.terminate();
}

#[test]
fn sigterm_and_sigint_leave_the_data_plane_marking() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let site = Site::new();
        let product = Product::new(&site, "auto");
        let daemon = product.start();
        let status = daemon.end(signal);
        assert!(status.success(), "{signal}: {status}");
        site.assert_it_marks();
    }
}

#[test]
fn on_stop_detach_takes_everything_back() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    product.configure(&format!("on-stop = \"detach\"\n{}", with_hook(LAN, "auto")));
    let daemon = product.start();
    site.assert_it_marks();
    daemon.terminate();
    assert!(!site.pins().root().exists());
    wait_until("the links are gone", || {
        xdp_program(&site.gateway, LAN).is_none() && tcx_programs(&site.gateway, LAN).is_empty()
    });
    site.assert_it_marks_nothing();
}

#[test]
fn a_killed_daemon_leaves_no_gap_and_neither_does_the_next_one() {
    for hook in ["auto", "tc"] {
        let site = Site::new();
        let product = Product::new(&site, hook);
        let daemon = product.start();
        let frames = traffic(DIRECT);
        let sender = Sender::start(&site, move |sent| {
            frames[usize::try_from(sent).unwrap() % frames.len()].clone()
        });
        for _ in 0..3 {
            wait_until("some packets are marked", || {
                let before = site.marked().direct;
                std::thread::sleep(std::time::Duration::from_millis(50));
                site.marked().direct > before
            });
        }
        let status = daemon.end(Signal::SIGKILL);
        assert!(!status.success());
        assert_eq!(product.status()["daemon_running"], false);
        let daemon = product.start();
        assert_eq!(product.status()["generation"], 2);
        daemon.end(Signal::SIGKILL);
        let daemon = product.start();
        let sent = sender.stop();
        wait_until("every packet came in", || site.marked().direct >= sent);
        assert_eq!(site.marked(), Marked { direct: sent, none: 0, odd: 0 }, "{hook}");
        daemon.terminate();
    }
}

#[test]
fn an_interface_that_is_made_anew_is_attached_again() {
    let site = Site::new();
    site.add_lan("eth1", "lan1");
    let product = Product::new(&site, "auto");
    let second = "[[interface]]\nname = \"lan1\"\n";
    product.configure(&format!("{}{second}", with_hook(LAN, "auto")));
    let daemon = product.start();
    for publications in 2..4 {
        site.gateway.run("ip link delete lan1").unwrap();
        daemon.wait_for_log("interface lan1: gone", publications - 1);
        site.assert_it_marks();
        site.add_lan("eth1", "lan1");
        daemon.wait_for_log("published", publications);
        site.assert_it_marks();
        site.assert_it_marks_on("eth1");
    }
    assert_eq!(product.status()["hooks"].as_array().unwrap().len(), 2);
    // A reload while it is away keeps the others and waits for it as before.
    site.gateway.run("ip link delete lan1").unwrap();
    daemon.wait_for_log("interface lan1: gone", 3);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("published", 4);
    site.assert_it_marks();
    site.add_lan("eth1", "lan1");
    daemon.wait_for_log("published", 5);
    site.assert_it_marks_on("eth1");
    daemon.terminate();
}

#[test]
fn a_second_daemon_and_down_are_refused_while_one_runs() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let daemon = product.start();
    let pins = product_pins(&site);
    for arguments in [&["run"][..], &["down"], &["down", "--json"]] {
        product.assert_refused(
            arguments,
            Exit::Busy as i32,
            &[&pins, "held by another breakout365", "systemctl stop breakout365"],
        );
    }
    assert_eq!(product.status()["generation"], 1);
    site.assert_it_marks();
    daemon.terminate();
    // What is published is no daemon: the next one may take over.
    product.start().terminate();
    site.assert_it_marks();
}

#[test]
fn down_removes_what_is_ours_and_says_so() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    product.start().terminate();
    let output = product.verb(&["down", "--json"]);
    assert!(output.status.success());
    let removed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(removed["hooks"][0]["interface"], LAN);
    assert!(!site.pins().root().exists());
    wait_until("the links are gone", || {
        xdp_program(&site.gateway, LAN).is_none() && tcx_programs(&site.gateway, LAN).is_empty()
    });
    site.assert_it_marks_nothing();
    // Nothing to do is done.
    assert!(product.verb(&["down"]).status.success());
    // And at once again: nothing of the one before is in the way.
    let daemon = product.start();
    site.assert_it_marks();
    daemon.terminate();
    assert!(product.verb(&["down"]).status.success());
    product.start().terminate();
    let hook = &product.status()["hooks"][0];
    assert_eq!(hook["xdp"], "native", "{hook}");
}

#[test]
fn what_the_system_lacks_is_refused_and_the_state_before_stays() {
    let site = Site::new();
    site.gateway.run("ip tuntap add dev tun0 mode tun").unwrap();
    let product = Product::new(&site, "auto");
    product.start().terminate();
    let refused = |text: &str, exit: Exit, words: &[&str]| {
        product.configure(text);
        product.assert_refused(&["run"], exit as i32, words);
        assert_eq!(product.status()["generation"], 1, "{words:?}");
        site.assert_it_marks();
    };
    let good = with_hook(LAN, "auto");
    let here = product.config().display().to_string();
    refused("version = 2\n", Exit::Config, &[&here, ":1: version"]);
    refused(&format!("{good}[mark]\nvalue = 3\nmask = 1\n"), Exit::Config, &[&here, "outside"]);
    refused(&good.replace("feed.json", "none.json"), Exit::Feed, &["none.json"]);
    refused(&format!("{good}[policy]\nexclude-sets = [1]\n"), Exit::Policy, &["no prefix"]);
    let absent = with_hook("absent0", "auto");
    refused(&absent, Exit::Interface, &["interface absent0: not found", "[[interface]]"]);
    for hook in ["xdp", "generic"] {
        let tun = with_hook("tun0", hook);
        refused(&tun, Exit::Interface, &["interface tun0: its packets have no Ethernet header"]);
    }
    let lo = with_hook("lo", "auto");
    refused(&lo, Exit::Interface, &["interface lo: not an Ethernet device"]);
    fs::remove_file(product.config()).unwrap();
    product.assert_refused(&["run"], Exit::Config as i32, &[&here, "cannot be read"]);
}

#[test]
fn without_its_capabilities_it_changes_nothing() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    product.start().terminate();
    let none = &["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"][..];
    let no_bpf = &["setpriv", "--bounding-set", "-bpf", "--inh-caps", "-bpf"][..];
    let no_perfmon = &["setpriv", "--bounding-set", "-perfmon", "--inh-caps", "-perfmon"][..];
    let no_net = &["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"][..];
    for (wrapper, missing) in [
        (none, "missing CAP_BPF and CAP_NET_ADMIN and CAP_PERFMON: run as root"),
        (no_bpf, "missing CAP_BPF: run as root"),
        (no_perfmon, "missing CAP_PERFMON: run as root"),
        (no_net, "missing CAP_NET_ADMIN: run as root"),
    ] {
        let product = Product::new(&site, "auto").through(wrapper);
        for verb in ["run", "down"] {
            product.assert_refused(&[verb], Exit::Permission as i32, &[missing]);
        }
    }
    assert_eq!(product.status()["generation"], 1);
    site.assert_it_marks();
}

#[test]
fn three_capabilities_are_enough() {
    let all_but_three = ["--bounding-set", "-all,+bpf,+net_admin,+perfmon", "--inh-caps", "-all"];
    let wrapper: Vec<_> = ["setpriv"].into_iter().chain(all_but_three).collect();
    for hook in ["auto", "tc", "generic"] {
        let site = Site::new();
        let product = Product::new(&site, hook).through(&wrapper);
        let daemon = product.start();
        site.assert_it_marks();
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_log("published", 2);
        site.assert_it_marks();
        daemon.terminate();
        assert_eq!(product.status()["generation"], 2);
        assert!(product.verb(&["down"]).status.success());
    }
}

#[test]
fn pins_that_are_not_on_a_bpf_file_system_are_refused() {
    let site = Site::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let pins = elsewhere.path().join("breakout365");
    let product = Product::new(&site, "auto").with_pins(&pins);
    let parent = elsewhere.path().display().to_string();
    let words = [&parent, "is not on a BPF file system", "mount -t bpf"];
    product.assert_refused(&["run"], Exit::System as i32, &words);
    assert!(!pins.exists());
    let path = pins.display().to_string();
    let nothing = [&path, "nothing is loaded", "breakout365 run"];
    product.assert_refused(&["status"], Exit::Datapath as i32, &nothing);
    site.assert_it_marks_nothing();
}

fn product_pins(site: &Site) -> String {
    site.bpffs.pins().display().to_string()
}

/// Detaches a pinned link, as an operator would.
fn detach(site: &Site, ifindex: u64, kind: &str) {
    let pin = site.pins().root().join(format!("link-{ifindex}-{kind}"));
    site.gateway.run(&format!("bpftool link detach pinned {}", pin.display())).unwrap();
}

fn missing(status: &serde_json::Value) -> Vec<(String, String)> {
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let missing = status["daemon"]["missing"].as_array().unwrap();
    missing.iter().map(|hook| (word(&hook["interface"]), word(&hook["what"]))).collect()
}

#[test]
fn what_somebody_detaches_is_attached_again_and_said_meanwhile() {
    let site = Site::new();
    let product = Product::new(&site, "xdp");
    let daemon = product.start();
    let _exporter = start(&product, &site.gateway, &[]);
    let ifindex = product.status()["hooks"][0]["ifindex"].as_u64().unwrap();
    let exported =
        || samples(&metrics(&site.gateway))["breakout365_hook_missing{interface=\"lan0\"}"];
    assert_eq!((missing(&product.status()), exported()), (vec![], 0.0));
    detach(&site, ifindex, "tc");
    daemon.wait_for_log("somebody has detached tcx", 1);
    daemon.wait_for_log("published", 2);
    assert_eq!(missing(&product.status()), []);
    site.assert_it_marks();
    // With somebody else's program in its place, it cannot be attached until that is gone.
    detach(&site, ifindex, "xdp");
    let mut foreign = Foreign::load();
    let link = foreign.attach_xdp(&site.gateway, LAN, XdpMode::Driver);
    daemon.wait_for_log("somebody has detached native xdp", 1);
    wait_until("the problem is told", || {
        product.status()["daemon"]["problem"].as_str().is_some_and(|it| it.contains("XDP program"))
    });
    let status = product.status();
    assert_eq!(missing(&status), [(LAN.to_owned(), "native".to_owned())]);
    assert_eq!(status["hooks"][0]["xdp"].as_str(), None);
    assert_eq!(status["hooks"][0]["missing"][0].as_str(), None, "its pin is gone, too");
    assert!(product.text(&["status"]).contains("MISSING lan0: native xdp is gone"));
    assert_eq!(exported(), 1.0);
    // tc classifies by itself meanwhile.
    site.assert_it_marks();
    drop(link);
    wait_until("it is attached again", || missing(&product.status()).is_empty());
    assert_eq!(product.status()["hooks"][0]["xdp"], "native");
    assert_eq!(exported(), 0.0);
    assert_eq!(daemon.log().matches("cannot be published").count(), 1, "said once");
    site.assert_it_marks();
    daemon.terminate();
    detach(&site, ifindex, "xdp");
    let text = product.text(&["status"]);
    assert!(text.contains("hook    lan0 (tcx; missing native xdp)"), "{text}");
}

#[test]
fn a_qdisc_that_somebody_deletes_with_our_filter_is_missed() {
    let site = Site::new();
    let lock = site.lock();
    let hook = HookRequest { tc: TcCarrier::Clsact, ..site.hook(LAN, XdpRequest::No) };
    site.publish(&lock, &one_table(), &[hook]).unwrap();
    drop(lock);
    let product = Product::new(&site, "tc");
    let daemon = product.start();
    assert_eq!(product.status()["hooks"][0]["tc"], "clsact");
    site.gateway.run(&format!("tc filter delete dev {LAN} ingress")).unwrap();
    daemon.wait_for_log("somebody has detached clsact", 1);
    daemon.wait_for_log("published", 2);
    // On the qdisc that was added for us, and goes with us.
    assert_eq!(product.status()["hooks"][0]["tc"], "clsact");
    assert!(site.pinned().iter().any(|pin| pin.ends_with("-own")), "{:?}", site.pinned());
    site.assert_it_marks();
    site.gateway.run(&format!("tc qdisc delete dev {LAN} clsact")).unwrap();
    daemon.wait_for_log("somebody has detached clsact", 2);
    daemon.wait_for_log("published", 3);
    assert_eq!(missing(&product.status()), []);
    site.assert_it_marks();
    daemon.terminate();
    assert!(product.verb(&["down"]).status.success());
    let qdiscs = site.gateway.run(&format!("tc qdisc show dev {LAN}")).unwrap();
    assert!(!qdiscs.contains("clsact"), "{qdiscs}");
}

#[test]
fn an_interface_that_goes_away_is_missing() {
    let site = Site::new();
    site.add_lan("eth1", "lan1");
    let product = Product::new(&site, "auto");
    product.configure(&format!("{}[[interface]]\nname = \"lan1\"\n", with_hook(LAN, "auto")));
    let daemon = product.start();
    site.gateway.run("ip link delete lan1").unwrap();
    daemon.wait_for_log("interface lan1: gone", 1);
    assert_eq!(missing(&product.status()), [("lan1".to_owned(), "interface".to_owned())]);
    site.add_lan("eth1", "lan1");
    wait_until("it is attached", || missing(&product.status()).is_empty());
    daemon.terminate();
}
