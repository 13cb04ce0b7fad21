//! A table taken apart: its prefixes depend on each other, as the longest one decides; pieces do
//! not, so that whoever matches any of them is right.

use std::collections::BTreeSet;

use gateway_common::Transport;
use gateway_common::abi::{EXCLUDED_GROUP, PortRange, PortSet};
use ipnet::IpNet;

use crate::policy::Table;

/// Traffic that goes direct. No two pieces of a table share a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// Destination addresses.
    pub prefix: IpNet,
    /// Protocol.
    pub transport: Transport,
    /// First destination port.
    pub first: u16,
    /// Last destination port.
    pub last: u16,
    /// Provenance group that all of these addresses have, some of them others besides.
    pub group: u16,
}

/// A prefix of a table with its ports.
pub type Entry = (IpNet, PortSet);

/// The prefixes of a table with their ports, ascending.
#[must_use]
pub fn entries(table: &Table) -> Vec<Entry> {
    let ports = |id: u16| table.port_sets().get(usize::from(id)).copied();
    table.prefixes().filter_map(|(prefix, id)| Some((prefix, ports(id)?))).collect()
}

/// Everything that goes direct by `entries`, which ascend; the pieces ascend as well.
#[must_use]
pub fn pieces(entries: &[Entry]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = entries;
    while let Some((prefix, _)) = rest.first() {
        let (tree, behind) = rest.split_at(rest.partition_point(|(at, _)| prefix.contains(at)));
        for (transport, first, last) in segments(tree) {
            let states: Vec<State> = tree
                .iter()
                .map(|(prefix, ports)| (*prefix, direct_group(ports, transport, first)))
                .collect();
            cover(*prefix, None, &states, &mut |prefix, group| {
                pieces.push(Piece { prefix, transport, first, last, group });
            });
        }
        rest = behind;
    }
    pieces.sort_unstable();
    pieces
}

/// The same pieces with ranges of ports that touch made one, whatever their groups: for those who
/// do not ask where a range comes from.
#[must_use]
pub fn merged(pieces: &[Piece]) -> Vec<Piece> {
    let mut merged: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match merged.last_mut() {
            Some(last)
                if (last.prefix, last.transport) == (piece.prefix, piece.transport)
                    && last.last.checked_add(1) == Some(piece.first) =>
            {
                last.last = piece.last;
            }
            _ => merged.push(*piece),
        }
    }
    merged
}

/// The prefixes that have direct ports and of whose ports none is excluded, for those who cannot
/// tell ports apart. Where others lie inside one, it is cut around them.
#[must_use]
pub fn open_prefixes(entries: &[Entry]) -> Vec<IpNet> {
    let states: Vec<State> =
        entries.iter().map(|(prefix, ports)| (*prefix, is_open(ports).then_some(0))).collect();
    let mut open = BTreeSet::new();
    let mut rest = states.as_slice();
    while let [(prefix, state), behind @ ..] = rest {
        if state.is_some() {
            let inside = behind.partition_point(|(at, _)| prefix.contains(at));
            let (inside, _) = behind.split_at(inside);
            cover(*prefix, *state, inside, &mut |prefix, _| {
                open.insert(prefix);
            });
        }
        rest = behind;
    }
    open.into_iter().collect()
}

/// How many prefixes have direct ports and are not open.
#[must_use]
pub fn half_open_prefixes(entries: &[Entry]) -> usize {
    let is_half_open = |ports: &PortSet| {
        !is_open(ports) && all_ranges(ports).any(|range| range.group != EXCLUDED_GROUP)
    };
    entries.iter().filter(|(_, ports)| is_half_open(ports)).count()
}

/// A prefix and the group by which some port of it is direct.
type State = (IpNet, Option<u16>);

/// Calls `each` for the fewest prefixes within `prefix` that are what is direct there. `around` is
/// what holds where no state of `inside` does; these ascend.
fn cover(prefix: IpNet, around: Option<u16>, inside: &[State], each: &mut impl FnMut(IpNet, u16)) {
    let (state, inside) = match inside {
        [(own, state), rest @ ..] if *own == prefix => (*state, rest),
        _ => (around, inside),
    };
    if inside.iter().all(|(_, other)| other.is_some() == state.is_some()) {
        if let Some(group) = state {
            each(prefix, group);
        }
        return;
    }
    // Longer prefixes are inside, so there are halves.
    let halves = prefix.subnets(prefix.prefix_len().saturating_add(1));
    let mut rest = inside;
    for half in halves.into_iter().flatten() {
        let (own, behind) = rest.split_at(rest.partition_point(|(at, _)| half.contains(at)));
        cover(half, state, own, each);
        rest = behind;
    }
}

/// Ranges of ports in which each of these entries has one answer.
fn segments(entries: &[Entry]) -> Vec<(Transport, u16, u16)> {
    let mut segments = Vec::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        // Where an answer may begin; one past the last port is in 32 bits.
        let edges: BTreeSet<u32> = entries
            .iter()
            .flat_map(|(_, ports)| ranges(ports, transport))
            .flat_map(|range| [u32::from(range.from), u32::from(range.to).saturating_add(1)])
            .collect();
        for (first, end) in edges.iter().zip(edges.iter().skip(1)) {
            if let (Ok(first), Ok(last)) =
                (u16::try_from(*first), u16::try_from(end.saturating_sub(1)))
            {
                segments.push((transport, first, last));
            }
        }
    }
    segments
}

fn ranges(ports: &PortSet, transport: Transport) -> impl Iterator<Item = &PortRange> {
    let ranges = match transport {
        Transport::Tcp => &ports.tcp,
        Transport::Udp => &ports.udp,
    };
    ranges.iter().filter(|range| range.from <= range.to)
}

fn direct_group(ports: &PortSet, transport: Transport, port: u16) -> Option<u16> {
    ranges(ports, transport)
        .find(|range| (range.from..=range.to).contains(&port))
        .map(|range| range.group)
        .filter(|group| *group != EXCLUDED_GROUP)
}

fn is_open(ports: &PortSet) -> bool {
    all_ranges(ports).next().is_some()
        && all_ranges(ports).all(|range| range.group != EXCLUDED_GROUP)
}

fn all_ranges(ports: &PortSet) -> impl Iterator<Item = &PortRange> {
    ranges(ports, Transport::Tcp).chain(ranges(ports, Transport::Udp))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use gateway_common::abi::MAX_PORT_RANGES;
    use proptest::prelude::*;

    use super::*;

    /// A port set of TCP ranges and UDP ranges: first, last, group.
    fn ports(tcp: &[(u16, u16, u16)], udp: &[(u16, u16, u16)]) -> PortSet {
        let of = |ranges: &[(u16, u16, u16)]| {
            let mut filled = [PortRange::UNUSED; MAX_PORT_RANGES];
            for (slot, (from, to, group)) in filled.iter_mut().zip(ranges) {
                *slot = PortRange { from: *from, to: *to, group: *group, windows: 0 };
            }
            filled
        };
        PortSet { tcp: of(tcp), udp: of(udp) }
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    #[test]
    fn a_hole_is_in_no_piece_and_what_is_around_it_is() {
        let entries = [
            (net("40.96.0.0/13"), ports(&[(443, 443, 0)], &[(443, 443, 0)])),
            (net("40.96.0.0/24"), ports(&[(443, 443, EXCLUDED_GROUP)], &[(443, 443, 0)])),
            (
                net("40.96.0.9/32"),
                ports(&[(25, 25, 1), (443, 443, EXCLUDED_GROUP)], &[(443, 443, 0)]),
            ),
        ];
        let pieces = pieces(&entries);
        let of = |transport, port| -> Vec<String> {
            let has = |piece: &&Piece| piece.transport == transport && piece.first == port;
            pieces.iter().filter(has).map(|piece| piece.prefix.to_string()).collect()
        };
        assert_eq!(of(Transport::Udp, 443), ["40.96.0.0/13"]);
        assert_eq!(of(Transport::Tcp, 25), ["40.96.0.9/32"]);
        assert_eq!(
            of(Transport::Tcp, 443),
            [
                "40.96.1.0/24",
                "40.96.2.0/23",
                "40.96.4.0/22",
                "40.96.8.0/21",
                "40.96.16.0/20",
                "40.96.32.0/19",
                "40.96.64.0/18",
                "40.96.128.0/17",
                "40.97.0.0/16",
                "40.98.0.0/15",
                "40.100.0.0/14"
            ]
        );
        let open: Vec<String> = open_prefixes(&entries).iter().map(ToString::to_string).collect();
        assert_eq!(open, of(Transport::Tcp, 443));
    }

    #[test]
    fn without_holes_the_prefixes_are_those_of_the_table() {
        let entries = [
            (net("40.96.0.0/13"), ports(&[(443, 443, 0)], &[])),
            (net("40.96.0.0/24"), ports(&[(80, 80, 1), (443, 443, 0)], &[])),
            (net("2603:1016::/36"), ports(&[], &[(3478, 3481, 2)])),
        ];
        assert_eq!(open_prefixes(&entries), entries.map(|(prefix, _)| prefix));
        let merged = merged(&pieces(&entries));
        assert_eq!(merged.len(), 3, "{merged:?}");
    }

    /// Prefixes close together, so that they nest, with few ports.
    fn any_entries() -> impl Strategy<Value = BTreeMap<IpNet, PortSet>> {
        let range =
            prop_oneof![Just(None), Just(Some(0_u16)), Just(Some(1)), Just(Some(EXCLUDED_GROUP))];
        let ranges = prop::collection::vec(range, 4);
        let prefix = (any::<bool>(), 0_u32..64, 26_u8..=32).prop_map(|(v6, low, length)| {
            let v4 = IpNet::new(std::net::Ipv4Addr::from(0x0a00_0000 | low).into(), length);
            let v6_address = std::net::Ipv6Addr::from((0x2603 << 112) | u128::from(low));
            let net = if v6 { IpNet::new(v6_address.into(), length + 96) } else { v4 };
            net.expect("a length that fits").trunc()
        });
        prop::collection::btree_map(
            prefix,
            (ranges.clone(), ranges).prop_map(|(tcp, udp)| {
                let of = |groups: Vec<Option<u16>>| -> Vec<(u16, u16, u16)> {
                    (0_u16..)
                        .zip(groups)
                        .filter_map(|(at, group)| Some((10 * at + 1, 10 * at + 10, group?)))
                        .collect()
                };
                ports(&of(tcp), &of(udp))
            }),
            0..12,
        )
    }

    proptest! {
        #[test]
        fn pieces_say_what_the_longest_prefix_says_and_never_twice(map in any_entries()) {
            let entries: Vec<Entry> = map.into_iter().collect();
            let pieces = pieces(&entries);
            let merged = merged(&pieces);
            let open = open_prefixes(&entries);
            for (low, family) in (0_u32..64).flat_map(|low| [(low, 4), (low, 6)]) {
                let address: IpAddr = match family {
                    4 => std::net::Ipv4Addr::from(0x0a00_0000 | low).into(),
                    _ => std::net::Ipv6Addr::from((0x2603 << 112) | u128::from(low)).into(),
                };
                let longest = entries
                    .iter()
                    .filter(|(prefix, _)| prefix.contains(&address))
                    .max_by_key(|(prefix, _)| prefix.prefix_len());
                for transport in [Transport::Tcp, Transport::Udp] {
                    for port in [1_u16, 10, 11, 25, 30, 31, 40, 41] {
                        let wanted = longest
                            .and_then(|(_, ports)| direct_group(ports, transport, port))
                            .is_some();
                        for pieces in [&pieces, &merged] {
                            let hits = pieces.iter().filter(|piece| {
                                piece.prefix.contains(&address)
                                    && piece.transport == transport
                                    && (piece.first..=piece.last).contains(&port)
                            });
                            prop_assert_eq!(hits.count(), usize::from(wanted), "{} {}", address, port);
                        }
                    }
                }
                let wanted = longest.is_some_and(|(_, ports)| is_open(ports));
                prop_assert_eq!(open.iter().any(|prefix| prefix.contains(&address)), wanted);
            }
        }
    }
}
