//! Everything that is up in a scenario, and what is asked of it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::testbed::{BpfFs, Interrupt, Process, Scratch};

use super::chain::ChainFormat;
use super::network::{Counter, Network};
use super::origin::{Authority, Origin};
use super::product::Product;
use super::program::Program;
use super::report::Report;
use super::visit::{Trust, Visit};
use super::{Hook, Name, Script, Setting};

/// A scenario that is up. Fields are dropped in this order: what runs first, files last.
#[derive(Debug)]
pub struct Stage {
    programs: Vec<Program>,
    daemon: Option<Process>,
    origins: Vec<Origin>,
    pub(super) network: Network,
    pub(super) product: Product,
    bpffs: BpfFs,
    scratch: Scratch,
    pub(super) authority: Authority,
    trust: Trust,
    report: Option<Report>,
    shown: (Name, Hook),
    interrupt: Option<Interrupt>,
}

impl Stage {
    /// Makes the network, with every host served; the daemon does not run yet.
    pub(super) fn set_up(name: Name, script: &Script, setting: &Setting) -> Result<Self> {
        let Setting { binary, hook, owner, origins, interrupt } = setting;
        let scratch = Scratch::owned(*owner)?;
        let bpffs = BpfFs::owned(*owner)?;
        let files = scratch.path();
        let product =
            Product::new(binary, (files.clone(), bpffs.pins()), *hook, script.categories)?;
        let authority = Authority::found(&files)?;
        let trust = Trust::in_authorities(&[(HOST, &authority.file())])?;
        let network = Network::build(*owner, script.rest, &product.selected()?)?;
        let mut stage = Self {
            programs: Vec::new(),
            daemon: None,
            origins: Vec::new(),
            network,
            product,
            bpffs,
            scratch,
            authority,
            trust,
            report: Some(Report::new(name, *hook)),
            shown: (name, *hook),
            interrupt: interrupt.clone(),
        };
        for hop in [&stage.network.direct, &stage.network.inspected] {
            stage.origins.push(Origin::start(hop, &stage.authority, origins.as_deref())?);
        }
        stage.check()?;
        Ok(stage)
    }

    /// Where its files are.
    pub(super) fn files(&self) -> PathBuf {
        self.scratch.path()
    }

    /// Lets the client trust a proxy's authority too.
    pub(super) fn trust_too(&mut self, name: &'static str, authority: &Path) -> Result<()> {
        let own = self.authority.file();
        self.trust = Trust::in_authorities(&[(HOST, &own), (name, authority)])?;
        Ok(())
    }

    /// Keeps a program running until the end.
    pub(super) fn keep_running(&mut self, program: Program) -> Result<()> {
        self.programs.push(program);
        self.check()
    }

    /// Loads the chains that `export` writes for these inspectors into the gateway.
    pub(super) fn load_chains(&self, format: ChainFormat, to: &[&str]) -> Result<()> {
        let mut arguments = vec!["--format", format.name()];
        arguments.extend(to.iter().flat_map(|inspector| ["--to", inspector]));
        format.load(&self.network.gateway, &self.product.export(&arguments)?)
    }

    /// Starts the daemon.
    pub(super) fn start_daemon(&mut self) -> Result<()> {
        self.daemon = Some(self.product.start(&self.network.gateway)?);
        self.check()
    }

    /// Makes a visit, and expects it to learn this.
    pub(super) fn visit(&mut self, visit: &Visit, expected: &str) -> Result<()> {
        self.visit_that_shows(visit, visit.site.shows, expected)
    }

    /// The same, with other words about what it shows.
    pub(super) fn visit_that_shows(
        &mut self,
        visit: &Visit,
        shows: &str,
        expected: &str,
    ) -> Result<()> {
        self.check()?;
        let seen = self.network.client.enter(|| visit.seen(&self.trust))?;
        self.expectations().check(&visit.to_string(), shows, expected, seen);
        Ok(())
    }

    /// What is expected and seen.
    pub(super) fn expectations(&mut self) -> &mut Report {
        let (name, hook) = self.shown;
        self.report.get_or_insert_with(|| Report::new(name, hook))
    }

    /// Expects that exactly so many flows of clients took the direct uplink, and that nothing but
    /// selected traffic did.
    pub(super) fn check_direct_uplink(&mut self, flows: u64) -> Result<()> {
        let Network { direct, .. } = &self.network;
        let seen = Counter::SelectedFlows.of(direct)?;
        let packets = Counter::Selected.of(direct)?;
        let other = Counter::Other.of(direct)?;
        let report = self.expectations();
        report.count("flows on the direct uplink", "selected, all of them", flows, seen);
        report.at_least("packets on the direct uplink", "to selected prefixes", flows, packets);
        report.count("packets on the direct uplink", "to anything else", 0, other);
        let status = self.product.status(&self.network.gateway)?;
        let direct = status["sets"].as_array().into_iter().flatten();
        let direct = direct.filter_map(|set| set["packets"].as_u64()).sum();
        self.expectations().at_least("packets counted", "direct, by sets", packets, direct);
        Ok(())
    }

    /// Expects that exactly so many flows of clients to selected prefixes took the inspected way, and
    /// that other traffic did.
    pub(super) fn check_inspected_way(&mut self, flows: u64, shows: &str) -> Result<()> {
        let Network { inspected, .. } = &self.network;
        let seen = Counter::SelectedFlows.of(inspected)?;
        let other = Counter::Other.of(inspected)?;
        let report = self.expectations();
        report.count("flows on the inspected way to selected prefixes", shows, flows, seen);
        report.at_least("packets on the inspected way", "to anything else", 1, other);
        Ok(())
    }

    /// Takes what was expected and seen.
    pub(super) fn report(&mut self, seconds: u64) -> Report {
        let (name, hook) = self.shown;
        let mut report = self.report.take().unwrap_or_else(|| Report::new(name, hook));
        report.took(seconds);
        report
    }

    /// Leaves it up, and says how to look around.
    #[must_use]
    pub fn keep(self) -> Vec<String> {
        let enter = |namespace: &crate::testbed::Namespace| {
            format!("nsenter --net={}", namespace.path().display())
        };
        let mut lines: Vec<String> = self
            .network
            .all()
            .iter()
            .map(|namespace| format!("{:<10} {} bash", namespace.role(), enter(namespace)))
            .collect();
        let gateway = enter(&self.network.gateway);
        lines.push(format!("status     {gateway} {}", self.product.shown("status")));
        lines.push(format!("config     {}", self.product.config().display()));
        lines.push(format!("files      {}", self.files().display()));
        let Self { programs, daemon, origins, network, bpffs, scratch, .. } = self;
        programs.into_iter().for_each(Program::release);
        daemon.into_iter().for_each(Process::release);
        origins.into_iter().for_each(Origin::release);
        network.release();
        bpffs.release();
        scratch.release();
        lines
    }

    fn check(&self) -> Result<()> {
        self.interrupt.as_ref().map_or(Ok(()), Interrupt::check)
    }
}

/// Whose certificates are those that no inspector has made.
pub(super) const HOST: &str = "the host";
