//! `breakout365 feed`: Microsoft's endpoint list.

mod diff;
mod fetch;
mod history;
mod show;

use std::path::Path;

use crate::exit::Failure;

/// Verbs of the feed.
#[derive(Debug, clap::Subcommand)]
pub enum FeedVerb {
    Show(show::Show),
    Fetch(fetch::Fetch),
    Diff(diff::Diff),
    History(history::History),
}

pub(super) fn run(verb: &FeedVerb, state_dir: &Path) -> Result<(), Failure> {
    match verb {
        FeedVerb::Show(args) => show::run(args),
        FeedVerb::Fetch(args) => fetch::run(args),
        FeedVerb::Diff(args) => diff::run(args),
        FeedVerb::History(args) => history::run(args, state_dir),
    }
}
