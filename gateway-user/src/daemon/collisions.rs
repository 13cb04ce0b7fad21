//! Who else uses our mark bits, said once at the start: nothing is refused for it.

use tracing::warn;

use super::Daemon;
use crate::egress::rules;
use crate::marks::{Ours, Use, look};

impl Daemon<'_> {
    /// Looks beside everything else: a ruleset may be long, and nothing is to wait for it.
    pub(super) fn look_for_collisions(&self) {
        let serving = self.serving.as_ref().map(|serving| &serving.revision.config);
        let waiting = self.wanted.as_ref().map(|config| &config.config);
        if let Some(config) = serving.or(waiting) {
            tokio::spawn(tell(Ours::of(config)));
        }
    }
}

/// One line for each. What cannot be looked at is the doctor's to say.
async fn tell(ours: Ours) {
    let rules = rules().await.unwrap_or_default();
    let Ok(looked) = tokio::task::spawn_blocking(move || look(&rules, ours)).await else { return };
    for collision in looked.collisions.iter().filter(|collision| collision.does != Use::Compares) {
        warn!("{collision}: {}", collision.remedy());
    }
}
