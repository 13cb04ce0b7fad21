//! The units that are shipped run the product with what it needs, and no more.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use gateway_user::config::{Config, DEFAULT_PATH};

const DAEMON: &str = "pkg/systemd/breakout365.service";
const EXPORTER: &str = "pkg/systemd/breakout365-exporter.service";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The values of a setting, in the order in which they are set.
fn values(unit: &str, setting: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(unit)).unwrap();
    let settings = text.lines().filter_map(|line| line.split_once('='));
    settings.filter(|(name, _)| *name == setting).map(|(_, value)| value.to_owned()).collect()
}

fn value(unit: &str, setting: &str) -> String {
    let [value] = &values(unit, setting)[..] else { panic!("{unit}: {setting} is not set once") };
    value.clone()
}

/// Each of them is needed: `daemon.rs::without_its_capabilities_it_changes_nothing`. No other is:
/// `daemon.rs::three_capabilities_are_enough`.
#[test]
fn the_service_has_the_three_capabilities_and_the_exporter_none() {
    let needed = BTreeSet::from(["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
    for setting in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        let given = value(DAEMON, setting);
        assert_eq!(given.split(' ').collect::<BTreeSet<_>>(), needed, "{setting}");
        assert_eq!(value(EXPORTER, setting), "", "{setting}");
    }
    for unit in [DAEMON, EXPORTER] {
        assert_eq!(value(unit, "NoNewPrivileges"), "yes");
        assert_eq!(value(unit, "ProtectSystem"), "strict");
    }
}

#[test]
fn neither_runs_as_root_and_both_users_are_made() {
    let users = fs::read_to_string(root().join("pkg/sysusers/breakout365.conf")).unwrap();
    for unit in [DAEMON, EXPORTER] {
        let user = value(unit, "User");
        assert_ne!(user, "root");
        assert_eq!(value(unit, "Group"), user);
        assert!(users.lines().any(|line| line.starts_with(&format!("u {user} "))), "{user}");
    }
    assert_ne!(value(DAEMON, "User"), value(EXPORTER, "User"));
}

/// The defaults of the binary, so that no verb needs an option to find the service.
#[test]
fn the_service_keeps_its_things_where_the_verbs_look_for_them() {
    assert_eq!(value(DAEMON, "ExecStart"), "/usr/bin/breakout365 run");
    assert_eq!(value(DAEMON, "AssertPathExists"), DEFAULT_PATH);
    assert_eq!(value(DAEMON, "BindPaths"), "/sys/fs/bpf/breakout365");
    assert_eq!(value(DAEMON, "StateDirectory"), "breakout365");
    assert_eq!(value(DAEMON, "RuntimeDirectory"), "breakout365");
    let tmpfiles = fs::read_to_string(root().join("pkg/tmpfiles/breakout365.conf")).unwrap();
    let (place, user) = (value(DAEMON, "BindPaths"), value(DAEMON, "User"));
    let line = format!("d {place} 0700 {user} {user} -");
    assert!(tmpfiles.lines().any(|it| it == line), "{line}");
}

/// Who hangs is inspected before it is killed, and killed only after the longest silence of one
/// that works.
#[test]
fn the_watchdog_is_longer_than_the_deadline() {
    assert_eq!(value(DAEMON, "WatchdogSec"), "2min");
    let text = fs::read_to_string(root().join("pkg/config/config.toml")).unwrap();
    let config = Config::parse(&text, Path::new("config.toml")).unwrap();
    assert!(config.deadline.unwrap().as_secs() < 120, "{:?}", config.deadline);
}
