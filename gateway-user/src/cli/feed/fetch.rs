//! `breakout365 feed fetch`: one check of the configuration's source, now; nothing is put to use.

use std::path::PathBuf;

use serde::Serialize;
use uuid::Uuid;

use super::show::Report;
use crate::cli::{input, output, runtime};
use crate::config::FeedSource;
use crate::exit::{Exit, Failure};
use crate::feed::{self, Check, Client, Limits};

/// Ask the configuration's source once, print what came, and put nothing to use
#[derive(Debug, clap::Args)]
pub struct Fetch {
    /// Configuration file [default: /etc/breakout365/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Write the list to this file as well, in canonical form
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What came, and from where.
#[derive(Serialize)]
struct Fetched {
    source: String,
    #[serde(flatten)]
    report: Report,
}

pub(super) fn run(args: &Fetch) -> Result<(), Failure> {
    let config = input::config(args.config.as_deref())?;
    let (source, options) =
        config.map(|config| (config.feed, config.feed_options)).unwrap_or_default();
    if source == FeedSource::Embedded {
        let problem = "nothing to fetch: no feed.instance, feed.url or feed.file in the \
                       configuration; set feed.instance = \"Worldwide\"";
        return Err(Failure::new(Exit::Config, problem));
    }
    // An id of its own: this may be another user than the daemon's, and another machine.
    let client = Client::new(&source, &options, Uuid::new_v4(), Limits::default())?;
    let runtime = runtime()?;
    let check = runtime.block_on(client.check(None));
    // A resolver that does not answer would keep the process until it gives up.
    runtime.shutdown_background();
    let Check::New(snapshot) = check? else {
        return Err(Failure::new(Exit::Internal, "unchanged, compared with nothing"));
    };
    if let Some(path) = &args.out {
        let text = feed::write(&snapshot)
            .map_err(|error| Failure::new(Exit::Internal, format!("JSON: {error}")))?;
        std::fs::write(path, text).map_err(|error| {
            Failure::new(Exit::System, format!("{}: cannot be written: {error}", path.display()))
        })?;
    }
    let fetched = Fetched { source: source.to_string(), report: Report::of(&snapshot) };
    if args.json {
        output::json(&fetched)
    } else {
        output::text(&format!("from {}\n{}", fetched.source, fetched.report.text()))
    }
}
