//! `clamp-mss`: no segment of a direct flow is larger than the uplink takes, in either direction; others
//! keep theirs. Needs root.

use xtask::testbed::Namespace;

use crate::support::network::{DIRECT, EGRESS, INSPECTED, Network, config};
use crate::support::wait_until;

/// Keeps the segment sizes that come in.
const SIZES: &str = "table inet sizes {
    set seen {
        typeof tcp option maxseg size
        size 64
        flags dynamic
    }
    chain prerouting {
        type filter hook prerouting priority raw; policy accept;
        tcp flags & (syn | rst) == syn add @seen { tcp option maxseg size }
    }
}";

/// What came in since the last call.
fn sizes(of: &Namespace) -> Vec<u16> {
    let listed = of.run("nft list set inet sizes seen").unwrap();
    of.run("nft flush set inet sizes seen").unwrap();
    let elements = listed.split_once("elements = {").map_or("", |(_, elements)| elements);
    let words = elements.split(|it: char| !it.is_ascii_digit()).filter(|word| !word.is_empty());
    let mut sizes: Vec<_> = words.map(|word| word.parse().unwrap()).collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn clamp_mss_cuts_both_directions_of_direct_flows_to_the_uplink_and_follows_it() {
    let network = Network::new();
    let client = &network.site.client;
    for hop in [client, &network.direct, &network.inspector] {
        hop.nft(SIZES).unwrap();
    }
    // Only the gateway knows that the line takes less.
    network.gateway("ip link set up0 mtu 1400");
    let product = network.product();
    product.configure(&config(&format!("{EGRESS}clamp-mss = true\n")));
    let daemon = product.start();
    let seen = |to: &str, hop: &Namespace| {
        let mut flow = network.flow(to).unwrap();
        assert_eq!(flow.ask(), hop.role(), "{to}");
        (sizes(hop), sizes(client))
    };
    for (to, size) in DIRECT.into_iter().zip([1360, 1340]) {
        assert_eq!(seen(to, &network.direct), (vec![size], vec![size]), "{to}: SYN, SYN-ACK");
    }
    for (to, size) in INSPECTED.into_iter().zip([1460, 1440]) {
        assert_eq!(seen(to, &network.inspector), (vec![size], vec![size]), "{to}: not ours");
    }
    // The line is another one now; of IPv6, a router has said that it takes even less.
    network.gateway("ip link set up0 mtu 1300");
    network.site.gateway.sysctl("net/ipv6/conf/up0/mtu", "1290").unwrap();
    network.gateway("ip link set up0 alias other");
    wait_until("the table follows", || {
        let table = network.gateway("nft list table inet breakout365");
        table.contains("maxseg size set 1260") && table.contains("maxseg size set 1230")
    });
    for (to, size) in DIRECT.into_iter().zip([1260, 1230]) {
        assert_eq!(seen(to, &network.direct), (vec![size], vec![size]), "{to}: SYN, SYN-ACK");
    }
    assert!(!daemon.log().contains("put back"), "its own doing: {}", daemon.log());
    daemon.terminate();
}
