//! Who else uses our mark bits, said at the start and when they are others: nothing is refused for it.

use tracing::warn;

use super::Daemon;
use crate::egress::rules;
use crate::marks::{Ours, Use, look};

impl Daemon<'_> {
    /// Looks beside everything else: a ruleset may be long, and nothing is to wait for it.
    pub(super) fn look_for_collisions(&mut self) {
        let serving = self.serving.as_ref().map(|serving| &serving.revision.config);
        let waiting = self.wanted.as_ref().map(|config| &config.config);
        let Some(ours) = serving.or(waiting).map(Ours::of) else { return };
        if self.looked_for.replace(ours) != Some(ours) {
            tokio::spawn(tell(ours));
        }
    }
}

/// One line for each. What cannot be looked at is the doctor's to say.
async fn tell(ours: Ours) {
    let rules = rules().await.unwrap_or_default();
    let looked = look(rules, ours).await;
    for collision in looked.collisions.iter().filter(|collision| collision.does != Use::Compares) {
        warn!("{collision}: {}", collision.remedy());
    }
}
