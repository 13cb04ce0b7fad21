//! Scenarios: the product beside real inspection systems, each as it is at a customer's, in
//! namespaces.
//!
//! Each one shows that unmarked traffic is inspected, that selected Microsoft 365 traffic is not, and
//! that nothing else takes the direct uplink. The lab prints what they saw; the tests ask that it is
//! what was expected.

mod chain;
mod cloud_swg;
mod dlp;
mod explicit_proxy;
mod http;
mod ips;
mod network;
mod origin;
mod product;
mod program;
mod proxy;
mod report;
mod site;
mod squid;
mod stage;
mod suricata;
mod tls_proxy;
mod visit;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::testbed::{Interrupt, Owner};

pub use chain::ChainFormat;
pub use origin::serve;
pub use product::Hook;
pub use report::Report;
pub use squid::TransparentSquid;
pub use stage::Stage;
pub use suricata::InlineSuricata;

/// Which inspection system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// Decrypting proxy, CASB, secure web gateway on premises: mitmproxy, transparent
    TlsProxy,
    /// Proxy, WAN accelerator: Squid with TPROXY
    Proxy,
    /// Clients with a proxy set: Squid, and our PAC file
    ExplicitProxy,
    /// Inline inspection, filtering: Suricata on NFQUEUE
    Ips,
    /// Data leakage prevention: Squid with c-icap
    Dlp,
    /// Cloud inspection through a tunnel: VXLAN as the default route
    CloudSwg,
}

/// How scenarios are set up.
#[derive(Debug)]
pub struct Setting {
    /// The `breakout365` binary.
    pub binary: PathBuf,
    /// How the gateway's inside interface is attached.
    pub hook: Hook,
    /// Who removes what is set up.
    pub owner: Owner,
    /// An `xtask` that plays the hosts, where they are to outlive this process.
    pub origins: Option<PathBuf>,
    /// Whether somebody wants this process to end.
    pub interrupt: Option<Interrupt>,
}

/// How a scenario came out.
#[derive(Debug)]
pub enum Outcome {
    /// It ran; what it saw may differ from what was expected. It is up until the stage is dropped.
    Ran(Report, Box<Stage>),
    /// It did not run: this is not installed.
    Skipped(String),
}

/// A scenario in parts.
struct Script {
    /// Programs or files, and Debian's packages of them.
    needs: &'static [(&'static str, &'static str)],
    rest: network::Rest,
    categories: &'static [&'static str],
    run: fn(&mut Stage) -> Result<()>,
}

impl Name {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::TlsProxy, Self::Proxy, Self::ExplicitProxy, Self::Ips, Self::Dlp, Self::CloudSwg];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TlsProxy => "tls-proxy",
            Self::Proxy => "proxy",
            Self::ExplicitProxy => "explicit-proxy",
            Self::Ips => "ips",
            Self::Dlp => "dlp",
            Self::CloudSwg => "cloud-swg",
        }
    }

    /// Sets it up and runs it.
    ///
    /// # Errors
    ///
    /// Something cannot be set up, or the run was interrupted. That something was not as expected is
    /// no error: the report says so.
    pub fn run(self, setting: &Setting) -> Result<Outcome> {
        let script = self.script();
        if let Some(missing) = missing(script.needs) {
            return Ok(Outcome::Skipped(missing));
        }
        let start = Instant::now();
        let outcome = || -> Result<_> {
            let mut stage = Stage::set_up(self, &script, setting)?;
            (script.run)(&mut stage)?;
            let report = stage.report(start.elapsed().as_secs());
            Ok(Outcome::Ran(report, Box::new(stage)))
        };
        outcome().with_context(|| format!("scenario {}", self.name()))
    }

    fn script(self) -> Script {
        match self {
            Self::TlsProxy => tls_proxy::SCRIPT,
            Self::Proxy => proxy::SCRIPT,
            Self::ExplicitProxy => explicit_proxy::SCRIPT,
            Self::Ips => ips::SCRIPT,
            Self::Dlp => dlp::SCRIPT,
            Self::CloudSwg => cloud_swg::SCRIPT,
        }
    }
}

/// What is not installed of a scenario's needs, and what to do.
fn missing(needs: &[(&str, &str)]) -> Option<String> {
    let (program, package) = needs.iter().find(|(program, _)| program::find(program).is_none())?;
    Some(format!(
        "{program} is missing; `cargo xtask setup` installs it, or else install {package}"
    ))
}

/// A path for a command line or a configuration, which are text.
fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_is_named_with_its_package() {
        assert_eq!(missing(&[("sh", "dash"), ("/bin/sh", "dash")]), None);
        let missing = missing(&[("sh", "dash"), ("no-such-inspector", "its-package")]).unwrap();
        assert!(missing.contains("no-such-inspector is missing"), "{missing}");
        assert!(missing.contains("its-package"), "{missing}");
    }
}
