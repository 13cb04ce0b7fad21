//! What a replay counted: packets and bytes by reason and by provenance group, and the time they
//! span.

use std::collections::BTreeMap;
use std::fmt;

use gateway_common::{Decision, Reason};

use super::End;

/// Packets, and bytes as they were on the wire, whatever the capture kept of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, link header included where the capture has one.
    pub bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, length: u32) {
        self.packets = self.packets.saturating_add(1);
        self.bytes = self.bytes.saturating_add(length.into());
    }

    /// Both added up.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// What a replay counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By reason; a reason that did not occur is missing.
    pub reasons: BTreeMap<Reason, Count>,
    /// Direct packets by provenance group.
    pub groups: BTreeMap<u16, Count>,
    /// Packets that are truncated because the capture kept too little of them: what they would be
    /// is not known. They count as truncated, too.
    pub cut: Count,
    /// Times of the earliest and of the latest packet.
    pub span: Option<(Moment, Moment)>,
    /// How the file ends.
    pub end: End,
}

impl Tally {
    pub(super) fn add(
        &mut self,
        decision: Decision,
        length: u32,
        is_cut: bool,
        time: Option<Moment>,
    ) {
        self.reasons.entry(decision.reason()).or_default().add(length);
        if let Some(group) = decision.group() {
            self.groups.entry(group).or_default().add(length);
        }
        if is_cut && decision.reason() == Reason::Truncated {
            self.cut.add(length);
        }
        if let Some(time) = time {
            let (first, last) = self.span.unwrap_or((time, time));
            self.span = Some((first.min(time), last.max(time)));
        }
    }

    /// All packets.
    #[must_use]
    pub fn total(&self) -> Count {
        self.reasons.values().fold(Count::default(), |sum, count| sum.plus(*count))
    }

    /// Packets that would go direct.
    #[must_use]
    pub fn direct(&self) -> Count {
        self.reasons.get(&Reason::Matched).copied().unwrap_or_default()
    }

    /// Packets that would be inspected.
    #[must_use]
    pub fn inspected(&self) -> Count {
        let (total, direct) = (self.total(), self.direct());
        Count {
            packets: total.packets.saturating_sub(direct.packets),
            bytes: total.bytes.saturating_sub(direct.bytes),
        }
    }
}

/// A point in time, in nanoseconds since 1970, UTC; up to the year 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl Moment {
    /// Seconds from `earlier` to here.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> f64 {
        // A span in a capture is far below the 2^53 nanoseconds (104 days) that are exact.
        #[expect(clippy::cast_precision_loss, reason = "a longer span may be off by nanoseconds")]
        let nanoseconds = self.0.saturating_sub(earlier.0) as f64;
        nanoseconds / 1e9
    }
}

/// RFC 3339, to the second.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(1_000_000_000);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// Year, month and day of a day counted from 1970-01-01, as in Howard Hinnant's
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>: years that begin in
/// March, in eras of 400 years.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_the_dates_that_calendars_say() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_785_456_000, "2026-07-31T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(Moment(seconds * 1_000_000_000).to_string(), text);
        }
    }
}
