//! The self-test of a generation: its programs against the oracle, before anything is published.

use std::collections::BTreeMap;

use gateway_common::abi::{COUNTER_FIRST_GROUP, COUNTER_REDIRECTED};
use gateway_common::{Decision, Reason, Verdict, classify};

use super::generation::COUNTER_MAPS;
use super::questions::{Question, questions};
use super::test_run::{Mark, RunOptions, hides_metadata, run_tc, run_xdp};
use super::{DatapathError, Generation, Probe, Program, Redirect, Setting};
use crate::config::Mode;
use crate::policy::Table;

/// What a passed self-test covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SelfTestReport {
    /// Packets made.
    pub probes: u64,
    /// Programs that got each of them.
    pub programs: u64,
    /// Packets that were Direct, by oracle and programs.
    pub direct: u64,
    /// Those of them that XDP sent to the uplink, as the routes were at the moment.
    pub redirected: u64,
}

/// Runs each loaded program of `generation` on packets at the edges of `table` and compares verdict,
/// reason and provenance with the oracle; then compares the counters with the tally, and sets
/// them back to zero. What is switched off meanwhile makes no difference, here or for what serves.
///
/// # Errors
///
/// [`DatapathError::SelfTest`] with the first packet that they disagree on.
pub fn self_test(
    generation: &mut Generation,
    table: &Table,
) -> Result<SelfTestReport, DatapathError> {
    generation.set_under_test(true)?;
    let report = run_all(generation, table)?;
    generation.reset_counters()?;
    generation.set_under_test(false)?;
    Ok(report)
}

fn run_all(generation: &mut Generation, table: &Table) -> Result<SelfTestReport, DatapathError> {
    let mut report = SelfTestReport {
        programs: u64::try_from(generation.programs().len()).unwrap_or(u64::MAX),
        ..SelfTestReport::default()
    };
    let mut tally: BTreeMap<u32, u64> = BTreeMap::new();
    let ingress = generation.setting().ingress.clone();
    for Question { probe, ingress } in questions(table, &ingress) {
        let frame = probe.frame();
        // A test run comes in by the loopback interface, which is never a listed one.
        let expected = classify(frame.as_slice(), table);
        for program in generation.programs() {
            let expected = match program {
                Program::Explain => table.decide_frame(&frame, ingress),
                Program::Xdp
                | Program::XdpFrags
                | Program::TcBehindXdp
                | Program::Tc
                | Program::TcIp => expected,
            };
            if compare(generation, *program, &probe, &frame, expected)? == Way::Uplink {
                report.redirected = report.redirected.saturating_add(1);
            }
        }
        let count = tally.entry(expected.counter()).or_default();
        *count = count.saturating_add(1);
        report.probes = report.probes.saturating_add(1);
        if expected.verdict() == Verdict::Direct {
            report.direct = report.direct.saturating_add(1);
        }
    }
    compare_counters(generation, &tally, &report)?;
    Ok(report)
}

/// Where a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Stack,
    Uplink,
}

fn compare(
    generation: &Generation,
    program: Program,
    probe: &Probe,
    frame: &[u8],
    expected: Decision,
) -> Result<Way, DatapathError> {
    let disagree = |expected: String, seen: String| {
        Err(DatapathError::SelfTest {
            program: program.name(),
            probe: probe.to_string(),
            expected,
            seen,
        })
    };
    if program == Program::Explain {
        let outcome = generation.ask(program, |fd| run_xdp(fd, frame, RunOptions::default()))?;
        if outcome.action != expected.counter() {
            return disagree(
                format!("{} (counter {})", expected.reason().name(), expected.counter()),
                format!("counter {}", outcome.action),
            );
        }
        return Ok(Way::Stack);
    }
    let mut verdict = expected.verdict();
    let outcome = if program.is_xdp() {
        if hides_metadata() {
            // That it was decided right, and that there was room for the proposal, the counters
            // show.
            verdict = Verdict::Inspect;
        }
        generation.ask(program, |fd| run_xdp(fd, frame, RunOptions::default()))?
    } else {
        // A bit outside the mask is set before: it must still be there afterwards.
        let Setting { mark: bits, mode, .. } = generation.setting();
        let foreign = lowest_bit(!bits.mask);
        let mark = Mark { before: foreign, direct: foreign | bits.value };
        if *mode == Mode::Shadow {
            // Nothing is marked; that it was decided right, the counters show.
            verdict = Verdict::Inspect;
        }
        generation.ask(program, |fd| run_tc(fd, frame, mark, RunOptions::default()))?
    };
    // What cannot be redirected at the moment is proposed, as everywhere else.
    let redirect = generation.setting().redirect.as_ref();
    let redirect = redirect.filter(|_| program == Program::XdpFrags);
    if let (Some(Redirect { mac, .. }), Some(from)) = (redirect, outcome.forwarded)
        && expected.verdict() == Verdict::Direct
        && from == *mac
    {
        return Ok(Way::Uplink);
    }
    if outcome.verdict != verdict || !outcome.passed {
        return disagree(
            format!("{verdict:?}"),
            format!("{:?}, action {}, passed {}", outcome.verdict, outcome.action, outcome.passed),
        );
    }
    Ok(Way::Stack)
}

fn lowest_bit(bits: u32) -> u32 {
    bits & bits.wrapping_neg()
}

/// Each program but `b365_explain` has counted each packet once, under what the oracle said.
fn compare_counters(
    generation: &mut Generation,
    tally: &BTreeMap<u32, u64>,
    report: &SelfTestReport,
) -> Result<(), DatapathError> {
    let redirects = generation.setting().redirect.is_some();
    let mut programs_of = BTreeMap::new();
    for map in generation.programs().iter().filter_map(|program| program.counter_map()) {
        let programs: &mut u64 = programs_of.entry(map).or_default();
        *programs = programs.saturating_add(1);
    }
    for map in COUNTER_MAPS {
        let programs = programs_of.get(map).copied().unwrap_or(0);
        let counters = generation.counters(map)?;
        let of_redirecting = COUNTER_REDIRECTED..COUNTER_FIRST_GROUP;
        if redirects && map == COUNTER_MAPS[0] {
            let at = |index: u32| {
                let counter = usize::try_from(index).ok().and_then(|index| counters.get(index));
                counter.map_or(0, |[packets, _]| *packets)
            };
            let seen = [at(COUNTER_REDIRECTED), of_redirecting.clone().map(at).sum()];
            if seen != [report.redirected, report.direct] {
                return Err(DatapathError::SelfTest {
                    program: map,
                    probe: "redirected, and all that might have been".to_owned(),
                    expected: format!("{} and {}", report.redirected, report.direct),
                    seen: format!("{} and {}", seen[0], seen[1]),
                });
            }
        }
        for (index, [packets, _]) in (0..).zip(counters) {
            if redirects && map == COUNTER_MAPS[0] && of_redirecting.contains(&index) {
                continue;
            }
            let expected = tally.get(&index).copied().unwrap_or(0).saturating_mul(programs);
            if packets != expected {
                return Err(DatapathError::SelfTest {
                    program: map,
                    probe: format!("counter {}", counter_name(index)),
                    expected: format!("{expected} packets"),
                    seen: format!("{packets} packets"),
                });
            }
        }
    }
    Ok(())
}

fn counter_name(index: u32) -> String {
    match (index.checked_sub(COUNTER_FIRST_GROUP), usize::try_from(index)) {
        (Some(group), _) => format!("of group {group}"),
        (None, Ok(index)) => {
            Reason::ALL.get(index).map_or("of metadata", |reason| reason.name()).to_owned()
        }
        (None, Err(_)) => "out of range".to_owned(),
    }
}
