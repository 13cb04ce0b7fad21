//! What the checks look at, as it was found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::{Config, HookMode};
use crate::datapath::Attached;
use crate::marks::{Looked, RuleFacts};
use crate::observe::{Observation, Switches};

/// Something that was looked at, or why it could not be.
pub type Seen<T> = Result<T, String>;

/// Everything.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The configuration; `None`, there is none where it is looked for.
    pub config: Seen<Option<Config>>,
    /// Where it is looked for.
    pub config_path: PathBuf,
    /// The kernel and the BPF side of the system.
    pub bpf: BpfFacts,
    /// The interfaces that are asked about.
    pub interfaces: Vec<InterfaceFacts>,
    /// What has become of XDP's proposals; `None`, nothing is loaded.
    pub metadata: Seen<Option<Metadata>>,
    /// The routing rules.
    pub rules: Seen<Vec<RuleFacts>>,
    /// Index of the interface by which packets without a mark leave; `None`, by none.
    pub unmarked_way: Seen<Option<u32>>,
    /// Flowtables.
    pub flowtables: Seen<Vec<Flowtable>>,
    /// What the daemon tells; `None`, none runs.
    pub daemon: Seen<Option<Observation>>,
    /// The kill switch and the dead man's; `None`, there is no control map.
    pub switches: Seen<Option<Switches>>,
    /// What others do with marks, and their ruleset.
    pub marks: Looked,
    /// Programs that manage networks.
    pub habits: Habits,
    /// Whether the kernel takes the clock for synchronised.
    pub clock: Seen<bool>,
    /// Seconds since 1970.
    pub now: i64,
    /// Answers for names of selected sets.
    pub dns: Seen<Vec<DnsAnswer>>,
}

/// The kernel and the BPF side.
#[derive(Clone, Debug)]
pub struct BpfFacts {
    /// As `uname -r`.
    pub release: String,
    /// `net.core.bpf_jit_enable`.
    pub jit: Seen<u8>,
    /// Whether the pins are on a BPF file system.
    pub file_system: Seen<bool>,
    /// The directory above the pins.
    pub pins: String,
    /// Capabilities that the daemon lacks or, where none runs, this process.
    pub missing: Seen<BTreeSet<String>>,
}

/// What an interface is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Packets that come in are classified.
    Inside(HookMode),
    /// The direct uplink.
    Uplink,
}

/// An interface.
#[derive(Clone, Debug)]
pub struct InterfaceFacts {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The link; `None`, there is none of this name.
    pub link: Seen<Option<Link>>,
    /// `ethtool -k`, by name.
    pub offloads: Seen<BTreeMap<String, bool>>,
    /// `NETDEV_XDP_ACT_*` (kernel 6.3).
    pub xdp_features: Seen<u64>,
    /// The kernel module.
    pub driver: Seen<String>,
    /// Programs at the TCX ingress, in the order they run.
    pub tcx: Seen<Vec<Program>>,
    /// Filters at the ingress of clsact, in the order they run, behind all of `tcx`.
    pub filters: Seen<Vec<Program>>,
    /// What we have pinned for it; `None`, nothing.
    pub pinned: Seen<Option<Attached>>,
    /// Strictest of the interface's and all interfaces' setting.
    pub rp_filter: Seen<u8>,
    /// Whether what comes in by it is forwarded.
    pub forwarding: Forwarding,
    /// What it does with router advertisements; `None`, it has no IPv6.
    pub advertisements: Option<Advertisements>,
}

/// What packets of a link begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkLayer {
    /// An Ethernet header.
    #[default]
    Ethernet,
    /// Their IP header: tun, `WireGuard`, PPP.
    Ip,
    /// Anything else.
    Other,
}

/// A link as rtnetlink tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Virtual devices have one.
    pub kind: Option<String>,
    /// What its packets begin with.
    pub layer: LinkLayer,
    /// In bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub is_up: bool,
    /// Whether it has a carrier (`IFF_LOWER_UP`, which does not wait for the kernel to look at links).
    pub has_carrier: bool,
    /// What it is a member of: name and kind.
    pub member_of: Option<(String, String)>,
    /// VLANs on top of it.
    pub vlans: BTreeSet<String>,
    /// XDP programs.
    pub xdp: Vec<Program>,
}

/// A program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What is known of it: name, or number.
    pub name: String,
    /// Whether we attached it.
    pub ours: bool,
}

/// By family; `None`, the kernel has none of it there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// IPv4 of all interfaces that do not say otherwise.
    pub v4_at_large: Option<bool>,
    /// IPv4.
    pub v4: Option<bool>,
    /// IPv6.
    pub v6: Option<bool>,
}

/// Router advertisements and an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisements {
    /// `accept_ra`: 0, the kernel leaves them to others; 1, it takes them as a host; 2, always.
    pub accept: u8,
    /// Whether the interface is a router's: then 1 is as 0.
    pub is_router: bool,
}

/// A flowtable of nftables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flowtable {
    /// Family, table and name, as `nft` takes them.
    pub place: String,
    /// Whether its flows are handed to the card.
    pub in_hardware: bool,
}

/// Direct packets that XDP and tc have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Decided by XDP.
    pub direct: u64,
    /// Of those, sent to the uplink by XDP: they need no proposal.
    pub redirected: u64,
    /// Proposals that the driver had no room for.
    pub unsupported: u64,
    /// Proposals that tc took.
    pub accepted: u64,
}

/// Programs that manage networks, where they run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Habits {
    /// systemd-networkd: whether it removes rules, and routes, of others.
    pub networkd: Option<(bool, bool)>,
    /// Interfaces that `NetworkManager` manages; `None`, it does not run.
    pub network_manager: Option<BTreeSet<String>>,
}

/// What the resolver says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// The name.
    pub host: String,
    /// Each address, and whether TCP 443 there is direct.
    pub addresses: Seen<Vec<(IpAddr, bool)>>,
}

impl Facts {
    /// The inside interfaces that are there, with their hook: `auto` is tc where XDP cannot be.
    pub(super) fn inside(&self) -> impl Iterator<Item = (&InterfaceFacts, HookMode, &Link)> {
        self.interfaces.iter().filter_map(|interface| {
            let Role::Inside(hook) = interface.role else { return None };
            let link = interface.link.as_ref().ok()?.as_ref()?;
            let is_tc = hook == HookMode::Auto && link.layer == LinkLayer::Ip;
            Some((interface, if is_tc { HookMode::Tc } else { hook }, link))
        })
    }

    /// Whether a daemon runs, as far as was seen.
    pub(super) fn runs(&self) -> bool {
        matches!(self.daemon, Ok(Some(_)))
    }

    /// What opens the configuration and takes it into use.
    pub(super) fn edit(&self) -> String {
        let path = self.config_path.display();
        format!("${{EDITOR:-vi}} {path} && systemctl reload breakout365")
    }

    /// The configuration, where it is there and understood.
    pub(super) fn config(&self) -> Option<&Config> {
        self.config.as_ref().ok()?.as_ref()
    }

    /// Facts of a machine on which all is well, for tests to spoil.
    #[cfg(test)]
    pub(super) fn healthy() -> Self {
        use crate::egress::Family::{V4, V6};

        let config = "version = 1\n[[interface]]\nname = \"lan0\"\n[egress]\ninterface = \"wan0\"\n\
                      gateway4 = \"192.0.2.1\"\ngateway6 = \"fe80::1\"\n";
        let config = Config::parse(config, std::path::Path::new("c.toml")).unwrap();
        let interface = |name: &str, role, index| InterfaceFacts {
            name: name.into(),
            role,
            link: Ok(Some(Link {
                index,
                mtu: 1500,
                is_up: true,
                has_carrier: true,
                xdp: vec![Program { name: "native program b365_xdp_frags".into(), ours: true }],
                ..Link::default()
            })),
            offloads: Ok(BTreeMap::new()),
            xdp_features: Ok(0x7f),
            driver: Ok("ice".into()),
            tcx: Ok(vec![Program { name: "b365_tc_xdp".into(), ours: true }]),
            filters: Ok(Vec::new()),
            pinned: Ok(Some(Attached {
                interface: Some(name.into()),
                ifindex: index,
                xdp: Some("native"),
                tc: Some("tcx"),
                missing: Vec::new(),
            })),
            rp_filter: Ok(0),
            forwarding: Forwarding { v4_at_large: Some(true), v4: Some(true), v6: Some(true) },
            advertisements: Some(Advertisements { accept: 1, is_router: true }),
        };
        let rule = |family, priority| RuleFacts {
            family,
            priority,
            fwmark: Some((0x0100_0000, 0x0100_0000)),
            table: 365,
            inverted: false,
            selects: false,
            suppresses: priority == 365,
            ours: true,
        };
        Self {
            config: Ok(Some(config)),
            config_path: "/etc/breakout365/config.toml".into(),
            bpf: BpfFacts {
                release: "6.18.0".into(),
                jit: Ok(1),
                file_system: Ok(true),
                pins: "/sys/fs/bpf".into(),
                missing: Ok(BTreeSet::new()),
            },
            interfaces: vec![
                interface("lan0", Role::Inside(HookMode::Auto), 2),
                interface("wan0", Role::Uplink, 3),
            ],
            metadata: Ok(Some(Metadata { direct: 9, accepted: 9, ..Metadata::default() })),
            rules: Ok(vec![rule(V4, 365), rule(V4, 366), rule(V6, 365), rule(V6, 366)]),
            // The inspection chain's.
            unmarked_way: Ok(Some(4)),
            flowtables: Ok(Vec::new()),
            daemon: Ok(Some(observation())),
            switches: Ok(Some(Switches { on: true, deadline: Some(60), inspecting: None })),
            marks: Looked {
                ruleset: Some(serde_json::json!({ "nftables": [] })),
                has_nft: Some(true),
                ..Looked::default()
            },
            habits: Habits::default(),
            clock: Ok(true),
            now: 1_800_000_000,
            dns: Ok(vec![DnsAnswer {
                host: "outlook.office365.com".into(),
                addresses: Ok(vec![("40.96.0.1".parse().unwrap(), true)]),
            }]),
        }
    }

    /// What the checks say of these facts with this severity. Whoever spoils facts asserts by it that
    /// every finding comes with a command.
    #[cfg(test)]
    pub(super) fn told(&self, severity: super::Severity) -> Vec<&'static str> {
        let report = super::examine(self);
        for finding in &report.findings {
            let is_complete =
                finding.severity == super::Severity::Ok || !finding.seen || finding.fix.is_some();
            assert!(is_complete, "no command: {finding:?}");
        }
        let found = report.findings.iter().filter(|finding| finding.severity == severity);
        found.map(|finding| finding.check.name()).collect()
    }
}

/// What a daemon tells on which all is well.
#[cfg(test)]
fn observation() -> Observation {
    use crate::observe::{EgressState, FamilyState, FeedState};

    let family = |family: &str| FamilyState {
        family: family.into(),
        state: "up".into(),
        reason: None,
        since: "2027-01-15T08:00:00Z".into(),
        transitions: 0,
        probe_rtt_seconds: None,
        probes_answered: 0,
        probes_failed: 0,
    };
    let egress = EgressState {
        interface: "wan0".into(),
        gateway4: Some("192.0.2.1".parse().unwrap()),
        gateway6: Some("fe80::1".parse().unwrap()),
        table: 365,
        priority: 365,
        put_back: 0,
        problem: None,
        on_failure: "inspect".into(),
        families: vec![family("ipv4"), family("ipv6")],
        flows_ended: BTreeMap::new(),
        disputed: BTreeMap::new(),
    };
    let serving = crate::feed::embedded().unwrap().identity();
    Observation {
        started: "2027-01-15T08:00:00Z".into(),
        generation: Some(1),
        feed: FeedState { serving: Some(serving), ..FeedState::default() },
        egress: Some(egress),
        ..Observation::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Check, Severity, examine};
    use super::*;

    #[test]
    fn a_healthy_machine_has_every_check_seen_and_none_above_ok() {
        let report = examine(&Facts::healthy());
        for finding in &report.findings {
            assert!(finding.severity == Severity::Ok && finding.seen, "{finding:?}");
        }
        for check in Check::ALL {
            assert!(report.findings.iter().any(|it| it.check == *check), "{check:?} says nothing");
        }
    }

    #[test]
    fn what_was_not_seen_is_never_ok() {
        let no = || "denied".to_owned();
        let mut facts = Facts::healthy();
        facts.bpf.jit = Err(no());
        facts.bpf.file_system = Err(no());
        facts.bpf.missing = Err(no());
        facts.daemon = Err(no());
        facts.switches = Err(no());
        facts.metadata = Err(no());
        facts.rules = Err(no());
        facts.clock = Err(no());
        facts.flowtables = Err(no());
        facts.dns = Err(no());
        facts.marks = Looked { unseen: vec![no()], ..Looked::default() };
        for interface in &mut facts.interfaces {
            interface.offloads = Err(no());
            interface.xdp_features = Err(no());
            interface.tcx = Err(no());
            interface.filters = Err(no());
            interface.pinned = Err(no());
            interface.rp_filter = Err(no());
            interface.forwarding = Forwarding::default();
            interface.advertisements = None;
        }
        let seen: BTreeSet<_> = facts.told(Severity::Ok).into_iter().collect();
        let expected = [
            "configuration",
            "kernel",
            // As it is configured.
            "mode",
            "interface",
            "link-layer",
            "bond",
            "bridge",
            "vlan",
            "foreign-xdp",
            "mtu",
            // None is needed: a next hop is given.
            "router-advertisements",
            "networkd",
            "network-manager",
        ];
        assert_eq!(seen, expected.into());
    }
}
