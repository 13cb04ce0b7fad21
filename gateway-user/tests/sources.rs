//! Only listed sources go direct: by address, by the interface a packet came in by, through every
//! kind of hook; and what is not configured is not in the programs. Needs root.

use std::collections::BTreeMap;

use gateway_common::Reason;
use gateway_user::datapath::{Generation, XdpRequest};
use gateway_user::policy::Sources;

use crate::support::product::{Product, with_hook};
use crate::support::{CLIENT, DIRECT, LAN, MARK, Marked, Site, one_table, traffic};

fn sources(prefixes: &[&str], interfaces: &[&str]) -> Sources {
    Sources {
        prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        interfaces: interfaces.iter().map(ToString::to_string).collect(),
    }
}

fn all(direct: u64) -> Marked {
    Marked { direct, none: 4 - direct, odd: 0 }
}

#[test]
fn a_listed_interface_goes_direct_and_the_others_do_not() {
    for xdp in [XdpRequest::No, XdpRequest::Native, XdpRequest::Generic] {
        let site = Site::new();
        site.add_lan("eth1", "lan1");
        let hooks = [site.hook(LAN, xdp), site.hook("lan1", xdp)];
        let lock = site.lock();
        let frames = traffic(DIRECT);
        for (listed, lan0, lan1) in [
            (sources(&[], &["lan1"]), 0, 4),
            (sources(&[], &[LAN]), 4, 0),
            (sources(&[], &[LAN, "lan1"]), 4, 4),
            // Frames of these tests come from 192.0.2.0/24 and 2001:db8::/32.
            (sources(&["192.0.2.0/24"], &["lan1"]), 2, 4),
            (sources(&["10.0.0.0/8"], &[]), 0, 0),
            (sources(&["192.0.2.0/24", "2001:db8::/32"], &[]), 4, 4),
            (Sources::default(), 4, 4),
        ] {
            site.publish(&lock, &one_table().for_sources(listed.clone()), &hooks).unwrap();
            assert_eq!(site.send_from(CLIENT, &frames), all(lan0), "{xdp:?} {LAN} {listed:?}");
            assert_eq!(site.send_from("eth1", &frames), all(lan1), "{xdp:?} lan1 {listed:?}");
            let counts = site.counts();
            let unlisted = counts.decided().reason(Reason::SourceNotListed).packets;
            assert_eq!(unlisted, 8 - lan0 - lan1, "{xdp:?} {listed:?}");
        }
    }
}

/// As with a VLAN interface, the packet comes in twice, and the second time decides.
#[test]
fn of_an_interface_on_another_one_the_upper_decides() {
    let site = Site::new();
    site.gateway.run("ip link add upper type bridge").unwrap();
    site.gateway.run(&format!("ip link set {LAN} master upper")).unwrap();
    site.gateway.run("ip link set upper up").unwrap();
    // Where this is there, bridged packets would be counted before they come up.
    for family in ["iptables", "ip6tables"] {
        let name = format!("net/bridge/bridge-nf-call-{family}");
        site.gateway.sysctl(&name, "0").ok();
    }
    let hooks = [site.hook(LAN, XdpRequest::Native), site.hook("upper", XdpRequest::No)];
    let lock = site.lock();
    for (listed, direct) in [(LAN, 0), ("upper", 4)] {
        let table = one_table().for_sources(sources(&[], &[listed]));
        site.publish(&lock, &table, &hooks).unwrap();
        assert_eq!(site.send_from(CLIENT, &traffic(DIRECT)), all(direct), "{listed} is listed");
    }
}

#[test]
fn the_configuration_lists_sources_and_status_shows_them() {
    let site = Site::new();
    let product = Product::new(&site, "auto");
    let listed = format!(
        "{}[policy.sources]\nprefixes = [\"192.0.2.0/24\"]\ninterfaces = []\n",
        with_hook(LAN, "auto")
    );
    product.configure(&listed);
    let daemon = product.start();
    assert_eq!(site.send_from(CLIENT, &traffic(DIRECT)), all(2));
    let status = product.status();
    assert_eq!(status["sources"]["prefixes"], serde_json::json!(["192.0.2.0/24"]));
    let text = String::from_utf8(product.verb(&["status"]).stdout).unwrap();
    assert!(text.contains("sources 192.0.2.0/24\n"), "{text}");
    daemon.terminate();
}

#[test]
fn a_listed_interface_that_is_made_anew_is_listed_again() {
    let site = Site::new();
    site.add_lan("eth1", "lan1");
    let product = Product::new(&site, "auto");
    product.configure(&format!(
        "{}[[interface]]\nname = \"lan1\"\n[policy.sources]\ninterfaces = [\"lan1\"]\n",
        with_hook(LAN, "auto")
    ));
    let daemon = product.start();
    assert_eq!(site.send_from(CLIENT, &traffic(DIRECT)), all(0));
    assert_eq!(site.send_from("eth1", &traffic(DIRECT)), all(4));
    site.gateway.run("ip link delete lan1").unwrap();
    daemon.wait_for_log("interface lan1: gone", 1);
    site.add_lan("eth1", "lan1");
    daemon.wait_for_log("published", 2);
    assert_eq!(site.send_from("eth1", &traffic(DIRECT)), all(4));
    assert_eq!(site.send_from(CLIENT, &traffic(DIRECT)), all(0));
    daemon.terminate();
}

#[test]
fn programs_are_as_long_as_before_where_no_source_is_listed() {
    let length = |sources: Sources| {
        let table = one_table().for_sources(sources);
        let generation = Generation::load(&table, MARK.into()).unwrap();
        generation.verified_instructions()
    };
    let everybody: BTreeMap<_, _> = length(Sources::default());
    for (program, scoped) in length(sources(&["10.0.0.0/8"], &[])) {
        let free = everybody[program].unwrap();
        assert!(free < scoped.unwrap(), "{program}: {free} verified instructions");
    }
}
