//! Hooks: an interface with the way it is attached.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

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

/// [`Attached`] as it is read.
#[derive(Deserialize)]
struct InWords {
    interface: Option<String>,
    ifindex: u32,
    xdp: Option<String>,
    tc: Option<String>,
}

impl<'de> Deserialize<'de> for Attached {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let known = |word: Option<String>| {
            let Some(word) = word else { return Ok(None) };
            let known = ["native", "generic", "tcx", "clsact"].into_iter().find(|it| *it == word);
            let unknown = || D::Error::custom(format!("{word:?} is no way to be attached"));
            known.map(Some).ok_or_else(unknown)
        };
        let InWords { interface, ifindex, xdp, tc } = InWords::deserialize(deserializer)?;
        Ok(Self { interface, ifindex, xdp: known(xdp)?, tc: known(tc)? })
    }
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.interface {
            Some(name) => f.write_str(name)?,
            None => write!(f, "#{} (gone)", self.ifindex)?,
        }
        let xdp = self.xdp.map(|mode| format!("{mode} xdp"));
        let carriers: Vec<&str> = xdp.as_deref().into_iter().chain(self.tc).collect();
        write!(f, " ({})", carriers.join(" + "))
    }
}
