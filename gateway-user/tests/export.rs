//! Every export is loaded by the program it is for, and that program then decides as the table
//! does: holes, near misses and hostile feeds included. Needs root, and the programs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::{Command, Output};

use gateway_common::Transport;
use gateway_common::abi::PortRange;
use gateway_user::export::pieces::{Entry, entries};
use gateway_user::export::{Export, ExportError, Format, Proxies};
use gateway_user::feed::{self, Category, Snapshot};
use gateway_user::policy::{Compiled, Exclude, OwnInclude, Policy, Rule, Table, compile, own_id};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::consumers;
use crate::consumers::{Bird, Ipset, Nft, Pac, Squid};

const FORMATS: [Format; 7] = [
    Format::Cidr,
    Format::Json,
    Format::Nft,
    Format::Ipset,
    Format::Pac,
    Format::Squid,
    Format::Bird,
];

/// Sets with names of every shape, nested prefixes, and names that are none.
const FEED: &str = r#"[
    {"id": 1, "serviceArea": "Exchange", "category": "Optimize", "required": true,
     "ips": ["40.96.0.0/13", "52.96.0.0/14", "2603:1006::/40"], "tcpPorts": "80,443",
     "udpPorts": "443", "urls": ["outlook.office365.com", "Outlook.Cloud.Microsoft"]},
    {"id": 2, "serviceArea": "Exchange", "category": "Allow", "required": false,
     "ips": ["40.97.0.0/16", "52.96.0.0/14"], "tcpPorts": "143, 587, 993",
     "urls": ["*.outlook.com", "outlook.office365.com"]},
    {"id": 10, "serviceArea": "Exchange", "category": "Allow", "required": true,
     "ips": ["40.92.0.0/15"], "tcpPorts": "25", "urls": ["*.mail.protection.outlook.com"]},
    {"id": 11, "serviceArea": "Skype", "category": "Optimize", "required": true,
     "ips": ["52.112.0.0/14", "2603:1063::/38"], "udpPorts": "3478-3481"},
    {"id": 31, "serviceArea": "SharePoint", "category": "Optimize", "required": true,
     "ips": ["13.107.136.0/22"], "tcpPorts": "80,443",
     "urls": ["*.sharepoint.com", "*-files.sharepoint.cn"]},
    {"id": 46, "serviceArea": "Common", "category": "Default", "required": true,
     "tcpPorts": "443", "urls": ["*.microsoftonline.com", "autodiscover.*.onmicrosoft.com",
     "*cdn.onenote.net", "*.msftidentity.com"]},
    {"id": 56, "serviceArea": "Common", "category": "Allow", "required": true,
     "ips": ["20.190.128.0/18"], "tcpPorts": "80,443",
     "urls": ["login.microsoftonline.com", "*.auth.microsoftonline.com", "*.msftidentity.com"]},
    {"id": 70, "serviceArea": "Common", "category": "Default", "required": false,
     "tcpPorts": "443", "urls": ["*office.com", "*.com", "*", "a\"b.example.com", "10.0.0.1",
     "x\\u.example.com", "*.*.example.com", "host.example.com/path", "host.example.com:443"]}
]"#;

/// A site that selects every category of [`FEED`].
struct Site {
    snapshot: Snapshot,
    policy: Policy,
    compiled: Compiled,
}

impl Site {
    fn new() -> Self {
        Self::with(Policy::default())
    }

    /// With more in the policy than the categories.
    fn with(policy: Policy) -> Self {
        let snapshot = feed::parse(FEED.as_bytes(), "a test").unwrap();
        let policy = Policy { categories: Category::ALL.into(), ..policy };
        let compiled = compile(&snapshot, &policy).unwrap();
        Self { snapshot, policy, compiled }
    }

    /// With an include of the operator's own, and excludes: addresses, a port of some, and one
    /// port everywhere.
    fn with_own() -> Self {
        Self::with(Policy {
            includes: vec![OwnInclude {
                name: "branch".into(),
                prefixes: nets(&["198.18.0.0/15", "40.96.0.0/12"]),
                protocol: Some(Transport::Tcp),
                ports: Some("443, 444".parse().unwrap()),
                ..OwnInclude::default()
            }],
            excludes: vec![
                Exclude {
                    name: "lab".into(),
                    prefixes: nets(&["40.96.1.0/24", "2603:1006:0:7::/64"]),
                    ..Exclude::default()
                },
                Exclude {
                    name: "mail".into(),
                    prefixes: nets(&["40.97.7.0/28", "52.96.0.0/13"]),
                    protocol: Some(Transport::Tcp),
                    ports: Some("143, 443".parse().unwrap()),
                    ..Exclude::default()
                },
                Exclude {
                    name: "no-quic".into(),
                    prefixes: nets(&["0.0.0.0/0", "::/0"]),
                    protocol: Some(Transport::Udp),
                    ports: Some("443".parse().unwrap()),
                    ..Exclude::default()
                },
            ],
            ..Policy::default()
        })
    }

    fn entries(&self) -> Vec<Entry> {
        entries(&self.compiled.table)
    }

    /// The prefixes with some taken out: a whole one, one TCP port, and a host in an included
    /// network.
    fn entries_with_holes(&self) -> Vec<Entry> {
        let mut entries: BTreeMap<IpNet, _> = self.entries().into_iter().collect();
        for (hole, around, ports) in [
            ("40.96.1.0/24", "40.96.0.0/13", 0..=u16::MAX),
            ("40.97.7.0/28", "40.97.0.0/16", 443..=443),
            ("52.113.9.9/32", "52.112.0.0/14", 0..=u16::MAX),
            ("2603:1006:0:7::/64", "2603:1006::/40", 443..=443),
        ] {
            let mut set = entries[&around.parse::<IpNet>().unwrap()];
            for range in set.tcp.iter_mut().chain(&mut set.udp) {
                if *range != PortRange::UNUSED && ports.contains(&range.from) {
                    range.group = u16::MAX;
                }
            }
            entries.insert(hole.parse().unwrap(), set);
        }
        entries.into_iter().collect()
    }

    fn export(&self, entries: &[Entry]) -> Export {
        Export::with_entries(&self.snapshot, &self.policy, &self.compiled, entries)
    }
}

fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn proxies() -> Proxies {
    "PROXY proxy.example:3128".parse().unwrap()
}

fn rendered(export: &Export, format: Format) -> String {
    export.render(format, Some(&proxies())).unwrap()
}

/// What the longest prefix says.
fn is_direct(entries: &[Entry], address: IpAddr, transport: Transport, port: u16) -> bool {
    let covering = entries.iter().filter(|(prefix, _)| prefix.contains(&address));
    let longest = covering.max_by_key(|(prefix, _)| prefix.prefix_len());
    longest.is_some_and(|(_, ports)| {
        let ranges = if transport == Transport::Tcp { ports.tcp } else { ports.udp };
        let mut ranges = ranges.iter();
        ranges.any(|range| (range.from..=range.to).contains(&port) && range.group != u16::MAX)
    })
}

/// The edges of every prefix and the addresses beside them.
fn addresses(entries: &[Entry]) -> BTreeSet<IpAddr> {
    let beside = |address: IpAddr, step: i8| -> Option<IpAddr> {
        Some(match (address, step) {
            (IpAddr::V4(v4), 1) => std::net::Ipv4Addr::from(v4.to_bits().checked_add(1)?).into(),
            (IpAddr::V4(v4), _) => std::net::Ipv4Addr::from(v4.to_bits().checked_sub(1)?).into(),
            (IpAddr::V6(v6), 1) => std::net::Ipv6Addr::from(v6.to_bits().checked_add(1)?).into(),
            (IpAddr::V6(v6), _) => std::net::Ipv6Addr::from(v6.to_bits().checked_sub(1)?).into(),
        })
    };
    entries
        .iter()
        .flat_map(|(prefix, _)| {
            let (first, last) = (prefix.network(), prefix.broadcast());
            [Some(first), Some(last), beside(first, -1), beside(last, 1)]
        })
        .flatten()
        .collect()
}

/// Packets at every edge: address, protocol, port, and whether they go direct.
fn packets(entries: &[Entry]) -> Vec<(IpAddr, Transport, u16, bool)> {
    let mut packets = Vec::new();
    for address in addresses(entries) {
        for (transport, ports) in [
            (Transport::Tcp, &[25, 80, 81, 143, 442, 443, 444][..]),
            (Transport::Udp, &[443, 3477, 3478, 3481, 3482][..]),
        ] {
            for port in ports {
                let direct = is_direct(entries, address, transport, *port);
                packets.push((address, transport, *port, direct));
            }
        }
    }
    let direct = packets.iter().filter(|(.., direct)| *direct).count();
    assert!(direct > 40 && packets.len() > direct + 200, "{direct} of {}", packets.len());
    packets
}

#[test]
fn nftables_decides_as_the_table_does() {
    let site = Site::new();
    let nft = Nft::new();
    for entries in [site.entries(), site.entries_with_holes(), site.entries()] {
        // Each replaces what the one before has left.
        nft.load(&rendered(&site.export(&entries), Format::Nft));
        nft.assert_decides(&packets(&entries));
    }
    let own = Site::with_own();
    nft.load(&rendered(&own.export(&own.entries()), Format::Nft));
    nft.assert_decides(&packets(&own.entries()));
}

#[test]
fn ipset_decides_as_the_table_does() {
    let site = Site::new();
    let ipset = Ipset::new();
    for entries in [site.entries(), site.entries_with_holes(), site.entries()] {
        ipset.load(&rendered(&site.export(&entries), Format::Ipset));
        ipset.assert_decides(&packets(&entries));
    }
    let own = Site::with_own();
    ipset.load(&rendered(&own.export(&own.entries()), Format::Ipset));
    ipset.assert_decides(&packets(&own.entries()));
}

/// Addresses of which every port that a table has for them is direct.
fn is_open(entries: &[Entry], address: IpAddr) -> bool {
    let covering = entries.iter().filter(|(prefix, _)| prefix.contains(&address));
    let longest = covering.max_by_key(|(prefix, _)| prefix.prefix_len());
    longest.is_some_and(|(_, ports)| {
        let used: Vec<_> =
            ports.tcp.iter().chain(&ports.udp).filter(|range| range.from <= range.to).collect();
        !used.is_empty() && used.iter().all(|range| range.group != u16::MAX)
    })
}

#[test]
fn bird_accepts_routes_into_open_prefixes_and_no_others() {
    let site = Site::new();
    for entries in [site.entries(), site.entries_with_holes()] {
        let bird = Bird::start(&rendered(&site.export(&entries), Format::Bird));
        for address in addresses(&entries) {
            let wanted = is_open(&entries, address);
            assert_eq!(bird.has(IpNet::from(address)), wanted, "{address}");
        }
        assert!(!bird.has("40.0.0.0/8".parse().unwrap()));
    }
    // One family alone: BIRD has no empty set.
    let v4: Vec<Entry> =
        site.entries().into_iter().filter(|(prefix, _)| prefix.addr().is_ipv4()).collect();
    let bird = Bird::start(&rendered(&site.export(&v4), Format::Bird));
    assert!(bird.has("40.96.0.0/24".parse().unwrap()));
    assert!(!bird.has("2603:1006::/64".parse().unwrap()));
}

#[test]
fn cidr_has_the_prefixes_of_the_table_and_no_hole() {
    let site = Site::new();
    let prefixes = |entries: &[Entry]| -> Vec<IpNet> {
        let text = rendered(&site.export(entries), Format::Cidr);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.parse().unwrap()).collect()
    };
    let table = site.entries();
    assert_eq!(prefixes(&table), table.iter().map(|(prefix, _)| *prefix).collect::<Vec<_>>());
    let holes = site.entries_with_holes();
    let prefixes = prefixes(&holes);
    for address in addresses(&holes) {
        let listed = prefixes.iter().any(|prefix| prefix.contains(&address));
        assert_eq!(listed, is_open(&holes, address), "{address}");
    }
}

#[test]
fn json_has_one_row_for_each_direct_packet_with_the_sets_it_comes_from() {
    let site = Site::new();
    let own = Site::with_own();
    for (site, entries) in
        [(&site, site.entries()), (&site, site.entries_with_holes()), (&own, own.entries())]
    {
        let document: Value =
            serde_json::from_str(&rendered(&site.export(&entries), Format::Json)).unwrap();
        let names: Vec<&Value> =
            document["excluded"].as_array().unwrap().iter().map(|row| &row["protocol"]).collect();
        assert_eq!(names.len(), site.compiled.exclusions.len());
        let rows = document["prefixes"].as_array().unwrap();
        for (address, transport, port, direct) in packets(&entries) {
            let protocol = if transport == Transport::Tcp { "tcp" } else { "udp" };
            let hits: Vec<&Value> = rows
                .iter()
                .filter(|row| {
                    row["prefix"].as_str().unwrap().parse::<IpNet>().unwrap().contains(&address)
                })
                .flat_map(|row| row["ports"].as_array().unwrap())
                .filter(|range| {
                    let ports = range["from"].as_u64().unwrap()..=range["to"].as_u64().unwrap();
                    range["protocol"] == protocol && ports.contains(&port.into())
                })
                .collect();
            assert_eq!(hits.len(), usize::from(direct), "{address} {protocol}/{port}");
            for hit in hits {
                let sets = hit["sets"].as_array().unwrap();
                let own = hit["own"].as_array().unwrap();
                let ids = sets.iter().map(|set| set.as_u64().unwrap());
                let ids: Vec<u64> = ids.chain(own.iter().map(|_| own_id(0).into())).collect();
                assert!(own.iter().all(|name| name == "branch"), "{hit}");
                let says = |id: &u64| {
                    site.compiled.rules.iter().any(|rule| {
                        u64::from(rule.set) == *id
                            && rule.prefix.contains(&address)
                            && rule.transport == transport
                            && (rule.first..=rule.last).contains(&port)
                    })
                };
                assert!(!ids.is_empty() && ids.iter().all(says), "{address}: {hit}");
            }
        }
        let hosts = document["hosts"].as_array().unwrap();
        assert!(hosts.contains(&json!(
            {"host": "outlook.office365.com", "tcp": "80,143,443,587,993", "sets": [1, 2]}
        )));
        assert!(
            hosts.contains(&json!({"host": "*.sharepoint.com", "tcp": "80,443", "sets": [31]}))
        );
        assert_eq!(
            document["inspected_hosts"],
            json!([
                "login.microsoftonline.com",
                "*.auth.microsoftonline.com",
                "*.msftidentity.com"
            ])
        );
    }
}

/// What decides by name: host, port, and whether that goes direct with [`FEED`].
const NAMES: [(&str, u16, bool); 47] = [
    ("outlook.office365.com", 443, true),
    ("outlook.office365.com", 80, true),
    ("outlook.office365.com", 993, true),
    ("outlook.office365.com", 8443, false),
    ("outlook.office365.com", 442, false),
    ("OUTLOOK.Office365.COM", 443, true),
    ("xoutlook.office365.com", 443, false),
    ("outlook.office365.com.evil.example", 443, false),
    ("outlook-office365.com", 443, false),
    ("outlookxoffice365.com", 443, false),
    ("office365.com", 443, false),
    ("outlook.cloud.microsoft", 443, true),
    ("cloud.microsoft", 443, false),
    ("contoso.sharepoint.com", 443, true),
    ("contoso.sharepoint.com", 80, true),
    ("contoso.sharepoint.com", 25, false),
    ("a.b.c.sharepoint.com", 443, true),
    ("sharepoint.com", 443, false),
    ("xsharepoint.com", 443, false),
    ("contoso.sharepoint.com.evil.example", 443, false),
    ("contoso.sharepoint.community", 443, false),
    ("contoso-sharepoint.com", 443, false),
    ("contoso-files.sharepoint.cn", 443, true),
    ("contoso.sharepoint.cn", 443, false),
    ("contoso-files.sharepoint.cn.evil.example", 443, false),
    ("contoso-filesxsharepoint.cn", 443, false),
    ("mail.outlook.com", 993, true),
    ("mail.outlook.com", 443, false),
    ("contoso.mail.protection.outlook.com", 25, false),
    ("contoso.mail.protection.outlook.com", 143, true),
    ("autodiscover.contoso.onmicrosoft.com", 443, true),
    ("autodiscover.contoso.mail.onmicrosoft.com", 443, true),
    ("autodiscover.onmicrosoft.com", 443, false),
    ("xautodiscover.contoso.onmicrosoft.com", 443, false),
    ("autodiscover.evil.example", 443, false),
    ("site-cdn.onenote.net", 443, true),
    ("cdn.onenote.net", 443, true),
    ("cdn.onenote.net.evil.example", 443, false),
    ("portal.microsoftonline.com", 443, true),
    ("portal.microsoftonline.com", 80, false),
    // Sign-in, which a wider name of another set covers.
    ("login.microsoftonline.com", 443, false),
    ("Login.MicrosoftOnline.com", 443, false),
    ("x.auth.microsoftonline.com", 443, false),
    ("x.msftidentity.com", 443, false),
    ("sub.login.microsoftonline.com", 443, true),
    // Names that leave open what somebody registers.
    ("eviloffice.com", 443, false),
    ("www.example.com", 443, false),
];

#[test]
fn a_pac_file_decides_by_name_and_port_and_doubt_goes_to_the_proxy() {
    let site = Site::new();
    let pac = Pac::new(&rendered(&site.export(&site.entries()), Format::Pac));
    let proxy = proxies().to_string();
    let mut cases: Vec<(String, &str, &str)> = Vec::new();
    for (host, port, direct) in NAMES {
        let wanted = if direct { "DIRECT" } else { &proxy };
        cases.push((format!("https://{host}:{port}/path?query#fragment"), host, wanted));
        if port == 443 {
            cases.push((format!("https://{host}/"), host, wanted));
            cases.push((format!("WSS://{host}"), host, wanted));
        }
        if port == 80 {
            cases.push((format!("http://{host}/a:443/b@c"), host, wanted));
        }
    }
    let host = "outlook.office365.com";
    let direct = "DIRECT";
    for (url, host, wanted) in [
        ("https://user:secret@outlook.office365.com/", host, direct),
        ("https://user@outlook.office365.com:444/", host, &*proxy),
        ("https://outlook.office365.com:444@evil.example/", "evil.example", &proxy),
        ("https://evil.example/?https://outlook.office365.com/", "evil.example", &proxy),
        ("https://outlook.office365.com:/", host, direct),
        ("https://outlook.office365.com:0443/", host, direct),
        ("https://outlook.office365.com:0000443/", host, &proxy),
        ("https://outlook.office365.com:443x/", host, &proxy),
        ("https://outlook.office365.com:65979/", host, &proxy),
        ("https://outlook.office365.com\\:443/", host, direct),
        ("ftp://outlook.office365.com/", host, &proxy),
        ("outlook.office365.com", host, &proxy),
        ("https://outlook.office365.com./", "outlook.office365.com.", &proxy),
        ("https://.sharepoint.com/", ".sharepoint.com", &proxy),
        ("https://a..sharepoint.com/", "a..sharepoint.com", &proxy),
        ("https://a\u{212a}.sharepoint.com/", "a\u{212a}.sharepoint.com", &proxy),
        ("https://a/b.sharepoint.com/", "a/b.sharepoint.com", &proxy),
        ("https://constructor/", "constructor", &proxy),
        ("https://__proto__/", "__proto__", &proxy),
        ("https://a.constructor/", "a.constructor", &proxy),
        ("https://toString.valueOf/", "toString.valueOf", &proxy),
        ("https://40.96.0.1/", "40.96.0.1", &proxy),
        ("https://[2603:1006::1]/", "2603:1006::1", &proxy),
        ("https://localhost/", "localhost", &proxy),
    ] {
        cases.push((url.to_owned(), host, wanted));
    }
    let urls: Vec<(&str, &str)> =
        cases.iter().map(|(url, host, _)| (url.as_str(), *host)).collect();
    for ((url, host, wanted), said) in cases.iter().zip(pac.ask(&urls)) {
        assert_eq!(said, *wanted, "{url:?} for {host:?}");
    }
}

#[test]
fn squid_decides_by_address_as_the_table_and_by_name_as_a_pac_file() {
    let site = Site::with_own();
    let entries = site.entries();
    // Names of excluded addresses; the other names are elsewhere.
    let elsewhere = NAMES.map(|(host, ..)| format!("9.9.9.9 {host}\n")).concat();
    let excluded = "40.96.1.7 lab.sharepoint.com\n40.97.7.1 mail.sharepoint.com\n";
    let hosts = format!("{excluded}{elsewhere}");
    let export = rendered(&site.export(&entries), Format::Squid);
    for (list, by_name) in [("breakout365", true), ("breakout365_address", false)] {
        let squid = Squid::start(&export, list, &hosts);
        for (host, port, direct) in NAMES {
            assert_eq!(squid.is_direct(host, port), direct && by_name, "{list}: {host}:{port}");
        }
        assert!(!squid.is_direct("lab.sharepoint.com", 443), "{list}");
        assert!(!squid.is_direct("lab.sharepoint.com", 80), "{list}");
        assert!(!squid.is_direct("mail.sharepoint.com", 443), "{list}");
        assert_eq!(squid.is_direct("mail.sharepoint.com", 80), by_name, "{list}");
        for (address, transport, port, direct) in packets(&entries) {
            if transport == Transport::Tcp {
                let host = consumers::in_url(address);
                assert_eq!(squid.is_direct(&host, port), direct, "{list}: {host}:{port}");
            }
        }
    }
}

#[test]
fn what_is_excluded_everywhere_is_excluded_for_names() {
    let site = Site::with(Policy {
        excludes: vec![Exclude {
            name: "no-plain-web".into(),
            prefixes: nets(&["0.0.0.0/0"]),
            protocol: Some(Transport::Tcp),
            ports: Some("1-142, 994".parse().unwrap()),
            ..Exclude::default()
        }],
        ..Policy::default()
    });
    let export = site.export(&site.entries());
    assert!(!export.excludes_addresses());
    let pac = Pac::new(&rendered(&export, Format::Pac));
    let squid = Squid::start(&rendered(&export, Format::Squid), "breakout365", "");
    for (url, host, port, direct) in [
        ("http://a.sharepoint.com/", "a.sharepoint.com", 80, false),
        ("https://a.sharepoint.com/", "a.sharepoint.com", 443, true),
        ("https://outlook.office365.com:993/", "outlook.office365.com", 993, true),
        ("https://outlook.office365.com:143/", "outlook.office365.com", 143, true),
    ] {
        assert_eq!(pac.ask(&[(url, host)]) == ["DIRECT"], direct, "{url}");
        assert_eq!(squid.is_direct(host, port), direct, "{host}:{port}");
    }
}

#[test]
fn lists_of_nothing_are_loaded_and_send_nothing_direct() {
    let site = Site::new();
    let snapshot = Snapshot { sets: BTreeMap::new(), ..site.snapshot };
    let export = Export::with_entries(&snapshot, &site.policy, &site.compiled, &[]);
    let squid = Squid::start(&rendered(&export, Format::Squid), "breakout365", "");
    assert!(!squid.is_direct("40.96.0.1", 443));
    Nft::new().load(&rendered(&export, Format::Nft));
    Ipset::new().load(&rendered(&export, Format::Ipset));
    assert!(!Bird::start(&rendered(&export, Format::Bird)).has("40.96.0.1/32".parse().unwrap()));
    let pac = Pac::new(&rendered(&export, Format::Pac));
    assert_eq!(
        pac.ask(&[("https://a.sharepoint.com/", "a.sharepoint.com")]),
        [proxies().to_string()]
    );
}

#[test]
fn a_named_sign_in_set_goes_direct() {
    let site = Site::new();
    let policy = Policy { include_sets: BTreeSet::from([56]), ..site.policy };
    let compiled = compile(&site.snapshot, &policy).unwrap();
    let export = Export::new(&site.snapshot, &policy, &compiled);
    let pac = Pac::new(&rendered(&export, Format::Pac));
    let host = "login.microsoftonline.com";
    assert_eq!(pac.ask(&[("https://login.microsoftonline.com/", host)]), ["DIRECT"]);
}

#[test]
fn equal_inputs_give_equal_bytes_that_say_what_they_are_from_and_nothing_else() {
    let site = Site::new();
    // Texts of the feed that would end a comment or a line.
    let snapshot = Snapshot {
        instance: Some("Evil\"\u{2028}\n);DIRECT*/ §".into()),
        version: Some("2026073100".into()),
        ..site.snapshot.clone()
    };
    let export = || Export::new(&snapshot, &site.policy, &site.compiled);
    for format in FORMATS {
        let text = rendered(&export(), format);
        assert_eq!(text, rendered(&export(), format), "{format:?}");
        assert!(text.ends_with('\n'), "{format:?}");
        for part in [
            env!("CARGO_PKG_VERSION"),
            "2026073100",
            &snapshot.digest,
            &site.compiled.table.digest(),
        ] {
            assert!(text.contains(part), "{part} is not in {format:?}");
        }
        if format != Format::Json {
            let strange = text.chars().find(|c| !(c.is_ascii_graphic() || " \t\n".contains(*c)));
            assert_eq!(strange, None, "{format:?}");
            let evil =
                text.lines().filter(|line| line.contains("Evil") || line.contains(");DIRECT"));
            let comment = if format == Format::Pac { "// " } else { "# " };
            assert!(evil.into_iter().all(|line| line.starts_with(comment)), "{format:?}");
        }
        for odd in site.export(&site.entries()).left_out() {
            assert!(odd == "*" || odd == "*.com" || !text.contains(&format!("{odd}\"")), "{odd}");
        }
    }
    let left_out = export().left_out().len();
    assert_eq!(left_out, 9);
}

#[test]
fn a_sign_in_host_that_no_list_can_have_is_refused() {
    let mut site = Site::new();
    let set = site.snapshot.sets.get_mut(&56).unwrap();
    set.urls.insert("*.login.*.microsoftonline.com".into());
    let export = site.export(&site.entries());
    for format in [Format::Pac, Format::Squid, Format::Json] {
        let refused = export.render(format, Some(&proxies()));
        assert!(matches!(refused, Err(ExportError::SignInHost(_))), "{format:?}");
    }
    assert!(export.render(Format::Nft, None).is_ok());
}

/// Whether a pattern of the feed covers a host, `*` being any text.
fn covers(pattern: &str, host: &str) -> bool {
    match pattern.split_once('*') {
        Some((before, after)) => {
            host.len() >= before.len() + after.len()
                && host.starts_with(before)
                && host.ends_with(after)
        }
        None => pattern == host,
    }
}

#[test]
fn every_host_of_the_embedded_feed_goes_direct_unless_it_is_for_sign_in() {
    let snapshot = feed::embedded().unwrap();
    let policy = Policy { categories: Category::ALL.into(), ..Policy::default() };
    let compiled = compile(&snapshot, &policy).unwrap();
    let export = Export::new(&snapshot, &policy, &compiled);
    assert_eq!(*export.left_out(), BTreeSet::new());
    let sign_in = &snapshot.sets[&56].urls;
    let mut cases: Vec<(String, String, bool)> = Vec::new();
    for set in snapshot.sets.values() {
        let port = match set.tcp.ranges().map(|range| *range.start()).find(|port| *port != 25) {
            Some(port) if set.id != 56 => port,
            _ => 443,
        };
        for url in &set.urls {
            for filling in ["x", "x.y"] {
                let host = url.replace('*', filling).to_ascii_lowercase();
                let listed = |urls: &BTreeSet<String>| urls.iter().any(|url| covers(url, &host));
                let mut others = snapshot.sets.values().filter(|other| other.id != 56);
                let direct = !listed(sign_in)
                    && others.any(|other| other.tcp.contains(port) && listed(&other.urls));
                cases.push((format!("https://{host}:{port}/"), host, direct));
            }
        }
    }
    let direct = cases.iter().filter(|(.., direct)| *direct).count();
    assert!(direct > 200 && direct < cases.len() - 40, "{direct} of {}", cases.len());
    let pac = Pac::new(&rendered(&export, Format::Pac));
    let urls: Vec<(&str, &str)> =
        cases.iter().map(|(url, host, _)| (url.as_str(), host.as_str())).collect();
    for ((url, _, direct), said) in cases.iter().zip(pac.ask(&urls)) {
        assert_eq!(said == "DIRECT", *direct, "{url}: {said}");
    }
}

#[test]
fn a_hundred_thousand_prefixes_are_exported_and_loaded() {
    let site = Site::new();
    let rules = (0..100_000_u32).map(|number| Rule {
        // Every other /24, so that none could be merged.
        prefix: IpNet::new(std::net::Ipv4Addr::from(0x1000_0000 + (number << 9)).into(), 24)
            .unwrap(),
        transport: Transport::Tcp,
        first: 443,
        last: 443,
        set: 1,
    });
    let table = Table::from_rules(rules).unwrap();
    let export = site.export(&entries(&table));
    for format in FORMATS {
        let text = rendered(&export, format);
        assert!(text.len() > 1_000_000 || format == Format::Pac, "{format:?}: {}", text.len());
    }
    let ipset = Ipset::new();
    ipset.load(&rendered(&export, Format::Ipset));
    let (address, beside) = ("16.0.2.9".parse().unwrap(), "16.0.1.9".parse().unwrap());
    ipset.assert_decides(&[
        (address, Transport::Tcp, 443, true),
        (beside, Transport::Tcp, 443, false),
    ]);
    let nft = Nft::new();
    nft.load(&rendered(&export, Format::Nft));
    nft.assert_decides(&[
        (address, Transport::Tcp, 443, true),
        (beside, Transport::Tcp, 443, false),
    ]);
}

#[test]
fn ports_that_are_too_many_for_ipset_are_refused() {
    let site = Site::new();
    let rules = (0..65_u8).map(|number| Rule {
        prefix: IpNet::new([20, number, 0, 0].into(), 16).unwrap(),
        transport: Transport::Tcp,
        first: 1,
        last: u16::MAX,
        set: 1,
    });
    let table = Table::from_rules(rules).unwrap();
    let refused = site.export(&entries(&table)).render(Format::Ipset, None);
    assert_eq!(refused, Err(ExportError::TooManyElements { needed: 65 * 65_535 }));
}

fn breakout365(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_breakout365")).args(arguments).output().unwrap()
}

#[test]
fn the_verb_writes_to_standard_output_or_replaces_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let feed = directory.path().join("feed.json");
    std::fs::write(&feed, FEED).unwrap();
    let feed = feed.to_str().unwrap();
    let printed = breakout365(&["export", "--format", "cidr", "--feed", feed]);
    assert!(printed.status.success() && printed.stderr.is_empty(), "{printed:?}");
    let out = directory.path().join("out");
    std::fs::write(&out, "before").unwrap();
    let path = out.to_str().unwrap();
    let written = breakout365(&["export", "--format", "cidr", "--feed", feed, "--out", path]);
    assert!(written.status.success() && written.stdout.is_empty(), "{written:?}");
    assert_eq!(std::fs::read(&out).unwrap(), printed.stdout);
    let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let device = breakout365(&["export", "--format", "cidr", "--out", "/dev/stdout"]);
    assert!(device.status.success() && !device.stdout.is_empty(), "{device:?}");

    let policy = directory.path().join("config.toml");
    let all = "version = 1\npolicy.categories = [\"Optimize\", \"Default\"]\n[[interface]]\nname = \"lan0\"\n";
    std::fs::write(&policy, all).unwrap();
    let arguments = ["export", "--feed", feed, "--config", policy.to_str().unwrap()];
    let pac = [&arguments[..], &["--format", "pac", "--proxy", "PROXY a:1"]].concat();
    let output = breakout365(&pac);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && errors.lines().count() == 9, "{errors}");
    assert!(errors.lines().all(|line| line.contains(" is left out: ")), "{errors}");

    let own = "[policy.sources]\nprefixes = [\"10.0.0.0/8\"]\n[[policy.exclude]]\nname = \"x\"\n\
               prefixes = [\"40.96.0.0/16\"]\nports = \"443\"\n";
    std::fs::write(&policy, format!("version = 1\n[[interface]]\nname = \"lan0\"\n{own}")).unwrap();
    let arguments = ["export", "--feed", feed, "--config", policy.to_str().unwrap()];
    for (more, words) in [
        (&["--format", "cidr"][..], &["1 prefixes are left out", "sources are not in"][..]),
        (&["--format", "nft"], &["sources are not in"]),
        (&["--format", "pac", "--proxy", "PROXY a:1"], &["decides by name", "sources are not in"]),
    ] {
        let output = breakout365(&[&arguments[..], more].concat());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{errors}");
        let lines: Vec<&str> = errors.lines().collect();
        assert_eq!(lines.len(), words.len(), "{errors}");
        assert!(lines.iter().zip(words).all(|(line, words)| line.contains(words)), "{errors}");
    }
}

#[test]
fn the_verb_refuses_in_one_line() {
    for (arguments, code, words) in [
        (&["--format", "pac"][..], 2, "--proxy"),
        (&["--format", "pac", "--proxy", "PROXY a:1; DIRECT"], 2, "past inspection"),
        (&["--format", "pac", "--proxy", "a:1"], 2, "KIND HOST:PORT"),
        (&["--format", "cidr", "--proxy", "PROXY a:1"], 2, "--format pac only"),
        (&["--format", "xml"], 2, "xml"),
        (&[], 2, "--format"),
        (&["--format", "cidr", "--feed", "/nowhere"], 4, "/nowhere"),
        (&["--format", "cidr", "--out", "/nowhere/at/all"], 1, "/nowhere/at/all"),
    ] {
        let output = breakout365(&[&["export"], arguments].concat());
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {line}");
        assert!(output.stdout.is_empty() && line.lines().count() == 1, "{arguments:?}: {line}");
        assert!(line.contains(words), "{words:?} is not in {line}");
    }
}
