//! The packet classifier of breakout365: one copy of the code that decides, for XDP, tc and user
//! space alike.
//!
//! Reading order: [`packet`] turns bytes into a [`FlowKey`], [`mod@classify`] looks the key up in a
//! [`Tables`] and says a [`Decision`], [`decision`] lists every [`Reason`] there is, [`control`] is
//! what can stop all direct egress at once, [`forward`] is what a packet must be like to leave without
//! the stack, [`drawn`] is which packets are looked at twice, and [`abi`] pins the layouts that the loader
//! and the BPF programs share.
//!
//! The crate has no `unsafe`, allocates nothing, and is generic over where bytes and tables come
//! from, so that what a test on a laptop proves is what runs in the kernel.

#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects)]

pub mod abi;
pub mod classify;
pub mod control;
pub mod decision;
pub mod drawn;
pub mod forward;
pub mod packet;

pub use classify::{Tables, by_policy, by_window, classify, decide, support};
pub use decision::{Decision, Reason, Verdict};
pub use forward::Fallback;
pub use packet::{Address, FlowKey, PacketBytes, Transport, Word, flow_of, parse, source_of};
