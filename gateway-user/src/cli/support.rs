//! `breakout365 support`: windows in which some clients go direct while a support case is open.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::control::{Answer, duration};
use super::output;
use crate::daemon::WindowReport;
use crate::daemon::control::{Request, ask};
use crate::exit::{Exit, Failure};
use crate::feed::{SetId, Store};
use crate::policy::WindowSets;
use crate::rfc3339::seconds;
use crate::window::{Amount, Clock, Ending, Register, Window, Wish};

/// Verbs of support windows.
#[derive(Debug, clap::Subcommand)]
pub enum SupportVerb {
    Start(Start),
    List(List),
    Stop(Stop),
    Report(Report),
}

/// Let Microsoft's sets go direct for some clients, for some time
///
/// The kernel ends it, daemon or no daemon, and nothing makes it longer. What the operator excludes
/// stays inspected, and `breakout365 off` stops this, too. [policy.sources] does not limit it.
#[derive(Debug, clap::Args)]
pub struct Start {
    /// Source addresses, such as 10.1.2.3 or 10.1.2.0/24; several times, or with commas
    #[arg(long = "client", value_name = "PREFIX", required = true, value_delimiter = ',',
          value_parser = client)]
    clients: Vec<IpNet>,

    /// How long, such as 2h; 24h at most
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    length: Duration,

    /// The sets that go direct: ids, or `all`, which has those that go direct only when they are
    /// named (sign-in, and ports for mail and name service) only beside their ids, as in `all,56`
    #[arg(long, value_name = "SETS", value_delimiter = ',', default_value = "all",
          value_parser = set)]
    sets: Vec<Option<SetId>>,

    /// Which case it is for
    #[arg(long, value_name = "TEXT")]
    note: String,

    #[command(flatten)]
    answer: Answer,
}

/// Every window that is open, and those that were
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    answer: Answer,
}

/// End a window before its time
#[derive(Debug, clap::Args)]
pub struct Stop {
    /// Its id, as `support list` prints it
    #[arg(value_name = "ID")]
    id: u32,

    #[command(flatten)]
    answer: Answer,
}

/// What a window let go direct, and when, for the case file
#[derive(Debug, clap::Args)]
pub struct Report {
    /// Its id, as `support list` prints it
    #[arg(value_name = "ID")]
    id: u32,

    #[command(flatten)]
    answer: Answer,
}

impl SupportVerb {
    pub(super) fn run(&self, run_dir: &Path, state_dir: &Path) -> Result<(), Failure> {
        match self {
            Self::Start(start) => start.run(run_dir),
            Self::List(list) => {
                let (reports, silence) = windows(run_dir, state_dir, &Request::SupportList)?;
                list.answer.print(&reports, || silence + &list_text(&reports))
            }
            Self::Stop(stop) => stop.answer.of(run_dir, &Request::SupportStop { id: stop.id }),
            Self::Report(report) => {
                let request = Request::SupportReport { id: report.id };
                let (reports, silence) = windows(run_dir, state_dir, &request)?;
                let [window] = &reports[..] else {
                    let problem = format_args!(
                        "there is no support window {}; `breakout365 support list` shows them",
                        report.id
                    );
                    return Err(Failure::new(Exit::Usage, problem));
                };
                report.answer.print(window, || silence + &report_text(window))
            }
        }
    }
}

impl Start {
    fn run(&self, run_dir: &Path) -> Result<(), Failure> {
        let named = self.sets.iter().flatten().copied().collect();
        let sets = WindowSets { all: self.sets.contains(&None), named };
        let clients: BTreeSet<IpNet> = self.clients.iter().copied().collect();
        let wish = Wish { clients, sets, length: self.length, note: self.note.trim().to_owned() };
        if let Some(refusal) = wish.refusal() {
            return Err(Failure::new(Exit::Usage, refusal));
        }
        let Wish { clients, sets, length, note } = wish;
        let length = length.as_secs();
        self.answer.of(run_dir, &Request::SupportStart { clients, sets, length, note })
    }
}

fn client(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().ok().map(IpNet::from);
    address
        .or_else(|| text.parse().ok())
        .ok_or_else(|| "neither an address nor a prefix".to_owned())
}

/// `None` is all of them.
fn set(text: &str) -> Result<Option<SetId>, String> {
    if text == "all" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| "neither the id of a set nor `all`".to_owned())
}

/// What the daemon says; where none answers, what was written down last, and a line that says so.
fn windows(
    run_dir: &Path,
    state_dir: &Path,
    request: &Request,
) -> Result<(Vec<WindowReport>, String), Failure> {
    let failure = match ask(run_dir, request) {
        Ok((_, report)) => {
            let reports = if report.is_array() {
                serde_json::from_value(report)
            } else {
                serde_json::from_value(report).map(|report| vec![report])
            };
            let reports = reports.map_err(|error| {
                Failure::new(Exit::Daemon, format!("the daemon is not understood: {error}"))
            })?;
            return Ok((reports, String::new()));
        }
        Err(failure) => failure,
    };
    if failure.exit != Exit::Daemon || !state_dir.is_dir() {
        return Err(failure);
    }
    let mut register = Register::read(&Store::peek(state_dir))?;
    let as_of = register.written();
    // The kernel ends windows without a daemon: what was written down as open may be over.
    let now = Clock.now().map_err(|problem| Failure::new(Exit::System, problem))?;
    register.come_back(&now);
    let one = if let Request::SupportReport { id } = request { Some(*id) } else { None };
    let wanted = |window: &&Window| one.is_none_or(|id| window.id == id);
    let reports = register.windows().iter().filter(wanted).map(|window| WindowReport {
        window: window.clone(),
        covers: BTreeSet::new(),
        as_of,
    });
    let when = as_of.map_or_else(|| "last".to_owned(), seconds);
    Ok((reports.collect(), format!("as it was written down {when}: {failure}\n")))
}

fn list_text(reports: &[WindowReport]) -> String {
    if reports.is_empty() {
        return "there has been no support window yet".to_owned();
    }
    let heads = ["id", "state", "clients", "sets", "began", "until", "bytes", "note"];
    let mut table = output::table(&heads);
    table.add_rows(reports.iter().map(|WindowReport { window, .. }| {
        [
            window.id.to_string(),
            state(window).to_owned(),
            clients(window),
            window.sets.to_string(),
            seconds(window.started),
            seconds(window.ended.map_or(window.until, |(at, _)| at)),
            window.tally().total().bytes.to_string(),
            window.note.clone(),
        ]
    }));
    table.to_string()
}

fn report_text(WindowReport { window, covers, .. }: &WindowReport) -> String {
    let mut lines = vec![
        format!("support window {}: {}", window.id, window.note),
        format!("  clients: {}", clients(window)),
        format!("  selected: {}", window.sets),
        format!("  began: {}", seconds(window.started)),
        match window.ended {
            Some((at, _)) => format!("  ended: {} ({})", seconds(at), state(window)),
            None => format!("  open until: {}", seconds(window.until)),
        },
    ];
    if !covers.is_empty() {
        let covers: Vec<_> = covers.iter().map(ToString::to_string).collect();
        lines.push(format!("  goes direct: sets {}", covers.join(", ")));
    }
    let tally = window.tally();
    let Amount { packets, bytes, flows } = tally.total();
    let at_least = if tally.is_complete() { "" } else { "at least " };
    lines.push(format!("  went direct: {at_least}{flows} flows, {packets} packets, {bytes} bytes"));
    let mut table = output::table(&["set", "flows", "packets", "bytes"]);
    for (set, Amount { packets, bytes, flows }) in tally.by_set() {
        table.add_row([set.to_string(), flows.to_string(), packets.to_string(), bytes.to_string()]);
    }
    if table.row_count() > 0 {
        lines.push(table.to_string());
    }
    lines.join("\n")
}

fn clients(window: &Window) -> String {
    window.clients.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn state(window: &Window) -> &'static str {
    match window.ended {
        None => "open",
        Some((_, Ending::Over)) => "over",
        Some((_, Ending::Stopped)) => "stopped",
        Some((_, Ending::Doubt)) => "ended: the clock was in doubt",
        Some((_, Ending::Unloadable)) => "ended: it could not be loaded",
    }
}
