//! `cargo xtask lab`: the real daemon in a network of namespaces, and which way a client's packets
//! go there.

mod probes;
mod product;
mod report;
mod scenarios;
mod topology;

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;
use xtask::testbed::{
    BpfFs, EchoServers, Interrupt, Namespace, Owner, Process, Protocol, Scratch, ask, is_kept,
    remove_kept,
};

use crate::setup;

use probes::Probe;
use product::{Hook, Product};
pub(crate) use product::{build, build_with};
use report::{Report, Row, Seen};
use topology::{Topology, Way};

/// Options of `cargo xtask lab`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the lab up, and say how to look around
    #[arg(long, conflicts_with = "remove")]
    keep: bool,

    /// Remove what --keep left
    #[arg(long)]
    remove: bool,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    /// How the gateway's inside interface is attached
    #[arg(long, value_enum, default_value_t = Hook::Xdp)]
    hook: Hook,

    /// Show a real inspection system beside the product instead
    #[arg(long, value_enum, value_name = "NAME")]
    scenario: Option<scenarios::Choice>,

    /// Be the hosts of a scenario: this hop, with certificates from here
    #[arg(long, hide = true, num_args = 2, value_names = ["HOP", "DIRECTORY"])]
    origin: Option<Vec<String>>,

    /// Be the far side: serve these ports in this namespace
    #[arg(long, hide = true, num_args = 2, value_names = ["TCP", "UDP"])]
    serve: Option<Vec<String>>,
}

/// Runs the lab.
///
/// # Errors
///
/// It cannot be set up, it was interrupted, or a packet went another way than it was to go.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(ports) = &args.serve {
        return serve(ports);
    }
    if let Some([hop, directory]) = args.origin.as_deref() {
        return xtask::scenario::serve(hop, Path::new(directory));
    }
    if !geteuid().is_root() {
        bail!("the lab makes network namespaces and loads BPF programs: run it as root");
    }
    if args.remove {
        println!("{}", if is_kept()? { "removing the lab" } else { "there is no lab to remove" });
        return remove_kept();
    }
    if args.keep && is_kept()? {
        bail!("there is a lab already; remove it first: cargo xtask lab --remove");
    }
    setup::run(&setup::Options::default())?;
    step("building breakout365");
    let binary = product::build()?;
    // Before anything exists that would have to be removed.
    let interrupt = Interrupt::watch()?;
    if let Some(choice) = args.scenario {
        return scenarios::run(choice, args, binary, interrupt);
    }
    let owner = if args.keep { Owner::Person } else { Owner::Process };
    let lab = Lab::set_up(binary, args.hook, owner, &interrupt)?;
    let report = lab.ask_all(args.hook, &interrupt)?;
    if args.json {
        report.print_json()?;
    } else {
        report.print();
    }
    if args.keep {
        lab.keep();
    }
    let differing = report.differing();
    if differing > 0 {
        bail!("{differing} of the lab's expectations did not hold");
    }
    Ok(())
}

/// Everything that is up. Fields are dropped in this order: what runs first, files last.
struct Lab {
    daemon: Process,
    servers: Process,
    topology: Topology,
    product: Product,
    bpffs: BpfFs,
    files: Scratch,
    probes: Vec<Probe>,
    snapshot: Option<String>,
}

impl Lab {
    fn set_up(binary: PathBuf, hook: Hook, owner: Owner, interrupt: &Interrupt) -> Result<Self> {
        let files = Scratch::owned(owner)?;
        let bpffs = BpfFs::owned(owner)?;
        let product = Product::new(binary, hook, &files.path(), bpffs.pins())?;
        let (policy, feed) = (product.policy()?, product.feed()?);
        let probes = probes::all(&policy, &feed)?;
        interrupt.check()?;
        step("making namespaces: client, gateway, inspector, direct, far");
        let selected = policy.prefixes.iter().map(|prefix| prefix.prefix);
        let addresses = selected.chain(probes::destinations(&probes)).collect();
        let topology = Topology::build(owner, &addresses)?;
        let servers = start_servers(&topology.far, &probes, &files.path())?;
        interrupt.check()?;
        step("starting the daemon");
        let daemon = product.start(&topology.gateway, interrupt)?;
        let snapshot = feed.version;
        Ok(Self { daemon, servers, topology, product, bpffs, files, probes, snapshot })
    }

    /// Asks every probe from the client, and looks at what was counted.
    fn ask_all(&self, hook: Hook, interrupt: &Interrupt) -> Result<Report> {
        step(&format!("asking {} destinations", self.probes.len()));
        let answers = self.topology.client.enter(|| answers(&self.probes, interrupt))?;
        interrupt.check()?;
        let rows = self.probes.iter().zip(answers).map(|(probe, seen)| Row::new(probe, seen));
        let mut report = Report::new(hook, self.snapshot.clone(), rows.collect());
        let status = self.product.status(&self.topology.gateway)?;
        let datagrams = self.probes.iter().filter(|probe| probe.is_fragmented()).count();
        let datagrams = u64::try_from(datagrams)?;
        let later = datagrams * probes::LATER_FRAGMENTS;
        let by = |way| self.topology.fragments(way);
        report.check_exactly("fragments seen by the direct hop", 0, by(Way::Direct)?);
        report.check_exactly(
            "fragments seen by the inspector",
            datagrams + later,
            by(Way::Inspected)?,
        );
        report.check_exactly("first fragments counted", datagrams, status.reason("first_fragment"));
        report.check_exactly("later fragments counted", later, status.reason("later_fragment"));
        report.check_sets(status, &self.probes);
        Ok(report)
    }

    /// Leaves it up and says how to look around.
    fn keep(self) {
        let Self { daemon, servers, topology, product, bpffs, files, .. } = self;
        let binary = product.binary.display();
        let directories = product
            .directories()
            .map(|(flag, directory)| format!("{flag} {}", directory.display()))
            .join(" ");
        step("the lab stays up. To look around:");
        for namespace in topology.all() {
            eprintln!(
                "    {:<10} nsenter --net={} bash",
                namespace.role(),
                namespace.path().display()
            );
        }
        let gateway = topology.gateway.path();
        eprintln!(
            "    status     nsenter --net={} {binary} {directories} status",
            gateway.display()
        );
        eprintln!("    config     {}", product.config.display());
        eprintln!("    log        {}", product.log.display());
        let client = topology.client.path();
        eprintln!(
            "    ask        nsenter --net={} bash -c 'cat < /dev/tcp/40.96.0.1/443'",
            client.display()
        );
        eprintln!("To remove it:  cargo xtask lab --remove");
        daemon.release();
        servers.release();
        topology.release();
        bpffs.release();
        files.release();
    }
}

/// The answer to each probe, asked from the namespace of the calling thread. Interrupted, the
/// rest is not asked.
fn answers(probes: &[Probe], interrupt: &Interrupt) -> Vec<Seen> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut answers = Vec::new();
        while let Some((index, probe)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            probes.get(index).map(|probe| (index, probe))
        } {
            if interrupt.happened() {
                break;
            }
            answers.push((index, answer(probe)));
        }
        answers
    };
    let mut answers = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(ScopedJoinHandle::join);
        joined
            .flat_map(|answers| answers.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, seen)| seen).collect()
}

fn answer(probe: &Probe) -> Seen {
    match ask(probe.destination, probe.protocol, probe.payload, PATIENCE) {
        Ok(peer) => {
            Topology::way(peer).map_or_else(|| Seen::Other(format!("from {peer}")), Seen::Way)
        }
        Err(error) => Seen::Other(format!("{error:#}")),
    }
}

/// Starts the far side's servers: a process of its own, so that they outlive this one if the lab
/// is kept.
fn start_servers(far: &Namespace, probes: &[Probe], files: &Path) -> Result<Process> {
    let ports = |protocol: Protocol| {
        let of = probes.iter().filter(|probe| probe.protocol == protocol);
        let ports: BTreeSet<_> = of.map(|probe| probe.destination.port().to_string()).collect();
        ports.into_iter().collect::<Vec<_>>().join(",")
    };
    let log = files.join("servers.log");
    let mut command = Command::new(env::current_exe().context("cannot find xtask")?);
    command.args(["lab", "--serve", &ports(Protocol::Tcp), &ports(Protocol::Udp)]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(File::create(&log)?);
    let mut servers = far.spawn(&mut command)?;
    let said = servers.child().stdout.take().context("the servers have no output")?;
    if BufReader::new(said).lines().next().is_none() {
        let log = fs::read_to_string(&log).unwrap_or_default();
        bail!("the far side's servers do not start: {}", log.trim());
    }
    Ok(servers)
}

/// The far side's process: says when it is ready, serves until it is ended.
fn serve(ports: &[String]) -> Result<()> {
    let [tcp, udp] = ports else { bail!("--serve takes TCP ports and UDP ports") };
    let parse = |list: &str| -> Result<BTreeSet<u16>> {
        let ports = list.split(',').filter(|port| !port.is_empty());
        ports.map(|port| port.parse().with_context(|| format!("{port:?} is no port"))).collect()
    };
    let servers = EchoServers::bind(&parse(tcp)?, &parse(udp)?)?;
    let mut stdout = io::stdout();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    let (_open, stop) = UnixStream::pair()?;
    servers.serve(&stop)
}

/// Says what happens next, where it does not mix with the result.
fn step(text: &str) {
    eprintln!("lab: {text}");
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions in flight at a time.
const WORKERS: usize = 4;
