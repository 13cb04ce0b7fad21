//! Whatever the daemon is stopped in the middle of, what serves afterwards is what a person last
//! agreed to, and no feed is lost. Needs root.

use std::fs;

use gateway_common::Transport;
use gateway_user::exit::Exit;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::product::{Product, with_hook};
use crate::support::stage::{ADDED, ALWAYS, SECOND, Stage, THIRD, base, more, serving};
use crate::support::web_service::Script;
use crate::support::{self, LAN, Site, wait_until};

const PRIVATE: (Transport, &str) = (Transport::Tcp, "10.0.0.1:443");
const LENIENT: &str = "[guards]\nallow = [\"prefixes_leaving\", \"space_leaving\"]";

fn include(prefix: &str) -> String {
    format!("[[policy.include]]\nname = \"own\"\nprefixes = [\"{prefix}\"]\nports = \"443\"\n")
}

#[test]
fn no_list_of_one_source_serves_for_another() {
    let site = Site::new();
    let stage = Stage::new(&site, serving(THIRD, &base()));
    let daemon = stage.product.start();
    // Worldwide serves, and another version of it waits.
    stage.wait_for_plan();
    stage.assert_direct(&[ALWAYS]);
    daemon.end(Signal::SIGKILL);
    let worldwide = fs::read_to_string(stage.product.config()).unwrap();
    stage.product.configure(&worldwide.replace("Worldwide", "China"));
    stage.service.set(Script::new());
    let daemon = stage.product.start_without_feed();
    stage.assert_inspected(&[ALWAYS]);
    let status = stage.product.json(&["status"]);
    assert_eq!(status["daemon"]["pending"], Value::Null);
    daemon.terminate();
    // Nor from the state directory for a file, nor for an address that was never asked.
    let file = stage.product.file("feed.json");
    fs::write(&file, more()).unwrap();
    stage.product.configure(&with_hook(LAN, "auto"));
    let daemon = stage.product.start();
    stage.assert_direct(&[ALWAYS, ADDED]);
    assert_eq!(stage.daemon()["pending"], Value::Null);
    daemon.terminate();
    let url = format!("url = \"{}/list\"", stage.service.base_url());
    let of_url = worldwide.replace("instance = \"Worldwide\"", &url);
    let of_url: String = of_url
        .lines()
        .filter(|line| !line.starts_with("service"))
        .fold(String::new(), |text, line| text + line + "\n");
    stage.product.configure(&of_url);
    let daemon = stage.product.start_without_feed();
    stage.assert_inspected(&[ALWAYS]);
    daemon.terminate();
}

#[test]
fn a_reload_to_a_source_without_a_list_takes_effect_with_its_first_one() {
    let site = Site::new();
    let stage = Stage::new(&site, serving(SECOND, &base()));
    let daemon = stage.product.start();
    stage.assert_direct(&[ALWAYS]);
    let worldwide = fs::read_to_string(stage.product.config()).unwrap();
    stage.product.configure(&worldwide.replace("Worldwide", "China"));
    stage.service.set(Script::new());
    // On trial it would come with the first list, when nobody waits to go back any more.
    let on_trial = ["apply", "--confirm-within", "1h"];
    stage.product.assert_refused(&on_trial, Exit::Feed as i32, &["China", "breakout365 reload"]);
    let said = stage.product.json(&["reload"]);
    assert_eq!(said["awaited"], true);
    stage.wait_for_checks(1);
    stage.assert_direct(&[ALWAYS]);
    assert_eq!(stage.product.status()["feed"]["instance"], "Worldwide");
    stage.service.set(Script::serving("China", THIRD, &more()));
    stage.wait_for_version(THIRD);
    assert_eq!(stage.product.status()["feed"]["instance"], "China");
    stage.assert_direct(&[ALWAYS, ADDED]);
    daemon.terminate();
}

#[test]
fn a_source_that_is_taken_back_before_its_first_list_is_forgotten() {
    let site = Site::new();
    let stage = Stage::new(&site, serving(SECOND, &base()));
    stage.configure("", LENIENT);
    let daemon = stage.product.start();
    let worldwide = fs::read_to_string(stage.product.config()).unwrap();
    stage.product.configure(&worldwide.replace("Worldwide", "China"));
    assert_eq!(stage.product.json(&["reload"])["awaited"], true);
    stage.product.configure(&worldwide);
    stage.product.json(&["reload"]);
    stage.service.set(serving(THIRD, &more()));
    stage.wait_for_version(THIRD);
    stage.assert_direct(&[ALWAYS, ADDED]);
    assert!(stage.product.text(&["plan", "show"]).contains("would change nothing"));
    daemon.terminate();
}

#[test]
fn what_a_person_accepted_serves_after_a_restart_and_nothing_more() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let good = with_hook(LAN, "auto");
    let daemon = product.start();
    product.configure(&format!("{good}{}", include("10.0.0.0/12")));
    product.assert_refused(&["reload"], Exit::Guard as i32, &["special_space", "plan accept"]);
    let direct = |destination| {
        let marked = site.send_from(support::CLIENT, &[support::frame(destination)]);
        marked.direct == 1
    };
    assert!(!direct(PRIVATE));
    // Held, and not accepted: a restart changes nothing.
    daemon.end(Signal::SIGKILL);
    let daemon = product.start();
    wait_until("the plan waits", || product.status()["daemon"]["pending"].is_object());
    assert!(direct(ALWAYS) && !direct(PRIVATE));
    let id = product.status()["daemon"]["pending"]["id"].as_str().unwrap().to_owned();
    product.json(&["plan", "accept", &id]);
    assert!(direct(ALWAYS) && direct(PRIVATE));
    daemon.end(Signal::SIGKILL);
    let daemon = product.start();
    assert!(direct(ALWAYS) && direct(PRIVATE));
    assert_eq!(product.status()["daemon"]["pending"], Value::Null);
    daemon.terminate();
}

#[test]
fn a_list_that_comes_during_a_trial_is_taken_when_that_ends() {
    let site = Site::new();
    let stage = Stage::new(&site, serving(SECOND, &base()));
    stage.configure("", LENIENT);
    let daemon = stage.product.start();
    stage.configure("", &format!("{LENIENT}\n{}", include("8.8.8.0/24")));
    stage.product.json(&["apply", "--confirm-within", "12s"]);
    stage.service.set(serving(THIRD, &more()));
    stage.wait_for_checks(2);
    assert_eq!(stage.product.status()["feed"]["version"], SECOND, "on trial");
    stage.wait_for_version(THIRD);
    stage.assert_direct(&[ALWAYS, ADDED]);
    stage.assert_inspected(&[(Transport::Tcp, "8.8.8.8:443")]);
    daemon.terminate();
}

#[test]
fn a_plan_waits_no_longer_than_what_it_started_from() {
    let site = Site::new();
    let stage = Stage::new(&site, serving(THIRD, &base()));
    let daemon = stage.product.start();
    let id = stage.wait_for_plan();
    stage.configure("", "[[policy.exclude]]\nname = \"all\"\nprefixes = [\"40.96.0.0/16\"]\n");
    stage.product.json(&["reload"]);
    stage.assert_inspected(&[ALWAYS]);
    stage.product.assert_refused(&["plan", "accept", &id], Exit::Guard as i32, &[&id]);
    // What waits now knows of the exclude.
    let id = stage.wait_for_plan();
    stage.product.json(&["plan", "accept", &id]);
    stage.assert_inspected(&[ALWAYS]);
    stage.assert_direct(&[(Transport::Tcp, "40.97.0.1:443")]);
    daemon.terminate();
}

#[test]
fn rollback_after_a_restart_with_another_file_goes_one_generation_back() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let good = with_hook(LAN, "auto");
    let with = |prefix: &str| product.configure(&format!("{good}{}", include(prefix)));
    let prefixes = || {
        let shown = product.status();
        (shown["prefixes"]["ipv4"].clone(), shown["prefixes"]["ipv6"].clone())
    };
    let daemon = product.start();
    with("8.8.8.0/24");
    product.json(&["reload"]);
    assert_eq!(prefixes(), (json!(2), json!(1)));
    daemon.end(Signal::SIGKILL);
    product.configure(&format!("{good}[policy]\nipv6 = false\n"));
    let daemon = product.start();
    assert_eq!(prefixes(), (json!(1), json!(0)));
    product.json(&["rollback"]);
    assert_eq!(prefixes(), (json!(2), json!(1)));
    daemon.terminate();
}

#[test]
fn a_trial_that_cannot_begin_changes_nothing_and_one_that_cannot_end_is_refused() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let good = with_hook(LAN, "auto");
    let daemon = product.start();
    product.configure(&format!("{good}[policy]\nipv6 = false\n"));
    let too_long = ["apply", "--confirm-within", "99999999h"];
    product.assert_refused(&too_long, Exit::Usage as i32, &["--confirm-within"]);
    assert_eq!(product.status()["prefixes"]["ipv6"], 1);
    product.json(&["apply", "--confirm-within", "1h"]);
    assert_eq!(product.status()["prefixes"]["ipv6"], 0);
    daemon.end(Signal::SIGKILL);
    // What to go back to is not readable: what is on trial must not serve on.
    let trial = product.state_dir().join("trial.json");
    let kept = fs::read_to_string(&trial).unwrap();
    fs::write(&trial, kept.replace("auto", "tc")).unwrap();
    let name = trial.display().to_string();
    product.assert_refused(&["run"], Exit::System as i32, &[&name, "on trial", "remove the file"]);
    // As it was, it goes back, whatever the file says meanwhile.
    fs::write(&trial, kept).unwrap();
    product.configure("not even a configuration");
    let daemon = product.start();
    assert_eq!(product.status()["prefixes"]["ipv6"], 1);
    daemon.terminate();
}

#[test]
fn held_additions_survive_the_loss_of_their_record() {
    let site = Site::new();
    let stage = Stage::new(&site, serving(THIRD, &base()));
    stage.configure("hold-additions = \"until-effective\"", LENIENT);
    let daemon = stage.product.start();
    stage.wait_for_version(THIRD);
    let change = json!([{
        "id": 1, "endpointSetId": 1, "disposition": "Change", "version": "2026093000",
        "add": {"effectiveDate": "20991231", "ips": ["52.112.0.0/14"]}
    }]);
    let changes = support::web_service::Answer::json(&change.to_string());
    stage.service.set(serving("2026093000", &more()).on("/changes/", changes));
    stage.wait_for_version("2026093000");
    stage.assert_inspected(&[ADDED]);
    daemon.end(Signal::SIGKILL);
    fs::remove_file(stage.product.state_dir().join("incoming.json")).unwrap();
    let daemon = stage.product.start();
    wait_until("the addition is known again", || stage.daemon()["feed"]["held"] != json!([]));
    stage.assert_inspected(&[ADDED]);
    stage.assert_direct(&[ALWAYS]);
    daemon.terminate();
}
