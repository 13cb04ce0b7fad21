//! Says where tc would not have proposed what XDP did, once for each generation.

use tracing::error;

use super::Daemon;
use crate::observe::SelfCheck;

/// Which generation was said to disagree, the last one only.
#[derive(Default)]
pub(super) struct Checked {
    said: Option<u64>,
}

impl Checked {
    /// Whether it is news that `generation` has counted a disagreement.
    fn is_news(&mut self, generation: u64, counted: SelfCheck) -> bool {
        counted.disagreed > 0 && self.said.replace(generation) != Some(generation)
    }
}

impl Daemon<'_> {
    /// Looks at what came of checking.
    pub(super) fn look_at_self_check(&mut self) {
        let counted = self.tally.of_current().map(|current| {
            current
                .map(|(manifest, counts)| (manifest.generation, SelfCheck::of_generation(&counts)))
        });
        match counted {
            Ok(Some((generation, counted))) => {
                if self.checked_proposals.is_news(generation, counted) {
                    error!(
                        event = "mismatch",
                        generation,
                        checked = counted.checked,
                        disagreed = counted.disagreed,
                        "XDP lets packets go direct that tc would not, {} of {} that were checked: these \
                         are inspected; `breakout365 off` inspects all, and report this",
                        counted.disagreed,
                        counted.checked
                    );
                }
            }
            // Nothing is published yet.
            Ok(None) => {}
            Err(failure) => error!("proposals were not looked at: {failure}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_for_each_generation() {
        let mut checked = Checked::default();
        let counted = |checked, disagreed| SelfCheck { checked, disagreed };
        assert!(!checked.is_news(1, counted(10, 0)));
        assert!(checked.is_news(1, counted(20, 1)));
        assert!(!checked.is_news(1, counted(30, 2)));
        assert!(!checked.is_news(2, counted(1, 0)));
        assert!(checked.is_news(2, counted(5, 3)));
    }
}
