//! `proxy`: Squid takes HTTP by TPROXY and keeps the clients' addresses.

use anyhow::Result;

use super::chain::ChainFormat;
use super::network::Rest;
use super::site::{Family, MEDIA, OTHER, OUTLOOK, SHAREPOINT, SIGN_IN};
use super::squid::{Squid, TPROXY_PORT};
use super::visit::Visit;
use super::{Script, Stage};

pub(super) const SCRIPT: Script =
    Script { needs: &[("squid", "squid")], rest: Rest::Uplink, categories: &["Optimize"], run };

const INSPECTED: &str = "inspected, through squid";

fn run(stage: &mut Stage) -> Result<()> {
    let squid = Squid::start(stage, "")?;
    stage.load_chains(ChainFormat::Nft, &[&format!("tproxy:{TPROXY_PORT}/80"), "drop"])?;

    let before = "selected, before the daemon runs";
    stage.visit_that_shows(&Visit::http(OUTLOOK, Family::V4), before, INSPECTED)?;
    stage.start_daemon()?;
    for family in Family::ALL {
        stage.visit(&Visit::http(OUTLOOK, family), "direct")?;
        stage.visit(&Visit::http(SHAREPOINT, family), "direct")?;
        stage.visit(&Visit::https(OUTLOOK, family), "direct, certificate of the host")?;
        stage.visit(&Visit::media(MEDIA, family), "direct")?;
        stage.visit(&Visit::http(SIGN_IN, family), INSPECTED)?;
        stage.visit(&Visit::http(OTHER, family), INSPECTED)?;
        let past = "not for the proxy, and nothing else is let through";
        stage.visit_that_shows(&Visit::https(OTHER, family).in_vain(), past, "nobody answers")?;
    }
    stage.check_direct_uplink(8)?;
    // Squid keeps the clients' addresses.
    stage.check_inspected_way(1, "the one before the daemon ran, by squid")?;
    squid.check_log(stage, OTHER, OTHER.shows, 2)?;
    squid.check_log(stage, SIGN_IN, SIGN_IN.shows, 2)?;
    squid.check_log(stage, OUTLOOK, "the one before the daemon ran", 1)?;
    squid.check_log(stage, SHAREPOINT, SHAREPOINT.shows, 0)
}
