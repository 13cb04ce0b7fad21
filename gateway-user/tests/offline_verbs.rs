//! `feed show`, `policy show` and `explain` of the real binary agree with a naive reading of the
//! feed, and refuse in one line with the documented exit code.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use ipnet::IpNet;
use serde_json::{Value, json};

const EMBEDDED: &str = include_str!("../src/feed/worldwide-2026073100.json");

fn breakout365(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_breakout365"));
    // Nothing was ever fetched, whatever this machine has.
    command.args(["--state-dir", "/nonexistent"]).args(arguments).output().unwrap()
}

fn json_of(arguments: &[&str]) -> Value {
    let output = breakout365(&[arguments, &["--json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The one line of a refusal.
fn refusal(arguments: &[&str], code: i32) -> String {
    let output = breakout365(arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed an answer");
    let line = errors.strip_suffix('\n').unwrap();
    assert!(line.starts_with("breakout365: ") && !line.contains('\n'), "{errors}");
    line["breakout365: ".len()..].to_owned()
}

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A directory with a configuration in it; removed when dropped.
struct ConfigFile {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl ConfigFile {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        Self { _directory: directory, path }
    }

    fn with_policy(policy: &str) -> Self {
        Self::new(&format!("version = 1\n[[interface]]\nname = \"lan0\"\n[policy]\n{policy}\n"))
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

/// A direct port of a prefix: protocol, port, set.
type Clause = (&'static str, u16, u64);

/// The feed's rules, read here by other means than the product's: port by port.
struct Naive(BTreeMap<IpNet, BTreeSet<Clause>>);

impl Naive {
    fn new(records: &Value, categories: &[&str], include: &[u64], exclude: &[u64]) -> Self {
        let mut rules: BTreeMap<IpNet, BTreeSet<Clause>> = BTreeMap::new();
        for record in records.as_array().unwrap() {
            let id = record["id"].as_u64().unwrap();
            let named = include.contains(&id);
            let fits = categories.contains(&record["category"].as_str().unwrap()) && id != 56;
            if exclude.contains(&id) || !(named || fits) {
                continue;
            }
            for prefix in record["ips"].as_array().into_iter().flatten() {
                let prefix = prefix.as_str().unwrap().parse().unwrap();
                for (protocol, field) in [("tcp", "tcpPorts"), ("udp", "udpPorts")] {
                    for port in ports(record[field].as_str().unwrap_or_default()) {
                        if named || port != 53 && (port != 25 || protocol == "udp") {
                            rules.entry(prefix).or_default().insert((protocol, port, id));
                        }
                    }
                }
            }
        }
        Self(rules)
    }

    fn without_ipv6(mut self) -> Self {
        self.0.retain(|prefix, _| prefix.addr().is_ipv4());
        self
    }

    fn covering(&self, address: IpAddr) -> impl Iterator<Item = &Clause> {
        self.0.iter().filter(move |(prefix, _)| prefix.contains(&address)).flat_map(|(_, c)| c)
    }

    /// `prefixes` of `policy show --json`.
    fn prefixes(&self) -> Value {
        let row = |prefix: &IpNet| {
            let clauses: BTreeSet<&Clause> = self
                .0
                .iter()
                .filter(|(outer, _)| outer.contains(prefix))
                .flat_map(|(_, clauses)| clauses)
                .collect();
            let sets: BTreeSet<u64> = clauses.iter().map(|(.., set)| *set).collect();
            let distinct: BTreeSet<(&str, u16)> =
                clauses.iter().map(|(protocol, port, _)| (*protocol, *port)).collect();
            let mut ranges: Vec<(&str, u16, u16)> = Vec::new();
            for (protocol, port) in distinct {
                match ranges.last_mut() {
                    Some((same, _, to)) if *same == protocol && *to + 1 == port => *to = port,
                    _ => ranges.push((protocol, port, port)),
                }
            }
            let ports: Vec<Value> = ranges
                .iter()
                .map(|(protocol, from, to)| json!({"protocol": protocol, "from": from, "to": to}))
                .collect();
            json!({
                "prefix": prefix.to_string(), "sets": sets, "own": [], "ports": ports,
                "excluded": [], "excluded_by": [],
            })
        };
        self.0.keys().map(row).collect()
    }

    /// Verdict, reason, prefix and sets of `explain --json`.
    fn explain(&self, address: IpAddr, protocol: &str, port: u16) -> Value {
        let longest = self.0.keys().filter(|prefix| prefix.contains(&address));
        let longest = longest.max_by_key(|prefix| prefix.prefix_len());
        let sets: BTreeSet<u64> = self
            .covering(address)
            .filter(|(of, at, _)| *of == protocol && *at == port)
            .map(|(.., set)| *set)
            .collect();
        let (verdict, reason) = match (longest, sets.is_empty()) {
            (None, _) => ("inspect", "no_prefix"),
            (Some(_), true) => ("inspect", "port_not_listed"),
            (Some(_), false) => ("direct", "matched"),
        };
        let prefix = longest.map(ToString::to_string);
        json!({"verdict": verdict, "reason": reason, "prefix": prefix, "sets": sets})
    }
}

fn ports(text: &str) -> BTreeSet<u16> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .flat_map(|part| {
            let ends: Vec<u16> = part.split('-').map(|port| port.trim().parse().unwrap()).collect();
            ends[0]..=ends[ends.len() - 1]
        })
        .collect()
}

fn embedded() -> Value {
    let envelope: Value = serde_json::from_str(EMBEDDED).unwrap();
    envelope["sets"].clone()
}

fn nested() -> Value {
    serde_json::from_str(include_str!("fixtures/nested.json")).unwrap()
}

/// The policies that are compared: text in the configuration, and the naive reading.
fn policies(feed: &Value) -> Vec<(&'static str, Naive)> {
    let optimize = ["Optimize"];
    let both = ["Optimize", "Allow"];
    vec![
        ("", Naive::new(feed, &optimize, &[], &[])),
        ("categories = [\"Optimize\", \"Allow\"]", Naive::new(feed, &both, &[], &[])),
        ("include-sets = [56, 2]", Naive::new(feed, &optimize, &[56, 2], &[])),
        (
            "categories = [\"Optimize\", \"Allow\"]\nexclude-sets = [1]",
            Naive::new(feed, &both, &[], &[1]),
        ),
        (
            "categories = [\"Optimize\", \"Allow\"]\ninclude-sets = [2]\nexclude-sets = [56]",
            Naive::new(feed, &both, &[2], &[56]),
        ),
        ("ipv6 = false", Naive::new(feed, &optimize, &[], &[]).without_ipv6()),
        ("categories = []\ninclude-sets = [56]", Naive::new(feed, &[], &[56], &[])),
    ]
}

#[test]
fn policy_show_equals_a_naive_reading_of_the_feed() {
    let nested_feed = fixture("nested.json");
    for (feed, records) in [(None, embedded()), (Some(nested_feed.as_str()), nested())] {
        for (policy, naive) in policies(&records) {
            let config = ConfigFile::with_policy(policy);
            let mut arguments = vec!["policy", "show", "--config", config.path()];
            arguments.extend(feed.iter().flat_map(|file| ["--feed", file]));
            let shown = json_of(&arguments);
            assert_eq!(shown["prefixes"], naive.prefixes(), "{feed:?} {policy}");
            assert_ne!(shown["prefixes"], json!([]));
        }
    }
}

#[test]
fn explain_equals_a_naive_reading_of_the_feed() {
    let nested_feed = fixture("nested.json");
    let cases = [
        ("198.18.0.7", "tcp", 443),
        ("198.18.0.7", "tcp", 80),
        ("198.18.0.7", "tcp", 53),
        ("198.18.0.7", "udp", 53),
        ("198.18.0.8", "tcp", 8443),
        ("198.18.3.127", "udp", 3478),
        ("198.18.3.128", "udp", 3478),
        ("198.18.3.128", "tcp", 8443),
        ("198.18.7.255", "udp", 443),
        ("198.18.8.0", "udp", 443),
        ("198.18.15.255", "udp", 3481),
        ("198.18.15.255", "udp", 3482),
        ("198.18.16.0", "tcp", 443),
        ("198.19.0.1", "tcp", 25),
        ("198.17.255.255", "tcp", 443),
        ("2001:db8:1:8000::25", "tcp", 25),
        ("2001:db8:1:8000::25", "udp", 443),
        ("2001:db8:1:7fff:ffff::", "tcp", 8443),
        ("2001:db8:2::", "tcp", 443),
    ];
    for (policy, naive) in policies(&nested()) {
        let config = ConfigFile::with_policy(policy);
        for (address, protocol, port) in cases {
            let service = format!("{protocol}/{port}");
            let arguments = ["--config", config.path(), "--feed", &nested_feed];
            let answer = json_of(&[&["explain", address, &service], &arguments[..]].concat());
            let expected = naive.explain(address.parse().unwrap(), protocol, port);
            for (field, value) in expected.as_object().unwrap() {
                assert_eq!(&answer[field], value, "{policy}: {address} {service}: {field}");
            }
            assert_eq!(answer["destination"], address);
            assert_eq!((&answer["protocol"], &answer["port"]), (&json!(protocol), &json!(port)));
        }
    }
}

#[test]
fn explain_says_what_nearly_matched() {
    let answer = json_of(&["explain", "40.96.0.1", "tcp/993", "--config", &packaged()]);
    assert_eq!(answer["verdict"], "inspect");
    assert_eq!(answer["covering_sets"], json!([1]));
    assert_eq!(answer["unselected_sets"], json!([2]));
    assert_eq!(
        answer["endpoint_sets"],
        json!([
            {
                "id": 1, "service_area": "Exchange", "category": "Optimize", "required": true,
                "notes": "",
            },
            {
                "id": 2, "service_area": "Exchange", "category": "Allow", "required": false,
                "notes": notes_of(2),
            },
        ])
    );
}

fn notes_of(id: u64) -> Value {
    let sets = embedded();
    let set = sets.as_array().unwrap().iter().find(|set| set["id"] == id).unwrap();
    set.get("notes").cloned().unwrap_or_else(|| json!(""))
}

/// Own entries of every kind beside the embedded feed's Optimize sets.
const OWN: &str = r#"
    include-sets = [9]
    exclude-sets = [64]
    [[policy.include]]
    name = "branch"
    prefixes = ["198.51.100.0/24", "2001:db8:7::/48"]
    [[policy.include]]
    name = "sip"
    prefixes = ["198.51.100.0/25"]
    protocol = "udp"
    ports = "53, 5060-5061"
    comment = "telephone company"
    [[policy.exclude]]
    name = "no-quic"
    prefixes = ["0.0.0.0/0"]
    protocol = "udp"
    ports = "443"
    comment = "DLP"
    [[policy.exclude]]
    name = "dlp-host"
    prefixes = ["40.96.7.7/32"]
    [[policy.exclude]]
    name = "idle"
    prefixes = ["203.0.113.0/24"]
"#;

#[test]
fn policy_show_lists_own_entries_and_what_they_cut() {
    let config = ConfigFile::with_policy(OWN);
    let shown = json_of(&["policy", "show", "--config", config.path()]);
    assert_eq!(shown["mode"], "mark");
    assert_eq!((&shown["counts"]["sets"], &shown["counts"]["own"]), (&json!(4), &json!(2)));
    assert_eq!(
        shown["policy"]["includes"][1],
        json!({
            "name": "sip", "prefixes": ["198.51.100.0/25"], "protocol": "udp",
            "ports": "53,5060-5061", "comment": "telephone company",
        })
    );
    assert_eq!(shown["policy"]["excludes"][1]["name"], "dlp-host");
    let row = |prefix: &str| {
        let rows = shown["prefixes"].as_array().unwrap();
        rows.iter().find(|row| row["prefix"] == prefix).cloned().unwrap_or(Value::Null)
    };
    let port =
        |protocol: &str, from: u16, to: u16| json!({"protocol": protocol, "from": from, "to": to});
    assert_eq!(
        row("40.96.7.7/32"),
        json!({
            "prefix": "40.96.7.7/32", "sets": [], "own": [], "ports": [],
            "excluded": [port("tcp", 80, 80), port("tcp", 443, 443), port("udp", 443, 443)],
            "excluded_by": ["dlp-host", "no-quic"],
        })
    );
    assert_eq!(
        row("40.96.0.0/13"),
        json!({
            "prefix": "40.96.0.0/13", "sets": [1], "own": [],
            "ports": [port("tcp", 80, 80), port("tcp", 443, 443)],
            "excluded": [port("udp", 443, 443)], "excluded_by": ["no-quic"],
        })
    );
    assert_eq!(
        row("198.51.100.0/25"),
        json!({
            "prefix": "198.51.100.0/25", "sets": [], "own": ["branch", "sip"],
            "ports": [
                port("tcp", 1, 24), port("tcp", 26, 52), port("tcp", 54, 65_535),
                port("udp", 1, 442), port("udp", 444, 65_535),
            ],
            "excluded": [port("udp", 443, 443)], "excluded_by": ["no-quic"],
        })
    );
    assert_eq!(row("203.0.113.0/24"), Value::Null);
    let about: Vec<_> = shown["notes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|note| (note["own"].clone(), note["set"].clone()))
        .collect();
    let own = |name: &str| (json!(name), Value::Null);
    assert_eq!(about, [own("branch"), own("branch"), own("branch"), own("idle")]);
    let text = breakout365(&["policy", "show", "--config", config.path()]).stdout;
    let text = String::from_utf8(text).unwrap();
    for line in [
        "4 sets and 2 includes direct:",
        "include sip: 198.51.100.0/25, udp 53,5060-5061 (telephone company)",
        "include branch: 198.51.100.0/24, 2001:db8:7::/48, tcp and udp, all ports",
        "exclude no-quic: 0.0.0.0/0, udp 443 (DLP)",
        "note: include \"branch\": tcp/25 stays inspected; list it in the include's ports to send it \
         direct",
        "note: exclude \"idle\" takes nothing away",
    ] {
        assert!(text.lines().any(|shown| shown.starts_with(line)), "{line:?} is not in {text}");
    }
}

#[test]
fn explain_names_what_decided_and_why_the_rest_did_not() {
    let config = ConfigFile::with_policy(OWN);
    let explain =
        |words: &[&str]| json_of(&[&["explain"], words, &["--config", config.path()]].concat());
    let misses = |answer: &Value| -> Vec<(Value, Value)> {
        let misses = answer["near_misses"].as_array().unwrap().iter();
        misses
            .map(|miss| {
                let who = if miss["set"].is_null() { &miss["own"] } else { &miss["set"] };
                (who.clone(), miss["why"].clone())
            })
            .collect()
    };
    let miss = |who: Value, why: &str| (who, json!(why));
    // By an include alone, and by two.
    let answer = explain(&["198.51.100.200", "tcp/8443"]);
    assert_eq!((&answer["verdict"], &answer["own"]), (&json!("direct"), &json!(["branch"])));
    assert_eq!((&answer["sets"], &misses(&answer)), (&json!([]), &vec![]));
    let answer = explain(&["198.51.100.1", "udp/5060"]);
    assert_eq!(answer["own"], json!(["branch", "sip"]));
    assert_eq!(answer["decided_by"][1]["entry"], "include \"sip\"");
    assert_eq!(answer["decided_by"][1]["comment"], "telephone company");
    // The port has to be named, and is by one of them only.
    let answer = explain(&["198.51.100.1", "udp/53"]);
    assert_eq!((&answer["verdict"], &answer["own"]), (&json!("direct"), &json!(["sip"])));
    assert_eq!(misses(&answer), [miss(json!("branch"), "held_back_port")]);
    let answer = explain(&["198.51.100.1", "tcp/25"]);
    assert_eq!(answer["reason"], "port_not_listed");
    let expected = [miss(json!("branch"), "held_back_port"), miss(json!("sip"), "other_port")];
    assert_eq!(misses(&answer), expected);
    // Excluded: for all there, and one host.
    let answer = explain(&["40.96.0.1", "udp/443"]);
    assert_eq!((&answer["verdict"], &answer["reason"]), (&json!("inspect"), &json!("excluded")));
    assert_eq!((&answer["sets"], &answer["excluded_by"]), (&json!([]), &json!(["no-quic"])));
    assert_eq!(misses(&answer), [miss(json!(1), "excluded")]);
    let answer = explain(&["40.96.7.7", "udp/443"]);
    assert_eq!(answer["excluded_by"], json!(["dlp-host", "no-quic"]));
    assert_eq!(answer["prefix"], "40.96.7.7/32");
    // Not excluded for this port, but nothing lists it.
    let answer = explain(&["40.96.7.7", "tcp/993"]);
    assert_eq!(answer["reason"], "port_not_listed");
    assert_eq!(misses(&answer), [miss(json!(1), "other_port"), miss(json!(2), "not_selected")]);
    let address = |set: u64| {
        let sets = embedded();
        let set =
            sets.as_array().unwrap().iter().find(|record| record["id"] == set).unwrap().clone();
        let prefix: IpNet = set["ips"][0].as_str().unwrap().parse().unwrap();
        prefix.network().to_string()
    };
    let why = |answer: &Value, set: u64| {
        let misses = misses(answer);
        misses.into_iter().find(|(who, _)| *who == json!(set)).map(|(_, why)| why)
    };
    assert_eq!(why(&explain(&[&address(64), "tcp/443"]), 64), Some(json!("excluded_set")));
    assert_eq!(why(&explain(&[&address(56), "tcp/443"]), 56), Some(json!("not_selected")));
    let config = ConfigFile::with_policy("categories = [\"Optimize\", \"Allow\"]");
    let explain =
        |words: &[&str]| json_of(&[&["explain"], words, &["--config", config.path()]].concat());
    assert_eq!(why(&explain(&[&address(56), "tcp/443"]), 56), Some(json!("sign_in")));
    assert_eq!(why(&explain(&[&address(10), "tcp/25"]), 10), Some(json!("held_back_port")));
}

#[test]
fn explain_takes_where_packets_come_from_into_account() {
    let config = ConfigFile::with_policy(
        "[[interface]]\nname = \"lan1\"\n[policy.sources]\nprefixes = [\"10.1.0.0/16\"]\ninterfaces = [\"lan0\"]",
    );
    let explain =
        |words: &[&str]| json_of(&[&["explain"], words, &["--config", config.path()]].concat());
    for (words, verdict, reason) in [
        (&["10.1.2.3", "40.96.0.1", "tcp/443"][..], "direct", "matched"),
        (&["10.2.2.3", "40.96.0.1", "tcp/443"], "inspect", "source_not_listed"),
        (&["10.2.2.3", "40.96.0.1", "tcp/443", "--in", "lan0"], "direct", "matched"),
        (&["10.2.2.3", "40.96.0.1", "tcp/443", "--in", "lan1"], "inspect", "source_not_listed"),
        (&["40.96.0.1", "tcp/443", "--in", "lan1"], "inspect", "source_not_listed"),
        (&["10.1.2.3", "40.96.0.1", "tcp/444"], "inspect", "port_not_listed"),
        // Where nothing is said of it, it is a listed one.
        (&["40.96.0.1", "tcp/443"], "direct", "matched"),
        (&["2603:1006::1", "tcp/443"], "direct", "matched"),
        (&["fd00::1", "2603:1006::1", "tcp/443"], "inspect", "source_not_listed"),
    ] {
        let answer = explain(words);
        assert_eq!(
            (&answer["verdict"], &answer["reason"]),
            (&json!(verdict), &json!(reason)),
            "{words:?}"
        );
        let assumed = words.len() == 2;
        assert_eq!(answer["sources"]["assumed"], assumed, "{words:?}");
        if reason == "source_not_listed" {
            assert_eq!(answer["near_misses"][0]["why"], reason, "{words:?}");
        }
    }
    let unknown = ["explain", "40.96.0.1", "tcp/443", "--in", "lan2", "--config", config.path()];
    assert!(refusal(&unknown, 2).starts_with("\"lan2\" is no [[interface]]"));
    let source = &explain(&["40.96.0.1", "tcp/443"])["source"];
    assert_eq!(source, "10.1.0.0");
    let shown = json_of(&["policy", "show", "--config", config.path()]);
    let sources = json!({"prefixes": ["10.1.0.0/16"], "interfaces": ["lan0"]});
    assert_eq!(shown["policy"]["sources"], sources);
    let everybody =
        json_of(&["explain", "10.2.2.3", "40.96.0.1", "tcp/443", "--config", &packaged()]);
    assert_eq!(everybody["verdict"], "direct");
}

#[test]
fn a_policy_of_own_includes_alone_is_one() {
    let config = ConfigFile::with_policy(
        "categories = []\n[[policy.include]]\nname = \"a\"\nprefixes = [\"198.51.100.0/24\"]",
    );
    let shown = json_of(&["policy", "show", "--config", config.path()]);
    assert_eq!(shown["prefixes"][0]["own"], json!(["a"]));
    assert_eq!((&shown["counts"]["sets"], &shown["counts"]["own"]), (&json!(0), &json!(1)));
}

#[test]
fn other_protocols_are_inspected() {
    for (service, reason) in [
        ("icmp", "protocol_other"),
        ("icmp/0", "protocol_other"),
        ("ipv6-icmp", "protocol_other"),
        ("SCTP/443", "protocol_other"),
        ("132/443", "protocol_other"),
        ("esp", "ipsec"),
        ("51", "ipsec"),
    ] {
        let answer = json_of(&["explain", "40.96.0.1", service, "--config", &packaged()]);
        assert_eq!((&answer["verdict"], &answer["reason"]), (&json!("inspect"), &json!(reason)));
        assert_eq!((&answer["sets"], &answer["prefix"]), (&json!([]), &json!("40.96.0.0/13")));
    }
    for service in ["TCP/443", "6/443"] {
        let answer = json_of(&["explain", "40.96.0.1", service, "--config", &packaged()]);
        assert_eq!((&answer["verdict"], &answer["protocol"]), (&json!("direct"), &json!("tcp")));
    }
}

/// The default policy, whatever is in /etc here.
fn packaged() -> String {
    format!("{}/../pkg/config/config.toml", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn what_is_held_back_or_dangerous_is_said() {
    let notes = |policy: &str| {
        let config = ConfigFile::with_policy(policy);
        let shown = json_of(&["policy", "show", "--config", config.path()]);
        let text = breakout365(&["policy", "show", "--config", config.path()]).stdout;
        let text = String::from_utf8(text).unwrap();
        let notes = shown["notes"].as_array().unwrap().clone();
        for note in &notes {
            let line =
                format!("{}: {}", note["level"].as_str().unwrap(), note["text"].as_str().unwrap());
            assert!(text.lines().any(|shown| shown == line), "{line}");
        }
        notes.iter().map(|note| (note["level"].clone(), note["set"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(notes(""), []);
    let (note, warning) = (json!("note"), json!("warning"));
    assert_eq!(
        notes("categories = [\"Optimize\", \"Allow\"]"),
        [(note.clone(), json!(10)), (note, json!(56))]
    );
    // Named: direct sign-in, and a set that has host names only.
    assert_eq!(
        notes("include-sets = [8, 10, 56]"),
        [(warning.clone(), json!(8)), (warning, json!(56))]
    );
}

#[test]
fn feed_show_counts_and_lists_every_set() {
    let shown = json_of(&["feed", "show"]);
    let envelope: Value = serde_json::from_str(EMBEDDED).unwrap();
    for field in ["instance", "version", "digest"] {
        assert_eq!(shown[field], envelope[field]);
    }
    assert_eq!(
        shown["counts"],
        json!({
            "sets": 63, "sets_with_prefixes": 10, "ipv4_prefixes": 34, "ipv6_prefixes": 59,
            "categories": {"Optimize": 3, "Allow": 7, "Default": 53},
            "service_areas": {"Common": 45, "Exchange": 5, "SharePoint": 6, "Skype": 7},
        })
    );
    let text = String::from_utf8(breakout365(&["feed", "show"]).stdout).unwrap();
    let records = envelope["sets"].as_array().unwrap();
    assert_eq!(shown["sets"].as_array().unwrap().len(), records.len());
    for (set, record) in shown["sets"].as_array().unwrap().iter().zip(records) {
        assert_eq!((&set["id"], &set["service_area"]), (&record["id"], &record["serviceArea"]));
        let none = json!([]);
        assert_eq!(&set["prefixes"], record.get("ips").unwrap_or(&none));
        assert_eq!(&set["urls"], record.get("urls").unwrap_or(&none));
        let id = set["id"].to_string();
        assert!(text.lines().any(|line| line.split_whitespace().nth(1) == Some(id.as_str())));
    }
    let bare = json_of(&["feed", "show", "--feed", &fixture("untidy.json")]);
    assert_eq!((&bare["instance"], &bare["version"]), (&Value::Null, &Value::Null));
    assert_eq!(bare["sets"][2]["tcp"][1], json!({"from": 443, "to": 443}));
}

#[test]
fn the_feed_of_the_command_line_beats_the_one_of_the_configuration() {
    let config = ConfigFile::new(
        "version = 1\n[[interface]]\nname = \"lan0\"\n[feed]\nfile = \"feed.json\"\n",
    );
    let beside = config.path.with_file_name("feed.json");
    std::fs::copy(fixture("nested.json"), &beside).unwrap();
    let of_config = json_of(&["policy", "show", "--config", config.path()]);
    let naive = Naive::new(&nested(), &["Optimize"], &[], &[]);
    assert_eq!(of_config["prefixes"], naive.prefixes());
    let other = fixture("untidy.json");
    let of_line = json_of(&["policy", "show", "--config", config.path(), "--feed", &other]);
    assert_eq!(of_line["prefixes"][0]["prefix"], "192.0.2.64/26");
    std::fs::remove_file(&beside).unwrap();
    let refusal = refusal(&["policy", "show", "--config", config.path()], 4);
    assert!(refusal.starts_with(beside.to_str().unwrap()), "{refusal}");
}

#[test]
fn bad_command_lines_end_with_code_2() {
    for arguments in [
        &["explain", "40.96.0.1"][..],
        &["explain", "40.96.0.300", "tcp/443"],
        &["explain", "example.com", "tcp/443"],
        &["explain", "40.96.0.0/13", "tcp/443"],
        &["explain", "40.96.0.1", "tcp"],
        &["explain", "40.96.0.1", "tcp/"],
        &["explain", "tcp/443"],
        &["explain", "10.0.0.1", "40.96.0.1", "10.0.0.1", "tcp/443"],
        &["explain", "10.0.0.1", "2603:1006::1", "tcp/443"],
        &["explain", "40.96.0.1", "tcp/65536"],
        &["explain", "40.96.0.1", "tcp/-1"],
        &["explain", "40.96.0.1", "tcp/+1"],
        &["explain", "40.96.0.1", "256/1"],
        &["explain", "40.96.0.1", "/1"],
        &["explain", "40.96.0.1", "t p/1"],
        &["policy", "show", "--no-such-flag"],
        &["no-such-verb"],
    ] {
        refusal(arguments, 2);
    }
}

#[test]
fn bad_configurations_end_with_code_3() {
    let missing = refusal(&["policy", "show", "--config", "/nonexistent/c.toml"], 3);
    assert!(missing.starts_with("/nonexistent/c.toml: cannot be read: "), "{missing}");
    let config = ConfigFile::with_policy("categories = [\"All\"]");
    for verb in [&["policy", "show"][..], &["explain", "40.96.0.1", "tcp/443"]] {
        let refusal = refusal(&[verb, &["--config", config.path()]].concat(), 3);
        let expected = format!(
            "{}:5: policy.categories: \"All\": expected Optimize, Allow or Default",
            config.path()
        );
        assert_eq!(refusal, expected);
    }
}

#[test]
fn bad_feeds_end_with_code_4() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feed.json");
    std::fs::write(&path, nested().to_string().replace("198.18.3.0/24", "198.18.3.1/24")).unwrap();
    let path = path.to_str().unwrap();
    for verb in [
        &["feed", "show"][..],
        &["policy", "show", "--config", &packaged()],
        &["explain", "40.96.0.1", "tcp/443", "--config", &packaged()],
    ] {
        assert_eq!(
            refusal(&[verb, &["--feed", path]].concat(), 4),
            format!(
                "{path}: set 2 (record 1): field \"ips\" \"198.18.3.1/24\" has host bits set; its \
                 network is 198.18.3.0/24"
            )
        );
    }
    refusal(&["feed", "show", "--feed", "/nonexistent.json"], 4);
    refusal(&["feed", "show", "--feed", directory.path().to_str().unwrap()], 4);
}

#[test]
fn policies_that_do_not_fit_the_feed_end_with_code_5() {
    for (policy, problem) in [
        ("include-sets = [4711]", "the policy names set 4711, which this feed does not have"),
        ("exclude-sets = [4711]", "the policy names set 4711, which this feed does not have"),
        ("service-areas = [\"Teams\"]", "the policy names service area \"Teams\""),
        ("categories = [\"Default\"]", "the policy selects no prefix of this feed"),
        ("exclude-sets = [1, 11, 31]", "the policy selects no prefix of this feed"),
        (
            "[[policy.exclude]]\nname = \"all\"\nprefixes = [\"0.0.0.0/0\", \"::/0\"]",
            "the policy selects no prefix of this feed",
        ),
    ] {
        let config = ConfigFile::with_policy(policy);
        let refusal = refusal(&["policy", "show", "--config", config.path()], 5);
        assert!(refusal.starts_with(problem), "{refusal}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_breakout365"))
        .args(["feed", "show", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}

#[test]
fn no_category_selects_the_sign_in_set_of_any_instance() {
    let feed = r#"[
        {"id": 1, "serviceArea": "Exchange", "category": "Optimize", "required": true,
         "ips": ["203.0.113.0/24"], "tcpPorts": "443"},
        {"id": 17, "serviceArea": "Common", "category": "Allow", "required": true,
         "urls": ["login.partner.microsoftonline.cn"], "ips": ["198.51.100.0/24"],
         "tcpPorts": "443"}
    ]"#;
    let snapshot = gateway_user::feed::parse(feed.as_bytes(), "feed").unwrap();
    let sets = |include: &[u32]| {
        let policy = gateway_user::policy::Policy {
            categories: gateway_user::feed::Category::ALL.into(),
            include_sets: include.iter().copied().collect(),
            ..gateway_user::policy::Policy::default()
        };
        let compiled = gateway_user::policy::compile(&snapshot, &policy).unwrap();
        compiled.table.groups().iter().flatten().copied().collect::<BTreeSet<_>>()
    };
    assert_eq!(sets(&[]), BTreeSet::from([1]));
    assert_eq!(sets(&[17]), BTreeSet::from([1, 17]));
}
