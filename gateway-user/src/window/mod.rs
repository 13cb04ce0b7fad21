//! Support windows: while a case is open with Microsoft, what its set of prefixes sends goes direct for
//! the clients it is about, until a time that nothing moves.
//!
//! [`Window`] is one of them, from its beginning to what is left of it in a report; `register` keeps
//! them over restarts, `clock` says when they are over. How the kernel holds them is [`crate::policy::Support`], and what
//! they let go direct is read by [`crate::datapath::WindowCounters`].

mod clock;
mod register;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gateway_common::abi::MAX_FLOWS;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::feed::SetId;
use crate::policy::WindowSets;
use crate::rfc3339::seconds;

pub(crate) use clock::kernel_now;
pub use clock::{Clock, Moment};
pub use register::{Register, RegisterError};

/// The longest time a window may be open.
pub const LONGEST: Duration = Duration::from_hours(24);
/// The shortest.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// Most client prefixes of one window.
pub const MAX_CLIENTS: usize = 32;
/// Longest note, in bytes.
pub const MAX_NOTE: usize = 200;
/// Windows that are over and can still be reported; those before are in the journal alone.
pub const MAX_KEPT: usize = 100;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Source addresses.
    pub clients: BTreeSet<IpNet>,
    /// What goes direct.
    pub sets: WindowSets,
    /// For how long.
    pub length: Duration,
    /// The operator's words about it.
    pub note: String,
}

impl Wish {
    /// Why no window may be like this, if so, in one line.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        if self.clients.is_empty() || self.clients.len() > MAX_CLIENTS {
            let count = self.clients.len();
            return Some(format!("{count} client prefixes; a window has from 1 to {MAX_CLIENTS}"));
        }
        if let Some(whole) = self.clients.iter().find(|client| client.prefix_len() == 0) {
            return Some(format!(
                "{whole} is everybody; name the clients that the case is about, or select the sets \
                 in [policy]"
            ));
        }
        if let Some(odd) = self.clients.iter().find(|client| client.trunc() != **client) {
            let prefix = odd.trunc();
            return Some(format!("{odd} has host bits; {prefix} is the network, {odd} is not"));
        }
        if !(SHORTEST..=LONGEST).contains(&self.length) {
            return Some(format!(
                "{}s is not from 1s to {}h, the longest that a window may be open",
                self.length.as_secs(),
                LONGEST.as_secs() / 3600
            ));
        }
        if self.note.trim().is_empty() || self.note.len() > MAX_NOTE {
            return Some(format!("a note of 1 to {MAX_NOTE} bytes says which case it is"));
        }
        if self.note.chars().any(char::is_control) {
            return Some("the note has control characters; it is one line of text".to_owned());
        }
        None
    }
}

/// How a window came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// Its time was over.
    Over,
    /// `support stop`.
    Stopped,
    /// Nobody knows how long the machine was away, or what time it is.
    Doubt,
    /// With the feed and the configuration of a later change it could not be loaded.
    Unloadable,
}

/// Packets, bytes of whole frames, and flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Packets.
    pub packets: u64,
    /// Bytes of whole frames.
    pub bytes: u64,
    /// Flows: distinct addresses, ports and protocol.
    pub flows: u64,
}

impl Amount {
    /// Both added up.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
            flows: self.flows.saturating_add(other.flows),
        }
    }
}

/// What went direct by combination of sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tally(#[serde(with = "as_list")] pub BTreeMap<BTreeSet<SetId>, Amount>);

impl Tally {
    /// Adds to one combination.
    pub fn add(&mut self, sets: &BTreeSet<SetId>, amount: Amount) {
        if amount != Amount::default() {
            let sum = self.0.entry(sets.clone()).or_default();
            *sum = sum.plus(amount);
        }
    }

    /// Adds another one.
    pub fn merge(&mut self, other: &Self) {
        for (sets, amount) in &other.0 {
            self.add(sets, *amount);
        }
    }

    /// Whether every flow was counted: no more are told apart than the kernel has room for.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.total().flows < u64::from(MAX_FLOWS)
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> Amount {
        self.0.values().fold(Amount::default(), |sum, amount| sum.plus(*amount))
    }

    /// By set; what belongs to several counts for each of them.
    #[must_use]
    pub fn by_set(&self) -> BTreeMap<SetId, Amount> {
        let mut sums: BTreeMap<SetId, Amount> = BTreeMap::new();
        for (sets, amount) in &self.0 {
            for set in sets {
                let sum = sums.entry(*set).or_default();
                *sum = sum.plus(*amount);
            }
        }
        sums
    }
}

/// JSON has no sets as keys.
mod as_list {
    use super::{Amount, BTreeMap, BTreeSet, SetId};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<BTreeSet<SetId>, Amount>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<BTreeSet<SetId>, Amount>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

/// A window, open or over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Its id: from 1, none twice in a state directory.
    pub id: u32,
    /// Source addresses.
    pub clients: BTreeSet<IpNet>,
    /// What goes direct.
    pub sets: WindowSets,
    /// The operator's words about it.
    pub note: String,
    /// When it began, RFC 3339, UTC.
    pub started: Timestamp,
    /// When it is over at the latest, RFC 3339, UTC.
    pub until: Timestamp,
    /// When it is over, nanoseconds of `CLOCK_BOOTTIME` of [`Self::boot`].
    pub end: u64,
    /// The boot that `end` is of.
    pub boot: String,
    /// When it came to its end, and how.
    pub ended: Option<(Timestamp, Ending)>,
    /// Whether it is over and the flows that it let go direct have not been ended yet.
    #[serde(default)]
    pub owes: bool,
    /// What it let go direct in generations that serve no longer.
    pub before: Tally,
    /// And in the one that was read last.
    pub serving: Tally,
}

impl Window {
    /// Whether it is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.ended.is_none()
    }

    /// It is over. Its flows are not, until [`Register::settle`].
    pub(super) fn close(&mut self, at: Timestamp, how: Ending) {
        (self.ended, self.owes) = (Some((at, how)), true);
    }

    /// All that it let go direct, as far as is known.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally = self.before.clone();
        tally.merge(&self.serving);
        tally
    }

    /// In one line, for the journal and logs.
    #[must_use]
    pub fn summary(&self) -> String {
        let clients: Vec<_> = self.clients.iter().map(ToString::to_string).collect();
        let until = seconds(self.until);
        let (id, sets, note) = (self.id, &self.sets, &self.note);
        format!("support window {id}: {}, {sets}, until {until} ({note})", clients.join(", "))
    }
}
