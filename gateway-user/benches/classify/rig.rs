//! The benchmark's own BPF object, with one program under test in it.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use aya::maps::{Array, ProgramArray};
use aya::programs::{ProgramFd, SchedClassifier, Xdp};
use aya::{Ebpf, include_bytes_aligned};
use gateway_user::datapath::{Generation, Mark, Program, RunOptions, run_tc, run_xdp};

use crate::cases::{Case, DESTINATIONS, Destinations};
use crate::measure::{Sample, per_packet};

pub(crate) static OBJECT: &[u8] =
    include_bytes_aligned!(concat!(env!("OUT_DIR"), "/breakout365-bench-ebpf"));

/// Packets per turn: every varying destination once.
const PACKETS: u32 = DESTINATIONS;

/// Which program is under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    Xdp,
    XdpFrags,
    Tc,
}

impl Flavour {
    pub(crate) const ALL: [Self; 3] = [Self::Xdp, Self::XdpFrags, Self::Tc];

    pub(crate) const fn hook(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::XdpFrags => "xdp.frags",
            Self::Tc => "tc",
        }
    }

    const fn program(self) -> Program {
        match self {
            Self::Xdp => Program::Xdp,
            Self::XdpFrags => Program::XdpFrags,
            Self::Tc => Program::Tc,
        }
    }

    /// tc programs cannot be tail-called from XDP, which is what varies the destinations.
    pub(crate) fn can(self, destinations: Destinations) -> bool {
        self != Self::Tc || destinations == Destinations::Same
    }
}

/// The feeding programs and the empty one of one flavour.
pub(crate) struct Rig {
    flavour: Flavour,
    base: Half,
    tested: Half,
}

/// One loaded object: feeds either the empty program or the one under test.
struct Half(Ebpf);

impl Rig {
    pub(crate) fn new(flavour: Flavour) -> Result<Self> {
        Ok(Self { flavour, base: Half::load(flavour)?, tested: Half::load(flavour)? })
    }

    /// Puts the program of `generation` under test.
    pub(crate) fn test(&mut self, generation: &Generation) -> Result<()> {
        if self.flavour == Flavour::Tc {
            return Ok(());
        }
        let program = generation.program_fd(self.flavour.program())?.try_clone()?;
        self.tested.under_test_is(&program)
    }

    /// The empty program over itself: what this way of measuring makes of no difference.
    pub(crate) fn control(&self) -> Result<Sample> {
        let frame = [0; 64];
        if self.flavour == Flavour::Tc {
            let turn = |half: &Half| tc_turn(half.program("bench_tc")?.as_fd(), &frame);
            return Sample::difference(|| turn(&self.base), || turn(&self.tested));
        }
        let name = self.feeder(Destinations::Same, false);
        let turn = |half: &Half| xdp_turn(half.program(&name)?.as_fd(), &frame);
        Sample::difference(|| turn(&self.base), || turn(&self.tested))
    }

    /// What the program under test costs over the empty one. `None` where the table has no such
    /// destinations.
    pub(crate) fn measure(
        &mut self,
        generation: &Generation,
        case: &Case,
        destinations: Destinations,
    ) -> Result<Option<Sample>> {
        let frame = case.probe.frame();
        if self.flavour == Flavour::Tc {
            let base = self.base.program("bench_tc")?;
            let sample = Sample::difference(
                || tc_turn(base.as_fd(), &frame),
                || tc_turn(generation.program_fd(Program::Tc)?.as_fd(), &frame),
            )?;
            return Ok(Some(sample));
        }
        if destinations == Destinations::Varying {
            self.base.destinations(&case.destinations)?;
            self.tested.destinations(&case.destinations)?;
        }
        let name = self.feeder(destinations, case.v6);
        let (base, tested) = (self.base.program(&name)?, self.tested.program(&name)?);
        Sample::difference(|| xdp_turn(base.as_fd(), &frame), || xdp_turn(tested.as_fd(), &frame))
            .map(Some)
    }

    fn feeder(&self, destinations: Destinations, v6: bool) -> String {
        let name = match (destinations, v6) {
            (Destinations::Same, _) => "bench_same",
            (Destinations::Varying, false) => "bench_vary_v4",
            (Destinations::Varying, true) => "bench_vary_v6",
        };
        let frags = if self.flavour == Flavour::XdpFrags { "_frags" } else { "" };
        format!("{name}{frags}")
    }
}

impl Half {
    /// Loads the programs of `flavour`, with the empty one under test.
    fn load(flavour: Flavour) -> Result<Self> {
        let mut half = Self(Ebpf::load(OBJECT)?);
        if flavour == Flavour::Tc {
            let program: &mut SchedClassifier =
                half.0.program_mut("bench_tc").context("bench_tc")?.try_into()?;
            program.load()?;
            return Ok(half);
        }
        // A program array takes programs of one flavour only.
        let frags = if flavour == Flavour::XdpFrags { "_frags" } else { "" };
        for name in ["bench_xdp", "bench_same", "bench_vary_v4", "bench_vary_v6"] {
            let name = format!("{name}{frags}");
            let program: &mut Xdp = half.0.program_mut(&name).context(name)?.try_into()?;
            program.load()?;
        }
        let empty = half.program(&format!("bench_xdp{frags}"))?.try_clone()?;
        half.under_test_is(&empty)?;
        Ok(half)
    }

    fn program(&self, name: &str) -> Result<&ProgramFd> {
        Ok(self.0.program(name).with_context(|| name.to_owned())?.fd()?)
    }

    fn under_test_is(&mut self, program: &ProgramFd) -> Result<()> {
        let map = self.0.map_mut("UNDER_TEST").context("UNDER_TEST")?;
        ProgramArray::try_from(map)?.set(0, program, 0)?;
        Ok(())
    }

    fn destinations(&mut self, destinations: &[IpAddr]) -> Result<()> {
        let map = self.0.map_mut("DESTINATION").context("DESTINATION")?;
        let mut map: Array<_, [[u8; 4]; 4]> = Array::try_from(map)?;
        for (index, address) in (0..).zip(destinations) {
            let mut words = [[0; 4]; 4];
            let octets = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
                *word = *bytes;
            }
            map.set(index, words, 0)?;
        }
        Ok(())
    }
}

fn xdp_turn(program: BorrowedFd<'_>, frame: &[u8]) -> Result<f64> {
    per_packet(PACKETS, || Ok(run_xdp(program, frame, RunOptions { repeat: PACKETS }).map(drop)?))
}

fn tc_turn(program: BorrowedFd<'_>, frame: &[u8]) -> Result<f64> {
    let mark = Mark { before: 0, direct: crate::MARK.value };
    per_packet(PACKETS, || {
        Ok(run_tc(program, frame, mark, RunOptions { repeat: PACKETS }).map(drop)?)
    })
}
