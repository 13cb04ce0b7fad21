//! Real inspection systems beside the product: each sees the rest, none sees selected Microsoft 365
//! traffic, and nothing else takes the direct uplink. Needs root, and the programs that `cargo xtask
//! setup` installs: what is missing is a failure here.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use xtask::scenario::{Hook, Name, Outcome, Setting};
use xtask::testbed::Owner;

/// Runs one, and prints what it saw.
fn assert_it_holds(name: Name, hook: Hook) {
    // One at a time: inspectors that take seconds to start would wait for each other.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let setting = Setting {
        binary: env!("CARGO_BIN_EXE_breakout365").into(),
        hook,
        owner: Owner::Process,
        origins: None,
        interrupt: None,
    };
    match name.run(&setting).unwrap() {
        Outcome::Ran(report, _stage) => {
            println!("{}", report.text());
            assert_eq!(report.differing(), Vec::<String>::new(), "{}", name.name());
        }
        Outcome::Skipped(reason) => panic!("{} did not run: {reason}", name.name()),
    }
}

#[test]
fn a_decrypting_proxy_sees_sign_in_and_the_rest_and_no_selected_traffic() {
    assert_it_holds(Name::TlsProxy, Hook::Xdp);
}

#[test]
fn a_transparent_proxy_logs_all_of_the_rest_and_no_selected_traffic() {
    assert_it_holds(Name::Proxy, Hook::Tc);
}

#[test]
fn clients_with_a_pac_file_ask_the_proxy_for_the_rest_alone() {
    assert_it_holds(Name::ExplicitProxy, Hook::Xdp);
}

#[test]
fn an_intrusion_prevention_system_drops_in_the_rest_what_passes_in_selected_traffic() {
    assert_it_holds(Name::Ips, Hook::Xdp);
}

#[test]
fn leakage_prevention_blocks_uploads_but_not_to_selected_hosts() {
    assert_it_holds(Name::Dlp, Hook::Xdp);
}

#[test]
fn a_tunnel_to_a_cloud_inspector_carries_only_the_rest() {
    assert_it_holds(Name::CloudSwg, Hook::Tc);
}

#[test]
fn operators_read_what_export_writes() {
    let files = tempfile::tempdir().unwrap();
    let config = files.path().join("config.toml");
    let text = "version = 1\n[[interface]]\nname = \"lan0\"\n\
                [egress]\ninterface = \"wan0\"\ngateway4 = \"192.0.2.1\"\n";
    std::fs::write(&config, text).unwrap();
    let paper = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/inspection.md");
    let paper = std::fs::read_to_string(paper).unwrap();
    let mut shown = 0;
    for line in paper.lines().filter(|line| line.starts_with("breakout365 export --format chain-"))
    {
        let (command, _) = line.split_once(" --out ").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_breakout365"))
            .args(command.split(' ').skip(1))
            .arg("--config")
            .arg(&config)
            .output()
            .unwrap();
        let written = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(paper.contains(&format!("```\n{written}```")), "`{command}` writes\n{written}");
        shown += 1;
    }
    assert_eq!(shown, 2, "one for each format");
}
