//! A network made of namespaces, that vanishes when its owner does.
//!
//! [`Namespace`]s are joined by veth pairs ([`link()`]), never to the root namespace.
//! [`EchoServers`] answer whoever connects with the address they see, and [`ask`] reads it, so a
//! client learns which way its packets went. A [`Frame`] is an Ethernet frame of any shape, and a
//! [`Wire`] puts it on an interface as it is. A [`BpfFs`] holds the pins of a
//! test, a [`Scratch`] its files. Everything is
//! named after the process that made it; what a killed process left is swept when the next one
//! starts.

mod bpffs;
mod frame;
mod interrupt;
mod link;
mod names;
mod namespace;
mod process;
mod scratch;
mod servers;
mod uninterrupted;
mod wait;
mod wire;

pub use bpffs::BpfFs;
pub use frame::{Extension, Frame, Protocol, VlanTag};
pub use interrupt::Interrupt;
pub use link::{End, Offloads, link};
pub use names::{Owner, is_kept, remove_kept, sweep};
pub use namespace::Namespace;
pub use process::Process;
pub use scratch::Scratch;
pub use servers::{EchoServers, RunningServers, ask, listen_v6};
pub use uninterrupted::uninterrupted;
pub use wait::wait_until;
pub use wire::Wire;
