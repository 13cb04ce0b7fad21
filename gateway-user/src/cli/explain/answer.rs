//! What `explain` answers: what the oracle says, in words a person reads.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use gateway_common::{Decision, Reason, Verdict};
use ipnet::IpNet;
use serde::Serialize;

use super::super::input::Loaded;
use super::near::{Asked, NearMiss};
use super::question::{Question, Service};
use crate::config::Mode;
use crate::exit::{Exit, Failure};
use crate::feed::{Category, EndpointSet, FeedIdentity, SetId};
use crate::policy::{Names, feed_ids, transport_name};

/// What is known of packets to one destination.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// Where they come from; where the question did not say, a listed source, if there is one.
    source: Option<IpAddr>,
    /// The interface they come in by.
    ingress: Option<String>,
    destination: IpAddr,
    protocol: String,
    port: Option<u16>,
    verdict: &'static str,
    reason: &'static str,
    /// The longest selected prefix.
    prefix: Option<IpNet>,
    /// The selected sets whose rule matched; none when inspected.
    sets: BTreeSet<SetId>,
    /// The ids of both, own includes among them.
    #[serde(skip)]
    matched: BTreeSet<SetId>,
    /// The own includes whose rule matched, by name; none when inspected.
    own: BTreeSet<String>,
    /// The excludes that took it out, by name.
    excluded_by: BTreeSet<String>,
    /// The rules that matched, or the parts of excludes that took them out.
    decided_by: Vec<Clause>,
    /// The support window that lets it go direct.
    window: Option<u32>,
    /// The other selected sets with a rule for this address.
    covering_sets: BTreeSet<SetId>,
    /// Sets that list exactly this, but are not selected, or not for this port.
    unselected_sets: BTreeSet<SetId>,
    /// Why what has this address did not send it direct.
    near_misses: Vec<NearMiss>,
    /// All these sets.
    endpoint_sets: Vec<SetReport>,
    sources: SourcesReport,
    feed: FeedIdentity,
    /// What the loaded program says; `None` where nothing is loaded or it may not be asked.
    pub(super) loaded: Option<ProgramAnswer>,
}

/// A line of a set, an include or an exclude.
#[derive(Debug, Serialize)]
struct Clause {
    /// `set 1`, `include "name"` or `exclude "name"`.
    entry: String,
    prefix: IpNet,
    protocol: &'static str,
    from: u16,
    to: u16,
    /// The operator's words about it.
    comment: String,
}

/// Whose traffic goes direct; everybody's, where both are empty.
#[derive(Debug, Serialize)]
struct SourcesReport {
    prefixes: BTreeSet<IpNet>,
    interfaces: BTreeSet<String>,
    /// Whether nothing was said of where the packets come from, so that a listed source was taken.
    assumed: bool,
}

/// What the loaded program says.
#[derive(Debug, Serialize)]
pub(super) struct ProgramAnswer {
    pub(super) generation: u64,
    /// The version of its feed.
    pub(super) feed: Option<String>,
    /// `mark`, or `shadow`: what it calls direct is not marked.
    pub(super) mode: Mode,
    pub(super) verdict: &'static str,
    pub(super) reason: &'static str,
    pub(super) sets: BTreeSet<SetId>,
    /// The ids of both: names can change while the table stays the same.
    #[serde(skip)]
    pub(super) matched: BTreeSet<SetId>,
    /// Own includes, by the names they had when it was loaded.
    pub(super) own: BTreeSet<String>,
    /// Whether it has the oracle's table. If not, it was loaded from another configuration or
    /// feed, and may well say something else.
    pub(super) same_table: bool,
    /// The reason why everything is inspected at this moment, whatever the table says.
    pub(super) inspecting: Option<&'static str>,
    /// That reason before and after the program was asked.
    #[serde(skip)]
    pub(super) refusals: BTreeSet<Option<Reason>>,
}

#[derive(Debug, Serialize)]
struct SetReport {
    id: SetId,
    service_area: String,
    category: Category,
    required: bool,
    /// Microsoft's remarks.
    notes: String,
}

/// What the oracle says: the classifier itself, over the table in memory.
pub(super) fn ask_oracle(loaded: &Loaded, said: &Question, question: &Question) -> Answer {
    let Loaded { policy, snapshot, compiled, .. } = loaded;
    let table = &compiled.table;
    let ingress = question.ingress.as_deref();
    let decision = match question.probe(0) {
        Some(probe) => table.decide_frame(&probe.frame(), ingress),
        None => Decision::inspect(reason_for(&question.service)),
    };
    let names = Names::of(policy);
    let matched = decision
        .group()
        .and_then(|group| table.all_groups().get(usize::from(group)).cloned())
        .unwrap_or_default();
    let window = decision
        .group()
        .and_then(|group| table.support_identity().window_of(group.into()).map(|open| open.id));
    let (destination, sets) = (question.destination, feed_ids(&matched));
    let (protocol, port) = question.service.words();
    let mut answer = Answer {
        source: question.source,
        ingress: question.ingress.clone(),
        destination,
        protocol,
        port,
        verdict: match decision.verdict() {
            Verdict::Direct => "direct",
            Verdict::Inspect => "inspect",
        },
        reason: decision.reason().name(),
        prefix: table.longest(destination).map(|(prefix, _)| prefix),
        own: names.own(&matched),
        excluded_by: BTreeSet::new(),
        decided_by: Vec::new(),
        window,
        covering_sets: &feed_ids(&compiled.sets_covering_address(destination)) - &sets,
        sets,
        matched,
        unselected_sets: BTreeSet::new(),
        near_misses: Vec::new(),
        endpoint_sets: Vec::new(),
        sources: SourcesReport {
            prefixes: policy.sources.prefixes.clone(),
            interfaces: policy.sources.interfaces.clone(),
            assumed: said != question,
        },
        feed: snapshot.identity(),
        loaded: None,
    };
    if let Service::Port(transport, port) = question.service {
        let reason = decision.reason();
        answer.say_why(loaded, &names, &Asked { destination, transport, port, reason });
    }
    answer.endpoint_sets =
        snapshot.sets.values().filter(|set| answer.mentions(set.id)).map(SetReport::of).collect();
    answer
}

/// Why the classifier inspects a protocol without rules.
fn reason_for(service: &Service) -> Reason {
    match service {
        Service::Other(protocol, _) if matches!(protocol.as_str(), "esp" | "50" | "ah" | "51") => {
            Reason::Ipsec
        }
        Service::Other(..) | Service::Port(..) => Reason::ProtocolOther,
    }
}

impl Answer {
    fn say_why(&mut self, loaded: &Loaded, names: &Names, asked: &Asked) {
        let Loaded { policy, snapshot, compiled, .. } = loaded;
        self.unselected_sets = snapshot
            .sets
            .values()
            .filter(|set| asked.is_listed_by(set))
            .filter(|set| {
                let (transport, port) = (asked.transport, asked.port);
                policy.why_not(set, asked.destination, transport, port).is_some()
            })
            .map(|set| set.id)
            .collect();
        if self.window.is_some() {
            return;
        }
        if asked.reason == Reason::Matched {
            for rule in compiled.rules.iter().filter(|rule| asked.fits(rule)) {
                let include = names.include(rule.set);
                let comment =
                    policy.includes.iter().find(|own| Some(&own.name) == include.as_ref());
                self.decided_by.push(Clause {
                    entry: match &include {
                        Some(name) => format!("include {name:?}"),
                        None => format!("set {}", rule.set),
                    },
                    prefix: rule.prefix,
                    protocol: transport_name(rule.transport),
                    from: rule.first,
                    to: rule.last,
                    comment: comment.map(|own| own.comment.clone()).unwrap_or_default(),
                });
            }
            self.near_misses = asked.near_misses(loaded);
            return;
        }
        self.near_misses = asked.near_misses(loaded);
        if asked.reason != Reason::Excluded {
            return;
        }
        for exclusion in &compiled.exclusions {
            if !exclusion.prefix.contains(&asked.destination)
                || exclusion.transport != asked.transport
                || !(exclusion.first..=exclusion.last).contains(&asked.port)
            {
                continue;
            }
            let exclude = policy.excludes.get(usize::from(exclusion.exclude));
            let name = names.exclude(exclusion.exclude);
            self.decided_by.push(Clause {
                entry: format!("exclude {name:?}"),
                prefix: exclusion.prefix,
                protocol: transport_name(exclusion.transport),
                from: exclusion.first,
                to: exclusion.last,
                comment: exclude.map(|exclude| exclude.comment.clone()).unwrap_or_default(),
            });
            self.excluded_by.insert(name);
        }
    }

    fn mentions(&self, id: SetId) -> bool {
        [&self.sets, &self.covering_sets, &self.unselected_sets].iter().any(|ids| ids.contains(&id))
            || self.near_misses.iter().any(|miss| miss.set == Some(id))
    }

    /// With the same table, program and oracle must say the same.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let Some(loaded) = self.loaded.as_ref().filter(|loaded| loaded.same_table) else {
            return Ok(());
        };
        let agrees = loaded.refusals.iter().any(|refusal| match refusal {
            Some(refusal) if self.reason == Reason::Matched.name() => {
                loaded.reason == refusal.name() && loaded.matched.is_empty()
            }
            Some(_) | None => (loaded.reason, &loaded.matched) == (self.reason, &self.matched),
        });
        if agrees {
            return Ok(());
        }
        let (program, oracle) = (loaded.reason, self.reason);
        Err(Failure::new(
            Exit::Disagreement,
            format_args!(
                "generation {} says {program} {:?} {:?}, the oracle {oracle} {:?} {:?}: inspect \
                 everything with `breakout365 down` and report this",
                loaded.generation, loaded.sets, loaded.own, self.sets, self.own
            ),
        ))
    }
}

impl SetReport {
    fn of(set: &EndpointSet) -> Self {
        Self {
            id: set.id,
            service_area: set.service_area.clone(),
            category: set.category,
            required: set.required,
            notes: set.notes.clone(),
        }
    }
}

impl fmt::Display for SetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let required = if self.required { "required" } else { "not required" };
        let Self { id, service_area, category, notes, .. } = self;
        write!(f, "set {id}, {service_area}, {category}, {required}")?;
        if notes.is_empty() { Ok(()) } else { write!(f, " ({notes})") }
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entry, prefix, protocol, from, to, comment } = self;
        write!(f, "{entry}, {prefix} {protocol}/{from}")?;
        if from != to {
            write!(f, "-{to}")?;
        }
        if comment.is_empty() { Ok(()) } else { write!(f, " ({comment})") }
    }
}

impl fmt::Display for SourcesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes = self.prefixes.iter().map(ToString::to_string);
        let interfaces = self.interfaces.iter().map(|name| format!("in by {name}"));
        f.write_str(&prefixes.chain(interfaces).collect::<Vec<_>>().join(", "))?;
        if self.assumed { f.write_str("; a listed source was taken") } else { Ok(()) }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = self.source {
            write!(f, "{source} to ")?;
        }
        write!(f, "{} {}", self.destination, self.protocol)?;
        if let Some(port) = self.port {
            write!(f, "/{port}")?;
        }
        if let Some(ingress) = &self.ingress {
            write!(f, " in by {ingress}")?;
        }
        writeln!(f, ": {} ({})", self.verdict, self.reason)?;
        match self.loaded.as_ref().and_then(|loaded| loaded.inspecting) {
            None => {}
            Some(reason) if reason == Reason::SwitchedOff.name() => {
                f.write_str("  OFF: everything is inspected until `breakout365 on`\n")?;
            }
            Some(_) => f.write_str(
                "  GONE: no daemon has given a sign of life within its deadline: everything is inspected \
                 until one does\n",
            )?,
        }
        match self.prefix {
            Some(prefix) => writeln!(f, "  prefix: {prefix}")?,
            None => writeln!(f, "  prefix: none selected")?,
        }
        for set in self.endpoint_sets.iter().filter(|set| self.sets.contains(&set.id)) {
            writeln!(f, "  matched: {set}")?;
        }
        for name in &self.own {
            writeln!(f, "  matched: include {name:?}")?;
        }
        if let Some(window) = self.window {
            writeln!(f, "  decided by: support window {window}")?;
        }
        for clause in &self.decided_by {
            writeln!(f, "  decided by: {clause}")?;
        }
        for NearMiss { set, own, text, .. } in &self.near_misses {
            let set = set.and_then(|id| self.endpoint_sets.iter().find(|set| set.id == id));
            match (set, own) {
                (Some(set), _) => writeln!(f, "  not by: {set}: {text}")?,
                (None, Some(name)) => writeln!(f, "  not by: include {name:?}: {text}")?,
                (None, None) => {}
            }
        }
        if !(self.sources.prefixes.is_empty() && self.sources.interfaces.is_empty()) {
            writeln!(f, "  sources: {}", self.sources)?;
        }
        write!(f, "  feed: {}", self.feed)?;
        match &self.loaded {
            None => write!(f, "\n  loaded: nothing that could be asked"),
            Some(loaded) => {
                let ProgramAnswer { generation, verdict, reason, same_table, .. } = loaded;
                write!(f, "\n  loaded: generation {generation} says {verdict} ({reason})")?;
                if loaded.mode == Mode::Shadow {
                    f.write_str("; it is in shadow and marks nothing")?;
                }
                if *same_table {
                    return Ok(());
                }
                let feed = loaded.feed.as_deref().unwrap_or("without version");
                write!(f, "; it was loaded from another configuration or feed ({feed})")
            }
        }
    }
}
