//! Fills the maps of a loaded object with a table, and reads every prefix back.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError};
use aya::{Ebpf, Pod};
use gateway_common::abi::{BLOCK_ENTRIES, PortRange, PortSet};
use ipnet::IpNet;

use super::generation::{chain, load};
use super::{DatapathError, Redirect};
use crate::policy::Table;

/// Attempts at inserting a prefix while the kernel says ENOMEM. A fresh trie allocates its nodes
/// from a per-CPU cache that is refilled in the background (kernel commit 3d8dc43eb2a3), so a
/// moment later there is memory.
const INSERT_ATTEMPTS: u32 = 200;
const INSERT_PAUSE: Duration = Duration::from_micros(200);
/// What stands behind a listed source: only its being there matters.
const LISTED: u16 = 1;

/// Fills all maps but the counters. `ingress` are the listed interfaces.
pub(super) fn fill(
    ebpf: &mut Ebpf,
    table: &Table,
    ingress: &BTreeMap<String, u32>,
) -> Result<(), DatapathError> {
    fill_port_sets(ebpf, "PORT_SETS", table.port_sets())?;
    fill_port_sets(ebpf, "SUPPORT_PORTS", table.support().port_sets())?;
    let mut blocks: Array<_, [u16; BLOCK_ENTRIES]> = map(ebpf, "BLOCKS")?;
    for (id, block) in (0..).zip(table.blocks()) {
        blocks.set(id, block, 0).map_err(|error| failed("BLOCKS", &error))?;
    }
    let mut listed: HashMap<_, u32, u32> = map(ebpf, "INGRESS")?;
    for index in ingress.values() {
        listed.insert(index, u32::from(LISTED), 0).map_err(|error| failed("INGRESS", &error))?;
    }
    insert_all(ebpf, "TRIE_V4", v4(table.prefixes()))?;
    insert_all(ebpf, "TRIE_V6", v6(table.prefixes()))?;
    insert_all(ebpf, "SOURCES_V4", v4(sources(table)))?;
    insert_all(ebpf, "SOURCES_V6", v6(sources(table)))?;
    let support = table.support();
    insert_all(ebpf, "CLIENTS_V4", v4(support.clients()))?;
    insert_all(ebpf, "CLIENTS_V6", v6(support.clients()))?;
    insert_all(ebpf, "SUPPORT_V4", v4(support.prefixes()))?;
    insert_all(ebpf, "SUPPORT_V6", v6(support.prefixes()))
}

fn fill_port_sets(
    ebpf: &mut Ebpf,
    name: &'static str,
    filled: &[PortSet],
) -> Result<(), DatapathError> {
    let mut port_sets: Array<_, [[u16; 4]; 32]> = map(ebpf, name)?;
    for (id, port_set) in (0..).zip(filled) {
        port_sets.set(id, port_set_words(port_set), 0).map_err(|error| failed(name, &error))?;
    }
    Ok(())
}

/// Fills in the interfaces that redirect.
pub(super) fn ports(ebpf: &mut Ebpf, redirect: Option<&Redirect>) -> Result<(), DatapathError> {
    let mut ports: HashMap<_, u32, [u8; 8]> = map(ebpf, "PORTS")?;
    for (index, mac) in redirect.map(Redirect::entries).unwrap_or_default() {
        ports.insert(index, mac, 0).map_err(|error| failed("PORTS", &error))?;
    }
    Ok(())
}

/// Looks every prefix up: an insert that reported success is not trusted.
pub(super) fn verify(ebpf: &mut Ebpf, table: &Table) -> Result<(), DatapathError> {
    verify_all(ebpf, "TRIE_V4", v4(table.prefixes()))?;
    verify_all(ebpf, "TRIE_V6", v6(table.prefixes()))?;
    verify_all(ebpf, "SOURCES_V4", v4(sources(table)))?;
    verify_all(ebpf, "SOURCES_V6", v6(sources(table)))?;
    let support = table.support();
    verify_all(ebpf, "CLIENTS_V4", v4(support.clients()))?;
    verify_all(ebpf, "CLIENTS_V6", v6(support.clients()))?;
    verify_all(ebpf, "SUPPORT_V4", v4(support.prefixes()))?;
    verify_all(ebpf, "SUPPORT_V6", v6(support.prefixes()))
}

/// A map of the object.
pub(super) fn map<'a, M>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<M, DatapathError>
where
    M: TryFrom<&'a mut aya::maps::Map, Error = MapError>,
{
    let map = ebpf.map_mut(name).ok_or_else(|| load(name, "not in the object"))?;
    M::try_from(map).map_err(|error| failed(name, &error))
}

/// Something with this map went wrong.
pub(super) fn failed(map: &'static str, error: &MapError) -> DatapathError {
    DatapathError::Fill { map, why: chain(error) }
}

fn sources(table: &Table) -> impl Iterator<Item = (IpNet, u16)> + '_ {
    table.sources().prefixes.iter().map(|prefix| (*prefix, LISTED))
}

/// A prefix, as the key of its trie, and what stands there.
type Entry<K> = (IpNet, Key<K>, u16);

/// The IPv4 prefixes.
fn v4(prefixes: impl Iterator<Item = (IpNet, u16)>) -> impl Iterator<Item = Entry<[u8; 4]>> {
    prefixes.filter_map(|(prefix, value)| match prefix {
        IpNet::V4(v4) => {
            Some((prefix, Key::new(v4.prefix_len().into(), v4.addr().octets()), value))
        }
        IpNet::V6(_) => None,
    })
}

/// The IPv6 prefixes.
fn v6(prefixes: impl Iterator<Item = (IpNet, u16)>) -> impl Iterator<Item = Entry<[u8; 16]>> {
    prefixes.filter_map(|(prefix, value)| match prefix {
        IpNet::V4(_) => None,
        IpNet::V6(v6) => {
            Some((prefix, Key::new(v6.prefix_len().into(), v6.addr().octets()), value))
        }
    })
}

fn insert_all<K: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
    entries: impl Iterator<Item = Entry<K>>,
) -> Result<(), DatapathError> {
    let mut trie: LpmTrie<_, K, u32> = map(ebpf, name)?;
    for (_, key, value) in entries {
        insert(&mut trie, name, &key, value)?;
    }
    Ok(())
}

fn insert<K: Pod>(
    trie: &mut LpmTrie<&mut MapData, K, u32>,
    map: &'static str,
    key: &Key<K>,
    value: u16,
) -> Result<(), DatapathError> {
    let mut attempt = 0;
    loop {
        match trie.insert(key, u32::from(value), 0) {
            Ok(()) => return Ok(()),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(nix::libc::ENOMEM)
                    && attempt < INSERT_ATTEMPTS =>
            {
                attempt += 1;
                sleep(INSERT_PAUSE);
            }
            Err(error) => return Err(failed(map, &error)),
        }
    }
}

fn verify_all<K: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
    entries: impl Iterator<Item = Entry<K>>,
) -> Result<(), DatapathError> {
    let trie: LpmTrie<_, K, u32> = map(ebpf, name)?;
    for (prefix, key, expected) in entries {
        let seen = match trie.get(&key, 0) {
            Ok(value) if value == u32::from(expected) => continue,
            Ok(value) => format!("port set {value}"),
            Err(error) => error.to_string(),
        };
        return Err(DatapathError::Verify { prefix: prefix.to_string(), expected, seen });
    }
    Ok(())
}

fn port_set_words(port_set: &PortSet) -> [[u16; 4]; 32] {
    let mut words = [[0; 4]; 32];
    for (to, range) in words.iter_mut().zip(port_set.tcp.iter().chain(&port_set.udp)) {
        let PortRange { from, to: last, group, windows } = *range;
        *to = [from, last, group, windows];
    }
    words
}
