//! `cloud-swg`: the gateway's default routes lead into a tunnel to an inspector, which runs over the
//! same uplink that direct traffic takes.

use anyhow::Result;

use super::network::{Counter, Rest};
use super::program::settled;
use super::site::{Family, MEDIA, OTHER, OUTLOOK, SHAREPOINT, SIGN_IN};
use super::visit::Visit;
use super::{Script, Stage};

pub(super) const SCRIPT: Script =
    Script { needs: &[], rest: Rest::Tunnel, categories: &["Optimize"], run };

const DIRECT: &str = "direct, certificate of the host";
const INSPECTED: &str = "inspected, certificate of the host";

fn run(stage: &mut Stage) -> Result<()> {
    let before = "selected, before the daemon runs";
    stage.visit_that_shows(&Visit::https(OUTLOOK, Family::V4), before, INSPECTED)?;
    stage.start_daemon()?;
    let at_first = Tunnelled::now(stage)?;
    for family in Family::ALL {
        stage.visit(&Visit::https(OUTLOOK, family), DIRECT)?;
        stage.visit(&Visit::https(SHAREPOINT, family), DIRECT)?;
        stage.visit(&Visit::http(OUTLOOK, family), "direct")?;
        stage.visit(&Visit::media(MEDIA, family), "direct")?;
    }
    let direct = Tunnelled::now(stage)?;
    for family in Family::ALL {
        stage.visit(&Visit::https(SIGN_IN, family), INSPECTED)?;
        let port = "set 2, not selected: another port";
        stage.visit_that_shows(&Visit::mail(OUTLOOK, family), port, INSPECTED)?;
        stage.visit(&Visit::https(OTHER, family), INSPECTED)?;
        stage.visit(&Visit::media(OTHER, family), "inspected")?;
    }
    let rest = Tunnelled::now(stage)?;
    let report = stage.expectations();
    let (selected, other) = (direct.selected - at_first.selected, direct.other - at_first.other);
    report.count("packets in the tunnel", "while direct flows were made", 0, selected + other);
    let selected = rest.selected - at_first.selected;
    report.count("packets in the tunnel", "selected, since the daemon runs", 0, selected);
    let (other, outside) = (rest.other - direct.other, rest.outside - direct.outside);
    // Handshake, request and farewell of three connections, and a datagram; from the client alone.
    report.at_least("packets in the tunnel", "the rest, both families", 2 * (3 * 4 + 1), other);
    report.at_least("packets on the direct uplink", "UDP 4789: the tunnel itself", other, outside);
    stage.check_direct_uplink(8)?;
    stage.check_inspected_way(1, "the one before the daemon ran")
}

/// Packets from the gateway, since the beginning.
struct Tunnelled {
    /// Inside the tunnel, to selected prefixes and ports.
    selected: u64,
    /// Inside the tunnel, to anything else.
    other: u64,
    /// Of the tunnel itself, on the uplink.
    outside: u64,
}

impl Tunnelled {
    /// Counts, once there are no more coming.
    fn now(stage: &Stage) -> Result<Self> {
        let network = &stage.network;
        let (uplink, inspector) = (&network.direct, &network.inspected);
        let outside = settled(|| Counter::Tunnel.of(uplink))?;
        Ok(Self {
            selected: Counter::Selected.of(inspector)?,
            other: Counter::Other.of(inspector)?,
            outside,
        })
    }
}
