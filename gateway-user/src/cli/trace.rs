//! `trace`: decisions on packets that are drawn by chance, as they are made.

mod filter;

use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use gateway_common::Reason;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::datapath::{Manifest, Pins, Traced, Tracer, require_privileges};
use crate::exit::{Exit, Failure};
use crate::policy::SetId;

use self::filter::Filter;

/// Between two looks: the ring buffer holds what is drawn in this time at 60,000 packets a second.
const PAUSE: Duration = Duration::from_millis(25);

/// Show packets and what is decided of them, as it happens, until Ctrl-C
///
/// One packet in N is drawn, by chance, where it is decided: by XDP, or by tc where that stands
/// alone. The options below show fewer of those that were drawn; all that are given have to hold.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Draw one packet in N
    #[arg(long, value_name = "N", default_value = "1000")]
    sample: NonZeroU32,

    /// End after so many packets were shown
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    #[command(flatten)]
    filter: Filter,

    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

/// A packet, as `trace --json` prints it.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// RFC 3339, UTC.
    time: String,
    interface: Option<&'a str>,
    ifindex: u32,
    hook: &'static str,
    source: Option<std::net::IpAddr>,
    source_port: Option<u16>,
    destination: Option<std::net::IpAddr>,
    destination_port: Option<u16>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, or a number.
    protocol: Option<String>,
    length: u32,
    verdict: &'static str,
    reason: &'static str,
    /// Endpoint sets whose rule matched.
    sets: Vec<SetId>,
    /// Own includes whose entry matched.
    own: Vec<&'a str>,
    generation: u64,
}

/// How many were drawn and lost since the start, as `trace --json` prints it when it grows.
#[derive(Debug, Serialize)]
struct Lost {
    lost: u64,
}

/// Runs the verb.
///
/// # Errors
///
/// Nothing is loaded, another `trace` runs, or a privilege is missing.
pub(super) fn run(args: &TraceArgs, pins: &Pins) -> Result<(), Failure> {
    require_privileges()?;
    super::runtime()?.block_on(show(args, pins))
}

async fn show(args: &TraceArgs, pins: &Pins) -> Result<(), Failure> {
    let listen = |kind| {
        signal(kind)
            .map_err(|error| Failure::new(Exit::Internal, format!("signal handler: {error}")))
    };
    let (mut interrupt, mut terminate) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut tracer = Tracer::start(pins, args.sample)?;
    say(&format!("one packet in {} is drawn; Ctrl-C ends it", args.sample));
    let mut tick = interval(PAUSE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut shown, mut lost) = (0_u64, 0_u64);
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = tick.tick() => {}
        }
        let mut out = io::BufWriter::new(io::stdout().lock());
        let outcome = tracer.read(&mut |manifest, traced| {
            if is_enough(args, shown) || !args.filter.admits(&traced, manifest) {
                return Ok(());
            }
            shown = shown.saturating_add(1);
            let line = line(&traced, manifest);
            if args.json {
                serde_json::to_writer(&mut out, &line)?;
                writeln!(out)
            } else {
                writeln!(out, "{}", text(&line))
            }
        })?;
        let now_lost = tracer.lost()?;
        let told = outcome.and_then(|()| {
            if now_lost > lost && args.json {
                serde_json::to_writer(&mut out, &Lost { lost: now_lost })?;
                writeln!(out)?;
            }
            out.flush()
        });
        match told {
            Ok(()) => {}
            // Whoever read has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => {
                return Err(Failure::new(Exit::Internal, format!("standard output: {error}")));
            }
        }
        if now_lost > lost && !args.json {
            say(&format!("{now_lost} lost so far: draw fewer (--sample)"));
        }
        lost = now_lost;
        if is_enough(args, shown) {
            break;
        }
    }
    say(&format!("{shown} shown, {lost} lost"));
    Ok(())
}

fn is_enough(args: &TraceArgs, shown: u64) -> bool {
    args.count.is_some_and(|count| shown >= count)
}

/// Beside the packets, so that these can be piped. With standard error closed nobody listens.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "trace: {text}");
}

fn line<'a>(traced: &'a Traced, manifest: &'a Manifest) -> Line<'a> {
    let is_own = |set: &SetId| manifest.own.iter().find(|own| own.id == *set);
    let (packet, sets) = (&traced.packet, &traced.answer.sets);
    Line {
        time: traced.time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        interface: traced.interface.as_deref(),
        ifindex: traced.ifindex,
        hook: traced.hook.name(),
        source: packet.source,
        source_port: packet.source_port,
        destination: packet.destination,
        destination_port: packet.destination_port,
        protocol: packet.protocol_name(),
        length: traced.length,
        verdict: if traced.answer.reason == Reason::Matched { "direct" } else { "inspect" },
        reason: traced.answer.reason.name(),
        sets: sets.iter().filter(|set| is_own(set).is_none()).copied().collect(),
        own: sets.iter().filter_map(is_own).map(|own| own.name.as_str()).collect(),
        generation: traced.generation,
    }
}

/// `TIME INTERFACE HOOK SOURCE > DESTINATION PROTOCOL LENGTH: VERDICT (REASON), SETS`.
fn text(line: &Line<'_>) -> String {
    let end = |address: Option<std::net::IpAddr>, port: Option<u16>| match (address, port) {
        (None, _) => "-".to_owned(),
        (Some(address), None) => address.to_string(),
        (Some(address), Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
    };
    let interface = line.interface.map_or_else(|| format!("#{}", line.ifindex), str::to_owned);
    let sets = line.sets.iter().map(|set| format!("set {set}"));
    let own = line.own.iter().map(|name| format!("include {name}"));
    let why: Vec<String> = sets.chain(own).collect();
    let why = if why.is_empty() { String::new() } else { format!(", {}", why.join(", ")) };
    format!(
        "{} {interface} {} {} > {} {} {}: {} ({}){why}",
        line.time,
        line.hook,
        end(line.source, line.source_port),
        end(line.destination, line.destination_port),
        line.protocol.as_deref().unwrap_or("-"),
        line.length,
        line.verdict,
        line.reason,
    )
}
