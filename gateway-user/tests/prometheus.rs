//! Needs root. A real Prometheus scrapes the real exporter, and its tools have nothing to say against
//! the series, the alerts and the dashboard.

#![expect(clippy::cast_precision_loss, reason = "tests count to thousands")]

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gateway_user::exporter::{Kind, SERIES};
use serde_json::Value;
use url::form_urlencoded::byte_serialize;
use xtask::testbed::Namespace;

use crate::support::scrape::{get, metrics, start};
use crate::support::stage::{ALWAYS, FIRST, SECOND, Stage, base, more, serving};
use crate::support::{CLIENT, INSPECTED, LAN, Sender, Site, frame, traffic, wait_until};

const PROMETHEUS: &str = "127.0.0.1:9090";
const JOB: &str = "job=\"breakout365\"";

/// Series that may be empty here: there is no own include, and `kernel.bpf_stats_enabled` is of the
/// whole machine.
const MAY_BE_EMPTY: [&str; 3] =
    ["breakout365_program_run", "breakout365_include", "breakout365_redirect"];

fn package(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("pkg").join(relative)
}

/// What an instant query answers.
fn query(gateway: &Namespace, expression: &str) -> Vec<Value> {
    let encoded: String = byte_serialize(expression.as_bytes()).collect();
    let path = format!("/api/v1/query?query={encoded}");
    let answer = get(gateway, PROMETHEUS, &path, "").unwrap();
    assert_eq!(answer.status, 200, "{expression}: {}", answer.body);
    let answer: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(answer["status"], "success", "{expression}: {answer}");
    answer["data"]["result"].as_array().unwrap().clone()
}

/// The one value that a query answers, if it does.
fn number(gateway: &Namespace, expression: &str) -> Option<f64> {
    let result = query(gateway, expression);
    let [one] = &result[..] else { return None };
    one["value"][1].as_str()?.parse().ok()
}

/// Runs promtool; nothing of its words is a finding.
fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.current_dir(package("alerts")).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn promtool_accepts_the_alerts_and_their_tests() {
    promtool(&["check", "rules", "breakout365.rules.yml"], "");
    promtool(&["test", "rules", "breakout365.rules.test.yml"], "");
}

/// Every query of it is answered, and with data where there is any.
fn assert_the_dashboard_is_answered(site: &Site) {
    let dashboard = fs::read_to_string(package("grafana/breakout365.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let expression =
                expression.replace("$instance", ".*").replace("$__rate_interval", "1m");
            let may_be_empty = MAY_BE_EMPTY.iter().any(|name| expression.contains(name));
            wait_until(&format!("{}: {expression}", panel["title"]), || {
                let result = query(&site.gateway, &expression);
                may_be_empty || !result.is_empty()
            });
            asked += 1;
        }
    }
    assert!(asked > 20);
}

/// The gateway's direct uplink, `wan0`; what answers its probes.
fn uplink_that_answers(site: &Site) -> TcpListener {
    site.add_lan("eth9", "wan0");
    for line in
        ["ip address add 198.51.100.2/24 dev wan0", "ip route add default dev wan0 metric 9"]
    {
        site.gateway.run(line).unwrap();
    }
    site.client.run("ip address add 198.51.100.1/24 dev eth9").unwrap();
    site.client.enter(|| TcpListener::bind("198.51.100.1:443")).unwrap().unwrap()
}

#[test]
fn a_real_prometheus_scrapes_it_exactly_over_swaps_and_answers_the_dashboard() {
    let site = Site::new();
    let _answers_probes = uplink_that_answers(&site);
    let stage = Stage::new(&site, serving(FIRST, &base()));
    stage.configure(
        "",
        "[guards]\nallow = [\"version_back\", \"prefixes_leaving\", \"space_leaving\"]\n[egress]\n\
         interface = \"wan0\"\ngateway4 = \"198.51.100.1\"\n[egress.health]\nprobes = \
         [\"198.51.100.1:443\"]\ninterval = \"1s\"",
    );
    let daemon = stage.product.start();
    stage.wait_for_version(FIRST);
    let exporter = start(&stage.product, &site.gateway, &[]);
    promtool(&["check", "metrics"], &metrics(&site.gateway));

    let files = tempfile::tempdir().unwrap();
    let config = files.path().join("prometheus.yml");
    let rules = package("alerts/breakout365.rules.yml");
    let text = format!(
        "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\n\
         rule_files: ['{}']\nscrape_configs:\n  - job_name: breakout365\n    static_configs:\n      \
         - targets: ['127.0.0.1:9365']\n",
        rules.display()
    );
    fs::write(&config, text).unwrap();
    let log = fs::File::create(files.path().join("log")).unwrap();
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", files.path().join("data").display()))
        .arg(format!("--web.listen-address={PROMETHEUS}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let prometheus = site.gateway.spawn(&mut command).unwrap();
    wait_until("Prometheus has scraped", || {
        get(&site.gateway, PROMETHEUS, "/-/ready", "").is_ok_and(|answer| answer.status == 200)
            && number(&site.gateway, &format!("up{{{JOB}}}")) == Some(1.0)
            && number(&site.gateway, "breakout365_up") == Some(1.0)
    });

    let packets = |verdict: &str| {
        let lan = format!("interface=\"{LAN}\",verdict=\"{verdict}\"");
        number(&site.gateway, &format!("sum(breakout365_packets_total{{{lan}}})"))
    };
    let before = (packets("direct").unwrap(), packets("inspect").unwrap());
    let (marked_before, inspected) = (site.marked(), INSPECTED[0]);
    let sender =
        Sender::start(&site, move |sent| frame(if sent % 3 == 0 { inspected } else { ALWAYS }));
    for (version, list) in [(SECOND, more()), ("2026083101", base()), ("2026083102", more())] {
        stage.service.set(serving(version, &list));
        stage.wait_for_version(version);
    }
    let sent = sender.stop();
    site.send_from(CLIENT, &traffic(&[ALWAYS]));
    let marked = site.marked();
    let direct = marked.direct - marked_before.direct;
    assert_eq!(marked.none - marked_before.none, sent.div_ceil(3));
    let expected = (before.0 + direct as f64, before.1 + sent.div_ceil(3) as f64);
    wait_until("Prometheus has every packet", || {
        packets("inspect") == Some(expected.1) && packets("direct") == Some(expected.0)
    });
    // In no scrape was any counter lower than in the one before.
    for series in SERIES.iter().filter(|series| series.kind == Kind::Counter) {
        let name = series.name;
        let resets = query(&site.gateway, &format!("resets({name}[5m]) > 0"));
        assert!(resets.is_empty(), "{resets:#?}");
        let scrapes = query(&site.gateway, &format!("count_over_time({name}[5m]) > 3"));
        let may_be_empty = MAY_BE_EMPTY.iter().any(|empty| name.starts_with(empty));
        assert!(may_be_empty || !scrapes.is_empty(), "{name} was not scraped");
    }
    // A scrape that took too long leaves a gap until the next one.
    for (series, value) in [
        ("breakout365_feed_version", 2_026_083_102.0),
        ("breakout365_egress_up", 1.0),
        ("breakout365_uplink_up{family=\"ipv4\"}", 1.0),
        ("sum(breakout365_uplink_down_reason)", 0.0),
        ("breakout365_uplink_probe_rtt_seconds < bool 2", 1.0),
    ] {
        wait_until(series, || number(&site.gateway, series) == Some(value));
    }

    wait_until("no rule fails or alerts", || {
        let rules = get(&site.gateway, PROMETHEUS, "/api/v1/rules", "").unwrap();
        let rules: Value = serde_json::from_str(&rules.body).unwrap();
        let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap();
        rules.iter().all(|rule| rule["health"] == "ok" && rule["state"] == "inactive")
    });

    assert_the_dashboard_is_answered(&site);

    // Nothing is left of a daemon that has gone.
    daemon.terminate();
    wait_until("Prometheus knows", || number(&site.gateway, "breakout365_up") == Some(0.0));
    assert_eq!(query(&site.gateway, "breakout365_packets_total"), Vec::<Value>::new());
    drop((prometheus, exporter));
}
