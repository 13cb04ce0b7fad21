//! `breakout365 feed`: Microsoft's endpoint list.

mod diff;
mod fetch;
mod show;

use crate::exit::Failure;

/// Verbs of the feed.
#[derive(Debug, clap::Subcommand)]
pub enum FeedVerb {
    Show(show::Show),
    Fetch(fetch::Fetch),
    Diff(diff::Diff),
}

pub(super) fn run(verb: &FeedVerb) -> Result<(), Failure> {
    match verb {
        FeedVerb::Show(args) => show::run(args),
        FeedVerb::Fetch(args) => fetch::run(args),
        FeedVerb::Diff(args) => diff::run(args),
    }
}
