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
    change(text, "category", set.category.as_ref(), ToString::to_string);
    change(text, "required", set.required.as_ref(), |required| {
        if *required { "yes" } else { "no" }.to_owned()
    });
    change(text, "tcp", set.tcp.as_ref(), ports);
    change(text, "udp", set.udp.as_ref(), ports);
    items(text, '+', &set.prefixes_in);
    items(text, '-', &set.prefixes_out);
    items(text, '+', &set.urls_in);
    items(text, '-', &set.urls_out);
    if set.only_remarks() {
        text.push_str("\n  only names and notes");
    }
}

fn ports(ports: &Ports) -> String {
    if ports.is_empty() { "none".to_owned() } else { ports.to_string() }
}

fn change<T>(text: &mut String, field: &str, change: Option<&Changed<T>>, say: fn(&T) -> String) {
    let Some(Changed { from, to }) = change else { return };
    // A set that enters or leaves has the one value only.
    let values: Vec<_> = from.iter().chain(to).map(say).collect();
    let _ = write!(text, "\n  {field}: {}", values.join(" -> "));
}

fn items<T: Display>(text: &mut String, sign: char, items: &BTreeSet<T>) {
    for item in items {
        let _ = write!(text, "\n  {sign} {item}");
    }
}
