//! `ips`: Suricata gets what is forwarded from a queue, and drops what contains a marker.

use anyhow::Result;

use super::chain::ChainFormat;
use super::network::Rest;
use super::program::{settled, text_of, wait_until};
use super::site::{Family, MEDIA, OTHER, OUTLOOK, SHAREPOINT, SIGN_IN};
use super::suricata::{self, InlineSuricata};
use super::visit::Visit;
use super::{Script, Stage};

pub(super) const SCRIPT: Script =
    Script { needs: suricata::NEEDS, rest: Rest::Uplink, categories: &["Optimize"], run };

/// What the rule drops.
const MARKER: &str = "breakout365-marker";
const HARMLESS: &str = "nothing to hide";

fn run(stage: &mut Stage) -> Result<()> {
    let rule = format!(
        "drop ip any any -> any any (msg:\"marker\"; content:\"{MARKER}\"; sid:3650001; rev:1;)\n"
    );
    let (files, program) = suricata::run(&stage.network.gateway, &stage.files(), &rule)?;
    stage.keep_running(program)?;
    stage.load_chains(ChainFormat::Iptables, &InlineSuricata::CHAINS)?;

    // Harmless: a flow that is dropped would send again into what is counted next.
    let before = "selected, before the daemon runs";
    let upload = Visit::http(OUTLOOK, Family::V4).uploading(HARMLESS);
    stage.visit_that_shows(&upload, before, "inspected")?;
    let queued = quiet(stage)?;
    stage.expectations().at_least("packets queued", before, 8, queued);
    stage.start_daemon()?;
    let at_first = quiet(stage)?;
    for family in Family::ALL {
        for site in [OUTLOOK, SHAREPOINT] {
            let upload = Visit::http(site, family).uploading(MARKER);
            stage.visit_that_shows(
                &upload,
                &format!("{}, with the marker", site.shows),
                "direct",
            )?;
        }
        stage.visit(&Visit::https(OUTLOOK, family), "direct, certificate of the host")?;
        let media = Visit::media(MEDIA, family).uploading(MARKER);
        stage.visit_that_shows(&media, "set 11, selected, with the marker", "direct")?;
    }
    let direct = quiet(stage)? - at_first;
    stage.expectations().count("packets queued", "direct flows, both directions", 0, direct);

    for family in Family::ALL {
        let inspected = "inspected, certificate of the host";
        stage.visit(&Visit::https(SIGN_IN, family), inspected)?;
        let port = "set 2, not selected: another port";
        stage.visit_that_shows(&Visit::mail(OUTLOOK, family), port, inspected)?;
        stage.visit(&Visit::http(OTHER, family).uploading(HARMLESS), "inspected")?;
        stage.visit(&Visit::media(OTHER, family), "inspected")?;
    }
    let inspected = quiet(stage)? - at_first;
    // Handshake, request, answer and farewell of three connections, both directions of a datagram.
    let shows = "inspected flows, both directions";
    stage.expectations().at_least("packets queued", shows, 2 * (3 * 8 + 2), inspected);
    for family in Family::ALL {
        let upload = Visit::http(OTHER, family).uploading(MARKER).in_vain();
        stage.visit_that_shows(&upload, "ordinary internet, with the marker", "nobody answers")?;
        let media = Visit::media(OTHER, family).uploading(MARKER).in_vain();
        stage.visit_that_shows(&media, "ordinary internet, with the marker", "nobody answers")?;
    }
    stage.check_direct_uplink(8)?;
    stage.check_inspected_way(1, "the one before the daemon ran")?;
    let alerts = files.join("fast.log");
    let dropped = |address: &str| -> Result<u64> {
        let log = text_of(&alerts)?;
        let of = log.lines().filter(|line| line.contains("3650001") && line.contains(address));
        Ok(of.count().try_into()?)
    };
    wait_until("suricata has written its log", || Ok(dropped("[Drop]")? >= 4))?;
    for (what, address, at_least) in [
        ("ordinary internet", OTHER.at(Family::V4, 80).ip(), 2),
        ("ordinary internet", OTHER.at(Family::V6, 80).ip(), 2),
    ] {
        let seen = dropped(&written(address))?;
        let text = format!("drops of {address} in suricata's log");
        stage.expectations().at_least(&text, what, at_least, seen);
    }
    for family in Family::ALL {
        let address = SHAREPOINT.at(family, 80).ip();
        let seen = dropped(&written(address))?;
        let text = format!("drops of {address} in suricata's log");
        stage.expectations().count(&text, SHAREPOINT.shows, 0, seen);
    }
    Ok(())
}

/// An address as Suricata writes it: IPv6 in full.
fn written(address: std::net::IpAddr) -> String {
    match address {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => v6.segments().map(|segment| format!("{segment:04x}")).join(":"),
    }
}

/// Packets that the queue has given out, once that has not changed for a moment.
fn quiet(stage: &Stage) -> Result<u64> {
    settled(|| InlineSuricata::queued(&stage.network.gateway))
}
