//! The doctor: looks at everything between a packet and its way out, and says what is in the way.
//!
//! [`gather()`] collects [`Facts`], and every check is a pure function of them, one file for each family
//! of checks. What could not be looked at is said to be so, never that it is well.

mod facts;
mod finding;
mod flows;
mod gather;
mod habits;
mod hooks;
mod links;
mod names;
mod routing;
mod running;
mod system;

pub use facts::{
    Advertisements, BpfFacts, DnsAnswer, Facts, Flowtable, Forwarding, Habits, InterfaceFacts,
    Link, LinkLayer, Metadata, Program, Role, Seen,
};
pub use finding::{Check, Finding, Report, Severity};
pub use gather::{Ask, gather};

/// Everything that the checks say of `facts`, in the order of [`Check::ALL`].
#[must_use]
pub fn examine(facts: &Facts) -> Report {
    let families = [
        system::check(facts),
        running::check(facts),
        links::check(facts),
        hooks::check(facts),
        routing::check(facts),
        habits::check(facts),
        flows::check(facts),
        names::check(facts),
    ];
    let mut findings: Vec<Finding> = families.into_iter().flatten().collect();
    findings.sort_by_key(|finding| finding.check);
    Report { findings }
}
