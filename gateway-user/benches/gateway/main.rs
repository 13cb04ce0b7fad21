//! What a forwarded packet costs: by us, marked and redirected, and by the ways that gateways have
//! without us, each in a gateway of its own, all of them in turn.
//!
//! Frames come from another namespace over a veth pair, as they would from a card: the kernel makes
//! them (`BPF_F_TEST_XDP_LIVE_FRAMES`), in batches that fit into the pair's ring. A sink behind each
//! way out takes and counts them. Then downloads, through inspection systems and past them. Run it by
//! `cargo xtask bench gateway`.

mod clock;
mod paired;
mod rates;
mod report;
mod rig;
mod way;

use std::io::{self, Write as _};

use anyhow::Result;

use clock::Clock;
use report::Report;
use rig::Rig;
use way::Way;

/// Rounds, in each of which every gateway has its turn.
const ROUNDS: usize = 25;
const QUICK_ROUNDS: usize = 7;

fn main() -> Result<()> {
    let json = std::env::args().any(|argument| argument == "--json");
    let quick = std::env::args().any(|argument| argument == "--quick");
    let clock = Clock::new()?;
    let mut rigs = Vec::new();
    for way in Way::all() {
        eprintln!("making {}", way.name());
        rigs.push((way, Rig::new(way)?, Vec::new()));
    }
    // The first turn fills caches, neighbour tables and conntrack.
    for (_, rig, _) in &mut rigs {
        rig.turn(&clock)?;
    }
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    let mut random: u64 = 365;
    for _ in 0..rounds {
        shuffle(&mut rigs, &mut random);
        for (_, rig, samples) in &mut rigs {
            samples.push(rig.turn(&clock)?);
        }
    }
    let overrun = rigs.iter().map(|(_, rig, _)| rig.overrun).sum();
    let rows = rigs.into_iter().map(|(way, _, samples)| (way, samples));
    // Their namespaces are gone by then.
    let rows: Vec<_> = rows.collect();
    let (rates, missing) = rates::measure(quick)?;
    let report = Report::new(rows.into_iter(), overrun, rates, missing);
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", report.json()?)?;
    } else {
        writeln!(out, "{}", report.text())?;
    }
    Ok(())
}

/// Fisher and Yates, by a generator that is the same in every run (xorshift64).
fn shuffle<T>(items: &mut [T], random: &mut u64) {
    for last in (1..items.len()).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let other = usize::try_from(*random >> 32).unwrap_or(0) % (last + 1);
        items.swap(last, other);
    }
}
