//! A support window lets Microsoft's sets go direct for its clients and nobody else, until its end and
//! no longer, and its report is what was sent. Needs root.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use gateway_user::exit::Exit;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use xtask::testbed::Frame;

use crate::support::network::{BESIDE, DIRECT, EGRESS, Flow, INSPECTED, Network};
use crate::support::product::{Product, with_hook};
use crate::support::{CLIENT, LAN, Marked, PATIENCE, Site, wait_until};

/// Set 1 is selected; 2 is not, 56 has the sign-in hosts, 4 lists what no public service has.
const FEED: &str = r#"[
    {"id": 1, "serviceArea": "Exchange", "category": "Optimize", "required": true,
     "ips": ["40.96.0.0/13"], "tcpPorts": "443"},
    {"id": 2, "serviceArea": "Common", "category": "Default", "required": true,
     "ips": ["20.190.128.0/18", "13.107.6.0/24", "2603:1006:2000::/48"],
     "tcpPorts": "25, 443", "udpPorts": "443"},
    {"id": 3, "serviceArea": "Common", "category": "Allow", "required": false,
     "ips": ["52.108.0.0/14"], "tcpPorts": "443"},
    {"id": 4, "serviceArea": "Common", "category": "Default", "required": false,
     "ips": ["10.0.0.0/8", "64.0.0.0/2"], "tcpPorts": "443"},
    {"id": 56, "serviceArea": "Common", "category": "Allow", "required": true,
     "ips": ["20.20.32.0/19"], "tcpPorts": "443"}
]"#;

const WINDOW: &str = "192.0.2.128/25";
const INSIDE: &str = "192.0.2.200";
const OUTSIDE: &str = "192.0.2.7";

/// Direct in a window only.
const SET_2: &str = "20.190.128.1:443";
const SET_2_OTHER: &str = "13.107.6.1:443";
const SET_3: &str = "52.108.0.1:443";
/// Direct by the policy.
const SET_1: &str = "40.96.0.1:443";
/// Inspected in every window that does not name them, and by the guards.
const HELD: &[&str] = &["20.20.32.1:443", "20.190.128.1:25", "10.1.1.1:443", "64.1.1.1:443"];

fn frame(source: &str, port: u16, destination: &str) -> Vec<u8> {
    let frame = Frame::tcp(destination.parse().unwrap());
    frame.from(format!("{source}:{port}").parse().unwrap()).build().unwrap()
}

struct Case<'a> {
    site: &'a Site,
    product: Product<'a>,
}

impl<'a> Case<'a> {
    fn new(site: &'a Site, hook: &str, more: &str) -> Self {
        let product = Product::new(site, hook);
        fs::write(product.file("feed.json"), FEED).unwrap();
        let case = Self { site, product };
        case.configure(hook, more);
        case
    }

    fn configure(&self, hook: &str, more: &str) {
        self.product.configure(&format!("{}{more}", with_hook(LAN, hook)));
    }

    /// Opens a window for [`WINDOW`].
    fn start(&self, length: &str, more: &[&str]) -> Value {
        let start = ["support", "start", "--client", WINDOW, "--for", length, "--note", "case 123"];
        self.product.json(&[&start, more].concat())
    }

    fn is_direct(&self, source: &str, destination: &str) -> bool {
        let marked = self.site.send_from(CLIENT, &[frame(source, 50_000, destination)]);
        assert_eq!(marked.odd, 0);
        marked.direct == 1
    }

    /// As the policy alone has it, for everybody.
    fn assert_closed(&self) {
        for source in [INSIDE, OUTSIDE] {
            assert!(self.is_direct(source, SET_1), "{source}");
            for inspected in [SET_2, SET_2_OTHER, SET_3].iter().chain(HELD) {
                assert!(!self.is_direct(source, inspected), "{source} to {inspected}");
            }
        }
    }

    fn assert_open(&self) {
        for direct in [SET_1, SET_2, SET_2_OTHER, SET_3] {
            assert!(self.is_direct(INSIDE, direct), "{direct}");
        }
        for inspected in HELD {
            assert!(!self.is_direct(INSIDE, inspected), "{inspected}");
        }
        assert!(self.is_direct(OUTSIDE, SET_1));
        for inspected in [SET_2, SET_2_OTHER, SET_3] {
            assert!(!self.is_direct(OUTSIDE, inspected), "{inspected}");
        }
    }

    fn journal(&self) -> Vec<(String, String, Value)> {
        let text = fs::read_to_string(self.product.state_dir().join("journal.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        lines
            .map(|line| (word(&line["trigger"]), word(&line["outcome"]), line["window"].clone()))
            .collect()
    }
}

#[test]
fn before_it_and_after_it_nothing_is_different_and_inside_only_its_clients_are() {
    for hook in ["auto", "tc"] {
        let site = Site::new();
        let case = Case::new(&site, hook, "");
        let daemon = case.product.start();
        case.assert_closed();
        let started = case.start("1h", &[]);
        assert_eq!(started["id"], 1);
        assert_eq!(started["covers"], json!([1, 2, 3]), "{started}");
        case.assert_open();
        let status = case.product.status();
        let open = &status["daemon"]["support"];
        assert_eq!((&open[0]["clients"], &open[0]["note"]), (&json!([WINDOW]), &json!("case 123")));
        let text = case.product.text(&["status"]);
        assert!(text.contains("SUPPORT window 1 for 192.0.2.128/25: all sets, until "), "{text}");
        case.product.json(&["support", "stop", "1"]);
        case.assert_closed();
        case.product.assert_refused(&["support", "stop", "1"], Exit::Usage as i32, &["is over"]);
        assert_eq!(case.product.status()["daemon"]["support"], json!([]));
        let lines = case.journal();
        for (trigger, outcome) in [("support-start", "opened"), ("support-stop", "closed")] {
            let line = (trigger.to_owned(), outcome.to_owned(), json!(1));
            assert!(lines.contains(&line), "{lines:?}");
        }
        daemon.terminate();
    }
}

#[test]
fn the_report_is_what_was_sent_over_reload_kill_and_restart() {
    let site = Site::new();
    let case = Case::new(&site, "auto", "");
    let mut daemon = case.product.start();
    case.start("1h", &[]);
    let set_2: Vec<_> = (1..=4).map(|port| frame(INSIDE, port, SET_2)).collect();
    let set_3 = vec![frame(INSIDE, 9, SET_3)];
    let others = [frame(INSIDE, 9, SET_1), frame(OUTSIDE, 9, SET_2), frame(INSIDE, 9, HELD[0])];
    let length = u64::try_from(set_2[0].len()).unwrap();
    let mut times = 0;
    let send = |times: &mut u64| {
        *times += 1;
        let all: Vec<_> = set_2.iter().chain(&set_3).chain(&others).cloned().collect();
        assert_eq!(site.send_from(CLIENT, &all), Marked { direct: 6, none: 2, odd: 0 });
        // The same flows every time, and every time their packets.
        let report = case.product.json(&["support", "report", "1"]);
        assert_eq!(reported(&report, length), by_sets(*times), "{report:#}");
    };
    send(&mut times);
    send(&mut times);
    let end = case.product.json(&["support", "report", "1"])["end"].clone();
    case.product.json(&["reload"]);
    send(&mut times);
    daemon.end(Signal::SIGKILL);
    // The data plane goes on, and so do its counters.
    site.send_from(CLIENT, &[&set_2[..], &set_3[..]].concat());
    times += 1;
    let text = case.product.text(&["support", "report", "1"]);
    assert!(text.starts_with("as it was written down 20"), "{text}");
    daemon = case.product.start();
    send(&mut times);
    daemon.terminate();
    daemon = case.product.start();
    send(&mut times);
    assert_eq!(case.product.json(&["support", "report", "1"])["end"], end, "it was made longer");
    let text = case.product.text(&["support", "report", "1"]);
    let sum = format!("5 flows, {} packets, {} bytes", times * 5, times * 5 * length);
    assert!(text.contains(&format!("went direct: 5 flows, {} packets", times * 5)), "{text}");
    // And when it is over, in the journal too.
    case.product.json(&["support", "stop", "1"]);
    let report = case.product.json(&["support", "report", "1"]);
    assert_eq!(reported(&report, length), by_sets(times), "{report:#}");
    let history = case.product.json(&["feed", "history"]);
    let entries = history["entries"].as_array().unwrap();
    let closed = entries.iter().find(|entry| entry["outcome"] == "closed").unwrap();
    let summary = closed["summary"].as_str().unwrap();
    assert!(summary.ends_with(&format!(": {sum} went direct")), "{summary}");
    daemon.terminate();
}

/// What a report says of each set: packets and flows.
fn reported(report: &Value, length: u64) -> BTreeMap<String, (u64, u64)> {
    let mut by_set = BTreeMap::<_, (u64, u64)>::new();
    for entry in ["before", "serving"].iter().flat_map(|part| report[part].as_array().unwrap()) {
        let of = |what: &str| entry[1][what].as_u64().unwrap();
        assert_eq!(of("bytes"), of("packets") * length, "{report:#}");
        let sum = by_set.entry(entry[0].to_string()).or_default();
        *sum = (sum.0 + of("packets"), sum.1 + of("flows"));
    }
    by_set
}

/// Four flows of the one, one of the other.
fn by_sets(times: u64) -> BTreeMap<String, (u64, u64)> {
    [("[2]".to_owned(), (times * 4, 4)), ("[3]".to_owned(), (times, 1))].into()
}

#[test]
fn without_a_daemon_what_is_over_is_told_as_over_and_how_old_the_counts_are() {
    let site = Site::new();
    let case = Case::new(&site, "auto", "");
    let daemon = case.product.start();
    case.start("3s", &[]);
    case.start("1h", &[]);
    let written = case.product.json(&["support", "list"])[0]["as_of"].clone();
    daemon.end(Signal::SIGKILL);
    sleep(Duration::from_millis(3500));
    let told = case.product.json(&["support", "list"]);
    assert_eq!(told[0]["ended"], json!([told[0]["until"], "over"]), "{told:#}");
    assert!(told[1]["ended"].is_null(), "{told:#}");
    let as_of = told[1]["as_of"].as_str().unwrap();
    assert!(!as_of.is_empty() && as_of <= written.as_str().unwrap(), "{as_of} {written}");
    let text = case.product.text(&["support", "report", "1"]);
    assert!(text.contains("(over)"), "{text}");
}

#[test]
fn a_damaged_register_opens_nothing_is_kept_and_its_ids_are_not_given_again() {
    let site = Site::new();
    let case = Case::new(&site, "auto", "");
    let daemon = case.product.start();
    case.start("1h", &[]);
    case.start("1h", &[]);
    daemon.terminate();
    let register = case.product.state_dir().join("windows.json");
    let text = fs::read_to_string(&register).unwrap();
    fs::write(&register, &text[..40]).unwrap();
    let daemon = case.product.start();
    case.assert_closed();
    let aside = case.product.state_dir().join("windows.json.damaged");
    assert_eq!(fs::read_to_string(&aside).unwrap(), text[..40]);
    assert!(daemon.log().contains(aside.to_str().unwrap()), "{}", daemon.log());
    assert_eq!(case.start("1h", &[])["id"], 3);
    daemon.terminate();
}

#[test]
fn a_window_that_a_later_feed_does_not_let_be_loaded_is_over_and_a_new_one_is_refused() {
    let site = Site::new();
    let case = Case::new(&site, "auto", "");
    let daemon = case.product.start();
    case.start("1h", &[]);
    case.assert_open();
    // More ranges of ports than a prefix may have, in a set that only the window has.
    let ports: Vec<_> = (0..20).map(|port| (1000 + 2 * port).to_string()).collect();
    let feed = FEED.replace("25, 443", &ports.join(", "));
    fs::write(case.product.file("feed.json"), feed).unwrap();
    case.product.json(&["reload"]);
    assert!(!case.is_direct(INSIDE, SET_2) && !case.is_direct(INSIDE, SET_3));
    assert_eq!(case.product.status()["daemon"]["support"], json!([]));
    let told = case.product.json(&["support", "report", "1"]);
    assert_eq!((&told["ended"][1], &told["covers"]), (&json!("unloadable"), &json!([])));
    assert!(case.journal().contains(&("support-end".to_owned(), "closed".to_owned(), json!(1))));
    let args = ["support", "start", "--client", INSIDE, "--for", "1h", "--note", "x"];
    case.product.assert_refused(&args, Exit::Policy as i32, &["support window"]);
    assert_eq!(case.product.json(&["support", "list"]).as_array().unwrap().len(), 1);
    // It does not come back with a list that could be loaded.
    fs::write(case.product.file("feed.json"), FEED).unwrap();
    case.product.json(&["reload"]);
    case.assert_closed();
    daemon.terminate();
}

/// Sends until the first packet is inspected; says when the last one that was not was sent, and that none is
/// direct after it.
fn last_direct(case: &Case<'_>, since: Instant) -> Duration {
    let mut last = Duration::ZERO;
    loop {
        let sent = since.elapsed();
        if !case.is_direct(INSIDE, SET_2) {
            break;
        }
        last = sent;
        assert!(last < PATIENCE, "it does not end");
    }
    for _ in 0..5 {
        assert!(!case.is_direct(INSIDE, SET_2));
    }
    last
}

#[test]
fn the_kernel_ends_it_in_time_with_the_daemon_alive_killed_and_started_again() {
    let site = Site::new();
    let case = Case::new(&site, "auto", "");
    let (length, slack) = (Duration::from_secs(6), Duration::from_secs(1));
    for what in ["alive", "killed", "hangs", "started again"] {
        let mut daemon = case.product.start();
        let before = Instant::now();
        let id = case.start("6s", &[])["id"].clone();
        let since = Instant::now();
        assert!(case.is_direct(INSIDE, SET_2), "{what}: {}", daemon.log());
        let assert_it_ends_in_time = || {
            let last = last_direct(&case, since);
            assert!(before.elapsed() >= length && last < length + slack, "{what}: {last:?}");
        };
        match what {
            "killed" => {
                daemon.end(Signal::SIGKILL);
                daemon = case.product.start();
                daemon.end(Signal::SIGKILL);
                assert_it_ends_in_time();
                daemon = case.product.start();
            }
            "hangs" => {
                daemon.signal(Signal::SIGSTOP);
                assert_it_ends_in_time();
                daemon.signal(Signal::SIGCONT);
            }
            "started again" => {
                sleep(Duration::from_secs(3));
                daemon.terminate();
                daemon = case.product.start();
                case.product.json(&["reload"]);
                assert_it_ends_in_time();
            }
            _ => {
                assert_it_ends_in_time();
            }
        }
        wait_until("a generation without it serves", || {
            case.product.status()["daemon"]["support"] == json!([])
        });
        case.assert_closed();
        wait_until("the journal says so", || {
            case.journal().contains(&("support-end".to_owned(), "closed".to_owned(), id.clone()))
        });
        daemon.terminate();
    }
}

#[test]
fn excludes_and_off_win_and_sources_do_not_limit_it() {
    let site = Site::new();
    let more = "[policy]\nexclude-sets = [3]\n[policy.sources]\nprefixes = [\"192.0.2.7/32\"]\n\
                [[policy.exclude]]\nname = \"bank\"\nprefixes = [\"13.107.6.0/24\"]\n";
    let case = Case::new(&site, "auto", more);
    let daemon = case.product.start();
    assert!(!case.is_direct(INSIDE, SET_1));
    let started = case.start("1h", &[]);
    assert_eq!(started["covers"], json!([1, 2]), "{started}");
    // What the policy selects goes direct for a source that it does not list.
    assert!(case.is_direct(INSIDE, SET_1) && case.is_direct(INSIDE, SET_2));
    assert!(case.is_direct(OUTSIDE, SET_1) && !case.is_direct(OUTSIDE, SET_2));
    assert!(!case.is_direct("192.0.2.9", SET_1));
    assert!(!case.is_direct(INSIDE, SET_2_OTHER), "an exclude");
    assert!(!case.is_direct(INSIDE, SET_3), "an excluded set");
    let args = ["support", "start", "--client", INSIDE, "--for", "1h", "--note", "x", "--sets"];
    let refused = |set, words: &[&str]| {
        case.product.assert_refused(&[&args[..], &[set]].concat(), Exit::Policy as i32, words);
    };
    refused("3", &["set 3 is in policy.exclude-sets"]);
    refused("99", &["no set 99"]);
    let config = case.product.config();
    let explained = |source, destination: &str| {
        let address = destination.split(':').next().unwrap();
        let config = ["--config", config.to_str().unwrap()];
        case.product.text(&[&["explain", source, address, "tcp/443"], &config[..]].concat())
    };
    let text = explained(INSIDE, SET_2);
    for words in [": direct (matched)", "decided by: support window 1", "says direct (matched)"] {
        assert!(text.contains(words), "{text}");
    }
    let text = explained(OUTSIDE, SET_2);
    assert!(text.contains("inspect (no_prefix)") && !text.contains("window"), "{text}");
    case.product.text(&["off"]);
    assert!(!case.is_direct(INSIDE, SET_1) && !case.is_direct(INSIDE, SET_2));
    case.product.text(&["on"]);
    assert!(case.is_direct(INSIDE, SET_2));
    // Nor does it outlive the daemon by more than the deadline.
    case.configure("auto", &format!("deadline = \"2s\"\n{more}"));
    let text = fs::read_to_string(case.product.config()).unwrap();
    let text = text.replace("deadline = \"2s\"\n", "");
    case.product.configure(&format!("deadline = \"2s\"\n{text}"));
    case.product.json(&["reload"]);
    daemon.end(Signal::SIGKILL);
    sleep(Duration::from_millis(2500));
    assert!(!case.is_direct(INSIDE, SET_2));
}

#[test]
fn named_sets_go_direct_and_a_new_feed_is_followed_and_extends_nothing() {
    let site = Site::new();
    let case = Case::new(&site, "auto", "");
    let daemon = case.product.start();
    let started = case.start("1h", &["--sets", "2,56"]);
    assert_eq!(started["covers"], json!([2, 56]), "{started}");
    for direct in [SET_2, "20.20.32.1:443", "20.190.128.1:25"] {
        assert!(case.is_direct(INSIDE, direct), "{direct}");
    }
    assert!(!case.is_direct(INSIDE, SET_3));
    let feed = FEED.replace("20.190.128.0/18", "20.191.128.0/18").replace("52.108", "52.104");
    fs::write(case.product.file("feed.json"), feed).unwrap();
    case.product.json(&["reload"]);
    assert!(!case.is_direct(INSIDE, SET_2) && case.is_direct(INSIDE, "20.191.128.1:443"));
    let report = case.product.json(&["support", "report", "1"]);
    assert_eq!((&report["end"], &report["until"]), (&started["end"], &started["until"]));
    // A set that is gone takes nothing with it.
    let without = FEED.replace("\"id\": 56", "\"id\": 57");
    fs::write(case.product.file("feed.json"), without).unwrap();
    case.product.json(&["reload"]);
    assert!(case.is_direct(INSIDE, SET_2) && !case.is_direct(INSIDE, "20.20.32.1:443"));
    daemon.terminate();
}

#[test]
fn what_is_too_long_too_wide_or_too_many_is_refused_in_one_line() {
    let site = Site::new();
    let case = Case::new(&site, "auto", "");
    let start = |client: &str, length: &str, note: &str, words: &[&str]| {
        let args = ["support", "start", "--client", client, "--for", length, "--note", note];
        case.product.assert_refused(&args, Exit::Usage as i32, words);
    };
    start("192.0.2.0/24", "25h", "x", &["90000s is not from 1s to 24h"]);
    start("0.0.0.0/0", "1h", "x", &["0.0.0.0/0 is everybody"]);
    start("192.0.2.1/24", "1h", "x", &["host bits"]);
    start("everybody", "1h", "x", &["neither an address nor a prefix"]);
    start("192.0.2.0/24", "1h", " ", &["a note"]);
    case.product.assert_refused(&["support", "list"], Exit::Daemon as i32, &["no daemon answers"]);
    let daemon = case.product.start();
    assert_eq!(case.product.text(&["support", "list"]), "there has been no support window yet\n");
    for _ in 0..8 {
        case.start("1h", &[]);
    }
    let args = ["support", "start", "--client", INSIDE, "--for", "1h", "--note", "x"];
    case.product.assert_refused(&args, Exit::Usage as i32, &["8 support windows are open"]);
    assert_eq!(case.product.json(&["support", "list"]).as_array().unwrap().len(), 8);
    case.product.assert_refused(&["support", "report", "9"], Exit::Usage as i32, &["window 9"]);
    daemon.terminate();
    case.configure("auto", "");
    let text = fs::read_to_string(case.product.config()).unwrap();
    case.product.configure(&format!("mode = \"shadow\"\n{text}"));
    let daemon = case.product.start();
    case.product.assert_refused(&args, Exit::Policy as i32, &["mode is shadow"]);
    daemon.terminate();
}

/// What [`Network`] answers for: set 1 is selected, set 2 is not.
const NETWORK_FEED: &str = r#"[
    {"id": 1, "serviceArea": "Exchange", "category": "Optimize", "required": true,
     "ips": ["40.96.0.0/16", "2603:1006::/48"], "tcpPorts": "443"},
    {"id": 2, "serviceArea": "Common", "category": "Default", "required": true,
     "ips": ["40.97.0.0/16", "2603:1006::/40"], "tcpPorts": "444"}
]"#;

/// Opens a window for the client of [`Network`].
fn start(product: &Product<'_>, length: &str) {
    let clients = "10.36.1.0/24,fd36:1::/64";
    product.json(&["support", "start", "--client", clients, "--for", length, "--note", "case"]);
}

#[test]
fn flows_keep_their_way_and_those_of_the_window_end_with_it() {
    let network = Network::new();
    let product = network.product();
    fs::write(product.file("feed.json"), NETWORK_FEED).unwrap();
    let daemon = product.start();
    let to = [BESIDE[1], INSPECTED[1]];
    let open = |way: &str| {
        let mut flows = to.map(|to| network.flow(to).unwrap());
        assert_eq!(flows.each_mut().map(Flow::ask), [way; 2]);
        flows
    };
    let mut before = open("inspector");
    let mut by_policy = DIRECT.map(|to| network.flow(to).unwrap());
    for (length, id) in [("1h", "1"), ("4s", "2")] {
        start(&product, length);
        let mut inside = open("direct");
        assert_eq!(before.each_mut().map(Flow::ask), ["inspector"; 2]);
        if id == "1" {
            product.json(&["support", "stop", id]);
        }
        daemon.wait_for_log(&format!("2 direct flows of support window {id} are ended"), 1);
        for flow in &mut inside {
            let answer = flow.ask_or_error();
            assert!(answer.contains("reset"), "{answer}");
        }
        open("inspector");
        assert_eq!(before.each_mut().map(Flow::ask), ["inspector"; 2]);
        assert_eq!(by_policy.each_mut().map(Flow::ask), ["direct"; 2]);
    }
    daemon.terminate();
}

/// As `support stop` leaves the record when it is killed before a generation without the window serves.
#[test]
fn flows_of_a_window_whose_stop_was_killed_end_with_the_next_start() {
    let network = Network::new();
    let product = network.product();
    fs::write(product.file("feed.json"), NETWORK_FEED).unwrap();
    let daemon = product.start();
    start(&product, "1h");
    let mut inside = network.flow(BESIDE[1]).unwrap();
    assert_eq!(inside.ask(), "direct");
    daemon.end(Signal::SIGKILL);
    let record = product.state_dir().join("windows.json");
    let mut register: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    let window = &mut register["windows"][0];
    window["ended"] = json!([window["started"], "stopped"]);
    window["owes"] = json!(true);
    fs::write(&record, register.to_string()).unwrap();
    let daemon = product.start();
    daemon.wait_for_log("1 direct flows of support window 1 are ended", 1);
    let answer = inside.ask_or_error();
    assert!(answer.contains("reset"), "{answer}");
    // A kill before that has it told once more.
    wait_until("it is kept that nothing is owed", || {
        let register: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        register["windows"][0]["owes"] != json!(true)
    });
    daemon.end(Signal::SIGKILL);
    let daemon = product.start();
    let history = product.json(&["feed", "history"]);
    let entries = history["entries"].as_array().unwrap();
    let closed: Vec<_> = entries.iter().filter(|entry| entry["outcome"] == "closed").collect();
    assert_eq!(closed.len(), 1, "{history}");
    assert_eq!(closed[0]["trigger"], "support-stop");
    daemon.terminate();
}

#[test]
fn what_a_listed_interface_lets_go_direct_does_not_end_with_a_window_and_all_else_does() {
    for (listed, survives) in [("lan0", true), ("lan1", false)] {
        let network = Network::new();
        network.gateway("ip link add lan1 type veth peer name lan1p");
        let product = network.product();
        fs::write(product.file("feed.json"), NETWORK_FEED).unwrap();
        let more = format!(
            "[[interface]]\nname = \"lan1\"\n[policy.sources]\ninterfaces = [\"{listed}\"]\n{EGRESS}"
        );
        product.configure(&format!("{}{more}", with_hook(LAN, "auto")));
        let daemon = product.start();
        start(&product, "1h");
        let mut of_both = DIRECT.map(|to| network.flow(to).unwrap());
        assert_eq!(of_both.each_mut().map(Flow::ask), ["direct"; 2], "{listed}");
        let mut of_window = network.flow(BESIDE[1]).unwrap();
        assert_eq!(of_window.ask(), "direct", "{listed}");
        product.json(&["support", "stop", "1"]);
        let answer = of_window.ask_or_error();
        assert!(answer.contains("reset"), "{listed}: {answer}");
        for flow in &mut of_both {
            let answer = flow.ask_or_error();
            let way = if survives { "direct" } else { "reset" };
            assert!(answer.contains(way), "{listed}: {answer}");
        }
        daemon.terminate();
    }
}
