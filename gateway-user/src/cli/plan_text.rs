//! A plan as a person reads it.

use crate::plan::{Plan, Refusal};

/// The plan, and why it is refused where it is, without a line break at the end.
#[must_use]
pub fn text(plan: &Plan, refusals: &[Refusal]) -> String {
    let refusals = refusals.iter().map(ToString::to_string);
    std::iter::once(format!("plan {}", plan.id())).chain(refusals).collect::<Vec<_>>().join("\n")
}
