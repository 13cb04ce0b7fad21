//! `doctor`: what is in the way of direct traffic on this machine.

use std::path::PathBuf;

use clap::Args;

use super::{Cli, output};
use crate::doctor::{Ask, Finding, Report, Severity, examine, gather};
use crate::exit::{Exit, Failure};

/// Look at everything between a packet and its way out, and say what is in the way
///
/// Changes nothing, and needs no daemon. What cannot be looked at, for want of rights or of a program,
/// is said to be so.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Interfaces to look at [default: those of the configuration]
    #[arg(value_name = "IFACE")]
    interfaces: Vec<String>,

    /// Configuration file [default: /etc/breakout365/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Ask no resolver
    #[arg(long)]
    no_dns: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
///
/// The worst finding is a warning or an error.
pub(super) fn run(args: &DoctorArgs, cli: &Cli) -> Result<(), Failure> {
    let ask = Ask {
        config: args.config.clone(),
        interfaces: args.interfaces.iter().cloned().collect(),
        pins: cli.pins.clone(),
        state_dir: cli.state_dir.clone(),
        run_dir: cli.run_dir.clone(),
        dns: !args.no_dns,
    };
    let runtime = super::runtime()?;
    let report = examine(&runtime.block_on(gather(&ask)));
    // A resolver that does not answer would keep the process until it gives up.
    runtime.shutdown_background();
    if args.json {
        output::json(&report)?;
    } else {
        output::text(&text(&report))?;
    }
    match report.worst() {
        Severity::Ok | Severity::Note => Ok(()),
        Severity::Warning => Err(Failure::new(Exit::Warning, summary(&report))),
        Severity::Error => Err(Failure::new(Exit::Unfit, summary(&report))),
    }
}

/// The worst last, where a screen ends.
fn text(report: &Report) -> String {
    let mut findings: Vec<&Finding> = report.findings.iter().collect();
    findings.sort_by_key(|finding| finding.severity);
    let mut lines = Vec::new();
    for finding in findings {
        let Finding { check, severity, what, why, fix, .. } = finding;
        lines.push(format!("{:<8} {:<16} {what}", severity.name(), check.name()));
        if *severity > Severity::Ok && finding.seen {
            lines.push(format!("{:25} why: {why}", ""));
            lines.extend(fix.iter().map(|fix| format!("{:25} fix: {fix}", "")));
        }
    }
    lines.push(summary(report));
    lines.join("\n")
}

fn summary(report: &Report) -> String {
    let count = |severity| report.count(severity);
    format!(
        "errors {}, warnings {}, notes {}, ok {}",
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Note),
        count(Severity::Ok)
    )
}
