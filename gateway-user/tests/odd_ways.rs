//! What real networks do besides: replies by another way, NAT, errors by ICMP, fragments; of both
//! families. Needs root.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, sleep};
use std::time::Duration;

use nix::sys::signal::Signal;
use xtask::testbed::{Namespace, uninterrupted};

use crate::support::network::{DIRECT, EGRESS, Flow, INSPECTED, Network, config, join};
use crate::support::product::{Daemon, Product};
use crate::support::wait_until;

const EXCLUDE: &str =
    "[[policy.exclude]]\nname = \"some\"\nprefixes = [\"40.96.0.0/16\", \"2603:1006::/48\"]\n";

/// Counts, where a forward-hook inspector stands, what it would look into; and replies by where they
/// come in.
const LOOKERS: &str = "table inet lookers {
    counter inspected_443 { }
    counter replies_by_insp0 { }
    counter replies_by_up0 { }
    chain forward {
        type filter hook forward priority filter;
        ct direction reply th sport { 443, 444 } iifname \"insp0\" counter name replies_by_insp0
        ct direction reply th sport { 443, 444 } iifname \"up0\" counter name replies_by_up0
        ct mark & 0x01000000 == 0x01000000 accept
        th sport 443 counter name inspected_443
        th dport 443 counter name inspected_443
    }
}";

fn counted(network: &Network, name: &str) -> u64 {
    let listed = network.gateway(&format!("nft list counter inet lookers {name}"));
    let packets = listed.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    packets.unwrap().parse().unwrap()
}

/// One TCP and one UDP flow to each listed host, and one TCP flow to each other one.
struct Flows {
    direct: Vec<Flow>,
    inspected: Vec<Flow>,
}

impl Flows {
    fn open(network: &Network) -> Self {
        let direct =
            DIRECT.into_iter().flat_map(|to| [network.flow(to).unwrap(), network.datagrams(to)]);
        let inspected = INSPECTED.into_iter().map(|to| network.flow(to).unwrap());
        Self { direct: direct.collect(), inspected: inspected.collect() }
    }

    fn assert_they_go_on(&mut self, after: &str) {
        for (flows, way) in [(&mut self.direct, "direct"), (&mut self.inspected, "inspector")] {
            for (number, flow) in flows.iter_mut().enumerate() {
                assert_eq!(flow.ask(), way, "flow {number} after {after}");
            }
        }
    }
}

/// Reloads with everything excluded, so that nothing that is new goes direct.
fn exclude(product: &Product<'_>, daemon: &Daemon, egress: &str) {
    product.configure(&config(&format!("{egress}{EXCLUDE}")));
    daemon.signal(Signal::SIGHUP);
    wait_until("nothing new is direct", || product.status()["generation"] == 2);
}

/// Sends what `hop` answers through `over`, and so to the gateway by the other interface.
fn answer_over(hop: &Namespace, over: &Namespace, host: u8) {
    over.forward().unwrap();
    // It owns the addresses that the answers come from.
    over.sysctl("net/ipv4/conf/all/accept_local", "1").unwrap();
    for next in [format!("10.36.4.{host}"), format!("fd36:4::{host}")] {
        hop.ip(&format!("route replace default via {next}\n")).unwrap();
    }
}

#[test]
fn replies_may_come_by_another_interface_and_flows_keep_their_way() {
    for (by, of_direct) in [("replies_by_insp0", true), ("replies_by_up0", false)] {
        let network = Network::new();
        network.site.gateway.nft(LOOKERS).unwrap();
        join((&network.direct, "x0"), (&network.inspector, "x0"), 4);
        if of_direct {
            answer_over(&network.direct, &network.inspector, 2);
        } else {
            answer_over(&network.inspector, &network.direct, 1);
        }
        let product = network.product();
        let daemon = product.start();
        let before = counted(&network, by);
        let mut flows = Flows::open(&network);
        flows.assert_they_go_on("their first packets");
        exclude(&product, &daemon, EGRESS);
        flows.assert_they_go_on("a list without them");
        assert!(counted(&network, by) >= before + 12, "replies come by the other interface");
        let other = if of_direct { "replies_by_up0" } else { "replies_by_insp0" };
        assert_eq!(counted(&network, other), 0, "all replies of {by}");
        assert_eq!(
            counted(&network, "inspected_443"),
            0,
            "replies of direct flows are not looked into"
        );
        daemon.terminate();
    }
}

#[test]
fn translated_flows_keep_way_and_address_and_each_uplink_has_its_own() {
    let network = Network::new();
    // Theirs: everything that takes the inspected way has its address, and one address leads elsewhere.
    network
        .site
        .gateway
        .nft(
            "table inet theirs {
                chain postrouting {
                    type nat hook postrouting priority srcnat; policy accept;
                    oifname \"insp0\" masquerade
                }
                chain prerouting {
                    type nat hook prerouting priority dstnat; policy accept;
                    ip daddr 198.51.100.10 dnat ip to 40.96.0.1
                    ip6 daddr 2001:db8::10 dnat ip6 to 2603:1006::1
                }
            }",
        )
        .unwrap();
    let product = network.product();
    let egress = format!("{EGRESS}masquerade = true\nclamp-mss = true\n");
    product.configure(&config(&egress));
    let daemon = product.start();
    let expected = [
        (DIRECT[0], "direct 10.36.2.1"),
        (DIRECT[1], "direct fd36:2::1"),
        (INSPECTED[0], "inspector 10.36.3.1"),
        (INSPECTED[1], "inspector fd36:3::1"),
        // What the client asks for decides, not what somebody makes of it.
        ("198.51.100.10:443", "inspector 10.36.3.1"),
        ("[2001:db8::10]:443", "inspector fd36:3::1"),
    ];
    let open = |(to, answer)| (to, answer, network.flow(to).unwrap());
    let mut flows: Vec<_> = expected.into_iter().map(open).collect();
    for (to, answer, flow) in &mut flows {
        assert_eq!(flow.answer(), *answer, "{to}");
    }
    exclude(&product, &daemon, &egress);
    for (to, answer, flow) in &mut flows {
        assert_eq!(flow.answer(), *answer, "{to} after a list without them");
    }
    daemon.terminate();
}

#[test]
fn icmp_errors_of_direct_flows_come_back_through_translation() {
    let network = Network::new();
    let product = network.product();
    product.configure(&config(&format!("{EGRESS}masquerade = true\n")));
    let daemon = product.start();
    // Listed, and nobody listens there: the server's own kernel says so.
    for (to, from) in [("40.97.0.9:443", "10.36.2.1"), ("[2603:1006::9]:443", "fd36:2::1")] {
        network
            .direct
            .nft(
                "table inet errors {
                    counter asked { }
                    chain input {
                        type filter hook input priority filter;
                        meta l4proto udp counter name asked
                    }
                }",
            )
            .unwrap();
        let answer = network.datagrams(to).answer();
        assert!(answer.contains("refused"), "{to} from {from}: {answer}");
        let asked = network.direct.run("nft list counter inet errors asked").unwrap();
        assert!(asked.contains("packets 1 "), "{to} took the uplink: {asked}");
        network.direct.run("nft delete table inet errors").unwrap();
    }
    daemon.terminate();
}

#[test]
fn a_flow_that_begins_with_fragments_is_inspected_whole_and_a_direct_one_stays_direct_with_them() {
    for masquerade in ["", "masquerade = true\n"] {
        let network = Network::new();
        let product = network.product();
        product.configure(&config(&format!("{EGRESS}{masquerade}")));
        let daemon = product.start();
        // More than two packets' worth.
        let ask_in_fragments = |flow: &Flow| {
            let Flow::Udp(socket) = flow else { panic!("no UDP") };
            socket.send(&[0; 4000]).unwrap();
            let mut answer = [0; 64];
            let length = uninterrupted(|| socket.recv(&mut answer)).unwrap();
            String::from_utf8_lossy(&answer[..length]).split(' ').next().unwrap().to_owned()
        };
        let fragments = || {
            let reasons = product.status()["reasons"].clone();
            ["first_fragment", "later_fragment"].map(|name| {
                let mut reasons = reasons.as_array().unwrap().iter();
                reasons.find(|it| it["reason"] == name).unwrap()["packets"].as_u64().unwrap()
            })
        };
        for (to, datagrams) in DIRECT.into_iter().zip([1, 4]) {
            let mut begins_in_fragments = network.datagrams(to);
            assert_eq!(ask_in_fragments(&begins_in_fragments), "inspector", "{to}");
            wait_until("its fragments are counted", || fragments() == [datagrams, 2 * datagrams]);
            assert_eq!(begins_in_fragments.ask(), "inspector", "{to}: as it began");
            let mut begins_whole = network.datagrams(to);
            assert_eq!(begins_whole.ask(), "direct", "{to}");
            assert_eq!(ask_in_fragments(&begins_whole), "direct", "{to}: as it began");
            assert_eq!(begins_whole.ask(), "direct", "{to}");
            assert_eq!(ask_in_fragments(&begins_in_fragments), "inspector", "{to}");
        }
        daemon.terminate();
    }
}

/// By rules of others, port 443 of one host is FTP: conntrack reads there where data will go.
const HELPER: &str = "table inet theirs {
    ct helper ftp {
        type \"ftp\" protocol tcp
        l3proto ip
    }
    chain prerouting {
        type filter hook prerouting priority filter;
        ip daddr 40.98.0.1 tcp dport 443 ct helper set \"ftp\"
    }
}";

/// Everybody who connects there is told what `say` says, in pieces of their own.
fn tell(hop: &Namespace, address: &str, say: &'static [&str]) {
    let listener = hop.enter(|| TcpListener::bind(address)).unwrap().unwrap();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().flatten() {
            for piece in say {
                stream.write_all(piece.as_bytes()).unwrap();
                sleep(Duration::from_millis(100));
            }
            kept.push(stream);
        }
    });
}

/// The kernel gives a flow that another one has announced that one's connection mark.
#[test]
fn a_flow_that_another_one_announces_is_decided_by_itself() {
    let network = Network::new();
    network.site.gateway.nft(HELPER).unwrap();
    let passive = &["220 ready\r\n", "227 Entering Passive Mode (40,98,0,1,1,188).\r\n"];
    tell(&network.direct, "40.98.0.1:443", passive);
    tell(&network.direct, "40.98.0.1:444", &["direct\n"]);
    tell(&network.inspector, "40.98.0.1:444", &["inspected\n"]);
    let product = network.product();
    let daemon = product.start();
    let connect = |address: &str| network.site.client.enter(|| TcpStream::connect(address));
    let mut control = BufReader::new(connect("40.98.0.1:443").unwrap().unwrap());
    let mut line = String::new();
    while !line.starts_with("227") {
        line.clear();
        control.read_line(&mut line).unwrap();
    }
    let expected = network.gateway("conntrack -L expect");
    assert!(expected.contains("dport=444"), "{expected}");
    let mut way = String::new();
    BufReader::new(connect("40.98.0.1:444").unwrap().unwrap()).read_line(&mut way).unwrap();
    assert_eq!(way, "inspected\n", "{}", network.sight());
    daemon.terminate();
}

/// Programs stay with an interface, rules are about its name.
#[test]
fn an_interface_that_has_another_name_by_now_is_inspected() {
    let network = Network::new();
    let product = network.product();
    let daemon = product.start();
    network.assert_it_parts();
    for command in ["ip link set lan0 down", "ip link set lan0 name old0", "ip link set old0 up"] {
        network.gateway(command);
    }
    wait_until("what was direct is inspected", || network.way(DIRECT[0]) == "inspector");
    let hooks = network.gateway("bpftool net");
    assert!(hooks.contains("old0"), "our programs are there still: {hooks}");
    daemon.terminate();
}
