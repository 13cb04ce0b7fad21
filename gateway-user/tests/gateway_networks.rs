//! Needs root. The gateway's own addresses and connected networks are read from the namespace it
//! runs in, and nothing that is there anyway.

use std::collections::BTreeSet;

use gateway_user::plan::GatewayNetworks;
use ipnet::IpNet;
use xtask::testbed::{End, Namespace, Offloads, link};

fn read(namespace: &Namespace) -> BTreeSet<IpNet> {
    let read = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(GatewayNetworks::read()).unwrap().addresses
    };
    namespace.enter(read).unwrap()
}

#[test]
fn addresses_connected_networks_and_peers_are_read_and_loopback_is_not() {
    let (gateway, client) = (Namespace::new("gateway").unwrap(), Namespace::new("client").unwrap());
    assert_eq!(read(&gateway), BTreeSet::new(), "there is a loopback interface only");
    let lan = ["192.0.2.1/24", "198.51.100.129/25", "2001:db8:1::1/64"]
        .map(|address| address.parse().unwrap());
    let inside =
        End { namespace: &gateway, interface: "lan0", mac: [2, 0, 0, 0, 0, 1], addresses: &lan };
    let outside =
        End { namespace: &client, interface: "eth0", mac: [2, 0, 0, 0, 0, 2], addresses: &[] };
    link(&inside, &outside, Offloads::None).unwrap();
    gateway.run("ip address add 203.0.113.1 peer 203.0.113.9/32 dev lan0").unwrap();
    let networks = read(&gateway);
    for (network, is_there) in [
        ("192.0.2.0/24", true),
        ("192.0.2.1/32", true),
        ("198.51.100.128/25", true),
        ("203.0.113.1/32", true),
        ("203.0.113.9/32", true),
        ("2001:db8:1::/64", true),
        ("127.0.0.0/8", false),
        ("::1/128", false),
        ("fe80::/64", false),
    ] {
        assert_eq!(
            networks.contains(&network.parse().unwrap()),
            is_there,
            "{network}: {networks:?}"
        );
    }
    assert_eq!(read(&client), BTreeSet::new());
}
