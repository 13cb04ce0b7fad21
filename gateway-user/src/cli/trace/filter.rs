//! Which of the packets that were drawn are shown.

use std::net::IpAddr;

use clap::Args;
use gateway_common::Reason;
use ipnet::IpNet;

use crate::datapath::{Manifest, Traced};

/// Each narrows what is shown; what is not given admits all.
#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    /// To or from this prefix or address
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    prefix: Option<IpNet>,

    /// To or from this TCP or UDP port
    #[arg(long)]
    port: Option<u16>,

    /// That go direct, or are inspected
    #[arg(long, value_parser = ["direct", "inspect"])]
    verdict: Option<String>,

    /// Decided for this reason, as `status` names it
    #[arg(long, value_parser = reason)]
    reason: Option<Reason>,

    /// By a rule of this endpoint set, or of this own include
    #[arg(long, value_name = "ID|NAME")]
    set: Option<String>,

    /// In by this interface
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

impl Filter {
    pub(super) fn admits(&self, traced: &Traced, manifest: &Manifest) -> bool {
        let packet = &traced.packet;
        let has = |prefix: &IpNet, address: Option<IpAddr>| {
            address.is_some_and(|address| prefix.contains(&address))
        };
        let direct = traced.answer.reason == Reason::Matched;
        let of_set = |wanted: &String| {
            traced.answer.sets.iter().any(|set| {
                let own = manifest.own.iter().find(|own| own.id == *set);
                own.map_or_else(|| set.to_string() == *wanted, |own| own.name == *wanted)
            })
        };
        self.prefix
            .as_ref()
            .is_none_or(|prefix| has(prefix, packet.source) || has(prefix, packet.destination))
            && self.port.is_none_or(|port| {
                [packet.source_port, packet.destination_port].contains(&Some(port))
            })
            && self.verdict.as_ref().is_none_or(|verdict| (verdict == "direct") == direct)
            && self.reason.is_none_or(|reason| reason == traced.answer.reason)
            && self.set.as_ref().is_none_or(of_set)
            && self.interface.as_ref().is_none_or(|name| Some(name) == traced.interface.as_ref())
    }
}

fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .map(|prefix| prefix.trunc())
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "not a prefix such as 192.0.2.0/24, and not an address".to_owned())
}

fn reason(text: &str) -> Result<Reason, String> {
    Reason::ALL
        .into_iter()
        .find(|reason| reason.name() == text)
        .ok_or_else(|| "no such reason; `breakout365 status --json` lists them".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;
    use jiff::Timestamp;

    use super::*;
    use crate::datapath::{Answer, FeedIdentity, OwnIdentity, PacketHead, Scope, TraceHook};
    use crate::feed::FIRST_OWN_ID;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        filter: Filter,
    }

    fn manifest() -> Manifest {
        Manifest {
            generation: 1,
            breakout365: String::new(),
            loaded_at: 0,
            feed: FeedIdentity { instance: None, version: None, digest: String::new() },
            table: String::new(),
            mark_value: 1,
            mark_mask: 1,
            mode: crate::config::Mode::Mark,
            redirects_to: None,
            prefixes_v4: 1,
            prefixes_v6: 0,
            sets: Vec::new(),
            own: vec![OwnIdentity { id: FIRST_OWN_ID, name: "branch".to_owned() }],
            groups: vec![BTreeSet::from([1, FIRST_OWN_ID])],
            sources: Scope::default(),
            interfaces: Vec::new(),
            support: crate::policy::SupportIdentity::default(),
        }
    }

    /// `192.0.2.9:40000` to `40.96.0.1:443`, in by lan0.
    fn traced(reason: Reason, sets: &[u32]) -> Traced {
        Traced {
            time: Timestamp::UNIX_EPOCH,
            ifindex: 2,
            interface: Some("lan0".to_owned()),
            hook: TraceHook::Xdp,
            answer: Answer { reason, sets: sets.to_vec() },
            length: 54,
            head: Vec::new(),
            packet: PacketHead {
                source: "192.0.2.9".parse().ok(),
                destination: "40.96.0.1".parse().ok(),
                protocol: Some(6),
                source_port: Some(40_000),
                destination_port: Some(443),
            },
            generation: 1,
        }
    }

    #[test]
    fn all_that_is_given_has_to_hold() {
        let direct = traced(Reason::Matched, &[1, FIRST_OWN_ID]);
        let inspected = traced(Reason::PortNotListed, &[]);
        let bare = Traced { packet: PacketHead::default(), interface: None, ..inspected.clone() };
        for (options, admitted) in [
            ("", [true, true, true]),
            ("--prefix 40.96.0.0/13", [true, true, false]),
            ("--prefix 192.0.2.9", [true, true, false]),
            ("--prefix 40.96.0.2", [false, false, false]),
            ("--prefix ::/0", [false, false, false]),
            ("--port 443", [true, true, false]),
            ("--port 40000", [true, true, false]),
            ("--port 444", [false, false, false]),
            ("--verdict direct", [true, false, false]),
            ("--verdict inspect", [false, true, true]),
            ("--reason port_not_listed", [false, true, true]),
            ("--set 1", [true, false, false]),
            ("--set branch", [true, false, false]),
            ("--set 2", [false, false, false]),
            ("--interface lan0", [true, true, false]),
            ("--interface lan1", [false, false, false]),
            ("--port 443 --verdict inspect", [false, true, false]),
        ] {
            let words = ["trace"].into_iter().chain(options.split_whitespace());
            let Line { filter } = Line::try_parse_from(words).unwrap();
            let seen =
                [&direct, &inspected, &bare].map(|traced| filter.admits(traced, &manifest()));
            assert_eq!(seen, admitted, "{options}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for options in ["--prefix lan", "--reason because", "--verdict maybe", "--port 65536"] {
            let words = ["trace"].into_iter().chain(options.split_whitespace());
            assert!(Line::try_parse_from(words).is_err(), "{options}");
        }
    }
}
