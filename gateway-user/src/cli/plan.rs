//! `breakout365 plan`: the change that waits for a person.

use std::path::Path;

use super::control::Answer;
use super::plan_text;
use crate::daemon::PlanReport;
use crate::daemon::control::{Request, ask};
use crate::exit::{Exit, Failure};

/// Verbs of the plan.
#[derive(Debug, clap::Subcommand)]
pub enum PlanVerb {
    Show(Show),
    /// Publish the plan that guards hold, all the same
    Accept(Decide),
    /// Forget the plan that guards hold, and this version of the list with it
    Reject(Decide),
}

/// What would enter and leave: the plan that guards hold, else what a reload would change
#[derive(Debug, clap::Args)]
pub struct Show {
    #[command(flatten)]
    answer: Answer,
}

/// Decide about the plan that guards hold
#[derive(Debug, clap::Args)]
pub struct Decide {
    /// The plan's id, as `plan show` prints it
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    answer: Answer,
}

impl PlanVerb {
    pub(super) fn run(&self, run_dir: &Path) -> Result<(), Failure> {
        match self {
            Self::Show(show) => {
                let (_, report) = ask(run_dir, &Request::PlanShow)?;
                let report: PlanReport = serde_json::from_value(report).map_err(|error| {
                    Failure::new(
                        Exit::Daemon,
                        format!("the daemon's plan is not understood: {error}"),
                    )
                })?;
                show.answer.print(&report, || text(&report))
            }
            Self::Accept(accept) => {
                accept.answer.of(run_dir, &Request::PlanAccept { id: accept.id.clone() })
            }
            Self::Reject(reject) => {
                reject.answer.of(run_dir, &Request::PlanReject { id: reject.id.clone() })
            }
        }
    }
}

fn text(report: &PlanReport) -> String {
    let PlanReport { waiting, id, since, plan, refusals, touched, announced } = report;
    let head = if *waiting {
        let since = since.as_deref().unwrap_or_default();
        format!("plan {id} waits since {since}: `plan accept {id}` or `plan reject {id}`")
    } else if plan.is_empty() && plan.old_feed.as_ref() == Some(&plan.new_feed) {
        return "nothing waits, and a reload would change nothing that goes direct".to_owned();
    } else {
        "nothing waits; a reload would do this:".to_owned()
    };
    let announced = announced.iter().map(|change| format!("Microsoft says: {change}"));
    let lines = [head, plan_text::text(plan, refusals)].into_iter().chain(announced);
    lines.chain([plan_text::touched(touched)]).collect::<Vec<_>>().join("\n")
}
