//! Tables, and destinations of which the index, a block or the trie has the answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use gateway_common::abi::Step;
use gateway_common::{Tables, Transport, Word};
use gateway_user::datapath::Probe;
use gateway_user::feed::Category;
use gateway_user::policy::{Policy, Rule, SIGN_IN_SET, Table, compile};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Prefixes of the feed as it is, and of own lists beside it.
pub(crate) const SIZES: [usize; 3] = [93, 10_000, 100_000];
/// Destinations that a varying case goes through.
pub(crate) const DESTINATIONS: u32 = 1 << 16;

/// Endpoint set that synthetic prefixes belong to.
const OWN_SET: u32 = 9_000;
/// /16s that synthetic IPv4 prefixes share: real lists cluster.
const CLUSTERS: u32 = 4_096;
/// Draws before a kind of destination counts as not to be had in a table.
const DRAWS: usize = 20_000_000;

/// One packet, or 65,536 that differ in the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destinations {
    Same,
    Varying,
}

impl Destinations {
    pub(crate) const ALL: [Self; 2] = [Self::Same, Self::Varying];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Varying => "varying",
        }
    }
}

/// A kind of packet.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) v6: bool,
    /// The one packet.
    pub(crate) probe: Probe,
    /// Destinations to vary over; empty where the table has none of the kind.
    pub(crate) destinations: Vec<IpAddr>,
}

/// Who answers for an address, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    by_trie: bool,
    hit: bool,
}

/// The feed as it is, or a synthetic list.
pub(crate) fn table_of(size: usize) -> Result<Table> {
    if size == SIZES[0] {
        let policy = Policy {
            categories: [Category::Optimize, Category::Allow].into(),
            include_sets: [SIGN_IN_SET].into(),
            ..Policy::default()
        };
        return Ok(compile(&gateway_user::feed::embedded()?, &policy)?.table);
    }
    let mut random = Random(size as u64);
    let mut prefixes = std::collections::BTreeSet::new();
    while prefixes.len() < size {
        prefixes.insert(random.prefix(prefixes.len() % 4 == 0)?);
    }
    let rules = prefixes.into_iter().flat_map(|prefix| {
        [(Transport::Tcp, 80, 80), (Transport::Tcp, 443, 443), (Transport::Udp, 443, 443)]
            .map(|(transport, first, last)| Rule { prefix, transport, first, last, set: OWN_SET })
    });
    Ok(Table::from_rules(rules)?)
}

/// The cases for `table`, which has its index.
pub(crate) fn cases(table: &Table) -> Vec<Case> {
    let case = |name, v6, wanted: Answer, port| {
        let destinations = draw(table, v6, wanted);
        let first = *destinations.first()?;
        let probe = Probe::new(first, Transport::Tcp, port);
        Some(Case { name, v6, probe, destinations })
    };
    let index = |hit| Answer { by_trie: false, hit };
    let trie = |hit| Answer { by_trie: true, hit };
    let all = [
        case("index hit", false, index(true), 443),
        case("trie hit", false, trie(true), 443),
        case("index miss", false, index(false), 443),
        case("trie miss", false, trie(false), 443),
        case("wrong port", false, index(true), 25),
        case("v6 index hit", true, index(true), 443),
        case("v6 trie hit", true, trie(true), 443),
        case("v6 index miss", true, index(false), 443),
    ];
    all.into_iter().flatten().collect()
}

/// Addresses with that answer: hits inside random prefixes, misses all over the family's public
/// space, misses of the trie beside random prefixes.
fn draw(table: &Table, v6: bool, wanted: Answer) -> Vec<IpAddr> {
    let mut random = Random(0x0365);
    let prefixes: Vec<IpNet> = table
        .prefixes()
        .map(|(prefix, _)| prefix)
        .filter(|prefix| prefix.addr().is_ipv6() == v6)
        .collect();
    let mut found = Vec::new();
    for drawn in 0..DRAWS {
        let address = if wanted.hit || wanted.by_trie {
            let prefix = random.one_of(&prefixes);
            random.near(prefix, !wanted.hit)
        } else {
            random.public(v6)
        };
        if answer(table, address) == wanted {
            found.push(address);
            if found.len() == DESTINATIONS as usize {
                return found;
            }
        }
        if found.is_empty() && drawn > DRAWS / 20 {
            break;
        }
    }
    found.into_iter().cycle().take(DESTINATIONS as usize).collect()
}

fn answer(table: &Table, address: IpAddr) -> Answer {
    let (mut slot, octets): (_, Vec<u8>) = match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            (Tables::index_v4(table, Word::new([a, b])), vec![c])
        }
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            (Tables::index_v6(table, Word::new([octets[0], octets[1]])), octets[2..6].to_vec())
        }
    };
    for octet in octets {
        let Step::Block(block) = slot.step() else { break };
        slot = table.block(block, octet);
    }
    match slot.step() {
        Step::Miss => Answer { by_trie: false, hit: false },
        Step::PortSet(_) => Answer { by_trie: false, hit: true },
        Step::Trie | Step::Block(_) => {
            Answer { by_trie: true, hit: table.longest(address).is_some() }
        }
    }
}

/// xorshift64*: the same destinations in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        let mut x = self.0;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0 = x;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bits(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.next().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: u32) -> u32 {
        self.bits() % limit
    }

    fn length(&mut self, lengths: std::ops::RangeInclusive<u8>) -> u8 {
        let choices: Vec<u8> = lengths.collect();
        let count = u32::try_from(choices.len()).unwrap_or(u32::MAX);
        choices[self.below(count) as usize]
    }

    fn one_of(&mut self, prefixes: &[IpNet]) -> IpNet {
        let count = u32::try_from(prefixes.len()).unwrap_or(u32::MAX);
        prefixes[self.below(count) as usize]
    }

    fn prefix(&mut self, v6: bool) -> Result<IpNet> {
        if v6 {
            // All in 2a00::/8.
            let random = (u128::from(self.next()) << 64) | u128::from(self.next());
            let address = Ipv6Addr::from_bits((0x2a << 120) | (random >> 8));
            Ok(Ipv6Net::new(address, self.length(32..=64))?.trunc().into())
        } else {
            // Multiplying by an odd number spreads the clusters over the /16s from 1.0 to 126.255.
            let top = 0x0100 + (self.below(CLUSTERS) * 9_973) % 0x7e00;
            let address = Ipv4Addr::from_bits((top << 16) | self.below(1 << 16));
            Ok(Ipv4Net::new(address, self.length(20..=30))?.trunc().into())
        }
    }

    /// Inside `prefix`, or, for `beside`, in the same /24 or /48 but anywhere in it.
    fn near(&mut self, prefix: IpNet, beside: bool) -> IpAddr {
        match prefix {
            IpNet::V4(net) => {
                let length = if beside { net.prefix_len().min(24) } else { net.prefix_len() };
                let host = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
                Ipv4Addr::from_bits((net.addr().to_bits() & !host) | (self.bits() & host)).into()
            }
            IpNet::V6(net) => {
                let length = if beside { net.prefix_len().min(48) } else { net.prefix_len() };
                let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
                let random = (u128::from(self.next()) << 64) | u128::from(self.next());
                Ipv6Addr::from_bits((net.addr().to_bits() & !host) | (random & host)).into()
            }
        }
    }

    fn public(&mut self, v6: bool) -> IpAddr {
        if v6 {
            let random = (u128::from(self.next()) << 64) | u128::from(self.next());
            Ipv6Addr::from_bits((0b001 << 125) | (random >> 3)).into()
        } else {
            // 1.0.0.0 to 223.255.255.255.
            Ipv4Addr::from_bits(0x0100_0000 + self.below(0xdf00_0000)).into()
        }
    }
}
