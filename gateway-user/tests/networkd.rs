//! systemd-networkd removes our rules and routes, and leaves them where it has the exported drop-in.
//! Needs root, systemd-networkd and dbus-daemon, which run in a network and with a `/run` of their own.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use xtask::testbed::{BpfFs, End, Namespace, Offloads, link};

use crate::support::product::{Product, with_hook};
use crate::support::{CLIENT, LAN, Site};

/// The IPv6 next hop is link-local: the kernel takes IPv4 routes by itself when networkd takes the
/// interface's addresses down and up.
const EGRESS: &str =
    "[egress]\ninterface = \"up0\"\ngateway4 = \"10.36.2.2\"\ngateway6 = \"fe80::36:2:2\"\n";

/// systemd-networkd, as it starts on a router: it keeps the uplink and, when it comes, `new0`. Then
/// somebody adds that, and has the uplink configured anew. Ends when both are configured.
const NETWORKD: &str = r#"
mount -t tmpfs tmpfs /run
# Read-only, as in a container: there is no udev to wait for.
mount -t sysfs -o ro sysfs /sys
mkdir -p /run/dbus /run/systemd/network /run/systemd/networkd.conf.d
printf '[Match]\nName=up0\n[Network]\nAddress=10.36.2.9/24\nIPv6AcceptRA=no\n' >/run/systemd/network/up0.network
printf '[Match]\nName=new0\n[Network]\nAddress=10.36.9.1/24\nIPv6AcceptRA=no\n' >/run/systemd/network/new0.network
cp "$DROP_IN" /run/systemd/networkd.conf.d/breakout365.conf
started=
trap 'kill $started' EXIT
dbus-daemon --system --nofork --nopidfile >/run/dbus.log 2>&1 &
started=$!
for _ in $(seq 100); do test -S /run/dbus/system_bus_socket && break; sleep 0.05; done
test -S /run/dbus/system_bus_socket || { cat /run/dbus.log >&2; exit 1; }
/lib/systemd/systemd-networkd >/run/networkd.log 2>&1 &
started="$! $started"
configured() {
    for _ in $(seq 100); do
        ! networkctl list --no-legend "$1" | grep -qw configured || return 0
        sleep 0.05
    done
    { ip addr show "$1"; networkctl; tail -n 5 /run/*.log; } >&2
    return 1
}
configured up0
ip link add new0 type veth peer name new1
ip link set new1 up
configured new0
networkctl reconfigure up0
sleep 0.2
configured up0
"#;

/// What is left of our rules and routes.
fn left(with_drop_in: bool) -> Vec<String> {
    let site = Site {
        client: Namespace::new("client").unwrap(),
        gateway: Namespace::new("gateway").unwrap(),
        bpffs: BpfFs::new().unwrap(),
    };
    let next = Namespace::new("next").unwrap();
    for (number, ours, other, theirs) in [(1, LAN, &site.client, CLIENT), (2, "up0", &next, "in0")]
    {
        let mac = |host| [2, 0x36, 0, 0, number, host];
        let address = |host: u8| [format!("10.36.{number}.{host}/24").parse().unwrap()];
        link(
            &End { namespace: &site.gateway, interface: ours, mac: mac(1), addresses: &address(1) },
            &End { namespace: other, interface: theirs, mac: mac(2), addresses: &address(2) },
            Offloads::Default,
        )
        .unwrap();
    }
    site.gateway.forward().unwrap();
    let product = Product::new(&site, "auto");
    product.configure(&format!("{}{EGRESS}", with_hook(LAN, "auto")));
    let daemon = product.start();
    // It would put them back.
    daemon.end(Signal::SIGKILL);
    assert_eq!(ours(&site.gateway), ALL, "as the daemon left them");

    let drop_in = product.file("drop-in");
    let config = product.config();
    let export = ["export", "--format", "networkd", "--config", config.to_str().unwrap()];
    fs::write(&drop_in, if with_drop_in { product.text(&export) } else { String::new() }).unwrap();
    let mut networkd = Command::new("unshare");
    networkd.args(["--mount", "sh", "-ec", NETWORKD]).env("DROP_IN", &drop_in);
    site.gateway.output(&mut networkd).unwrap();
    ours(&site.gateway)
}

const ALL: [&str; 5] =
    ["-4 rule 365", "-4 rule 366", "-6 rule 365", "-6 rule 366", "-6 route default"];

fn ours(gateway: &Namespace) -> Vec<String> {
    let mut ours = Vec::new();
    for family in ["-4", "-6"] {
        let rules = gateway.run(&format!("ip {family} rule")).unwrap();
        let priorities = rules.lines().filter_map(|line| Some(line.split_once(':')?.0));
        let priorities = priorities.filter(|priority| ["365", "366"].contains(priority));
        ours.extend(priorities.map(|priority| format!("{family} rule {priority}")));
    }
    let routes = gateway.run("ip -6 route show table all").unwrap();
    let routes = routes.lines().filter(|line| line.contains("table 365 "));
    ours.extend(routes.map(|line| format!("-6 route {}", line.split(' ').next().unwrap())));
    ours
}

#[test]
fn it_removes_our_rules_and_routes_unless_it_has_the_drop_in() {
    assert_eq!(left(false), Vec::<String>::new(), "it removes what is in none of its files");
    assert_eq!(left(true), ALL);
}
