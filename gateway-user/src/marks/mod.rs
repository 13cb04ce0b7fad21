//! Mark collisions: what others on this machine do with bits that are ours.
//!
//! A statement that writes one of our bits moves traffic, and one that reads them takes our traffic for
//! its own; neither is refused or changed. `bits` says what a statement does to a mark; `nft`,
//! `iptables` and `rules` read what is loaded, without a kernel. Who asks exactly what our mark says,
//! such as an inspector that lets direct flows past, is no collision, and neither is what we install.

mod bits;
mod iptables;
mod live;
mod nft;
mod rules;

use std::fmt;

use serde::Serialize;

use crate::config::{Config, Mark};

pub use live::{Looked, look};
pub(crate) use live::{program, saved_by_iptables};
pub use rules::RuleFacts;

/// The bits that are ours: of the packet mark, and of the connection mark, which has `decided` besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ours {
    /// The bits that say Direct, in both marks.
    pub mark: Mark,
    /// The bit of the connection mark that says a flow's way is decided; zero where no way out is
    /// configured.
    pub decided: u32,
}

impl Ours {
    /// Those of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let decided = config.egress.as_ref().map_or(0, |egress| egress.decided);
        Self { mark: config.mark, decided }
    }

    fn bits(self, of: MarkOf) -> u32 {
        match of {
            MarkOf::Packet => self.mark.mask,
            MarkOf::Connection => self.mark.mask | self.decided,
        }
    }
}

/// Whose mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkOf {
    /// The packet's (`meta mark`, fwmark).
    Packet,
    /// The connection's (`ct mark`, connmark).
    Connection,
}

/// What is done with our bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// The whole mark is compared with a value that has none of our bits: marked packets are never
    /// equal to it.
    Compares,
    /// Some of our bits are asked for, by somebody who means something else by them.
    Reads,
    /// Some of our bits are set or cleared.
    Writes,
}

/// A statement of somebody else that collides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Collision {
    /// Where it stands: program, table, chain and rule.
    pub place: String,
    /// Whose mark it is about.
    pub of: MarkOf,
    /// What it does.
    #[serde(rename = "use")]
    pub does: Use,
    /// Which of our bits.
    pub bits: u32,
}

impl Collision {
    /// What to do about it, in words.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self.does {
            Use::Compares => "compare under a mask that leaves our bits out",
            Use::Reads => "choose other bits there, or others in [mark]",
            Use::Writes => {
                "write under a mask that leaves our bits out, or choose others in [mark]"
            }
        }
    }
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match self.of {
            MarkOf::Packet => "packet",
            MarkOf::Connection => "connection",
        };
        let does = match self.does {
            Use::Compares => "compares the whole",
            Use::Reads => "reads our bits of the",
            Use::Writes => "writes our bits of the",
        };
        write!(f, "{} {does} {of} mark ({:#x})", self.place, self.bits)
    }
}
