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
    Words {
        /// The words.
        words: Words,
        /// The uplink they left by.
        left: String,
    },
    /// All that are direct by these words and left by another uplink. Those that begin from now on could
    /// not be told from them, so until they are ended the table resets what is direct, and lets nothing
    /// begin.
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
        let (words, left) = (before.words(), before.egress.interface.clone());
        if words != now.words() {
            return Some(Self::Words { words, left });
        }
        if left != now.egress.interface {
            return Some(Self::Uplink { words, left });
        }
        let interfaces: BTreeSet<String> = before.inside.difference(&now.inside).cloned().collect();
        (!interfaces.is_empty()).then_some(Self::Inside { words, interfaces })
    }

    /// What is still owed when `now` serves: flows that have their way again are not.
    pub(super) fn under(self, now: &Wanted) -> Option<Self> {
        match self {
            Self::Words { words, left } | Self::Uplink { words, left } if words == now.words() => {
                (left != now.egress.interface).then_some(Self::Uplink { words, left })
            }
            Self::Words { .. } | Self::Uplink { .. } => Some(self),
            Self::Inside { words, mut interfaces } => {
                interfaces.retain(|name| !now.inside.contains(name));
                (!interfaces.is_empty()).then_some(Self::Inside { words, interfaces })
            }
        }
    }

    /// What its flows are direct by.
    pub(super) fn words(&self) -> Words {
        match self {
            Self::Words { words, .. } | Self::Uplink { words, .. } | Self::Inside { words, .. } => {
                *words
            }
        }
    }

    /// Ends the flows, and says so.
    pub(super) async fn pay(&self, wanted: &Wanted) -> Result<Ended, EgressError> {
        let words = self.words();
        let cause = match self {
            Self::Words { .. } => "other_mark",
            Self::Uplink { .. } => "other_uplink",
            Self::Inside { .. } => "not_inside",
        };
        let ended = match self {
            Self::Words { .. } | Self::Uplink { .. } => end(wanted, words, None, |_| true).await?,
            Self::Inside { interfaces, .. } => {
                // An entry does not say where its flow came in: where the way back to its client leads.
                let ways = ways_back(words, |_| true).await?;
                // One of which there is nothing by this name is no way back.
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
            Self::Words { .. } => "of another [mark] are ended".to_owned(),
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
            Some(Debt::Words { words, left: "wan0".into() })
        );
    }

    #[test]
    fn what_serves_again_is_owed_nothing_and_all_else_still_is() {
        let now = Wanted::example();
        let words = now.words();
        let other = super::super::Words { decided: 8, ..words };
        let of_words = |words, left: &str| Debt::Words { words, left: left.into() };
        let of_uplink = |words, left: &str| Debt::Uplink { words, left: left.into() };
        let of_inside = |names: &[&str]| Debt::Inside {
            words,
            interfaces: names.iter().map(ToString::to_string).collect(),
        };
        for (debt, left) in [
            (of_words(words, "wan0"), None),
            (of_words(words, "wan1"), Some(of_uplink(words, "wan1"))),
            (of_words(other, "wan0"), Some(of_words(other, "wan0"))),
            (of_uplink(words, "wan0"), None),
            (of_uplink(words, "wan1"), Some(of_uplink(words, "wan1"))),
            (of_uplink(other, "wan0"), Some(of_uplink(other, "wan0"))),
            (of_inside(&["lan0"]), None),
            (of_inside(&["lan0", "lan1"]), Some(of_inside(&["lan1"]))),
        ] {
            assert_eq!(debt.clone().under(&now), left, "{debt:?}");
        }
    }
}
