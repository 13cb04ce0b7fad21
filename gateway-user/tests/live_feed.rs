//! The daemon in step with a web service: good versions serve, bad answers and refused plans leave
//! the last good one at work, and a person sees why and decides. Needs root.

use std::fs;

use gateway_common::Transport;
use gateway_user::exit::Exit;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::product::Product;
use crate::support::stage::{
    ADDED, ALWAYS, FIRST, SECOND, Stage, THIRD, base, list, more, serving,
};
use crate::support::web_service::{Answer, Script};
use crate::support::{self, CLIENT, LAN, Marked, Site, frame, wait_until};

#[test]
fn each_version_is_fetched_once_and_serves_before_it_is_kept() {
    let site = Site::new();
    let stage = Stage::new(&site, serving(FIRST, &base()));
    // Older than the snapshot in the binary: the guard against going back is in the way.
    stage.configure(
        "",
        "[guards]\nallow = [\"version_back\", \"prefixes_leaving\", \"space_leaving\"]",
    );
    let daemon = stage.product.start();
    stage.wait_for_version(FIRST);
    stage.assert_direct(&[ALWAYS]);
    stage.assert_inspected(&[ADDED]);
    stage.service.set(serving(SECOND, &more()));
    stage.wait_for_version(SECOND);
    stage.assert_direct(&[ALWAYS, ADDED]);
    stage.wait_for_checks(2);
    let requests = stage.service.requests();
    let fetched = requests.iter().filter(|path| path.starts_with("/endpoints/")).count();
    assert_eq!(fetched, 2, "{requests:?}");
    let kept = fs::read_to_string(stage.product.state_dir().join("last-good.json")).unwrap();
    assert!(kept.contains(SECOND));
    let published: Vec<_> = stage
        .journal()
        .iter()
        .map(|entry| (entry["trigger"].clone(), entry["feed"]["version"].clone()))
        .collect();
    let (start, feed) = (json!("start"), json!("feed"));
    assert_eq!(
        published,
        [(start, json!(SECOND)), (feed.clone(), json!(FIRST)), (feed, json!(SECOND))]
    );
    daemon.terminate();
}

#[test]
fn no_bad_answer_moves_the_last_good_table() {
    let site = Site::new();
    let stage = Stage::new(&site, serving(SECOND, &more()));
    stage.configure("", "[guards]\nallow = [\"prefixes_leaving\", \"space_leaving\"]");
    let daemon = stage.product.start();
    // The snapshot in the binary has this version: it is not fetched.
    stage.wait_for_version(SECOND);
    stage.service.set(serving(THIRD, &more()));
    stage.wait_for_version(THIRD);
    let wide: Vec<String> = (0..16).map(|n| format!("{}.0.0.0/8", n + 60)).collect();
    let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
    let later = "2026093000";
    let at = |version: &str, answer: Answer| serving(version, &more()).on("/endpoints/", answer);
    let bad: Vec<(&str, Script, &str)> = vec![
        ("500", at(later, Answer::status(500)), "500"),
        ("no list", at(later, Answer::json("{}")), "endpoint"),
        ("HTML", at(later, Answer::json("<html></html>").typed("text/html")), "list"),
        ("cut", at(later, Answer::json("[{\"id\":")), "JSON"),
        ("too long a length", at(later, Answer::json(&more()).claiming(100_000)), "not whole"),
        ("too large", at(later, Answer::json(&" ".repeat(9 << 20)).without_length()), "8388608"),
        (
            "another instance",
            serving(later, &more()).on("/version/", Answer::version("China", later)),
            "China",
        ),
        (
            "no version",
            serving(later, &more()).on("/version/", Answer::version("Worldwide", "soon")),
            "soon",
        ),
        ("elsewhere", at(later, Answer::redirect(302, "https://203.0.113.9/x")), "sends on"),
        ("empty", at("2026093001", Answer::json("[]")), "empty"),
        ("the internet", serving("2026093002", &list(&["0.0.0.0/0"])), "whole internet"),
        ("half of it", serving("2026093003", &list(&["0.0.0.0/1", "40.96.0.0/13"])), "wide_prefix"),
        (
            "private",
            serving("2026093004", &list(&["10.0.0.0/11", "40.96.0.0/13"])),
            "special_space",
        ),
        (
            "many",
            serving("2026093005", &list(&[&["40.96.0.0/13"], &wide[..]].concat())),
            "table_growth",
        ),
        (
            "nothing of ours",
            serving(
                "2026093006",
                &json!([{
                    "id": 1, "serviceArea": "Exchange", "category": "Default", "required": true
                }])
                .to_string(),
            ),
            "no prefix",
        ),
        ("an older one", serving(FIRST, &more()), "version_back"),
    ];
    for (what, script, word) in bad {
        stage.service.set(script);
        stage.wait_for_problem(what, word);
        assert_eq!(stage.product.status()["feed"]["version"], THIRD, "{what}");
        stage.assert_direct(&[ALWAYS, ADDED]);
        let text = stage.product.text(&["status"]);
        assert!(text.contains(word), "{what}: {word:?} is not in {text}");
    }
    // Too many requests: nothing for an hour, so this comes last.
    stage.service.set(serving(THIRD, &more()).on("/version/", Answer::status(429)));
    wait_until("429 is seen", || stage.daemon()["feed"]["checks"]["rate_limited"] == 1);
    stage.service.set(serving("2026103100", &base()));
    stage.assert_direct(&[ALWAYS, ADDED]);
    daemon.terminate();
}

#[test]
fn a_plan_that_guards_hold_waits_for_a_person() {
    let site = Site::new();
    let removed = json!([{
        "id": 7, "endpointSetId": 1, "disposition": "Change", "impact": "RemovedIpOrUrl",
        "version": THIRD, "remove": {"ips": ["52.96.0.0/14"]}
    }]);
    let changes = Answer::json(&removed.to_string());
    let stage = Stage::new(&site, serving(THIRD, &base()).on("/changes/", changes));
    let daemon = stage.product.start();
    // From the snapshot in the binary to two prefixes: nearly everything leaves.
    let id = stage.wait_for_plan();
    stage.assert_direct(&[ALWAYS]);
    // Over a restart, too.
    daemon.terminate();
    let daemon = stage.product.start();
    assert_eq!(stage.wait_for_plan(), id);
    let shown = stage.product.json(&["plan", "show"]);
    assert_eq!((&shown["waiting"], &shown["id"]), (&json!(true), &json!(id)));
    let guards: Vec<_> =
        shown["refusals"].as_array().unwrap().iter().map(|held| held["guard"].clone()).collect();
    assert!(guards.contains(&json!("prefixes_leaving")), "{guards:?}");
    assert!(guards.contains(&json!("space_leaving")), "{guards:?}");
    let text = stage.product.text(&["plan", "show"]);
    for words in [id.as_str(), "prefixes_leaving", "plan accept", "IPv4", THIRD, "RemovedIpOrUrl"] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    // It is not fetched again and again.
    stage.service.requests();
    stage.wait_for_checks(2);
    assert!(stage.service.requests().iter().all(|path| path.starts_with("/version/")));
    stage.product.assert_refused(&["plan", "accept", "0123456789ab"], Exit::Guard as i32, &[&id]);
    stage.product.json(&["plan", "reject", &id]);
    assert_eq!(stage.daemon()["pending"], Value::Null);
    stage.wait_for_checks(2);
    assert_eq!(stage.daemon()["pending"], Value::Null, "rejected once is rejected");
    // The next version waits as well, and is accepted.
    stage.service.set(serving("2026093000", &more()));
    let id = stage.wait_for_plan();
    stage.product.json(&["plan", "accept", &id]);
    stage.wait_for_version("2026093000");
    stage.assert_direct(&[ALWAYS, ADDED]);
    let outcomes: Vec<_> = stage.journal().iter().map(|entry| entry["outcome"].clone()).collect();
    let names = ["published", "held", "published", "held", "rejected", "held", "published"]
        .map(|name| json!(name));
    assert_eq!(outcomes, names);
    let history = stage.product.json(&["feed", "history"]);
    assert_eq!(history["entries"].as_array().unwrap().len(), outcomes.len());
    let text = stage.product.text(&["feed", "history", "--last", "1"]);
    assert!(text.contains("accept") && text.contains("2026093000"), "{text}");
    assert!(!text.contains("reject"), "{text}");
    // And back: this version is not taken again, the next one is.
    stage.product.json(&["rollback"]);
    assert_eq!(stage.product.status()["feed"]["version"], SECOND);
    stage.wait_for_checks(2);
    assert_eq!(stage.product.status()["feed"]["version"], SECOND);
    assert_eq!(stage.daemon()["pending"], Value::Null);
    daemon.terminate();
}

#[test]
fn what_nobody_confirms_is_gone_back_from() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let good = support::product::with_hook(LAN, "auto");
    let other = format!("{good}[policy]\nipv6 = false\n");
    let daemon = product.start();
    let prefixes = || product.status()["prefixes"]["ipv6"].clone();
    // Confirmed.
    product.configure(&other);
    product.json(&["apply", "--confirm-within", "1h"]);
    assert_eq!(prefixes(), 0);
    product.assert_refused(&["reload"], Exit::Guard as i32, &["on trial", "breakout365 confirm"]);
    product.json(&["confirm"]);
    product.assert_refused(&["confirm"], Exit::Usage as i32, &["nothing waits"]);
    // Not confirmed.
    product.configure(&good);
    product.json(&["apply", "--confirm-within", "5s"]);
    assert_eq!(prefixes(), 1);
    wait_until("it goes back", || prefixes() == 0);
    // Killed on trial: the next one goes back.
    product.json(&["apply", "--confirm-within", "1h"]);
    assert_eq!(prefixes(), 1);
    daemon.end(Signal::SIGKILL);
    let daemon = product.start();
    assert_eq!(prefixes(), 0);
    // And the one after that takes the file as it is.
    daemon.terminate();
    let daemon = product.start();
    assert_eq!(prefixes(), 1);
    // A bad file puts nothing on trial.
    product.configure("version = 2\n");
    product.assert_refused(
        &["apply", "--confirm-within", "5m"],
        Exit::Config as i32,
        &[&product.config().display().to_string(), ":1: version"],
    );
    product.assert_refused(&["confirm"], Exit::Usage as i32, &["nothing waits"]);
    assert_eq!(prefixes(), 1);
    daemon.terminate();
}

#[test]
fn rollback_goes_to_what_was_confirmed_and_never_to_what_was_not() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let first = support::product::with_hook(LAN, "auto");
    let [second, third] = ["ipv6", "ipv4"].map(|it| format!("{first}[policy]\n{it} = false\n"));
    let families = || {
        let prefixes = product.status()["prefixes"].clone();
        (prefixes["ipv4"].as_u64().unwrap(), prefixes["ipv6"].as_u64().unwrap())
    };
    for how in ["rollback", "in time", "killed"] {
        product.configure(&first);
        let mut daemon = product.start();
        product.configure(&second);
        product.json(&["reload"]);
        product.configure(&third);
        let within = if how == "in time" { "5s" } else { "1h" };
        product.json(&["apply", "--confirm-within", within]);
        assert_eq!(families(), (0, 1), "{how}: on trial");
        if how == "rollback" {
            product.json(&["rollback"]);
        } else if how == "killed" {
            daemon.end(Signal::SIGKILL);
            daemon = product.start();
        }
        wait_until("it goes back", || families() == (1, 0));
        product.json(&["rollback"]);
        assert_eq!(families(), (1, 1), "{how}: the one before that was confirmed");
        daemon.terminate();
    }
    // One that is confirmed has what it was tried out against before it, also after a restart.
    product.configure(&first);
    let daemon = product.start();
    product.configure(&second);
    product.json(&["apply", "--confirm-within", "1h"]);
    product.json(&["confirm"]);
    daemon.end(Signal::SIGKILL);
    let daemon = product.start();
    assert_eq!(families(), (1, 0));
    product.json(&["rollback"]);
    assert_eq!(families(), (1, 1));
    daemon.terminate();
}

#[test]
fn plan_show_says_what_a_reload_would_change() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let good = support::product::with_hook(LAN, "auto");
    let daemon = product.start();
    assert!(product.text(&["plan", "show"]).contains("would change nothing"));
    product.configure(&format!(
        "{good}[[policy.include]]\nname = \"partner\"\nprefixes = [\"8.8.8.0/24\"]\nports = \"443\"\n\
         [[policy.exclude]]\nname = \"hole\"\nprefixes = [\"40.97.0.0/16\"]\n\
         [policy.sources]\nprefixes = [\"192.0.2.0/24\"]\n"
    ));
    let shown = product.json(&["plan", "show"]);
    assert_eq!(shown["waiting"], false);
    assert_eq!(shown["plan"]["sources_after"], json!(["192.0.2.0/24"]));
    let text = product.text(&["plan", "show"]);
    for words in ["partner", "8.8.8.0/24", "hole", "40.97.0.0/16", "everybody -> 192.0.2.0/24"] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    assert_eq!(product.status()["generation"], 1, "a look changes nothing");
    product.json(&["reload"]);
    let hole = (Transport::Tcp, "40.97.0.1:443");
    let partner = (Transport::Tcp, "8.8.8.8:443");
    let frames = [frame(hole), frame(partner), frame(ALWAYS)];
    assert_eq!(site.send_from(CLIENT, &frames), Marked { direct: 2, none: 1, odd: 0 });
    assert!(product.text(&["plan", "show"]).contains("would change nothing"));
    daemon.terminate();
}

#[test]
fn rollback_goes_to_the_generation_before_also_after_a_restart() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let good = support::product::with_hook(LAN, "auto");
    let daemon = product.start();
    product.assert_refused(&["rollback"], Exit::Usage as i32, &["no generation before"]);
    product.configure(&format!("{good}[policy]\nipv6 = false\n"));
    product.json(&["reload"]);
    let prefixes = || product.status()["prefixes"]["ipv6"].clone();
    assert_eq!(prefixes(), 0);
    daemon.terminate();
    let daemon = product.start();
    assert_eq!(prefixes(), 0);
    product.json(&["rollback"]);
    assert_eq!(prefixes(), 1);
    site.assert_it_marks();
    daemon.terminate();
}

#[test]
fn a_stale_feed_is_kept_or_inspected_as_the_operator_wants() {
    let site = Site::new();
    let stage = Stage::new(&site, serving(SECOND, &base()));
    stage.configure("max-age = \"2s\"", "");
    let daemon = stage.product.start();
    stage.service.set(Script::new());
    wait_until("it is stale", || stage.daemon()["feed"]["stale"] == true);
    stage.assert_direct(&[ALWAYS]);
    assert!(stage.product.text(&["status"]).contains("STALE"));
    stage.configure("max-age = \"2s\"\non-stale = \"inspect\"", "");
    stage.product.json(&["reload"]);
    wait_until("everything is inspected", || stage.daemon()["feed"]["inspecting"] == true);
    stage.assert_inspected(&[ALWAYS]);
    let window = ["support", "start", "--client", "192.0.2.7", "--for", "1h", "--note", "case 123"];
    stage.product.assert_refused(&window, Exit::Feed as i32, &["the feed is stale"]);
    stage.service.set(serving(SECOND, &base()));
    wait_until("it is fresh", || stage.daemon()["feed"]["inspecting"] == false);
    stage.assert_direct(&[ALWAYS]);
    daemon.terminate();
}

/// As after a boot without a clock: what is remembered is of the future, and nobody answers.
#[test]
fn a_clock_that_is_behind_does_not_keep_a_feed_fresh_for_ever() {
    let site = Site::new();
    let stage = Stage::new(&site, serving(SECOND, &base()));
    stage.configure("max-age = \"2s\"\non-stale = \"inspect\"", "");
    let daemon = stage.product.start();
    stage.assert_direct(&[ALWAYS]);
    daemon.terminate();
    stage.service.set(Script::new());
    let record = stage.product.state_dir().join("feed-state.json");
    let mut memory: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    for time in ["since", "last_success"] {
        memory[time] = json!("2099-01-01T00:00:00Z");
    }
    fs::write(&record, memory.to_string()).unwrap();
    let daemon = stage.product.start();
    wait_until("everything is inspected", || stage.daemon()["feed"]["inspecting"] == true);
    stage.assert_inspected(&[ALWAYS]);
    daemon.terminate();
}

#[test]
fn a_start_never_waits_for_the_network() {
    let site = Site::new();
    let stage = Stage::new(&site, serving(THIRD, &more()));
    stage.configure("", "[guards]\nallow = [\"prefixes_leaving\", \"space_leaving\"]");
    let daemon = stage.product.start();
    stage.wait_for_version(THIRD);
    daemon.terminate();
    // Nobody answers: the last good one.
    stage.service.set(Script::new());
    let daemon = stage.product.start();
    assert_eq!(stage.product.status()["feed"]["version"], THIRD);
    stage.assert_direct(&[ALWAYS, ADDED]);
    daemon.terminate();
    // Damaged: named, and skipped, for as long as there is another copy.
    let damage = |name: &str| {
        let file = stage.product.state_dir().join(name);
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
    };
    for (damaged, version) in
        [(&["serving.json"][..], THIRD), (&["serving.json", "last-good.json"], SECOND)]
    {
        for name in damaged {
            damage(name);
        }
        let daemon = stage.product.start();
        assert_eq!(stage.product.status()["feed"]["version"], version, "{damaged:?}");
        for name in damaged {
            assert!(daemon.log().contains(name), "{}", daemon.log());
        }
        stage.assert_direct(&[ALWAYS]);
        daemon.terminate();
    }
}

#[test]
fn an_instance_that_was_never_fetched_inspects_everything_until_it_is() {
    let site = Site::new();
    let stage = Stage::new(&site, Script::new());
    let config = fs::read_to_string(stage.product.config()).unwrap();
    stage.product.configure(&config.replace("Worldwide", "China"));
    let daemon = stage.product.start_without_feed();
    stage.assert_inspected(&[ALWAYS]);
    stage.service.set(Script::serving("China", THIRD, &base()));
    stage.wait_for_version(THIRD);
    stage.assert_direct(&[ALWAYS]);
    daemon.terminate();
}

#[test]
fn additions_are_held_until_they_are_effective() {
    let site = Site::new();
    let stage = Stage::new(&site, serving(THIRD, &base()));
    let allow = "[guards]\nallow = [\"prefixes_leaving\", \"space_leaving\"]";
    stage.configure("hold-additions = \"until-effective\"", allow);
    let daemon = stage.product.start();
    stage.wait_for_version(THIRD);
    let change = |date: &str| {
        json!([{
            "id": 1, "endpointSetId": 1, "disposition": "Change", "impact": "AddedIp",
            "version": "2026093000",
            "add": {"effectiveDate": date, "ips": ["52.112.0.0/14"]}
        }])
        .to_string()
    };
    let version = "2026093000";
    let next = |date: &str| serving(version, &more()).on("/changes/", Answer::json(&change(date)));
    stage.service.set(next("20991231"));
    stage.wait_for_version(version);
    stage.assert_direct(&[ALWAYS]);
    stage.assert_inspected(&[ADDED]);
    let held = stage.daemon()["feed"]["held"].clone();
    assert_eq!(held, json!([{"set": 1, "prefix": "52.112.0.0/14", "effective": "2099-12-31"}]));
    daemon.terminate();
    // Over a restart, too; and once nobody holds it any more, it serves.
    let daemon = stage.product.start();
    stage.assert_inspected(&[ADDED]);
    stage.configure("", allow);
    stage.product.json(&["reload"]);
    stage.assert_direct(&[ALWAYS, ADDED]);
    daemon.terminate();
}

#[test]
fn verbs_that_ask_the_daemon_say_so_when_there_is_none() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    for verb in
        [&["reload"][..], &["plan", "show"], &["rollback"], &["confirm"], &["plan", "accept", "x"]]
    {
        product.assert_refused(
            verb,
            Exit::Daemon as i32,
            &["no daemon answers", "systemctl status"],
        );
    }
}
