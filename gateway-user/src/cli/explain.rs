//! `breakout365 explain`: where packets to one destination go, and why.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use gateway_common::{Decision, FlowKey, Reason, Transport, Verdict, decide};
use ipnet::IpNet;
use serde::Serialize;

use super::input::{Input, Loaded};
use super::output;
use crate::datapath::{self, DatapathError, Pins, Probe, require_privileges};
use crate::exit::{Exit, Failure};
use crate::feed::{Category, EndpointSet, FeedIdentity, SetId};
use crate::policy::{Table, transport_name};

/// Where packets to a destination go, and why
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// Destination address, IPv4 or IPv6
    #[arg(value_name = "DESTINATION")]
    destination: IpAddr,

    /// Protocol and destination port, such as tcp/443
    #[arg(value_name = "PROTOCOL/PORT")]
    service: Service,

    #[command(flatten)]
    input: Input,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &ExplainArgs, pins: &Pins) -> Result<(), Failure> {
    let loaded = arguments.input.load()?;
    let mut answer = ask_oracle(&loaded, arguments.destination, &arguments.service);
    if let Service::Port(transport, port) = arguments.service {
        let probe = Probe::new(arguments.destination, transport, port);
        answer.loaded = ask_program(pins, &probe, &loaded.compiled.table)?;
    }
    if arguments.json {
        output::json(&answer)?;
    } else {
        output::text(&answer.to_string())?;
    }
    answer.check()
}

/// What packets are asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// A protocol that has rules, and a port.
    Port(Transport, u16),
    /// Another protocol, and a number that means nothing to it.
    Other(String, Option<u16>),
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (protocol, port) = match text.split_once('/') {
            Some((protocol, port)) => {
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                let number = port.parse::<u16>().ok().filter(|_| digits);
                let number =
                    number.ok_or_else(|| format!("{port:?} is not a port from 0 to 65535"))?;
                (protocol.to_ascii_lowercase(), Some(number))
            }
            None => (text.to_ascii_lowercase(), None),
        };
        let transport = match protocol.as_str() {
            "tcp" | "6" => Transport::Tcp,
            "udp" | "17" => Transport::Udp,
            _ => return Self::other(protocol, port),
        };
        match port {
            Some(port) => Ok(Self::Port(transport, port)),
            None => Err("the port is missing, as in tcp/443".into()),
        }
    }
}

impl Service {
    fn other(protocol: String, port: Option<u16>) -> Result<Self, String> {
        let word = protocol.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let number = protocol.bytes().all(|byte| byte.is_ascii_digit());
        if protocol.is_empty() || !word || number && protocol.parse::<u8>().is_err() {
            return Err(format!("{protocol:?} is neither the name nor the number of a protocol"));
        }
        Ok(Self::Other(protocol, port))
    }
}

/// What is known of packets to one destination.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    destination: IpAddr,
    protocol: String,
    port: Option<u16>,
    verdict: &'static str,
    reason: &'static str,
    /// The longest selected prefix.
    prefix: Option<IpNet>,
    /// The selected sets whose rule matched; none when inspected.
    sets: BTreeSet<SetId>,
    /// The other selected sets with a rule for this address.
    covering_sets: BTreeSet<SetId>,
    /// Sets that list exactly this, but are not selected, or not for this port.
    unselected_sets: BTreeSet<SetId>,
    /// All these sets.
    endpoint_sets: Vec<SetReport>,
    feed: FeedIdentity,
    /// What the loaded program says; `None` where nothing is loaded or it may not be asked.
    loaded: Option<ProgramAnswer>,
}

/// What the loaded program says.
#[derive(Debug, Serialize)]
struct ProgramAnswer {
    generation: u64,
    verdict: &'static str,
    reason: &'static str,
    sets: BTreeSet<SetId>,
    /// Whether it has the oracle's table. If not, it was loaded from another configuration or
    /// feed, and may well say something else.
    same_table: bool,
}

#[derive(Debug, Serialize)]
struct SetReport {
    id: SetId,
    service_area: String,
    category: Category,
    required: bool,
}

/// What the oracle says: the classifier itself, over the table in memory.
pub(super) fn ask_oracle(loaded: &Loaded, destination: IpAddr, service: &Service) -> Answer {
    let Loaded { snapshot, compiled, .. } = loaded;
    let table = &compiled.table;
    let (decision, protocol, port) = match service {
        Service::Port(transport, port) => {
            let (transport, port) = (*transport, *port);
            let destination = destination.into();
            let key = FlowKey { destination, transport, destination_port: port };
            (decide(&key, table), transport_name(transport).to_owned(), Some(port))
        }
        Service::Other(protocol, port) => {
            (Decision::inspect(reason_for(protocol)), protocol.clone(), *port)
        }
    };
    let sets = decision
        .group()
        .and_then(|group| table.groups().get(usize::from(group)))
        .cloned()
        .unwrap_or_default();
    let selected = compiled.sets_covering_address(destination);
    let covering_sets: BTreeSet<SetId> = selected.difference(&sets).copied().collect();
    let unselected_sets = snapshot
        .sets
        .values()
        .filter(|set| !sets.contains(&set.id) && lists(set, destination, service))
        .map(|set| set.id)
        .collect();
    let mentioned = |id: &SetId| {
        [&sets, &covering_sets, &unselected_sets].iter().any(|listed| listed.contains(id))
    };
    let endpoint_sets =
        snapshot.sets.values().filter(|set| mentioned(&set.id)).map(SetReport::of).collect();
    Answer {
        destination,
        protocol,
        port,
        verdict: match decision.verdict() {
            Verdict::Direct => "direct",
            Verdict::Inspect => "inspect",
        },
        reason: decision.reason().name(),
        prefix: table.longest(destination).map(|(prefix, _)| prefix),
        sets,
        covering_sets,
        unselected_sets,
        endpoint_sets,
        feed: snapshot.identity(),
        loaded: None,
    }
}

/// What the loaded program says. Nothing loaded, or no right to ask, is no answer; anything else
/// that goes wrong is a failure.
fn ask_program(
    pins: &Pins,
    probe: &Probe,
    table: &Table,
) -> Result<Option<ProgramAnswer>, Failure> {
    if require_privileges().is_err() {
        return Ok(None);
    }
    let loaded = match datapath::Loaded::open(pins) {
        Err(DatapathError::NothingLoaded { .. }) => return Ok(None),
        other => other?,
    };
    let said = loaded.ask(probe)?;
    let manifest = loaded.manifest();
    Ok(Some(ProgramAnswer {
        generation: manifest.generation,
        verdict: if said.reason == Reason::Matched { "direct" } else { "inspect" },
        reason: said.reason.name(),
        sets: said.sets.into_iter().collect(),
        same_table: manifest.table == table.digest(),
    }))
}

/// Why the classifier inspects a protocol without rules.
fn reason_for(protocol: &str) -> Reason {
    match protocol {
        "esp" | "50" | "ah" | "51" => Reason::Ipsec,
        _ => Reason::ProtocolOther,
    }
}

fn lists(set: &EndpointSet, destination: IpAddr, service: &Service) -> bool {
    let port_is_listed = match service {
        Service::Port(Transport::Tcp, port) => set.tcp.contains(*port),
        Service::Port(Transport::Udp, port) => set.udp.contains(*port),
        Service::Other(..) => false,
    };
    port_is_listed && set.prefixes.iter().any(|prefix| prefix.contains(&destination))
}

impl Answer {
    /// With the same table, program and oracle must say the same.
    fn check(&self) -> Result<(), Failure> {
        let Some(loaded) = self.loaded.as_ref().filter(|loaded| loaded.same_table) else {
            return Ok(());
        };
        if (loaded.reason, &loaded.sets) == (self.reason, &self.sets) {
            return Ok(());
        }
        let (program, oracle) = (loaded.reason, self.reason);
        Err(Failure::new(
            Exit::Disagreement,
            format_args!(
                "generation {} says {program} {:?}, the oracle {oracle} {:?}: inspect everything \
                 with `breakout365 down` and report this",
                loaded.generation, loaded.sets, self.sets
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
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.destination, self.protocol)?;
        if let Some(port) = self.port {
            write!(f, "/{port}")?;
        }
        writeln!(f, ": {} ({})", self.verdict, self.reason)?;
        match self.prefix {
            Some(prefix) => writeln!(f, "  prefix: {prefix}")?,
            None => writeln!(f, "  prefix: none selected")?,
        }
        for (title, sets) in [
            ("matched", &self.sets),
            ("other ports or protocols", &self.covering_sets),
            ("listed but not selected", &self.unselected_sets),
        ] {
            for set in self.endpoint_sets.iter().filter(|set| sets.contains(&set.id)) {
                let required = if set.required { "required" } else { "not required" };
                let SetReport { id, service_area, category, .. } = set;
                writeln!(f, "  {title}: set {id}, {service_area}, {category}, {required}")?;
            }
        }
        write!(f, "  feed: {}", self.feed)?;
        match &self.loaded {
            None => write!(f, "\n  loaded: nothing that could be asked"),
            Some(loaded) => {
                let ProgramAnswer { generation, verdict, reason, same_table, .. } = loaded;
                write!(f, "\n  loaded: generation {generation} says {verdict} ({reason})")?;
                if *same_table {
                    return Ok(());
                }
                write!(f, "; it was loaded from another configuration or feed")
            }
        }
    }
}
