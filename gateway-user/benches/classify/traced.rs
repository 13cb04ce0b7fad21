//! What `trace` costs the packets: while nobody traces, for one drawn in a thousand, and for all.

use std::num::NonZeroU32;
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::programs::SchedClassifier;
use gateway_common::Transport;
use gateway_user::datapath::{Mark, Pins, Probe, Program, RunOptions, Tracer, bring_up, run_tc};

use crate::cases::{SIZES, table_of};
use crate::measure::{Sample, per_packet};
use crate::report::Row;
use crate::rig::OBJECT;
use crate::site::{Site, blueprint, native_hook};

/// Packets between two looks into the ring buffer, which holds more than that.
const BATCH: u32 = 1_400;
const BATCHES: u32 = 40;

/// An inspected packet in `b365_tc` over an empty program.
pub(crate) fn rows() -> Result<Vec<Row>> {
    let site = Site::new()?;
    let blueprint = blueprint(table_of(SIZES[0])?);
    site.inside.enter(|| -> Result<Vec<Row>> {
        let pins = Pins::new(site.bpffs.pins());
        let lock = pins.lock()?;
        let published = bring_up(&lock, &blueprint, &[native_hook()?], &mut |_| Ok(()))?;
        let mut bench = Ebpf::load(OBJECT)?;
        let empty: &mut SchedClassifier =
            bench.program_mut("bench_tc").context("bench_tc")?.try_into()?;
        empty.load()?;
        let frame =
            Probe::new("203.0.113.1".parse().context("address")?, Transport::Tcp, 443).frame();
        let ours = published.generation.program_fd(Program::Tc)?;
        let (empty, ours) = (empty.fd()?.as_fd(), ours.as_fd());
        let mut rows = Vec::new();
        for (case, one_in) in
            [("trace off", None), ("trace 1 in 1000", Some(1000)), ("trace every one", Some(1))]
        {
            let one_in = one_in.and_then(NonZeroU32::new);
            let tracer = one_in.map(|one_in| Tracer::start(&pins, one_in)).transpose()?;
            let tracer = std::cell::RefCell::new(tracer);
            let turn = |program| turn(program, &frame, tracer.borrow_mut().as_mut());
            let sample = Sample::difference(|| turn(empty), || turn(ours))?;
            if let Some(tracer) = tracer.borrow().as_ref() {
                ensure!(tracer.lost()? == 0, "the ring buffer was full: {case} is not measured");
            }
            rows.push(Row::of(case, "tc", SIZES[0], true, sample));
        }
        Ok(rows)
    })?
}

/// Nanoseconds per packet; reading what was drawn is not in it.
fn turn(program: BorrowedFd<'_>, frame: &[u8], mut tracer: Option<&mut Tracer>) -> Result<f64> {
    let mark = Mark { before: 0, direct: crate::MARK.value };
    let mut sum = 0.0;
    for _ in 0..BATCHES {
        sum += per_packet(BATCH, || {
            Ok(run_tc(program, frame, mark, RunOptions { repeat: BATCH }).map(drop)?)
        })?;
        if let Some(tracer) = &mut tracer {
            tracer.read(&mut |_, _| Ok(()))??;
        }
    }
    Ok(sum / f64::from(BATCHES))
}
