//! How long 100,000 own prefixes take from the text of a configuration to a published generation,
//! step by step, and how much memory.
//!
//! The steps are the daemon's: read the text, compile, plan against the feed alone, hold the plan
//! against the guards, load and read back, self-test, publish on a veth in a namespace of its own.
//! Run it by `cargo xtask bench scale`.

#[path = "../classify/site.rs"]
mod site;
mod text;

use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use gateway_user::config::{Config, Mark};
use gateway_user::datapath::{Pins, Step, bring_up};
use gateway_user::feed::embedded;
use gateway_user::plan::{GatewayNetworks, Plan, Side, Trigger, check};
use gateway_user::policy::{Policy, compile};
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

use site::{Site, blueprint, native_hook};

const MARK: Mark = Mark { value: 0x0100_0000, mask: 0x0100_0000 };

/// Own prefixes.
const PREFIXES: usize = 100_000;
/// What it may take: the target of issue and README.
const MOST_SECONDS: f64 = 3.0;
const MOST_MIB: f64 = 256.0;

#[derive(Serialize)]
struct Report {
    /// Prefixes in the table: the own ones and the feed's.
    prefixes: usize,
    port_sets: usize,
    /// Guards that refuse the plan: none, for an operator's own entries in public space.
    refusals: Vec<String>,
    /// Seconds of each step, in order.
    steps: Vec<(&'static str, f64)>,
    seconds: f64,
    /// The most memory this process has had.
    peak_rss_mib: f64,
    /// What the kernel says its maps take.
    map_mib: f64,
    within_target: bool,
}

fn main() -> Result<()> {
    let json = std::env::args().any(|argument| argument == "--json");
    let text = text::configuration(PREFIXES)?;
    let report = measure(&text)?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        writeln!(out, "{}", report.text())?;
    }
    Ok(())
}

fn measure(text: &str) -> Result<Report> {
    let site = Site::new()?;
    let snapshot = embedded()?;
    let default = Policy::default();
    let live = compile(&snapshot, &default)?;
    let old = Side { snapshot: &snapshot, policy: &default, compiled: &live };
    let mut clock = Clock::start();

    let config = Config::parse(text, Path::new("scale.toml"))?;
    clock.step("configuration");
    let compiled = compile(&snapshot, &config.policy)?;
    clock.step("compile");
    let new = Side { snapshot: &snapshot, policy: &config.policy, compiled: &compiled };
    let plan = Plan::between(Some(&old), &new);
    clock.step("plan");
    let gateway = GatewayNetworks::default();
    let refusals = check(&config.guards, &plan, &new, &gateway, Trigger::Config);
    clock.step("guards");
    drop(plan);

    let blueprint = blueprint(compiled.table.clone());
    let map_bytes: u64 = site.inside.enter(|| -> Result<u64> {
        let pins = Pins::new(site.bpffs.pins());
        let lock = pins.lock()?;
        let hook = native_hook()?;
        clock.restart();
        let published = bring_up(&lock, &blueprint, &[hook], &mut |step| {
            match step {
                Step::SelfTest => clock.step("load and read back"),
                Step::Pin => clock.step("self-test"),
                Step::Load | Step::Tc(_) | Step::Xdp(_) | Step::Current | Step::CleanUp => {}
            }
            Ok(())
        })?;
        clock.step("publish");
        Ok(published.generation.map_memory().values().sum())
    })??;

    let rss = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?.max_rss();
    // In KiB on Linux (getrusage(2)).
    let peak_rss_mib = mib(u64::try_from(rss)?.saturating_mul(1024));
    let (seconds, map_mib) = (clock.total.as_secs_f64(), mib(map_bytes));
    Ok(Report {
        prefixes: compiled.table.prefixes().len(),
        port_sets: compiled.table.port_sets().len(),
        refusals: refusals.iter().map(ToString::to_string).collect(),
        seconds,
        peak_rss_mib,
        map_mib,
        within_target: seconds < MOST_SECONDS && peak_rss_mib + map_mib < MOST_MIB,
        steps: clock.steps,
    })
}

impl Report {
    fn text(&self) -> String {
        let mut lines = vec![format!("{} prefixes, {} port sets", self.prefixes, self.port_sets)];
        lines.extend(self.refusals.iter().map(|refusal| format!("refused: {refusal}")));
        let all = [("all", self.seconds)];
        let steps = self.steps.iter().chain(&all);
        lines.extend(steps.map(|(step, seconds)| format!("{step:<20} {seconds:>7.3} s")));
        let within = if self.within_target { "within" } else { "MISSED" };
        lines.push(format!(
            "peak RSS {:.1} MiB, maps {:.1} MiB\n\
             target of {MOST_SECONDS} s and {MOST_MIB} MiB: {within}",
            self.peak_rss_mib, self.map_mib
        ));
        lines.join("\n")
    }
}

/// Times one step after the other.
struct Clock {
    since: Instant,
    steps: Vec<(&'static str, f64)>,
    total: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { since: Instant::now(), steps: Vec::new(), total: Duration::ZERO }
    }

    /// What was since the last step is nobody's.
    fn restart(&mut self) {
        self.since = Instant::now();
    }

    fn step(&mut self, name: &'static str) {
        let took = self.since.elapsed();
        self.steps.push((name, took.as_secs_f64()));
        self.total += took;
        self.restart();
    }
}

#[expect(clippy::cast_precision_loss, reason = "memory of one process fits 53 bits")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
