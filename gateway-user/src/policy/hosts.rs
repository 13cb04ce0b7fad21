//! What a policy says of host names, for what decides by name: proxies and their clients.

use std::collections::{BTreeMap, BTreeSet};

use gateway_common::Transport;

use super::select::{NAMED_ONLY, is_sign_in};
use super::{Policy, SetId};
use crate::feed::{EndpointSet, Ports, Snapshot};

/// Host names, some with `*`, as the feed writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// What goes direct: TCP ports by set.
    pub direct: BTreeMap<String, BTreeMap<SetId, Ports>>,
    /// What is inspected even where a name in `direct` covers it: sign-in hosts that are not named.
    /// Other sets list wider names around them, such as `*.microsoftonline.com`.
    pub inspected: BTreeSet<String>,
}

/// The host names of the sets that `policy` selects. The conditions are those of the rules: the
/// sign-in set and some ports only if the set is named. Sets without prefixes count as well.
#[must_use]
pub fn select_hosts(snapshot: &Snapshot, policy: &Policy) -> Hosts {
    let mut hosts = Hosts::default();
    for set in snapshot.sets.values() {
        let named = policy.names(set);
        if is_sign_in(set) && !(named && policy.selects(set)) {
            hosts.inspected.extend(set.urls.iter().cloned());
            continue;
        }
        let ports = if named { set.tcp.clone() } else { without_named_only(set) };
        if policy.selects(set) && !ports.is_empty() {
            for url in &set.urls {
                hosts.direct.entry(url.clone()).or_default().insert(set.id, ports.clone());
            }
        }
    }
    hosts
}

fn without_named_only(set: &EndpointSet) -> Ports {
    NAMED_ONLY
        .into_iter()
        .filter(|(transport, _)| *transport == Transport::Tcp)
        .fold(set.tcp.clone(), |ports, (_, port)| ports.without(port))
}
