//! `revoke`: direct flows are ended at a person's word, so that they are decided anew.

use ipnet::IpNet;
use nix::libc;
use serde_json::{Value, json};
use tracing::info;

use super::Daemon;
use super::journal::{Entry, Outcome, Trigger};
use crate::egress::Flow;
use crate::exit::{Exit, Failure};
use crate::feed::{EndpointSet, SetId};

/// So many sets and prefixes are named in log and journal.
const NAMED: usize = 16;

/// Which flows are meant: all, or those of any set or prefix.
struct Picked<'a> {
    all: bool,
    sets: Vec<&'a EndpointSet>,
    prefixes: &'a [IpNet],
}

impl Daemon<'_> {
    /// Ends the direct flows to these endpoint sets of the feed that serves, to these prefixes, or
    /// all of them.
    pub(super) async fn revoke(
        &mut self,
        sets: &[SetId],
        prefixes: &[IpNet],
        all: bool,
    ) -> Result<(String, Value), Failure> {
        let Some(serving) = self.serving.as_ref().filter(|_| self.egress.wanted().is_some()) else {
            let problem = "no [egress] serves, so which flows go direct is not ours to know; see \
                           `conntrack -D --mark`";
            return Err(Failure::new(Exit::Egress, problem));
        };
        let feed = &serving.revision.snapshot;
        let found = sets.iter().map(|id| {
            feed.sets.get(id).ok_or_else(|| {
                let problem = format_args!(
                    "set {id} is not in the feed that serves; see `breakout365 feed show`, and take \
                     --prefix for own entries"
                );
                Failure::new(Exit::Usage, problem)
            })
        });
        let picked = Picked { all, sets: found.collect::<Result<_, _>>()?, prefixes };
        let ended = self.egress.revoke(|flow| picked.has(flow)).await?;
        let words = picked.words();
        info!(
            event = "flows_ended",
            cause = "revoked",
            flows = ended,
            "revoked: {ended} direct flows of {words} are ended"
        );
        let generation = Some(serving.generation);
        let entry = Entry {
            summary: Some(format!("{ended} direct flows of {words}")),
            ..Entry::new(jiff::Timestamp::now(), Trigger::Revoke, Outcome::Revoked, generation)
        };
        self.write_down(&entry);
        Ok((format!("{ended} direct flows of {words} are ended"), json!({"flows": ended})))
    }
}

impl Picked<'_> {
    fn has(&self, flow: &Flow) -> bool {
        let (address, port) = (flow.destination.ip(), flow.destination.port());
        let is_of = |set: &&EndpointSet| {
            let ports = match i32::from(flow.protocol) {
                libc::IPPROTO_TCP => &set.tcp,
                libc::IPPROTO_UDP => &set.udp,
                _ => return false,
            };
            ports.contains(port) && set.prefixes.iter().any(|prefix| prefix.contains(&address))
        };
        self.all
            || self.prefixes.iter().any(|prefix| prefix.contains(&address))
            || self.sets.iter().any(is_of)
    }

    fn words(&self) -> String {
        if self.all {
            return "all sets".to_owned();
        }
        let sets = self.sets.iter().map(|set| format!("set {}", set.id));
        let prefixes = self.prefixes.iter().map(ToString::to_string);
        let mut named: Vec<String> = sets.chain(prefixes).collect();
        let others = named.len().saturating_sub(NAMED);
        if others > 0 {
            named.truncate(NAMED);
            named.push(format!("{others} others"));
        }
        named.join(", ")
    }
}
