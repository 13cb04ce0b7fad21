//! Every series: name, type, labels and help, with how it is read from an observation.
//!
//! `docs/metrics.md` is written from this list. Names end in their unit; counters end in `_total`;
//! labels have as many values as the configuration, the feed and this code have names.

mod catalogue;
mod uplink;

use jiff::Timestamp;

pub use catalogue::SERIES;

use super::Scrapes;
use crate::observe::Observation;

/// A series with everything that is known of it before anything is read.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// Its name.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// The names of its labels, in the order of [`Sample::labels`].
    pub labels: &'static [&'static str],
    /// What it says, in one line.
    pub help: &'static str,
    /// Where its values are.
    pub read: Source,
}

/// How a series behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows while its process runs.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Where values come from.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// The daemon; nothing is there while it does not answer.
    Daemon(fn(&Observation) -> Vec<Sample>),
    /// The exporter itself.
    Exporter(fn(&Scrapes) -> Vec<Sample>),
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The values of the series' labels.
    pub labels: Vec<String>,
    /// The value.
    pub value: Value,
}

/// A number that is printed as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Something that is counted, exactly.
    Whole(u64),
    /// Seconds.
    Seconds(f64),
}

impl Kind {
    /// As the text formats call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

impl Series {
    /// The name without what only says that it is a counter.
    #[must_use]
    pub fn family(&self) -> &'static str {
        self.name.strip_suffix("_total").unwrap_or(self.name)
    }

    /// Its unit, which its name ends with.
    #[must_use]
    pub fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes"]
            .into_iter()
            .find(|unit| self.family().strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
    }
}

impl Sample {
    /// A whole number without labels.
    fn whole(value: u64) -> Self {
        Self { labels: Vec::new(), value: Value::Whole(value) }
    }

    /// 1 or 0.
    fn flag(value: bool) -> Self {
        Self::whole(u64::from(value))
    }

    /// Seconds without labels.
    fn seconds(value: f64) -> Self {
        Self { labels: Vec::new(), value: Value::Seconds(value) }
    }

    fn with(self, labels: &[&str]) -> Self {
        Self { labels: labels.iter().map(|label| (*label).to_owned()).collect(), ..self }
    }

    /// A time as the observation has it; nothing, where there is none.
    fn time(text: Option<&str>) -> Vec<Self> {
        let time = text.and_then(|text| text.parse::<Timestamp>().ok());
        let whole = time.and_then(|time| u64::try_from(time.as_second()).ok());
        whole.map(Self::whole).into_iter().collect()
    }
}
