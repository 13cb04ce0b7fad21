//! `cargo xtask test`: sets up, checks, and runs every test, on this machine's kernel.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::process::cargo;
use crate::{check, setup};

/// Runs it all; the last line sums up.
///
/// # Errors
///
/// Not root, or something is missing, a check fails, or a test does.
pub(crate) fn run() -> Result<()> {
    if !geteuid().is_root() {
        bail!(
            "tests load BPF programs and make network namespaces: run `cargo xtask test` as root, or only `cargo xtask check`"
        );
    }
    let start = Instant::now();
    setup::run(&setup::Options::default())?;
    let checks = check::run()?;
    let tests = run_tests()?;
    let seconds = start.elapsed().as_secs();
    println!(
        "test: {checks} checks and {} tests passed, {} skipped on this machine, {} ignored, in {} min {} s",
        tests.passed,
        tests.skipped,
        tests.ignored,
        seconds / 60,
        seconds % 60
    );
    Ok(())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Tests {
    passed: u32,
    failed: u32,
    /// What they need is not on this machine; the harness says that they passed.
    skipped: u32,
    ignored: u32,
}

/// Runs the tests, passes their output on and adds up their results.
fn run_tests() -> Result<Tests> {
    let mut child = cargo()
        .args(["test", "--no-fail-fast"])
        .args(check::USER_SPACE)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
    let mut tests = Tests::default();
    let output = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read the output of cargo test")?;
        println!("{line}");
        tests.add(&line);
    }
    tests.passed = tests.passed.saturating_sub(tests.skipped);
    if !child.wait()?.success() {
        bail!("{} tests failed and {} passed, see above", tests.failed, tests.passed);
    }
    Ok(tests)
}

impl Tests {
    /// Adds a line like `test result: ok. 3 passed; 0 failed; 1 ignored; …`, or one that says that a test
    /// was skipped; passes over others.
    fn add(&mut self, line: &str) {
        if line.starts_with("test skipped: ") {
            self.skipped = self.skipped.saturating_add(1);
        }
        let Some((_, counts)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let (number, what) = count.split_once(' ').unwrap_or_default();
            let sum = match what {
                "passed" => &mut self.passed,
                "failed" => &mut self.failed,
                "ignored" => &mut self.ignored,
                _ => continue,
            };
            *sum = sum.saturating_add(number.parse().unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up_and_other_lines_do_not_count() {
        let mut tests = Tests::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s",
            "test five_passed ... ok",
            "test skipped: it_takes_a_queue: this kernel has none",
        ] {
            tests.add(line);
        }
        assert_eq!(tests, Tests { passed: 5, failed: 1, skipped: 1, ignored: 1 });
    }
}
