//! Hooks: an interface with the way it is attached.

use serde::Serialize;

use super::Interface;

/// What is wanted of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRequest {
    /// The interface.
    pub interface: Interface,
    /// XDP in front of tc.
    pub xdp: XdpRequest,
    /// How tc is attached.
    pub tc: TcCarrier,
}

/// XDP in front of tc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpRequest {
    /// None: tc classifies.
    No,
    /// Native if that works and nobody else's program is there, else none.
    IfPossible,
    /// Native, or a refusal.
    Native,
    /// Generic, or a refusal.
    Generic,
}

/// How a tc program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcCarrier {
    /// TCX (kernel 6.6, commit e420bed02507), or clsact where the kernel does not know it.
    #[default]
    Best,
    /// The clsact qdisc (kernel 4.5).
    Clsact,
}

/// What is attached to one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attached {
    /// Its name, while it exists in this network namespace.
    pub interface: Option<String>,
    /// Its index.
    pub ifindex: u32,
    /// `native` or `generic`, where XDP is attached.
    pub xdp: Option<&'static str>,
    /// `tcx` or `clsact`, where tc is attached.
    pub tc: Option<&'static str>,
}
