//! Names of selected sets, asked of the system's resolver.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use gateway_common::{Reason, Transport};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::super::{DnsAnswer, Seen};
use crate::config::Config;
use crate::daemon::feed_at_hand;
use crate::datapath::Probe;
use crate::policy::{Table, compile, select_hosts};

/// A resolver that is slower than this is of no use to clients either.
const PATIENCE: Duration = Duration::from_secs(3);
/// Enough to see where the resolver leads.
const HOSTS: usize = 6;
const PORT: u16 = 443;

/// What the resolver says of some hosts whose sets have prefixes.
pub(super) async fn answers(
    config: &Config,
    state_dir: &Path,
    path: &Path,
) -> Seen<Vec<DnsAnswer>> {
    let snapshot =
        feed_at_hand(&config.feed, state_dir, path).map_err(|error| error.to_string())?;
    let snapshot = snapshot.ok_or_else(|| "no list of endpoints is at hand".to_owned())?;
    let table = compile(&snapshot, &config.policy).map_err(|error| error.to_string())?.table;
    let has_prefixes =
        |set: &u32| snapshot.sets.get(set).is_some_and(|set| !set.prefixes.is_empty());
    let direct = select_hosts(&snapshot, &config.policy).direct;
    let hosts = direct.into_iter().filter(|(host, sets)| {
        let is_direct = sets.iter().any(|(set, ports)| has_prefixes(set) && ports.contains(PORT));
        is_direct && !host.contains('*')
    });
    let asked: Vec<_> = hosts
        .take(HOSTS)
        .map(|(host, _)| {
            let asked = tokio::spawn(timeout(PATIENCE, ask(host.clone())));
            (host, asked)
        })
        .collect();
    let mut answers = Vec::new();
    for (host, asked) in asked {
        let addresses = match asked.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(format!("no answer within {PATIENCE:?}")),
            Err(error) => Err(error.to_string()),
        };
        let with_verdict = |addresses: Vec<IpAddr>| {
            addresses.into_iter().map(|address| (address, goes_direct(&table, address))).collect()
        };
        answers.push(DnsAnswer { host, addresses: addresses.map(with_verdict) });
    }
    Ok(answers)
}

async fn ask(host: String) -> Result<Vec<IpAddr>, String> {
    let found = lookup_host((host, PORT)).await.map_err(|error| error.to_string())?;
    Ok(found.map(|address| address.ip()).collect())
}

/// Whether the destination is in the table; from which sources is another question.
fn goes_direct(table: &Table, address: IpAddr) -> bool {
    let frame = Probe::new(address, Transport::Tcp, PORT).frame();
    let reason = table.decide_frame(&frame, None).reason();
    matches!(reason, Reason::Matched | Reason::SourceNotListed)
}
