//! `breakout365 export`: what goes direct, for the programs that stand beside a gateway.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::input::{Input, Loaded};
use super::output;
use crate::exit::{Exit, Failure};
use crate::export::{Export, ExportError, Format, Inspector, Proxies, Snippet};

/// What goes direct, for the programs that stand beside a gateway
///
/// Where a program cannot say all that the table says, it gets less of it: what is left out is
/// inspected.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// What it is for
    #[arg(long, value_enum)]
    format: What,

    /// For pac: what everything else goes to, as in "PROXY proxy.example:3128"
    #[arg(long, value_name = "PROXIES", required_if_eq("format", "pac"))]
    proxy: Option<Proxies>,

    /// For chains: what they hand packets to, tproxy:PORT, redirect:PORT, queue:NUMBER or drop; as many
    /// as there are. The first two may end in the ports that they take, as in tproxy:3129/80,443
    #[arg(long, value_name = "INSPECTOR")]
    to: Vec<Inspector>,

    #[command(flatten)]
    input: Input,

    /// File to write, replaced in one step [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What can be asked for: something made of the table, or of the configuration alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Table(Format),
    Snippet(Snippet),
}

impl ValueEnum for What {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: &[What] = &[
            What::Table(Format::Cidr),
            What::Table(Format::Json),
            What::Table(Format::Nft),
            What::Table(Format::Ipset),
            What::Table(Format::Pac),
            What::Table(Format::Squid),
            What::Table(Format::Bird),
            What::Snippet(Snippet::ChainNft),
            What::Snippet(Snippet::ChainIptables),
            What::Snippet(Snippet::Networkd),
        ];
        ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Table(format) => format.to_possible_value(),
            Self::Snippet(snippet) => snippet.to_possible_value(),
        }
    }
}

pub(super) fn run(arguments: &ExportArgs, state_dir: &Path) -> Result<(), Failure> {
    let ExportArgs { format, proxy, to, input, out } = arguments;
    if proxy.is_some() && *format != What::Table(Format::Pac) {
        let problem = "--proxy goes with --format pac only; leave it out";
        return Err(Failure::new(Exit::Usage, problem));
    }
    let has_chains = matches!(format, What::Snippet(snippet) if snippet.has_chains());
    if has_chains == to.is_empty() {
        let problem = "--to goes with --format chain-nft and chain-iptables, which need it";
        return Err(Failure::new(Exit::Usage, problem));
    }
    Inspector::go_together(to).map_err(|error| Failure::new(Exit::Usage, error))?;
    let format = match format {
        What::Table(format) => format,
        What::Snippet(snippet) => {
            return write(out.as_deref(), &snippet.render(&input.config()?, to));
        }
    };
    let Loaded { policy, snapshot, compiled, .. } = input.load(state_dir)?;
    let export = Export::new(&snapshot, &policy, &compiled);
    let text = export.render(*format, proxy.as_ref())?;
    write(out.as_deref(), &text)?;
    warn_about(*format, &export);
    if policy.sources.are_listed() {
        warn(format_args!(
            "the policy's sources are not in an export: whoever uses it has to ask for them first"
        ));
    }
    Ok(())
}

fn write(out: Option<&Path>, text: &str) -> Result<(), Failure> {
    match out {
        Some(path) => replace(path, text).map_err(|error| {
            let problem = format!("{}: cannot be written: {error}", path.display());
            Failure::new(Exit::Internal, problem)
        }),
        None => output::text(text.trim_end_matches('\n')),
    }
}

/// What an export of this format leaves out, or cannot leave out.
fn warn_about(format: Format, export: &Export) {
    if matches!(format, Format::Pac | Format::Squid | Format::Json) {
        for host in export.left_out() {
            warn(format_args!(
                "{host:?} is left out: it is no host name with at most one * in front of its \
                 last two labels"
            ));
        }
    }
    if matches!(format, Format::Cidr | Format::Bird) && export.closed() > 0 {
        warn(format_args!(
            "{} prefixes are left out: some of their ports are excluded, and this format cannot \
             tell ports apart",
            export.closed()
        ));
    }
    if format == Format::Pac && export.excludes_addresses() {
        warn(format_args!(
            "the policy's excludes are prefixes and a PAC file decides by name: its hosts go \
             direct wherever they lead; leave their sets out with exclude-sets"
        ));
    }
}

fn warn(what: fmt::Arguments) {
    // With standard error closed, the export is what it is.
    let _ = writeln!(io::stderr(), "breakout365: {what}");
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        let exit = match error {
            ExportError::NoProxy => Exit::Usage,
            ExportError::SignInHost(_) => Exit::Feed,
            ExportError::TooManyElements { .. } => Exit::Policy,
            ExportError::Json(_) => Exit::Internal,
        };
        Self::new(exit, error)
    }
}

/// Writes a file so that a reader finds the old one or the new one, and never a part.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A device or a pipe is written to: to replace one would take it from others.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes());
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let mut file = File::create(&fresh)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        fs::remove_file(&fresh).ok();
    }
    written
}
