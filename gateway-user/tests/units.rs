//! The units that are shipped run the product with what it needs, and no more.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser as _;
use gateway_user::cli::Cli;
use gateway_user::config::{Config, DEFAULT_PATH};
use gateway_user::exit::Exit;

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

/// A configuration that is refused is refused again a second later; an interface may have come by then.
#[test]
fn what_only_a_person_mends_is_not_tried_again_and_the_papers_say_so() {
    let person = [Exit::Usage, Exit::Config, Exit::Policy, Exit::Permission, Exit::Guard];
    let codes = person.map(|exit| (exit as u8).to_string());
    assert_eq!(value(DAEMON, "Restart"), "on-failure");
    assert_eq!(value(DAEMON, "RestartPreventExitStatus"), codes.join(" "));
    let (last, others) = codes.split_last().unwrap();
    let said = format!("{} or {last}", others.join(", "));
    let paper = fs::read_to_string(root().join("docs/service.md")).unwrap();
    assert!(paper.contains(&format!("exit code {said}")), "docs/service.md does not say {said}");
}

/// A removal stops what runs, whatever policy there is for services: `down` is refused while the daemon
/// runs.
#[test]
fn removing_the_debian_package_stops_the_daemon_whatever_the_policy_says() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join(name);
    let script = fs::read_to_string(root().join("pkg/deb/prerm")).unwrap();
    let script = script.replace("/run/systemd/system", place.path().to_str().unwrap());
    fs::write(file("prerm"), script).unwrap();
    let programs = [
        // policy-rc.d denies: nothing is done, and that is success.
        ("deb-systemd-invoke", "exit 0"),
        (
            "systemctl",
            "[ \"$1\" != --quiet ] || shift; for last; do :; done\n\
             case \"$1\" in is-active) [ -e $HOME/$last ];; stop) rm -f $HOME/$last;; esac",
        ),
        ("breakout365", "[ \"$1\" = down ] && [ ! -e $HOME/breakout365.service ] && : >$HOME/down"),
    ];
    for (name, text) in programs {
        fs::write(file(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(file(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", place.path().display());
    for running in [&["breakout365.service", "breakout365-exporter.service"][..], &[]] {
        for unit in running {
            fs::write(file(unit), "").unwrap();
        }
        let mut prerm = Command::new("sh");
        prerm.arg(file("prerm")).arg("remove").env("PATH", &path).env("HOME", place.path());
        assert!(prerm.status().unwrap().success(), "{running:?}");
        assert!(file("down").exists() && !file("breakout365-exporter.service").exists());
        fs::remove_file(file("down")).unwrap();
    }
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

/// What the manual shows for an exporter that other machines ask: its command line is understood, its
/// files are those that it is given, and the port is the one that the unit opens.
#[test]
fn the_drop_in_of_the_manual_makes_the_exporter_listen_elsewhere() {
    let manual = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let drop_in = manual.split("```ini\n").nth(1).unwrap().split("```").next().unwrap();
    let lines: Vec<(&str, &str)> =
        drop_in.lines().skip(1).map(|line| line.split_once('=').unwrap()).collect();
    let set = |name: &str| -> Vec<&str> {
        lines.iter().filter(|(setting, _)| *setting == name).map(|(_, value)| *value).collect()
    };
    // The one of the unit has to be taken away first.
    let [none, command] = set("ExecStart")[..] else { panic!("{drop_in}") };
    assert_eq!(none, "");
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words[0], "/usr/bin/breakout365");
    if let Err(error) = Cli::try_parse_from(&words) {
        panic!("{error}");
    }
    let given: BTreeSet<&str> =
        set("LoadCredential").iter().map(|value| value.split(':').next().unwrap()).collect();
    let asked = words.iter().filter_map(|word| word.strip_prefix("${CREDENTIALS_DIRECTORY}/"));
    assert_eq!(given, asked.collect());
    let listen = words.iter().position(|word| *word == "--listen").map(|at| words[at + 1]).unwrap();
    let port = listen.rsplit(':').next().unwrap();
    assert_eq!(value(EXPORTER, "SocketBindAllow"), format!("tcp:{port}"));
    assert_eq!(value(EXPORTER, "IPAddressDeny"), "any");
    assert_eq!(set("IPAddressAllow").len(), 1);
}

/// A service that fails to start for a reason that goes away by itself does not stay dead.
#[test]
fn both_services_are_tried_again_without_end() {
    for unit in [DAEMON, EXPORTER] {
        assert_eq!(value(unit, "StartLimitIntervalSec"), "0", "{unit}");
        assert_eq!(value(unit, "Restart"), "on-failure", "{unit}");
    }
}
