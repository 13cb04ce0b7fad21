//! The packets of the self-test: at the edges of everything in a table.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gateway_common::abi::{MAX_PORT_RANGES, PortRange, PortSet};
use gateway_common::{FlowKey, Transport, Verdict, decide};
use ipnet::IpNet;

use super::Probe;
use crate::policy::Table;

/// Prefixes probed per port set and family: all of them where there are no more, else this many
/// spread evenly. Every port set, hence every selected endpoint set, is probed.
const PREFIXES_PER_PORT_SET: usize = 64;
/// Listed sources probed per family, spread evenly.
const SOURCES: usize = 64;

/// A packet, and the listed interface it is to have come in by.
#[derive(Clone, Debug)]
pub(super) struct Question<'a> {
    pub(super) probe: Probe,
    pub(super) ingress: Option<&'a str>,
}

/// All packets. Where only listed sources go direct, those for destinations come from one, and
/// more packets to one direct destination come from the edges of the others. `ingress` are the
/// listed interfaces.
pub(super) fn questions<'a>(
    table: &'a Table,
    ingress: &'a BTreeMap<String, u32>,
) -> impl Iterator<Item = Question<'a>> {
    let admitted = [false, true].map(|v6| Origin::admitted(table, ingress, v6));
    let of_destinations = probes(table).map(move |probe| {
        let [v4, v6] = admitted;
        if probe.destination.is_ipv4() { v4.of(probe) } else { v6.of(probe) }
    });
    let of_sources = [false, true].into_iter().flat_map(move |v6| {
        let direct = direct_probe(table, v6);
        direct.into_iter().flat_map(move |probe| {
            origins(table, ingress, v6).into_iter().map(move |origin| origin.of(probe))
        })
    });
    of_destinations.chain(of_sources).chain(of_windows(table))
}

/// Where support windows are open: their destinations, from nobody and from one client of each
/// combination of windows, and one of their destinations from the edges of the clients.
fn of_windows(table: &Table) -> impl Iterator<Item = Question<'_>> {
    let support = table.support();
    let by_windows: BTreeMap<(bool, u16), IpNet> = support
        .clients()
        .map(|(client, windows)| ((client.addr().is_ipv6(), windows), client))
        .take(SOURCES)
        .collect();
    let from = |source: Option<IpAddr>| Origin { source, ingress: None };
    let probes = || probes_of(support.prefixes(), support.port_sets());
    let of_nobody = probes().map(move |probe| from(None).of(probe));
    let of_clients = by_windows.into_iter().flat_map(move |((v6, _), client)| {
        let of_family = probes().filter(move |probe| probe.destination.is_ipv6() == v6);
        of_family.map(move |probe| from(Some(client.network())).of(probe))
    });
    let of_edges = support.clients().take(SOURCES).flat_map(move |(client, _)| {
        let of_family =
            probes().find(|probe| probe.destination.is_ipv4() == client.addr().is_ipv4());
        let edges = of_family
            .into_iter()
            .flat_map(move |probe| edges(client).map(move |source| from(Some(source)).of(probe)));
        edges.collect::<Vec<_>>()
    });
    of_nobody.chain(of_clients).chain(of_edges)
}

/// Where a packet comes from.
#[derive(Clone, Copy, Default)]
struct Origin<'a> {
    source: Option<IpAddr>,
    ingress: Option<(&'a str, u32)>,
}

impl<'a> Origin<'a> {
    /// One that the table admits, where there is one.
    fn admitted(table: &Table, ingress: &'a BTreeMap<String, u32>, v6: bool) -> Self {
        let source = sources_of(table, v6).next().map(|prefix| prefix.network());
        let ingress = ingress.iter().next().filter(|_| source.is_none());
        Self { source, ingress: ingress.map(|(name, index)| (name.as_str(), *index)) }
    }

    fn of(self, probe: Probe) -> Question<'a> {
        let probe = self.source.map_or(probe, |source| probe.from(source));
        let index = self.ingress.map_or(0, |(_, index)| index);
        Question { probe: probe.through(index), ingress: self.ingress.map(|(name, _)| name) }
    }
}

/// Nobody, every listed interface, and the edges of listed prefixes; nothing where everybody's
/// traffic goes direct.
fn origins<'a>(table: &Table, ingress: &'a BTreeMap<String, u32>, v6: bool) -> Vec<Origin<'a>> {
    if !table.sources().are_listed() {
        return Vec::new();
    }
    let interfaces = ingress
        .iter()
        .map(|(name, index)| Origin { source: None, ingress: Some((name.as_str(), *index)) });
    let listed: Vec<IpNet> = sources_of(table, v6).collect();
    let stride = listed.len().div_ceil(SOURCES).max(1);
    let edges = listed
        .into_iter()
        .step_by(stride)
        .flat_map(edges)
        .map(|source| Origin { source: Some(source), ingress: None });
    [Origin::default()].into_iter().chain(interfaces).chain(edges).collect()
}

fn sources_of(table: &Table, v6: bool) -> impl Iterator<Item = IpNet> + '_ {
    table.sources().prefixes.iter().copied().filter(move |prefix| prefix.addr().is_ipv6() == v6)
}

/// A packet that goes direct from a listed source, if any does.
fn direct_probe(table: &Table, v6: bool) -> Option<Probe> {
    probes(table).find(|probe| {
        let key = FlowKey {
            destination: probe.destination.into(),
            transport: probe.transport,
            destination_port: probe.port,
        };
        probe.destination.is_ipv6() == v6
            && !probe.fragment
            && decide(&key, table).verdict() == Verdict::Direct
    })
}

/// For prefixes of every port set and family, first and last address with each edge of each port
/// range and the ports beside it, the first fragment, and the addresses before and after.
fn probes(table: &Table) -> impl Iterator<Item = Probe> + '_ {
    probes_of(table.prefixes(), table.port_sets())
}

fn probes_of(
    prefixes: impl Iterator<Item = (IpNet, u16)>,
    port_sets: &[PortSet],
) -> impl Iterator<Item = Probe> {
    probed_prefixes(prefixes).into_iter().flat_map(move |(prefix, port_set)| {
        let ports: Vec<(Transport, u16)> =
            port_sets.get(usize::from(port_set)).map(port_edges).unwrap_or_default();
        let mut probes = Vec::new();
        for address in edges(prefix) {
            for (transport, port) in &ports {
                probes.push(Probe::new(address, *transport, *port));
            }
            if let Some((transport, port)) = ports.first() {
                probes.push(Probe::new(address, *transport, *port).first_fragment());
            }
        }
        probes
    })
}

/// The first and last address of a prefix, and those before and after.
fn edges(prefix: IpNet) -> impl Iterator<Item = IpAddr> {
    let (first, last) = (prefix.network(), prefix.broadcast());
    [Some(first), Some(last), before(first), after(last)].into_iter().flatten()
}

fn probed_prefixes(prefixes: impl Iterator<Item = (IpNet, u16)>) -> Vec<(IpNet, u16)> {
    let mut by_port_set: BTreeMap<(bool, u16), Vec<IpNet>> = BTreeMap::new();
    for (prefix, port_set) in prefixes {
        by_port_set.entry((prefix.addr().is_ipv6(), port_set)).or_default().push(prefix);
    }
    by_port_set
        .into_iter()
        .flat_map(|((_, port_set), prefixes)| {
            let stride = prefixes.len().div_ceil(PREFIXES_PER_PORT_SET).max(1);
            prefixes.into_iter().step_by(stride).map(move |prefix| (prefix, port_set))
        })
        .collect()
}

/// First and last port of every range, and the ports just outside.
fn port_edges(port_set: &PortSet) -> Vec<(Transport, u16)> {
    let edges = |transport, ranges: &[PortRange; MAX_PORT_RANGES]| {
        ranges
            .iter()
            .filter(|range| range.from <= range.to)
            .flat_map(|range| {
                [
                    range.from.checked_sub(1),
                    Some(range.from),
                    Some(range.to),
                    range.to.checked_add(1),
                ]
            })
            .flatten()
            .map(|port| (transport, port))
            .collect::<Vec<_>>()
    };
    let mut all = edges(Transport::Tcp, &port_set.tcp);
    all.extend(edges(Transport::Udp, &port_set.udp));
    all.sort_unstable();
    all.dedup();
    all
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_sub(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_sub(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}
