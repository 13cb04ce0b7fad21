//! Says where tc would not have proposed what XDP did, once for each generation.

use tracing::error;

use super::Daemon;
use crate::datapath::{DatapathError, Loaded};
use crate::observe::SelfCheck;

/// The sum over generations.
#[derive(Default)]
pub(super) struct Checked {
    /// Of generations that no longer serve.
    before: SelfCheck,
    /// Which one serves, and what it had when last looked at.
    serving: Option<(u64, SelfCheck)>,
    /// The last generation that was said to disagree.
    said: Option<u64>,
}

impl Checked {
    /// Since the daemon started, with what the generation had that it found.
    pub(super) fn total(&self) -> SelfCheck {
        self.serving.map_or(self.before, |(_, serving)| self.before.plus(serving))
    }

    /// Takes down what `generation` has counted; gives that where it is news that it disagrees.
    fn note(&mut self, generation: u64, counted: SelfCheck) -> Option<SelfCheck> {
        if let Some((was, last)) = self.serving
            && was != generation
        {
            self.before = self.before.plus(last);
        }
        self.serving = Some((generation, counted));
        if counted.disagreed == 0 || self.said == Some(generation) {
            return None;
        }
        self.said = Some(generation);
        Some(counted)
    }
}

impl Daemon<'_> {
    /// Looks at what came of checking.
    pub(super) fn look_at_self_check(&mut self) {
        let counted = Loaded::open(self.lock.pins()).and_then(|loaded| {
            Ok((loaded.manifest().generation, SelfCheck::of_generation(&loaded.counts()?)))
        });
        match counted {
            Ok((generation, counted)) => {
                if let Some(SelfCheck { checked, disagreed }) =
                    self.checked_proposals.note(generation, counted)
                {
                    error!(
                        generation,
                        checked,
                        disagreed,
                        "XDP lets packets go direct that tc would not: they are inspected where \
                         checked; `breakout365 off` inspects all, and report this"
                    );
                }
            }
            // Nothing is published yet.
            Err(DatapathError::NothingLoaded { .. }) => {}
            Err(failure) => error!("proposals were not looked at: {failure}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_for_each_generation_and_adds_up() {
        let mut checked = Checked::default();
        let counted = |checked, disagreed| SelfCheck { checked, disagreed };
        assert_eq!(checked.note(1, counted(10, 0)), None);
        assert_eq!(checked.note(1, counted(20, 1)), Some(counted(20, 1)));
        assert_eq!(checked.note(1, counted(30, 2)), None);
        assert_eq!(checked.note(2, counted(1, 0)), None);
        assert_eq!(checked.total(), counted(31, 2));
        assert_eq!(checked.note(2, counted(5, 3)), Some(counted(5, 3)));
        assert_eq!(checked.total(), counted(35, 5));
    }
}
