//! What is written about series is what there is: reference, alerts, dashboard.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use gateway_user::exporter::{SERIES, reference};
use serde_json::Value;

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(relative)
}

fn text_of(relative: &str) -> String {
    fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// The names of ours that a text has in it.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("breakout365_")).collect()
}

#[test]
fn the_reference_is_written_from_the_code() {
    if env::var_os("BREAKOUT365_WRITE").is_some() {
        fs::write(path("docs/metrics.md"), reference()).unwrap();
    }
    let written = text_of("docs/metrics.md");
    assert!(
        written == reference(),
        "docs/metrics.md is not what the code says: run this test with BREAKOUT365_WRITE=1"
    );
}

#[test]
fn alerts_and_dashboard_name_series_that_there_are() {
    let known: BTreeSet<&str> = SERIES.iter().map(|series| series.name).collect();
    for file in [
        "pkg/alerts/breakout365.rules.yml",
        "pkg/alerts/breakout365.rules.test.yml",
        "pkg/grafana/breakout365.json",
    ] {
        let text = text_of(file);
        let named = names(&text);
        assert!(named.len() > 5, "{file} is read wrongly");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}

#[test]
fn every_alert_says_what_to_do_and_is_tried() {
    let operations = text_of("docs/operations.md");
    let section = operations.split("\n## Alerts\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let tests = text_of("pkg/alerts/breakout365.rules.test.yml");
    let rules = text_of("pkg/alerts/breakout365.rules.yml");
    let mut alerts = 0;
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        assert!(section.contains(&format!("\n### {name}\n")), "operations.md lacks {name}");
        let anchor = format!("runbook: docs/operations.md#{}\n", name.to_lowercase());
        assert!(rule.contains(&anchor), "{name} lacks {anchor}");
        for case in ["fires\n", "does not fire while all is well\n"] {
            assert!(tests.contains(&format!("- name: {name} {case}")), "no test: {name} {case}");
        }
        alerts += 1;
    }
    assert_eq!(section.matches("\n### ").count(), alerts, "operations.md has an alert too many");
    assert!(alerts > 5);
}

#[test]
fn the_dashboard_asks_one_data_source_and_every_panel_something() {
    let dashboard: Value = serde_json::from_str(&text_of("pkg/grafana/breakout365.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            let expr = target["expr"].as_str().unwrap();
            assert!(expr.contains("instance=~\"$instance\""), "{title}: {expr}");
        }
    }
}
