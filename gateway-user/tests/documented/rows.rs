//! Every command of the papers, in the order in which they are typed, with what comes of it.

use super::gateway::Before::{
    self, Configured, Edited, Exporter, Flow, Fresh, Serving, Shadow, Stopped, Waiting,
};

/// What comes of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// It ends with success and says this.
    Says(&'static str),
    /// It ends with success and says little; another command then says what came of it.
    Does(&'static str, &'static str),
    /// As [`Outcome::Says`], but with one of these codes: it depends on the machine.
    Ends(&'static [i32], &'static str),
    /// It goes on; it is ended by a signal when it has said all of this.
    GoesOn(&'static [&'static str]),
    /// It is how [`Before::Serving`] starts the daemon, which said this.
    IsTheDaemon(&'static str),
    /// It changes the whole machine, or needs one of its own: this command is typed in its place.
    As(&'static str, &'static str),
    /// It is run by something else, whose file has this text.
    Elsewhere(&'static str, &'static str),
}
use Outcome::{As, Does, Elsewhere, Ends, GoesOn, IsTheDaemon, Says};

/// What stands for a value in a command, by word. `ID` is the plan that waits.
pub(crate) const PLACEHOLDERS: [(&str, &str); 11] = [
    ("[SOURCE]", "10.1.2.3"),
    ("A", "old.json"),
    ("B", "new.json"),
    ("DESTINATION", "40.96.0.1"),
    ("FILE", "lan0.pcap"),
    ("FORMAT", "cidr"),
    ("HOP", "fd36::1"),
    ("IFACE", "lan1"),
    ("PREFIX", "192.0.2.0/24"),
    ("PROTOCOL/PORT", "tcp/443"),
    ("TABLE", "100"),
];

/// The system of `cargo xtask vm systemd`.
const GUEST: &str = "xtask/src/vm/guest/systemd.sh";
/// What an operator does there.
const OPERATOR: &str = "xtask/src/vm/guest/operator.sh";
/// How the lab builds it.
const LAB: &str = "xtask/src/lab/product.rs";

/// What the papers show, what has to be so before, and what comes of it.
pub(crate) const ROWS: &[(&str, Before, Outcome)] = &[
    // Before anything is configured.
    (
        "install -m 755 target/release/breakout365 /usr/local/sbin/",
        Fresh,
        Does("ls /usr/local/sbin", "breakout365"),
    ),
    ("breakout365 feed show", Fresh, Says("2026073100")),
    ("breakout365 policy show", Fresh, Says("40.96.0.0/13")),
    ("breakout365 explain 40.96.0.1 tcp/443", Fresh, Says("direct (matched)")),
    ("breakout365 explain DESTINATION PROTOCOL/PORT", Fresh, Says("direct (matched)")),
    ("breakout365 explain [SOURCE] DESTINATION PROTOCOL/PORT", Fresh, Says("direct (matched)")),
    ("breakout365 replay lan0.pcap", Fresh, Says("matched")),
    ("breakout365 replay FILE", Fresh, Says("no_prefix")),
    ("breakout365 feed diff A B", Fresh, Says("52.112.0.0/14")),
    ("breakout365 export --format FORMAT", Fresh, Says("40.96.0.0/13")),
    ("breakout365 export --format bird", Fresh, Says("40.96.0.0/13")),
    ("breakout365 export --format ipset", Fresh, Says("40.96.0.0/13")),
    ("breakout365 export --format nft", Fresh, Says("40.96.0.0/13")),
    (
        "breakout365 export --format pac --proxy \"PROXY proxy.example:3128\"",
        Fresh,
        Says("FindProxyForURL"),
    ),
    // As the quick start goes on.
    (
        "breakout365 policy show --config /etc/breakout365/config.toml",
        Configured,
        Says("40.96.0.0/13"),
    ),
    ("breakout365 doctor", Configured, Ends(&[0, 17, 18], "kernel")),
    ("breakout365 doctor lan1", Configured, Ends(&[0, 17, 18], "lan1")),
    ("breakout365 run --config /etc/breakout365/config.toml", Shadow, IsTheDaemon("native xdp")),
    ("breakout365 status", Shadow, Says("mode    shadow")),
    ("breakout365 plan show", Edited, Says("nothing waits")),
    ("breakout365 apply --confirm-within 5m", Edited, Says("or it goes back")),
    ("breakout365 confirm", Edited, Says("confirmed")),
    ("breakout365 reload", Serving, Says(" serves 40 prefixes")),
    // What is in place.
    ("ip rule", Serving, Says("fwmark 0x1000000/0x1000000 lookup 365")),
    ("ip -d rule", Serving, Says("proto 109")),
    ("ip -6 -d rule", Serving, Says("lookup main")),
    ("ip route show table 365", Serving, Says("default via 198.51.100.1 dev wan0")),
    ("nft list table inet breakout365", Serving, Says("kept by breakout365")),
    // Looking on.
    ("breakout365 top", Serving, Says("direct")),
    ("breakout365 trace", Serving, GoesOn(&["direct (matched)", "no_prefix"])),
    ("breakout365 feed fetch", Serving, Says("2026073100")),
    ("breakout365 feed history", Serving, Says("2026073100")),
    ("breakout365 exporter", Serving, GoesOn(&["127.0.0.1:9365"])),
    ("curl http://127.0.0.1:9365/healthz", Exporter, Says("ok")),
    (
        "breakout365 exporter --listen 192.0.2.1:9365 --tls-cert cert.pem --tls-key key.pem \
         --token-file token",
        Serving,
        GoesOn(&["192.0.2.1:9365"]),
    ),
    // It is the whole machine's: only that there is such a key.
    (
        "sysctl kernel.bpf_stats_enabled=1",
        Serving,
        As("sysctl kernel.bpf_stats_enabled", "kernel.bpf_stats_enabled = "),
    ),
    // Direct flows, and their end.
    ("conntrack -D --mark 0x03000000/0x03000000", Flow, Says("have been deleted")),
    ("breakout365 revoke --set 11 --set 12", Flow, Says("0 direct flows of set 11, set 12")),
    ("breakout365 revoke --prefix 52.112.0.0/14", Flow, Says("0 direct flows of 52.112")),
    ("breakout365 revoke --all", Flow, Says("direct flows of all sets are ended")),
    ("breakout365 off", Serving, Says("everything is inspected")),
    ("breakout365 on", Serving, Says("what is selected goes direct")),
    ("breakout365 off --revoke", Flow, Says("direct flows are ended")),
    // A support case.
    (
        "breakout365 support start --client 10.1.2.3 --client 10.1.7.0/24 --for 2h --note \"case \
         123\"",
        Serving,
        Says("support window 1: 10.1.2.3/32, 10.1.7.0/24"),
    ),
    ("breakout365 support list", Serving, Says("case 123")),
    ("breakout365 support report 1", Serving, Says("case 123")),
    ("breakout365 support stop 1", Serving, Says("support window 1 is over")),
    // Rules of inspectors.
    (
        "breakout365 export --format chain-nft --to tproxy:3129 --out inspection.nft",
        Serving,
        Does("cat inspection.nft", "tproxy"),
    ),
    ("nft -f inspection.nft", Serving, Does("nft list ruleset", "tproxy")),
    (
        "breakout365 export --format chain-iptables --to redirect:3128 --to queue:0 --out \
         inspection.rules",
        Serving,
        Does("cat inspection.rules", "REDIRECT"),
    ),
    ("iptables-restore --noflush inspection.rules", Serving, Does("iptables-save", "REDIRECT")),
    ("ip rule add to PREFIX lookup TABLE", Serving, Does("ip rule", "to 192.0.2.0/24 lookup 100")),
    (
        "breakout365 export --format networkd --out \
         /etc/systemd/networkd.conf.d/breakout365.conf",
        Serving,
        Does("cat /etc/systemd/networkd.conf.d/*", "ManageForeignRoutes=no"),
    ),
    (
        "ip -6 route add default via HOP table 400",
        Serving,
        Does("ip -6 route show table 400", "default via fd36::1"),
    ),
    (
        "ip -6 rule add lookup 400 priority 33000",
        Serving,
        Does("ip -6 rule", "33000:\tfrom all lookup 400"),
    ),
    ("ethtool -K IFACE rxvlan off", Serving, Does("ethtool -k lan1", "rx-vlan-offload: off")),
    ("ethtool -K IFACE tx off", Serving, Does("ethtool -k lan1", "tx-checksumming: off")),
    // A list that changes too much.
    ("breakout365 plan reject ID", Waiting, Says(" is rejected")),
    ("breakout365 plan accept ID", Waiting, Says(" serves 1 prefixes")),
    ("breakout365 rollback", Serving, Says(" serves 40 prefixes")),
    // The end.
    ("ip rule del priority 365", Stopped, Does("ip rule show priority 365 | wc -l", "0")),
    ("ip route flush table 365", Stopped, Does("ip route show table 365 | wc -l", "0")),
    ("breakout365 down", Stopped, Says("everything is inspected")),
    // What needs a machine of its own, and has it.
    ("apt install ./breakout365.deb", Fresh, Elsewhere(GUEST, "dpkg --install /packages/old.deb")),
    (
        "apt install ./target/package/breakout365.deb",
        Fresh,
        Elsewhere(GUEST, "dpkg --install --force-confold /packages/new.deb"),
    ),
    ("apt remove breakout365", Fresh, Elsewhere(GUEST, "dpkg --remove breakout365")),
    ("apt purge breakout365", Fresh, Elsewhere(GUEST, "dpkg --purge breakout365")),
    ("systemctl enable --now breakout365", Fresh, Elsewhere(GUEST, "systemctl enable --now $unit")),
    (
        "systemctl enable --now breakout365-exporter",
        Fresh,
        Elsewhere(OPERATOR, "systemctl enable --now $exporter"),
    ),
    // The drop-in that it shows is held against the parser by `tests/units.rs`.
    ("systemctl edit breakout365-exporter", Fresh, Elsewhere(GUEST, "/run/systemd/system/$unit.d")),
    ("systemctl start breakout365", Fresh, Elsewhere(GUEST, "systemctl start $unit")),
    ("systemctl status breakout365", Fresh, Elsewhere(GUEST, "systemctl status $unit")),
    ("systemctl reload breakout365", Fresh, Elsewhere(GUEST, "systemctl reload $unit")),
    ("systemctl restart breakout365", Fresh, Elsewhere(GUEST, "systemctl restart $unit")),
    ("systemctl stop breakout365", Fresh, Elsewhere(GUEST, "systemctl stop $unit")),
    // It opens an editor on what is written there without one.
    ("systemctl edit breakout365", Fresh, Elsewhere(GUEST, "/run/systemd/system/$unit.d")),
    // Of the guest, the fields are read by a test that plays journald.
    ("journalctl -u breakout365 -p warning", Fresh, Elsewhere(GUEST, "journalctl ")),
    (
        "cargo build --release --package gateway-user --bin breakout365",
        Fresh,
        Elsewhere(LAB, "\"--package\", \"gateway-user\", \"--bin\", \"breakout365\""),
    ),
];
