//! Format, lints and documentation.

use anyhow::Result;

use super::{Outcome, Workspace};
use crate::process::{Failed, run};

/// The same packages everywhere, so that every cargo run picks the same features of shared
/// dependencies and compiles them once. gateway-ebpf is built by gateway-user's build script.
pub(crate) const USER_SPACE: [&str; 3] = ["--workspace", "--exclude", "gateway-ebpf"];

pub(super) fn format(workspace: &Workspace) -> Result<Outcome> {
    run(workspace.cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Outcome::Holds(String::new()))
}

pub(super) fn user_space(workspace: &Workspace) -> Result<Outcome> {
    clippy(workspace, &["--all-targets"])
}

/// Tests and benchmarks know nothing of that feature.
pub(super) fn user_space_packet_log(workspace: &Workspace) -> Result<Outcome> {
    clippy(workspace, &["--features", "gateway-user/packet-log"])
}

/// The BPF toolchain may have no clippy, and stable has no `core` for BPF. So this lints the
/// programs as if for this machine, without linking; what only a BPF target warns of is denied by
/// the checks that build the object.
pub(super) fn bpf_programs(workspace: &Workspace) -> Result<Outcome> {
    for features in [&[][..], &["--features", "packet-log"]] {
        run(workspace
            .cargo()
            .args(["clippy", "--quiet", "--package", "gateway-ebpf"])
            .args(features)
            // There is nothing to unwind with.
            .env("CARGO_PROFILE_DEV_PANIC", "abort")
            .args(["--", "--deny", "warnings"]))?;
    }
    Ok(Outcome::Holds("with and without packet-log".to_owned()))
}

pub(super) fn documentation(workspace: &Workspace) -> Result<Outcome> {
    run(workspace
        .cargo()
        .args(["doc", "--quiet", "--no-deps", "--document-private-items"])
        .args(USER_SPACE)
        .env("RUSTDOCFLAGS", "--deny warnings"))?;
    Ok(Outcome::Holds(String::new()))
}

fn clippy(workspace: &Workspace, options: &[&str]) -> Result<Outcome> {
    let printed = run(workspace
        .cargo()
        .arg("clippy")
        .args(USER_SPACE)
        .args(options)
        .args(["--", "--deny", "warnings"]))?;
    // The build script compiles the BPF programs, and can only pass on what their compiler says.
    if printed.stderr.lines().any(is_bpf_warning) {
        let what = "building the BPF programs gives warnings".to_owned();
        return Err(Failed { what, output: printed.stderr }.into());
    }
    Ok(Outcome::Holds(String::new()))
}

/// `warning: gateway-user@0.1.0: warning: …`: cargo passes on the build script passing on rustc.
fn is_bpf_warning(line: &str) -> bool {
    line.strip_prefix("warning: gateway-user@")
        .and_then(|rest| rest.split_once(": "))
        .is_some_and(|(_version, message)| message.starts_with("warning"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_warnings_of_the_bpf_compiler_count_not_its_progress() {
        assert!(is_bpf_warning("warning: gateway-user@0.1.0: warning: unused variable: `x`"));
        assert!(!is_bpf_warning("warning: gateway-user@0.1.0:     Blocking waiting for file lock"));
        assert!(!is_bpf_warning("warning: unused variable: `x`"));
    }
}
