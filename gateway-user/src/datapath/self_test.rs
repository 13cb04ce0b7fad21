//! The self-test of a generation: its programs against the oracle, before anything is published.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gateway_common::abi::{COUNTER_FIRST_GROUP, MAX_PORT_RANGES, PortRange, PortSet};
use gateway_common::{Decision, Reason, Transport, Verdict, classify};
use ipnet::IpNet;

use super::generation::COUNTER_MAPS;
use super::test_run::{Mark, RunOptions, run_tc, run_xdp};
use super::{DatapathError, Generation, Probe, Program};
use crate::policy::Table;

/// Prefixes probed per port set and family: all of them where there are no more, else this many
/// spread evenly. Every port set, hence every selected endpoint set, is probed.
const PREFIXES_PER_PORT_SET: usize = 64;

/// What a passed self-test covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SelfTestReport {
    /// Packets made.
    pub probes: u64,
    /// Programs that got each of them.
    pub programs: u64,
    /// Packets that were Direct, by oracle and programs.
    pub direct: u64,
}

/// Runs every program of `generation` on packets at the edges of `table` and compares verdict,
/// reason and provenance with the oracle; then compares the counters with the tally, and sets
/// them back to zero.
///
/// # Errors
///
/// [`DatapathError::SelfTest`] with the first packet that they disagree on.
pub fn self_test(
    generation: &mut Generation,
    table: &Table,
) -> Result<SelfTestReport, DatapathError> {
    let mut report = SelfTestReport {
        programs: u64::try_from(generation.programs().len()).unwrap_or(u64::MAX),
        ..SelfTestReport::default()
    };
    let mut tally: BTreeMap<u32, u64> = BTreeMap::new();
    for probe in probes(table) {
        let frame = probe.frame();
        let expected = classify(frame.as_slice(), table);
        for program in generation.programs() {
            compare(generation, *program, &probe, &frame, expected)?;
        }
        let count = tally.entry(expected.counter()).or_default();
        *count = count.saturating_add(1);
        report.probes = report.probes.saturating_add(1);
        if expected.verdict() == Verdict::Direct {
            report.direct = report.direct.saturating_add(1);
        }
    }
    compare_counters(generation, &tally)?;
    generation.reset_counters()?;
    Ok(report)
}

fn compare(
    generation: &Generation,
    program: Program,
    probe: &Probe,
    frame: &[u8],
    expected: Decision,
) -> Result<(), DatapathError> {
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
        return Ok(());
    }
    let outcome = if program.is_xdp() {
        generation.ask(program, |fd| run_xdp(fd, frame, RunOptions::default()))?
    } else {
        // A bit outside the mask is set before: it must still be there afterwards.
        let bits = generation.mark();
        let foreign = lowest_bit(!bits.mask);
        let mark = Mark { before: foreign, direct: foreign | bits.value };
        generation.ask(program, |fd| run_tc(fd, frame, mark, RunOptions::default()))?
    };
    if outcome.verdict != expected.verdict() || !outcome.passed {
        return disagree(
            format!("{:?}", expected.verdict()),
            format!("{:?}, action {}, passed {}", outcome.verdict, outcome.action, outcome.passed),
        );
    }
    Ok(())
}

fn lowest_bit(bits: u32) -> u32 {
    bits & bits.wrapping_neg()
}

/// Each program but `b365_explain` has counted each packet once, under what the oracle said.
fn compare_counters(
    generation: &mut Generation,
    tally: &BTreeMap<u32, u64>,
) -> Result<(), DatapathError> {
    let xdp_programs = generation
        .programs()
        .iter()
        .filter(|program| matches!(program, Program::Xdp | Program::XdpFrags))
        .count();
    let xdp_programs = u64::try_from(xdp_programs).unwrap_or(u64::MAX);
    for (map, programs) in COUNTER_MAPS.into_iter().zip([xdp_programs, 1, 1]) {
        for (index, [packets, _]) in (0..).zip(generation.counters(map)?) {
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

/// The packets of the self-test: for prefixes of every port set and family, first and last
/// address with each edge of each port range and the ports beside it, the first fragment, and
/// the addresses before and after.
fn probes(table: &Table) -> impl Iterator<Item = Probe> + '_ {
    probed_prefixes(table).into_iter().flat_map(|(prefix, port_set)| {
        let ports: Vec<(Transport, u16)> =
            table.port_sets().get(usize::from(port_set)).map(port_edges).unwrap_or_default();
        let (first, last) = (prefix.network(), prefix.broadcast());
        let mut probes = Vec::new();
        for address in [Some(first), Some(last), before(first), after(last)].into_iter().flatten() {
            for (transport, port) in &ports {
                probes.push(Probe::new(address, *transport, *port));
            }
            if let Some((transport, port)) = ports.first() {
                probes.push(Probe::new(address, *transport, *port).first_fragment());
            }
        }
        probes
    })
}

fn probed_prefixes(table: &Table) -> Vec<(IpNet, u16)> {
    let mut by_port_set: BTreeMap<(bool, u16), Vec<IpNet>> = BTreeMap::new();
    for (prefix, port_set) in table.prefixes() {
        by_port_set.entry((prefix.addr().is_ipv6(), port_set)).or_default().push(prefix);
    }
    by_port_set
        .into_iter()
        .flat_map(|((_, port_set), prefixes)| {
            let stride = prefixes.len().div_ceil(PREFIXES_PER_PORT_SET).max(1);
            prefixes.into_iter().step_by(stride).map(move |prefix| (prefix, port_set))
        })
        .collect()
}

/// First and last port of every range, and the ports just outside.
fn port_edges(port_set: &PortSet) -> Vec<(Transport, u16)> {
    let edges = |transport, ranges: &[PortRange; MAX_PORT_RANGES]| {
        ranges
            .iter()
            .filter(|range| range.from <= range.to)
            .flat_map(|range| {
                [
                    range.from.checked_sub(1),
                    Some(range.from),
                    Some(range.to),
                    range.to.checked_add(1),
                ]
            })
            .flatten()
            .map(|port| (transport, port))
            .collect::<Vec<_>>()
    };
    let mut all = edges(Transport::Tcp, &port_set.tcp);
    all.extend(edges(Transport::Udp, &port_set.udp));
    all.sort_unstable();
    all.dedup();
    all
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_sub(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_sub(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}
