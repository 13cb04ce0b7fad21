//! Address space that is nobody's public service: what no feed has a reason to list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::space;

/// Special-purpose space, what it is, and where that is written; the first that overlaps names a
/// prefix. From the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890), the multicast
/// and reserved spaces, and, for IPv6, everything outside `2000::/3`, which is all that IANA gives out
/// as global unicast space.
const SPECIAL: [(IpAddr, u8, &str); 33] = [
    v4([0, 0, 0, 0], 8, "\"this network\", RFC 791"),
    v4([10, 0, 0, 0], 8, "private, RFC 1918"),
    v4([100, 64, 0, 0], 10, "shared by carriers, RFC 6598"),
    v4([127, 0, 0, 0], 8, "loopback, RFC 1122"),
    v4([169, 254, 0, 0], 16, "link-local, RFC 3927"),
    v4([172, 16, 0, 0], 12, "private, RFC 1918"),
    v4([192, 0, 0, 0], 24, "protocol assignments, RFC 6890"),
    v4([192, 0, 2, 0], 24, "documentation, RFC 5737"),
    v4([192, 88, 99, 0], 24, "6to4 relays, RFC 7526"),
    v4([192, 168, 0, 0], 16, "private, RFC 1918"),
    v4([198, 18, 0, 0], 15, "benchmarks, RFC 2544"),
    v4([198, 51, 100, 0], 24, "documentation, RFC 5737"),
    v4([203, 0, 113, 0], 24, "documentation, RFC 5737"),
    v4([224, 0, 0, 0], 4, "multicast, RFC 5771"),
    v4([240, 0, 0, 0], 4, "reserved, RFC 1112"),
    v6(0, 128, "unspecified, RFC 4291"),
    v6(1, 128, "loopback, RFC 4291"),
    v6(0xffff << 32, 96, "IPv4-mapped, RFC 4291"),
    v6(0x64_ff9b << 96, 96, "the IPv4 internet behind NAT64, RFC 6052"),
    v6(0x64_ff9b_0001 << 80, 48, "local NAT64, RFC 8215"),
    v6(0x100 << 112, 64, "discard-only, RFC 6666"),
    v6(0x2001 << 112, 32, "Teredo, RFC 4380"),
    v6(0x2001 << 112, 23, "protocol assignments, RFC 2928"),
    v6(0x2001_0db8 << 96, 32, "documentation, RFC 3849"),
    v6(0x2002 << 112, 16, "6to4, RFC 3056"),
    v6(0x3fff << 112, 20, "documentation, RFC 9637"),
    v6(0xfc00 << 112, 7, "unique local, RFC 4193"),
    v6(0xfe80 << 112, 10, "link-local, RFC 4291"),
    v6(0xfec0 << 112, 10, "site-local, RFC 3879"),
    v6(0xff00 << 112, 8, "multicast, RFC 4291"),
    v6(0, 3, "outside global unicast, RFC 4291"),
    v6(0x4000 << 112, 2, "outside global unicast, RFC 4291"),
    v6(0x8000 << 112, 1, "outside global unicast, RFC 4291"),
];

const fn v4([a, b, c, d]: [u8; 4], length: u8, what: &str) -> (IpAddr, u8, &str) {
    (IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length, what)
}

const fn v6(bits: u128, length: u8, what: &str) -> (IpAddr, u8, &str) {
    (IpAddr::V6(Ipv6Addr::from_bits(bits)), length, what)
}

/// What special space `prefix` overlaps, in whichever direction.
pub(super) fn overlapped_by(prefix: IpNet) -> Option<&'static str> {
    let (first, last) = space::ends(prefix);
    SPECIAL
        .iter()
        .filter(|(address, ..)| address.is_ipv6() == prefix.addr().is_ipv6())
        .find(|(address, length, _)| {
            IpNet::new(*address, *length).is_ok_and(|special| {
                let (start, end) = space::ends(special);
                start <= last && first <= end
            })
        })
        .map(|(.., what)| *what)
}
