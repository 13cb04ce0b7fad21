//! `explicit-proxy`: clients ask Squid, or nobody, as our PAC file says to pacparser.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::chain::ChainFormat;
use super::network::{Rest, inside_addresses};
use super::site::{Family, OTHER, OUTLOOK, SHAREPOINT, SIGN_IN, Site};
use super::squid::{PORT, Squid};
use super::visit::Visit;
use super::{Script, Stage, text};

pub(super) const SCRIPT: Script = Script {
    needs: &[("squid", "squid"), (PACPARSER, "python3-pacparser")],
    rest: Rest::Uplink,
    categories: &["Optimize"],
    run,
};

/// Not a command, but what Debian's Python finds.
const PACPARSER: &str = "/usr/lib/python3/dist-packages/pacparser/__init__.py";
/// Says what a PAC file says to a URL and a host.
const EVALUATE: &str = "import sys, pacparser\n\
     pacparser.init()\n\
     pacparser.parse_pac_file(sys.argv[1])\n\
     print(pacparser.find_proxy(sys.argv[2], sys.argv[3]))\n";
const DIRECT: &str = "direct, certificate of the host";
/// Squid tunnels what it does not decrypt.
const BY_PROXY: &str = "inspected, certificate of the host";

fn run(stage: &mut Stage) -> Result<()> {
    let squid = Squid::start(stage, "")?;
    stage.load_chains(ChainFormat::Nft, &["drop"])?;
    let [v4, v6] = inside_addresses().map(|address| SocketAddr::new(address, PORT));
    // Before the daemon runs: a client that goes past its proxy gets nowhere.
    let past = "selected, past the proxy before the daemon runs";
    let visit = Visit::https(OUTLOOK, Family::V4).in_vain();
    stage.visit_that_shows(&visit, past, "nobody answers")?;
    stage.start_daemon()?;
    for (family, proxy) in [(Family::V4, v4), (Family::V6, v6)] {
        let pac = stage.files().join(format!("{}.pac", if proxy.is_ipv4() { "v4" } else { "v6" }));
        let export = stage.product.export(&["--format", "pac", "--proxy", &shown(proxy)])?;
        fs::write(&pac, export)?;
        for (site, by_proxy, expected) in [
            (OUTLOOK, false, DIRECT),
            (SHAREPOINT, false, DIRECT),
            (SIGN_IN, true, BY_PROXY),
            (OTHER, true, BY_PROXY),
        ] {
            let says = ask(stage, &pac, site)?;
            let wanted = if by_proxy { shown(proxy) } else { "DIRECT".to_owned() };
            let what = format!("the PAC file about https://{}/", site.host);
            stage.expectations().check(&what, site.shows, &wanted, says.clone());
            // The client does as it is told, not as is expected.
            let visit = Visit::https(site, family);
            let visit = if says == "DIRECT" { visit } else { visit.through(told(&says)?) };
            stage.visit(&visit, expected)?;
        }
        let past = "ordinary internet, past the proxy";
        stage.visit_that_shows(&Visit::https(OTHER, family).in_vain(), past, "nobody answers")?;
    }
    stage.check_direct_uplink(4)?;
    stage.check_inspected_way(0, "from a client itself")?;
    squid.check_log(stage, OTHER, OTHER.shows, 2)?;
    squid.check_log(stage, SIGN_IN, SIGN_IN.shows, 2)?;
    squid.check_log(stage, OUTLOOK, OUTLOOK.shows, 0)?;
    squid.check_log(stage, SHAREPOINT, SHAREPOINT.shows, 0)
}

/// What the PAC file says, evaluated in the client.
fn ask(stage: &Stage, pac: &Path, site: Site) -> Result<String> {
    let mut command = Command::new("/usr/bin/python3");
    let url = format!("https://{}/", site.host);
    command.args(["-c", EVALUATE, text(pac)?, &url, site.host]);
    Ok(stage.network.client.output(&mut command)?.trim().to_owned())
}

/// A proxy in the words of a PAC file.
fn shown(proxy: SocketAddr) -> String {
    format!("PROXY {proxy}")
}

/// The proxy that a PAC file names.
fn told(says: &str) -> Result<SocketAddr> {
    let Some(proxy) = says.strip_prefix("PROXY ") else { bail!("the PAC file says {says:?}") };
    let proxy: SocketAddr = proxy.parse().with_context(|| format!("{proxy:?} is no address"))?;
    let ours: [IpAddr; 2] = inside_addresses();
    if !ours.contains(&proxy.ip()) {
        bail!("the PAC file says {says:?}, which is not the proxy here");
    }
    Ok(proxy)
}
