//! An uplink without link layer addresses, as PPP and tunnels make them: a default route on it is all
//! that is known of the next hop, and enough. Needs root, and socat.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use gateway_user::exit::Exit;
use xtask::testbed::{Namespace, Process};

use crate::support::network::{DIRECT, INSPECTED, Network, UPLINK, config};
use crate::support::wait_until;

/// Next hops that are learned.
const LEARNED: &str = "[egress]\ninterface = \"up0\"\ngateway4 = \"auto\"\ngateway6 = \"auto\"\n\
                       masquerade = true\n";

/// One end of a line between two tun devices; each packet is a datagram.
fn tun(namespace: &Namespace, interface: &str, line: UnixDatagram, host: u8) -> Process {
    let line = OwnedFd::from(line);
    let device = format!("TUN,tun-name={interface},tun-type=tun,iff-no-pi,iff-up");
    let mut command = Command::new("socat");
    command.args([&device, "STDIO"]).stdin(line.try_clone().unwrap()).stdout(line);
    let process = namespace.spawn(command.stderr(Stdio::inherit())).unwrap();
    wait_until("the device is up", || {
        namespace
            .run(&format!("ip link show {interface}"))
            .is_ok_and(|said| said.contains("POINTOPOINT") && said.contains(",UP"))
    });
    for address in [format!("10.36.2.{host}/32"), format!("fd36:2::{host}/128 nodad")] {
        namespace.run(&format!("ip address add {address} dev {interface}")).unwrap();
    }
    process
}

/// The uplink is a line of its own kind.
fn with_line() -> (Network, [Process; 2]) {
    let network = Network::new();
    network.gateway("ip link delete up0");
    let (here, there) = UnixDatagram::pair().unwrap();
    let ends = [tun(&network.site.gateway, UPLINK, here, 1), tun(&network.direct, "in0", there, 2)];
    for family in ["-4", "-6"] {
        network.direct.run(&format!("ip {family} route add default dev in0")).unwrap();
    }
    // Its own routes come a moment after its addresses.
    wait_until("every link is up", || {
        network.gateway("ip -6 route show table all").matches("local fe80::").count() == 3
    });
    (network, ends)
}

#[test]
fn a_default_route_without_next_hop_is_one_on_a_point_to_point_link_and_on_no_other() {
    let (network, _line) = with_line();
    let before = network.everything();
    let product = network.product();
    product.configure(&config(LEARNED));
    let daemon = product.start();
    let told = || {
        let egress = product.status()["daemon"]["egress"].clone();
        let families = egress["families"].as_array().unwrap().iter();
        families.map(|family| family["reason"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let is = |reason: Option<&str>| told() == vec![reason.map(str::to_owned); 2];
    wait_until("nothing leads out by it", || is(Some("no_next_hop")));
    network.assert_all_is_inspected();
    // As pppd puts it; the preferred one leads to the inspector.
    for family in ["-4", "-6"] {
        network.gateway(&format!("ip {family} route add default dev up0 metric 4000"));
    }
    wait_until("both families are up", || is(None));
    network.assert_it_parts();
    for (to, answer) in DIRECT.into_iter().zip(["direct 10.36.2.1", "direct fd36:2::1"]) {
        assert_eq!(network.flow(to).unwrap().answer(), answer);
    }
    let text = product.text(&["status"]);
    assert!(
        text.contains("\negress  up0, IPv4 without next hop, IPv6 without next hop, "),
        "{text}"
    );
    network.gateway("ip route flush table 365");
    daemon.wait_for_log("put back", 1);
    network.assert_it_parts();
    for family in ["-4", "-6"] {
        network.gateway(&format!("ip {family} route del default dev up0 metric 4000"));
    }
    wait_until("nothing leads out by it", || is(Some("no_next_hop")));
    network.assert_all_is_inspected();
    // On Ethernet, such a route asks for the address of every destination.
    product.configure(&config(&LEARNED.replace("up0", "insp0")));
    network.gateway("ip route add default dev insp0 metric 4000");
    network.gateway("ip route del default via 10.36.3.2");
    product.json(&["reload"]);
    wait_until("IPv4 has no next hop", || told()[0].as_deref() == Some("no_next_hop"));
    network.gateway("ip route add default via 10.36.3.2");
    network.gateway("ip route del default dev insp0 metric 4000");
    daemon.terminate();
    assert!(product.verb(&["down"]).status.success());
    assert_eq!(network.everything(), before);
    assert_eq!(network.way(INSPECTED[0]), "inspector");
}

#[test]
fn redirecting_to_a_point_to_point_link_is_refused_by_name() {
    let (network, _line) = with_line();
    let product = network.product();
    let egress = LEARNED.replace("masquerade = true", "action = \"redirect\"");
    product.configure(&config(&egress));
    let words = &["up0", "not an Ethernet device"];
    product.assert_refused(&["run"], Exit::Interface as i32, words);
}
