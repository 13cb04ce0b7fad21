//! Near misses: what lists the destination, and why it does not send the packet direct.

use std::net::IpAddr;

use gateway_common::{Reason, Transport};
use serde::Serialize;

use super::super::input::Loaded;
use crate::feed::{EndpointSet, SetId};
use crate::policy::{LeftOut, OwnInclude, Rule, own_id, transport_name};

/// A set or own include that has the destination, and why it is not the reason to go direct.
#[derive(Debug, Serialize)]
pub(super) struct NearMiss {
    /// The set of the feed.
    pub(super) set: Option<SetId>,
    /// The own include.
    pub(super) own: Option<String>,
    /// Stable, snake case.
    why: &'static str,
    pub(super) text: String,
}

/// The packets, and what became of them.
pub(super) struct Asked {
    pub(super) destination: IpAddr,
    pub(super) transport: Transport,
    pub(super) port: u16,
    pub(super) reason: Reason,
}

impl Asked {
    /// Sets by id, then own includes in their order.
    pub(super) fn near_misses(&self, loaded: &Loaded) -> Vec<NearMiss> {
        let sets = loaded.snapshot.sets.values().filter_map(|set| {
            let (why, text) = self.why_not_set(loaded, set)?;
            Some(NearMiss { set: Some(set.id), own: None, why, text })
        });
        let own = loaded.policy.includes.iter().enumerate().filter_map(|(place, include)| {
            let (why, text) = self.why_not_own(loaded, own_id(place), include)?;
            Some(NearMiss { set: None, own: Some(include.name.clone()), why, text })
        });
        sets.chain(own).collect()
    }

    /// Whether a set of the feed lists exactly this, selected or not.
    pub(super) fn is_listed_by(&self, set: &EndpointSet) -> bool {
        let ports = match self.transport {
            Transport::Tcp => &set.tcp,
            Transport::Udp => &set.udp,
        };
        ports.contains(self.port)
            && set.prefixes.iter().any(|prefix| prefix.contains(&self.destination))
    }

    /// Whether the rule, were it alone, would send this direct.
    pub(super) fn fits(&self, rule: &Rule) -> bool {
        rule.prefix.contains(&self.destination)
            && rule.transport == self.transport
            && (rule.first..=rule.last).contains(&self.port)
    }

    fn why_not_set(&self, loaded: &Loaded, set: &EndpointSet) -> Option<(&'static str, String)> {
        if self.is_listed_by(set) {
            let left_out = loaded.policy.why_not(set, self.destination, self.transport, self.port);
            return match left_out {
                Some(left_out) => Some(self.left_out(left_out, set)),
                None => self.held_up(),
            };
        }
        let has_rule = loaded
            .compiled
            .rules
            .iter()
            .any(|rule| rule.set == set.id && rule.prefix.contains(&self.destination));
        let ports = [("tcp", &set.tcp), ("udp", &set.udp)]
            .into_iter()
            .filter(|(_, ports)| !ports.is_empty())
            .map(|(protocol, ports)| format!("{protocol} {ports}"));
        has_rule.then(|| ("other_port", format!("its ports are {}", join(ports))))
    }

    fn why_not_own(
        &self,
        loaded: &Loaded,
        id: SetId,
        include: &OwnInclude,
    ) -> Option<(&'static str, String)> {
        if !include.prefixes.iter().any(|prefix| prefix.contains(&self.destination)) {
            return None;
        }
        let rules: Vec<&Rule> = loaded
            .compiled
            .rules
            .iter()
            .filter(|rule| rule.set == id && rule.prefix.contains(&self.destination))
            .collect();
        if rules.is_empty() {
            return Some(("family_off", "its address family is off".to_owned()));
        }
        if rules.iter().any(|rule| self.fits(rule)) {
            return self.held_up();
        }
        let is_for = include.protocol.is_none_or(|only| only == self.transport);
        Some(match &include.ports {
            None if is_for => (
                "held_back_port",
                format!("{} goes direct only when listed in its ports", self.service()),
            ),
            None => ("other_port", "it is for the other protocol".to_owned()),
            Some(ports) => ("other_port", format!("its ports are {ports}")),
        })
    }

    /// Why something that matches did not decide.
    fn held_up(&self) -> Option<(&'static str, String)> {
        if self.reason == Reason::Excluded {
            Some(("excluded", "an exclude takes it out".to_owned()))
        } else if self.reason == Reason::SourceNotListed {
            Some(("source_not_listed", "policy.sources does not list the source".to_owned()))
        } else {
            None
        }
    }

    fn left_out(&self, left_out: LeftOut, set: &EndpointSet) -> (&'static str, String) {
        match left_out {
            LeftOut::ById => ("excluded_set", "it is in exclude-sets".to_owned()),
            LeftOut::Category => {
                ("not_selected", format!("category {} is not selected", set.category))
            }
            LeftOut::ServiceArea => {
                ("not_selected", format!("service area {} is not selected", set.service_area))
            }
            LeftOut::NotRequired => {
                ("not_selected", "it is not required, and required-only is on".to_owned())
            }
            LeftOut::Family => ("family_off", "its address family is off".to_owned()),
            LeftOut::SignIn => {
                ("sign_in", "it has the sign-in hosts, and is not in include-sets".to_owned())
            }
            LeftOut::Port => (
                "held_back_port",
                format!("{} goes direct only for a set in include-sets", self.service()),
            ),
        }
    }

    fn service(&self) -> String {
        format!("{}/{}", transport_name(self.transport), self.port)
    }
}

fn join(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}
