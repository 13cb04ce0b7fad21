//! Packets of a device without Ethernet headers are decided as any others, by tc. Needs root.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use gateway_user::datapath::{HookRequest, Step, TcCarrier, XdpRequest};
use xtask::testbed::Namespace;

use crate::support::product::{Product, with_hook};
use crate::support::{
    DIRECT, INSPECTED, LAN, Marked, Site, count, decided, one_table, traffic, wait_until,
};

const TUN: &str = "tun0";
/// Writes packets, one line of hexadecimal digits each, to the device: `TUNSETIFF` with `IFF_TUN` and
/// `IFF_NO_PI`.
const WRITER: &str = "import fcntl, os, struct, sys
tun = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH22x', sys.argv[1].encode(), 0x1001))
for line in open(sys.argv[2]):
    os.write(tun, bytes.fromhex(line))
";

fn with_tun() -> Site {
    let site = Site::new();
    site.gateway.run("ip tuntap add dev tun0 mode tun").unwrap();
    site.gateway.run("ip link set tun0 up").unwrap();
    // As on any gateway that takes packets from hosts that it has no route to.
    site.gateway.sysctl("net/ipv4/conf/all/rp_filter", "0").unwrap();
    site
}

/// Has the IP packets in `frames` come in by the device, and says how they were marked.
fn receive(site: &Site, frames: &[Vec<u8>]) -> Marked {
    let (before, packets) = (site.marked(), tempfile::NamedTempFile::new().unwrap());
    let mut lines = String::new();
    for frame in frames {
        for byte in &frame[14..] {
            write!(lines, "{byte:02x}").unwrap();
        }
        lines.push('\n');
    }
    fs::write(packets.path(), lines).unwrap();
    write_all(&site.gateway, packets.path().to_str().unwrap());
    let mut came = Marked::default();
    wait_until("every packet comes in", || {
        let now = site.marked();
        came = Marked {
            direct: now.direct - before.direct,
            none: now.none - before.none,
            odd: now.odd - before.odd,
        };
        came.direct + came.none + came.odd == count(frames)
    });
    came
}

fn write_all(gateway: &Namespace, path: &str) {
    gateway.output(Command::new("python3").args(["-c", WRITER, TUN, path])).unwrap();
}

fn assert_it_marks(site: &Site) {
    let direct = receive(site, &traffic(DIRECT));
    assert_eq!(direct, Marked { direct: count(DIRECT), none: 0, odd: 0 });
    let inspected = receive(site, &traffic(INSPECTED));
    assert_eq!(inspected, Marked { direct: 0, none: count(INSPECTED), odd: 0 });
}

#[test]
fn both_carriers_of_tc_mark_what_they_are_to() {
    for tc in [TcCarrier::Best, TcCarrier::Clsact] {
        let site = with_tun();
        let lock = site.lock();
        let hook = || HookRequest { tc, ..site.hook(TUN, XdpRequest::No) };
        site.publish(&lock, &one_table(), &[hook()]).unwrap();
        assert_it_marks(&site);
        // The next generation takes its place.
        site.publish(&lock, &one_table(), &[hook()]).unwrap();
        assert_it_marks(&site);
        assert_eq!(decided(&site.counts().tc), count(DIRECT) + count(INSPECTED));
        site.take_down(lock).unwrap();
        let none = receive(&site, &traffic(DIRECT));
        assert_eq!(none, Marked { direct: 0, none: count(DIRECT), odd: 0 });
    }
}

#[test]
fn a_failed_step_leaves_the_program_of_the_old_generation() {
    let site = with_tun();
    let lock = site.lock();
    let hook = || site.hook(TUN, XdpRequest::No);
    site.publish(&lock, &one_table(), &[hook()]).unwrap();
    let call_off = &mut |step: &Step| {
        if *step == Step::Current { Err("called off".to_owned()) } else { Ok(()) }
    };
    let outcome = site.publish_unless(&lock, &one_table(), &[hook()], call_off);
    assert!(outcome.is_err_and(|error| error.to_string().contains("called off")));
    assert_it_marks(&site);
    site.take_down(lock).unwrap();
}

#[test]
fn the_daemon_takes_tc_there_and_traces_what_comes_in() {
    let site = with_tun();
    let product = Product::new(&site, "auto");
    let tun = "[[interface]]\nname = \"tun0\"\n";
    product.configure(&format!("{}{tun}", with_hook(LAN, "auto")));
    let daemon = product.start();
    daemon.wait_for_log("lan0 (native xdp + tcx), tun0 (tcx)", 1);
    let trace = product.spawn(&["trace", "--sample", "1", "--count", "10"], "trace");
    let traced = || fs::read_to_string(product.file("trace")).unwrap();
    wait_until("a packet is traced", || {
        receive(&site, &traffic(&DIRECT[..1]));
        traced().contains("40.96.0.0")
    });
    let line = traced().lines().find(|line| line.contains("40.96.0.0")).unwrap().to_owned();
    for word in ["tun0", "192.0.2.", "443", "direct (matched)"] {
        assert!(line.contains(word), "{word:?} is not in {line:?}");
    }
    drop(trace);
    assert_it_marks(&site);
    site.assert_it_marks();
    daemon.terminate();
}
