//! The hosts that clients visit: some of them Microsoft's, with addresses of the published prefixes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// A host with an address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) host: &'static str,
    addresses: [IpAddr; 2],
    /// What it stands for.
    pub(super) shows: &'static str,
}

/// An address family, by its place in [`Site`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4 = 0,
    V6 = 1,
}

pub(super) const OUTLOOK: Site = Site {
    host: "outlook.office365.com",
    addresses: [
        IpAddr::V4(std::net::Ipv4Addr::new(40, 96, 0, 1)),
        IpAddr::V6(std::net::Ipv6Addr::new(0x2603, 0x1006, 0, 0, 0, 0, 0, 1)),
    ],
    shows: "set 1, selected",
};
pub(super) const SHAREPOINT: Site = Site {
    host: "contoso.sharepoint.com",
    addresses: [
        IpAddr::V4(std::net::Ipv4Addr::new(13, 107, 136, 9)),
        IpAddr::V6(std::net::Ipv6Addr::new(0x2603, 0x1061, 0x1300, 0, 0, 0, 0, 9)),
    ],
    shows: "set 31, selected",
};
/// Sign-in: category Allow, and held back even where that is selected.
pub(super) const SIGN_IN: Site = Site {
    host: "login.microsoftonline.com",
    addresses: [
        IpAddr::V4(std::net::Ipv4Addr::new(20, 190, 128, 1)),
        IpAddr::V6(std::net::Ipv6Addr::new(0x2603, 0x1006, 0x2000, 0, 0, 0, 0, 1)),
    ],
    shows: "set 56, not selected",
};
/// Documentation networks (RFC 5737, RFC 3849).
pub(super) const OTHER: Site = Site {
    host: "www.example.com",
    addresses: [
        IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10)),
        IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10)),
    ],
    shows: "ordinary internet",
};
/// Media of Teams, by UDP.
pub(super) const MEDIA: Site = Site {
    host: "media.teams.microsoft.com",
    addresses: [
        IpAddr::V4(std::net::Ipv4Addr::new(52, 112, 0, 1)),
        IpAddr::V6(std::net::Ipv6Addr::new(0x2603, 0x1063, 0, 0, 0, 0, 0, 1)),
    ],
    shows: "set 11, selected",
};

/// All of them.
pub(super) const SITES: [Site; 5] = [OUTLOOK, SHAREPOINT, SIGN_IN, OTHER, MEDIA];
/// The port of Teams' media.
pub(super) const MEDIA_PORT: u16 = 3478;

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];
}

impl Site {
    /// Its address of `family`, with a port.
    pub(super) fn at(&self, family: Family, port: u16) -> SocketAddr {
        let [v4, v6] = self.addresses;
        let address = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        SocketAddr::new(address, port)
    }
}

/// Every address of every host.
pub(super) fn addresses() -> BTreeSet<IpNet> {
    SITES.iter().flat_map(|site| site.addresses).map(IpNet::from).collect()
}

/// Where datagrams are answered.
pub(super) fn datagrams() -> impl Iterator<Item = SocketAddr> {
    [MEDIA, OTHER]
        .into_iter()
        .flat_map(|site| Family::ALL.map(|family| site.at(family, MEDIA_PORT)))
}

/// Lines of a hosts file, for proxies that look names up: there is no DNS here.
pub(super) fn hosts_file() -> String {
    let line = |site: &Site| site.addresses.map(|address| format!("{address} {}\n", site.host));
    SITES.iter().flat_map(line).collect()
}
