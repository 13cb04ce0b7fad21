//! `tls-proxy`: mitmproxy decrypts what is redirected to it, with an authority of its own, and
//! injects a tenant restriction into sign-in.

use anyhow::Result;

use super::chain::ChainFormat;
use super::network::Rest;
use super::program::{Program, directory, text_of, wait_until};
use super::site::{Family, MEDIA, OTHER, OUTLOOK, SHAREPOINT, SIGN_IN};
use super::visit::{TENANT_HEADER, Visit};
use super::{Script, Stage, text};

/// Allow is selected too: the sign-in set is of that category, and is held back all the same.
pub(super) const SCRIPT: Script = Script {
    needs: &[("mitmdump", "mitmproxy")],
    rest: Rest::Uplink,
    categories: &["Optimize", "Allow"],
    run,
};

const PORT: u16 = 8080;
const TENANT: &str = "contoso.onmicrosoft.com";
const DIRECT: &str = "direct, certificate of the host";
const INSPECTED: &str = "inspected, certificate of mitmproxy";

fn run(stage: &mut Stage) -> Result<()> {
    let files = directory(&stage.files(), "mitmproxy")?;
    let upstream = stage.authority.file();
    let header = format!("/~q & ~d {}/{TENANT_HEADER}/{TENANT}", SIGN_IN.host.replace('.', r"\."));
    let mut mitmdump = Program::start(
        &stage.network.gateway,
        "mitmdump",
        &files,
        &[
            "--mode",
            "transparent",
            "--listen-port",
            &PORT.to_string(),
            "--set",
            &format!("confdir={}", text(&files)?),
            "--set",
            &format!("ssl_verify_upstream_trusted_ca={}", text(&upstream)?),
            "--modify-headers",
            &header,
            "--showhost",
        ],
    )?;
    stage.load_chains(ChainFormat::Nft, &[&format!("redirect:{PORT}"), "drop"])?;
    mitmdump.wait_for_port(&stage.network.gateway, PORT)?;
    stage.keep_running(mitmdump)?;
    stage.trust_too("mitmproxy", &files.join("mitmproxy-ca-cert.pem"))?;

    let before = "selected, before the daemon runs";
    stage.visit_that_shows(&Visit::https(OUTLOOK, Family::V4), before, INSPECTED)?;
    stage.start_daemon()?;
    for family in Family::ALL {
        stage.visit(&Visit::https(OUTLOOK, family), DIRECT)?;
        stage.visit(&Visit::https(SHAREPOINT, family), DIRECT)?;
        stage.visit(&Visit::http(OUTLOOK, family), "direct")?;
        stage.visit(&Visit::media(MEDIA, family), "direct")?;
        let restricted = format!("{INSPECTED}, tenants {TENANT}");
        stage.visit(&Visit::https(SIGN_IN, family), &restricted)?;
        stage.visit(&Visit::https(OTHER, family), INSPECTED)?;
        stage.visit(&Visit::http(OTHER, family), "inspected")?;
        let past = "not for the proxy, and nothing else is let through";
        stage.visit_that_shows(&Visit::media(OTHER, family).in_vain(), past, "nobody answers")?;
    }
    stage.check_direct_uplink(8)?;
    stage.check_inspected_way(0, "from a client itself")?;
    let log = files.join("mitmdump.log");
    let requests = |of: &str| -> Result<u64> {
        let log = text_of(&log)?;
        Ok(log
            .lines()
            .filter(|line| line.contains(of) && line.contains(" GET "))
            .count()
            .try_into()?)
    };
    wait_until("mitmproxy has logged every request", || Ok(requests(OTHER.host)? >= 4))?;
    for (site, expected) in [(SIGN_IN, 2), (OTHER, 4), (OUTLOOK, 1), (SHAREPOINT, 0)] {
        let shows = if site == OUTLOOK { "the one before the daemon ran" } else { site.shows };
        let seen = requests(site.host)?;
        stage.expectations().count(
            &format!("requests for {} in mitmproxy's log", site.host),
            shows,
            expected,
            seen,
        );
    }
    Ok(())
}
