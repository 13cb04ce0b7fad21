//! tc with XDP's proposal in the metadata: measured at a real hook, because a test run of a tc
//! program has no metadata.
//!
//! Frames run through `b365_xdp` and on through the tc chain of an interface, where the shipped
//! program and an empty one both stand. The kernel counts the run time of each
//! (`BPF_ENABLE_STATS`, kernel 5.8, commit d46edd671a14), so both are measured on the same
//! packets.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::sys::{Stats, enable_stats};
use gateway_common::Transport;
use gateway_user::datapath::{Loaded, Pins, Probe, Program, bring_up, run_live};

use crate::cases::{SIZES, table_of};
use crate::measure::Sample;
use crate::report::Row;
use crate::rig::OBJECT;
use crate::site::{LAN, Site, blueprint, native_hook};

const PACKETS: u32 = 100_000;

/// What `b365_tc_xdp` costs over an empty tc program when the proposal is there.
pub(crate) fn metadata_accepted() -> Result<Row> {
    let site = Site::new()?;
    let blueprint = blueprint(table_of(SIZES[0])?);
    let sample = site.inside.enter(|| -> Result<Sample> {
        let pins = Pins::new(site.bpffs.pins());
        let lock = pins.lock()?;
        let hook = native_hook()?;
        let ifindex = hook.interface.index;
        let published = bring_up(&lock, &blueprint, &[hook], &mut |_| Ok(()))?;
        let mut bench = Ebpf::load(OBJECT)?;
        let empty: &mut SchedClassifier =
            bench.program_mut("bench_tc").context("bench_tc")?.try_into()?;
        empty.load()?;
        empty.attach_with_options(
            LAN,
            TcAttachType::Ingress,
            TcAttachOptions::TcxOrder(LinkOrder::last()),
        )?;
        let ours = SchedClassifier::from_pin(pins.root().join("current/b365_tc_xdp"))?;
        let _statistics = enable_stats(Stats::RunTime)?;
        let frame =
            Probe::new("52.96.0.1".parse().context("address")?, Transport::Tcp, 443).frame();
        let xdp = published.generation.program_fd(Program::Xdp)?;
        let mut turn = |program: &dyn Fn() -> Result<(f64, f64)>| -> Result<f64> {
            let (time_before, runs_before) = program()?;
            run_live(xdp.as_fd(), &frame, ifindex, PACKETS)?;
            let (time_after, runs_after) = program()?;
            ensure!(runs_after > runs_before, "no packet came to tc");
            Ok((time_after - time_before) / (runs_after - runs_before))
        };
        let empty_info = || -> Result<(f64, f64)> { Ok(totals(&empty.info()?)) };
        let ours_info = || -> Result<(f64, f64)> { Ok(totals(&ours.info()?)) };
        let turn = std::cell::RefCell::new(&mut turn);
        let sample = Sample::difference(
            || (turn.borrow_mut())(&empty_info),
            || (turn.borrow_mut())(&ours_info),
        )?;
        let counts = Loaded::open(&pins)?.counts()?;
        let accepted = counts.tc_behind_xdp.metadata_accepted().packets;
        ensure!(accepted >= u64::from(PACKETS), "tc accepted only {accepted} proposals");
        Ok(sample)
    })??;
    Ok(Row::of("metadata accepted", "tc behind xdp", SIZES[0], true, sample))
}

#[expect(clippy::cast_precision_loss, reason = "counts of one run fit 53 bits")]
fn totals(info: &aya::programs::ProgramInfo) -> (f64, f64) {
    (info.run_time().as_nanos() as f64, info.run_count() as f64)
}
