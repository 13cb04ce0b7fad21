//! Generations: a table in the kernel, tested before it is published, immutable afterwards.
//!
//! [`Generation::load`] makes one (load, constants, fill, verify), [`self_test()`] runs its programs
//! against the oracle, `publish` switches the hooks over to it; [`bring_up()`] does all three. What is
//! published lives in the
//! directory of `pins`; nothing in this process keeps it alive. [`Loaded`] is the published
//! generation as any process with the right to may see it.

mod bring_up;
mod clsact;
mod control;
mod error;
mod fill;
mod generation;
mod hook;
mod hook_check;
mod hook_spread;
mod interface;
mod link;
mod loaded;
mod manifest;
mod meter;
mod object;
mod packet_head;
mod pins;
mod port;
mod probe;
mod publish;
mod questions;
mod redirect;
mod rollback;
mod self_test;
mod system;
mod test_run;
mod trace;
mod windows;

pub use crate::feed::FeedIdentity;
pub use bring_up::{Blueprint, Published, bring_up};
pub use control::{Control, Standing};
pub use error::DatapathError;
pub use generation::{Generation, Program, Setting, trie_capacity};
pub use hook::{Attached, HookRequest, TcCarrier, XdpRequest, carrier_name};
pub use hook_check::attached_now;
pub use interface::Interface;
pub(crate) use interface::has_no_header;
pub use loaded::{Answer, CounterSheet, Counts, Loaded, attached};
pub use manifest::{Manifest, OwnIdentity, Scope, SetIdentity};
pub use meter::{Meter, ProgramRun};
pub use packet_head::PacketHead;
pub use pins::{Lock, Pins};
pub(crate) use port::xdp_features;
pub use probe::Probe;
pub use publish::{Step, take_down, withdraw};
pub use redirect::Redirect;
pub use self_test::{SelfTestReport, self_test};
pub use system::require_privileges;
pub use test_run::{Mark, Outcome, RunOptions, hides_metadata, run_live, run_tc, run_xdp};
pub use trace::{TraceHook, Traced, Tracer};
pub use windows::WindowCounters;
