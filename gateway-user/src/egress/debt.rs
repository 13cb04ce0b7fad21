//! Flows that a change of the way out leaves without one: which they are, and what is said once they
//! are ended.

use std::collections::BTreeSet;

use nix::net::if_::if_nametoindex;
use tracing::info;

use super::ending::{end, ways_back};
use super::flows::{Ended, Flow};
use super::{EgressError, Wanted, Words};

/// Flows that are to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Debt {
    /// All that are direct by words that were left. The table resets them until they are ended.
    Words(Words),
    /// All that are direct by these words and leave by an uplink that was left. Those that begin from now
    /// on cannot be told from them.
    Uplink {
        /// What they are direct by.
        words: Words,
        /// The uplink.
        left: String,
    },
    /// Those that come in by interfaces that are not inside any more.
    Inside {
        /// What they are direct by.
        words: Words,
        /// The interfaces.
        interfaces: BTreeSet<String>,
    },
}

impl Debt {
    /// What is owed where `now` takes the place of `before`.
    pub(super) fn between(before: &Wanted, now: &Wanted) -> Option<Self> {
        let words = before.words();
        if words != now.words() {
            return Some(Self::Words(words));
        }
        if before.egress.interface != now.egress.interface {
            return Some(Self::Uplink { words, left: before.egress.interface.clone() });
        }
        let interfaces: BTreeSet<String> = before.inside.difference(&now.inside).cloned().collect();
        (!interfaces.is_empty()).then_some(Self::Inside { words, interfaces })
    }

    /// Whether nothing may go direct before it is paid.
    pub(super) fn stops_all(&self) -> bool {
        matches!(self, Self::Uplink { .. })
    }

    /// Ends the flows, and says so.
    pub(super) async fn pay(&self, wanted: &Wanted) -> Result<Ended, EgressError> {
        let (words, cause) = match self {
            Self::Words(words) => (*words, "other_mark"),
            Self::Uplink { words, .. } => (*words, "other_uplink"),
            Self::Inside { words, .. } => (*words, "not_inside"),
        };
        let ended = match self {
            Self::Words(_) | Self::Uplink { .. } => end(wanted, words, None, |_| true).await?,
            Self::Inside { interfaces, .. } => {
                // An entry does not say where its flow came in: where the way back to its client leads.
                let ways = ways_back(words, |_| true).await?;
                // One that is not there any more has no flows either.
                let index = |name: &String| if_nametoindex(name.as_str()).ok();
                let indexes: BTreeSet<u32> = interfaces.iter().filter_map(index).collect();
                let is_from_there = |flow: &Flow| {
                    ways.get(&flow.source.ip()).is_some_and(|index| indexes.contains(index))
                };
                end(wanted, words, None, is_from_there).await?
            }
        };
        let flows = ended.removed;
        info!(event = "flows_ended", cause, flows, "{flows} direct flows {}", self.why(wanted));
        Ok(ended)
    }

    fn why(&self, wanted: &Wanted) -> String {
        match self {
            Self::Words(_) => "of another [mark] are ended".to_owned(),
            Self::Uplink { left, .. } => {
                format!("of uplink {left} are ended, {} serves now", wanted.egress.interface)
            }
            Self::Inside { interfaces, .. } => {
                let names: Vec<&str> = interfaces.iter().map(String::as_str).collect();
                format!("in by {} are ended, which is not inside any more", names.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mark;

    #[test]
    fn what_is_owed_is_the_most_that_has_changed() {
        let before = Wanted::example();
        let with = |change: &dyn Fn(&mut Wanted)| {
            let mut now = before.clone();
            change(&mut now);
            Debt::between(&before, &now)
        };
        let words = before.words();
        let inside = |now: &mut Wanted| now.inside = ["lan1".to_owned()].into();
        let uplink = |now: &mut Wanted| now.egress.interface = "wan1".into();
        let mark = |now: &mut Wanted| now.mark = Mark { value: 4, mask: 4 };
        assert_eq!(with(&|_| {}), None);
        assert_eq!(with(&|now| now.egress.table = 7), None);
        assert_eq!(with(&|now| now.inside.extend(["lan1".to_owned()])), None);
        let left = Debt::Inside { words, interfaces: ["lan0".to_owned()].into() };
        assert_eq!(with(&inside), Some(left));
        let of_uplink = Debt::Uplink { words, left: "wan0".into() };
        assert!(of_uplink.stops_all());
        assert_eq!(
            with(&|now| {
                inside(now);
                uplink(now);
            }),
            Some(of_uplink)
        );
        assert_eq!(
            with(&|now| {
                inside(now);
                uplink(now);
                mark(now);
            }),
            Some(Debt::Words(words))
        );
    }
}
