//! `breakout365 feed diff`: what changes from one endpoint list to another.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};
use std::path::PathBuf;

use crate::cli::output;
use crate::exit::Failure;
use crate::feed::{self, Changed, FeedDiff, Ports, Presence, SetDiff};

/// What changes from one endpoint list to another, set by set
#[derive(Debug, clap::Args)]
pub struct Diff {
    /// The old list: a file as the web service answers it, or as `feed fetch --out` writes it
    #[arg(value_name = "A")]
    old: PathBuf,

    /// The new list
    #[arg(value_name = "B")]
    new: PathBuf,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Diff) -> Result<(), Failure> {
    let diff = FeedDiff::between(&feed::read(&args.old)?, &feed::read(&args.new)?);
    if args.json { output::json(&diff) } else { output::text(&text(&diff)) }
}

fn text(diff: &FeedDiff) -> String {
    let mut text = format!("from {}\nto   {}", diff.from, diff.to);
    if diff.is_empty() {
        text.push_str("\nno set differs");
    }
    for set in &diff.sets {
        describe(&mut text, set);
    }
    text
}

fn describe(text: &mut String, set: &SetDiff) {
    let what = match set.presence {
        Presence::Enters => "enters",
        Presence::Leaves => "leaves",
        Presence::Stays => "changes",
    };
    // Writing to a text cannot fail.
    let _ = write!(text, "\n\nset {} {} {what}", set.id, set.service_area);
    change(text, "category", set.category.as_ref());
    change(text, "required", set.required.as_ref().map(yes_or_no).as_ref());
    change(text, "tcp", set.tcp.as_ref().map(shown).as_ref());
    change(text, "udp", set.udp.as_ref().map(shown).as_ref());
    items(text, '+', &set.prefixes_in);
    items(text, '-', &set.prefixes_out);
    items(text, '+', &set.urls_in);
    items(text, '-', &set.urls_out);
    if set.only_remarks() {
        text.push_str("\n  only names and notes");
    }
}

fn yes_or_no(required: &Changed<bool>) -> Changed<&'static str> {
    let word = |required| if required { "yes" } else { "no" };
    Changed { from: word(required.from), to: word(required.to) }
}

fn shown(ports: &Changed<Ports>) -> Changed<String> {
    let shown = |ports: &Ports| match ports.to_string() {
        none if none.is_empty() => "none".to_owned(),
        some => some,
    };
    Changed { from: shown(&ports.from), to: shown(&ports.to) }
}

fn change<T: Display>(text: &mut String, field: &str, change: Option<&Changed<T>>) {
    if let Some(Changed { from, to }) = change {
        let _ = write!(text, "\n  {field}: {from} -> {to}");
    }
}

fn items<T: Display>(text: &mut String, sign: char, items: &BTreeSet<T>) {
    for item in items {
        let _ = write!(text, "\n  {sign} {item}");
    }
}
