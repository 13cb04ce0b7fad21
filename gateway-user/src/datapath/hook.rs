//! Hooks: an interface with the way it is attached.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Interface, Program};

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

impl HookRequest {
    /// The programs that may come to be attached to it, where the kernel knows them all.
    #[must_use]
    pub const fn programs(&self) -> &'static [Program] {
        match (self.interface.mac, self.xdp) {
            (None, _) => &[Program::TcIp],
            (Some(_), XdpRequest::No) => &[Program::Tc],
            (Some(_), XdpRequest::IfPossible) => {
                &[Program::XdpFrags, Program::TcBehindXdp, Program::Tc]
            }
            (Some(_), XdpRequest::Native) => &[Program::XdpFrags, Program::TcBehindXdp],
            (Some(_), XdpRequest::Generic) => &[Program::Xdp, Program::TcBehindXdp],
        }
    }
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
    /// Of these words, those for what is pinned and no longer attached; see [`attached_now`].
    ///
    /// [`attached_now`]: super::attached_now
    pub missing: Vec<&'static str>,
}

/// [`Attached`] as it is read.
#[derive(Deserialize)]
struct InWords {
    interface: Option<String>,
    ifindex: u32,
    xdp: Option<String>,
    tc: Option<String>,
    #[serde(default)]
    missing: Vec<String>,
}

impl<'de> Deserialize<'de> for Attached {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let known = |word: String| {
            let known = ["native", "generic", "tcx", "clsact"].into_iter().find(|it| *it == word);
            known.ok_or_else(|| D::Error::custom(format!("{word:?} is no way to be attached")))
        };
        let InWords { interface, ifindex, xdp, tc, missing } = InWords::deserialize(deserializer)?;
        Ok(Self {
            interface,
            ifindex,
            xdp: xdp.map(known).transpose()?,
            tc: tc.map(known).transpose()?,
            missing: missing.into_iter().map(known).collect::<Result<_, _>>()?,
        })
    }
}

impl Attached {
    /// What carries it: `native`, `generic`, `tcx`, `clsact`.
    pub fn carriers(&self) -> impl Iterator<Item = &'static str> {
        self.xdp.into_iter().chain(self.tc)
    }

    /// Takes down that `carrier` is pinned and no longer attached.
    pub(super) fn misses(&mut self, carrier: &'static str) {
        for place in [&mut self.xdp, &mut self.tc] {
            if *place == Some(carrier) {
                *place = None;
            }
        }
        self.missing.push(carrier);
    }
}

/// A carrier in words.
#[must_use]
pub fn carrier_name(carrier: &str) -> String {
    match carrier {
        "native" | "generic" => format!("{carrier} xdp"),
        other => other.to_owned(),
    }
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.interface {
            Some(name) => f.write_str(name)?,
            None => write!(f, "#{} (gone)", self.ifindex)?,
        }
        let names = |carriers: &mut dyn Iterator<Item = &str>| {
            carriers.map(carrier_name).collect::<Vec<_>>().join(" + ")
        };
        let missing = match self.missing.as_slice() {
            [] => String::new(),
            missing => format!("missing {}", names(&mut missing.iter().copied())),
        };
        let there = names(&mut self.carriers());
        let parts = [there, missing].into_iter().filter(|part| !part.is_empty());
        write!(f, " ({})", parts.collect::<Vec<_>>().join("; "))
    }
}
