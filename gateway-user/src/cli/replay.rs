//! `breakout365 replay`: what would become of the packets of a capture.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use gateway_common::Reason;
use serde::Serialize;

use super::input::{Input, Loaded};
use super::output;
use crate::exit::{Exit, Failure};
use crate::feed::{Category, FeedIdentity, SetId};
use crate::policy::Names;
use crate::replay::{self, Count, End, Tally};

/// What would become of the packets of a capture
///
/// Reads pcap and pcapng files of any length, from Ethernet, raw IP, Linux cooked and loopback
/// interfaces. Bytes are counted as they were on the wire, whatever the capture kept of them.
///
/// Take the capture on an inside interface. It then has both directions in it; replies to the
/// clients match no rule and count as inspected, though the data plane never sees them.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The capture: a pcap or pcapng file
    #[arg(value_name = "FILE")]
    capture: PathBuf,

    #[command(flatten)]
    input: Input,

    /// Inside interface that the capture is of, where the policy lists interfaces as sources
    #[arg(long = "in", value_name = "INTERFACE")]
    ingress: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &ReplayArgs, state_dir: &Path) -> Result<(), Failure> {
    let loaded = arguments.input.load(state_dir)?;
    let path = arguments.capture.display();
    let failed = |problem: &dyn std::fmt::Display| {
        Failure::new(Exit::Capture, format_args!("{path}: {problem}"))
    };
    let file = File::open(&arguments.capture)
        .map_err(|error| failed(&format_args!("cannot be read: {error}")))?;
    let tally = replay::replay(file, &loaded.compiled.table, arguments.ingress.as_deref())
        .map_err(|error| failed(&error))?;
    let report = Report::of(&loaded, &tally);
    if report.incomplete {
        // With standard error closed, the report itself still says it.
        let _ = writeln!(
            io::stderr(),
            "breakout365: {path}: ends within a packet; the {} packets before it are counted",
            report.packets
        );
    }
    if arguments.json { output::json(&report) } else { output::text(&report.text()) }
}

#[derive(Serialize)]
struct Report {
    feed: FeedIdentity,
    packets: u64,
    bytes: u64,
    /// The time of the earliest packet; `None` where no packet has one.
    first: Option<String>,
    /// The time of the latest packet.
    last: Option<String>,
    /// From the earliest to the latest.
    seconds: Option<f64>,
    /// Of all bytes, from 0 to 1; `None` where there are none.
    direct_share: Option<f64>,
    verdicts: Verdicts,
    reasons: Vec<ReasonCount>,
    /// A packet of several sets counts for each of them.
    sets: Vec<SetCount>,
    /// Truncated packets of which the capture kept too little to tell.
    cut: Counted,
    /// Whether the file ends within a packet.
    incomplete: bool,
}

#[derive(Serialize)]
struct Verdicts {
    direct: Counted,
    inspect: Counted,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Counted {
    packets: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct ReasonCount {
    reason: &'static str,
    #[serde(flatten)]
    count: Counted,
}

#[derive(Serialize)]
struct SetCount {
    id: SetId,
    /// The name of an own include, which has no area and no category.
    own: Option<String>,
    service_area: Option<String>,
    category: Option<Category>,
    #[serde(flatten)]
    count: Counted,
}

impl From<Count> for Counted {
    fn from(Count { packets, bytes }: Count) -> Self {
        Self { packets, bytes }
    }
}

impl Report {
    fn of(loaded: &Loaded, tally: &Tally) -> Self {
        let (total, direct) = (tally.total(), tally.direct());
        let reason = |reason: Reason| ReasonCount {
            reason: reason.name(),
            count: tally.reasons.get(&reason).copied().unwrap_or_default().into(),
        };
        Self {
            feed: loaded.snapshot.identity(),
            packets: total.packets,
            bytes: total.bytes,
            first: tally.span.map(|(first, _)| first.to_string()),
            last: tally.span.map(|(_, last)| last.to_string()),
            seconds: tally.span.map(|(first, last)| last.seconds_since(first)),
            direct_share: share(direct.bytes, total.bytes),
            verdicts: Verdicts { direct: direct.into(), inspect: tally.inspected().into() },
            reasons: Reason::ALL.into_iter().map(reason).collect(),
            sets: sets(loaded, tally),
            cut: tally.cut.into(),
            incomplete: tally.end == End::WithinPacket,
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![self.feed.to_string(), self.headline()];
        if self.cut.packets > 0 {
            lines.push(format!(
                "{} of them were cut off by the capture before their ports and count as \
                 truncated; capture at least 128 bytes of each packet",
                self.cut.packets
            ));
        }
        if self.incomplete {
            lines.push("the file ends within a packet, which is not counted".to_owned());
        }
        lines.push(String::new());
        let mut verdicts = output::table(&["verdict", "packets", "bytes"]);
        for (name, count) in [("direct", self.verdicts.direct), ("inspect", self.verdicts.inspect)]
        {
            verdicts.add_row([name.to_owned(), count.packets.to_string(), count.bytes.to_string()]);
        }
        lines.push(verdicts.to_string());
        let mut reasons = output::table(&["reason", "packets", "bytes"]);
        for ReasonCount { reason, count } in &self.reasons {
            if count.packets > 0 {
                let (packets, bytes) = (count.packets.to_string(), count.bytes.to_string());
                reasons.add_row([(*reason).to_owned(), packets, bytes]);
            }
        }
        if reasons.row_count() > 0 {
            lines.push(reasons.to_string());
        }
        let mut sets = output::table(&["set", "area", "category", "packets", "bytes"]);
        for set in &self.sets {
            let missing = || "-".to_owned();
            sets.add_row([
                set.own.clone().unwrap_or_else(|| set.id.to_string()),
                set.service_area.clone().unwrap_or_else(missing),
                set.category.map_or_else(missing, |category| category.to_string()),
                set.count.packets.to_string(),
                set.count.bytes.to_string(),
            ]);
        }
        lines.push(sets.to_string());
        lines.join("\n")
    }

    /// All packets, in one line.
    fn headline(&self) -> String {
        let mut line = format!("{} packets, {} bytes", self.packets, self.bytes);
        if let (Some(first), Some(last), Some(seconds)) = (&self.first, &self.last, self.seconds) {
            // Writing to a text cannot fail.
            let _ = write!(line, ", {first} to {last} ({seconds:.3} s)");
        }
        if let Some(share) = self.direct_share {
            let _ = write!(line, ": {:.1}% of the bytes would go direct", share * 100.0);
        }
        line
    }
}

/// Every set with a rule, and what it would send direct.
fn sets(Loaded { policy, snapshot, compiled, .. }: &Loaded, tally: &Tally) -> Vec<SetCount> {
    let mut counts: BTreeMap<SetId, Count> =
        compiled.rules.iter().map(|rule| (rule.set, Count::default())).collect();
    for (group, sets) in (0_u16..).zip(compiled.table.groups()) {
        let of_group = tally.groups.get(&group).copied().unwrap_or_default();
        for set in sets {
            let count = counts.entry(*set).or_default();
            *count = count.plus(of_group);
        }
    }
    let names = Names::of(policy);
    let report = |(id, count): (SetId, Count)| {
        let set = snapshot.sets.get(&id);
        SetCount {
            id,
            own: names.include(id),
            service_area: set.map(|set| set.service_area.clone()),
            category: set.map(|set| set.category),
            count: count.into(),
        }
    };
    counts.into_iter().map(report).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a share is for reading: 53 bits are plenty")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
