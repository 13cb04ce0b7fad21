//! What several tests stand on: a client on the inside of a gateway, small tables, and the marks
//! that packets have in the gateway.

pub(crate) mod download;
pub(crate) mod foreign;
pub(crate) mod network;
pub(crate) mod product;
pub(crate) mod scrape;
pub(crate) mod stage;
pub(crate) mod strategies;
pub(crate) mod web_service;

use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use gateway_common::Transport;
use gateway_user::config::{Mark, Mode};
use gateway_user::datapath::{
    Blueprint, CounterSheet, Counts, DatapathError, FeedIdentity, HookRequest, Interface, Loaded,
    Lock, Pins, Published, SetIdentity, Step, TcCarrier, XdpRequest, bring_up, take_down,
};
use gateway_user::policy::{Rule, Table};
use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use xtask::testbed::{BpfFs, End, Frame, Namespace, Offloads, Wire, link};

/// The inside interface of the gateway.
pub(crate) const LAN: &str = "lan0";
/// The client's only interface.
pub(crate) const CLIENT: &str = "eth0";
/// What says Direct in these tests: the default.
pub(crate) const MARK: Mark = Mark { value: 0x0100_0000, mask: 0x0100_0000 };
/// How long something that happens on its own may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What comes in less is an answer to what was done: no limit that has run out, and not the look that the daemon
/// takes every ten seconds.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// Says why this machine has no room for a test, past the harness that would keep it: `cargo xtask test`
/// counts such lines, and what is skipped has not passed.
pub(crate) fn skip(why: &dyn std::fmt::Display) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    // With one thread the harness has begun a line.
    let line = format!("\ntest skipped: {name}: {why}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// Room for the servers that stay until the tests end, some 2,000 sockets, and for both ends of some thousand flows.
pub(crate) fn allow_many_files() {
    const WANTED: u64 = 20_000;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(WANTED), hard.max(WANTED)).unwrap();
}

/// A client beside a gateway that counts by mark what comes in, and drops it.
pub(crate) struct Site {
    pub(crate) client: Namespace,
    pub(crate) gateway: Namespace,
    pub(crate) bpffs: BpfFs,
}

/// Packets that came into the gateway, by mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marked {
    /// With the mark that says Direct and no other bit.
    pub(crate) direct: u64,
    /// Without any mark.
    pub(crate) none: u64,
    /// With any other mark.
    pub(crate) odd: u64,
}

impl Site {
    pub(crate) fn new() -> Self {
        let (client, gateway) =
            (Namespace::new("client").unwrap(), Namespace::new("gateway").unwrap());
        let bpffs = BpfFs::new().unwrap();
        // Only what a test sends is to be counted: no group reports, no router solicitations.
        for scope in ["all", "default"] {
            client.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
        }
        let site = Self { client, gateway, bpffs };
        site.add_lan(CLIENT, LAN);
        // The watch stands before anything that could lose a packet, and only for packets of ours.
        site.gateway
            .nft(&format!(
                "table inet watch {{
                    counter direct {{ }}
                    counter none {{ }}
                    counter odd {{ }}
                    chain seen {{
                        type filter hook prerouting priority raw
                        ip saddr != 192.0.2.0/24 return
                        ip6 saddr != 2001:db8::/32 return
                        meta mark {:#x} counter name direct drop
                        meta mark 0 counter name none drop
                        counter name odd drop
                    }}
                }}",
                MARK.value
            ))
            .unwrap();
        site
    }

    /// Joins client and gateway by one more veth pair.
    pub(crate) fn add_lan(&self, client: &str, gateway: &str) {
        let end = |namespace, interface, last| End {
            namespace,
            interface,
            mac: [2, 0, 0, 0, 0, last],
            addresses: &[],
        };
        let (one, other) = (end(&self.client, client, 1), end(&self.gateway, gateway, 2));
        link(&one, &other, Offloads::Default).unwrap();
    }

    pub(crate) fn pins(&self) -> Pins {
        Pins::new(self.bpffs.pins())
    }

    pub(crate) fn lock(&self) -> Lock {
        self.pins().lock().unwrap()
    }

    /// What is asked for on `interface` of the gateway.
    pub(crate) fn hook(&self, interface: &str, xdp: XdpRequest) -> HookRequest {
        let found = self.inside(Interface::find(interface));
        HookRequest { interface: found.unwrap(), xdp, tc: TcCarrier::Best }
    }

    pub(crate) fn publish(
        &self,
        lock: &Lock,
        table: &Table,
        hooks: &[HookRequest],
    ) -> Result<Published, DatapathError> {
        self.publish_unless(lock, table, hooks, &mut |_| Ok(()))
    }

    /// Publishes unless `before` calls it off.
    pub(crate) fn publish_unless(
        &self,
        lock: &Lock,
        table: &Table,
        hooks: &[HookRequest],
        before: &mut (dyn FnMut(&Step) -> Result<(), String> + Send),
    ) -> Result<Published, DatapathError> {
        let blueprint = blueprint(table);
        self.gateway.enter(|| bring_up(lock, &blueprint, hooks, before)).unwrap()
    }

    pub(crate) fn take_down(&self, lock: Lock) -> Result<(), DatapathError> {
        self.inside(take_down(lock))
    }

    /// Runs `work` to its end in the gateway.
    pub(crate) fn inside<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(work)
        };
        self.gateway.enter(run).unwrap()
    }

    pub(crate) fn counts(&self) -> Counts {
        Loaded::open(&self.pins()).unwrap().counts().unwrap()
    }

    /// The file names under the pins, ascending.
    pub(crate) fn pinned(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.pins().root()) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Everything that has come into the gateway so far.
    pub(crate) fn marked(&self) -> Marked {
        let listed = self.gateway.run("nft list counters table inet watch").unwrap();
        let words: Vec<_> = listed.split_whitespace().collect();
        let packets = |name: &str| {
            let at = words.windows(2).position(|pair| pair == ["counter", name]).unwrap();
            let after = words[at..].iter().skip_while(|word| **word != "packets");
            after.skip(1).map(|word| word.parse().unwrap()).next().unwrap()
        };
        Marked { direct: packets("direct"), none: packets("none"), odd: packets("odd") }
    }

    /// Sends `frames` from `interface` of the client, and says what came into the gateway
    /// since: everything that was sent.
    pub(crate) fn send_from(&self, interface: &str, frames: &[Vec<u8>]) -> Marked {
        let before = self.marked();
        let mut wire = Wire::open(&self.client, interface).unwrap();
        for frame in frames {
            wire.send(frame).unwrap();
        }
        let sent = u64::try_from(frames.len()).unwrap();
        let came = || {
            let now = self.marked();
            Marked {
                direct: now.direct - before.direct,
                none: now.none - before.none,
                odd: now.odd - before.odd,
            }
        };
        let total = |came: Marked| came.direct + came.none + came.odd;
        let deadline = Instant::now() + PATIENCE;
        while total(came()) < sent && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
        let came = came();
        if total(came) != sent {
            // Where they got lost, or what else came.
            let links = [&self.client, &self.gateway].map(|it| it.run("ip -s link").unwrap());
            panic!("of {sent} frames came {came:?}\n{}", links.join("\n"));
        }
        came
    }

    /// Asserts that the gateway marks exactly the direct ones among packets of both families and
    /// protocols to [`one_table`] or [`other_table`].
    pub(crate) fn assert_it_marks(&self) {
        self.assert_it_marks_on(CLIENT);
    }

    /// As [`Site::assert_it_marks`], from another interface of the client.
    pub(crate) fn assert_it_marks_on(&self, interface: &str) {
        let marked = self.send_from(interface, &traffic(DIRECT));
        assert_eq!(marked, Marked { direct: count(DIRECT), none: 0, odd: 0 }, "direct traffic");
        self.assert_it_inspects_on(interface, &traffic(INSPECTED));
    }

    /// Asserts that nothing is marked, not even what [`one_table`] would mark.
    pub(crate) fn assert_it_marks_nothing(&self) {
        self.assert_it_inspects_on(CLIENT, &traffic(DIRECT));
    }

    fn assert_it_inspects_on(&self, interface: &str, frames: &[Vec<u8>]) {
        let none = u64::try_from(frames.len()).unwrap();
        let marked = self.send_from(interface, frames);
        assert_eq!(marked, Marked { direct: 0, none, odd: 0 }, "inspected traffic");
    }
}

/// A client that sends without pause, until it is stopped.
pub(crate) struct Sender {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Sender {
    /// Sends what `next` says, which hears how many have been sent, from the client.
    pub(crate) fn start(
        site: &Site,
        mut next: impl FnMut(u64) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let mut wire = Wire::open(&site.client, CLIENT).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                // What the interface does not take is an error here, so it is not lost.
                wire.send(&next(sent)).unwrap();
                sent += 1;
                sleep(Duration::from_millis(1));
            }
            sent
        });
        Self { stop, thread }
    }

    /// Stops, and says how many frames were sent.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Direct by [`one_table`] and by [`other_table`].
pub(crate) const DIRECT: &[(Transport, &str)] = &[
    (Transport::Tcp, "40.96.0.0:443"),
    (Transport::Udp, "40.103.255.255:443"),
    (Transport::Tcp, "[2603:1006::]:443"),
    (Transport::Udp, "[2603:1006:ff:ffff:ffff:ffff:ffff:ffff]:443"),
];

/// Inspected by both: neighbours, other ports, ordinary internet.
pub(crate) const INSPECTED: &[(Transport, &str)] = &[
    (Transport::Tcp, "40.95.255.255:443"),
    (Transport::Udp, "40.104.0.0:443"),
    (Transport::Tcp, "40.96.0.0:444"),
    (Transport::Tcp, "203.0.113.1:443"),
    (Transport::Tcp, "[2603:1005:ffff::]:443"),
    (Transport::Udp, "[2603:1006::]:442"),
];

/// In [`other_table`] only.
pub(crate) const OTHER_ONLY: (Transport, &str) = (Transport::Tcp, "198.51.100.7:443");

/// One frame to each destination.
pub(crate) fn traffic(destinations: &[(Transport, &str)]) -> Vec<Vec<u8>> {
    destinations.iter().map(|destination| frame(*destination)).collect()
}

pub(crate) fn frame((transport, destination): (Transport, &str)) -> Vec<u8> {
    let destination: SocketAddr = destination.parse().unwrap();
    let frame = match transport {
        Transport::Tcp => Frame::tcp(destination),
        Transport::Udp => Frame::udp(destination),
    };
    frame.build().unwrap()
}

pub(crate) fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap()
}

/// Two prefixes, one of each family, of set 1.
pub(crate) fn one_table() -> Table {
    Table::from_rules(one_policy()).unwrap()
}

/// As [`one_table`], from set 2 as well, and a prefix more.
pub(crate) fn other_table() -> Table {
    let both = one_policy().chain(rules("40.96.0.0/13", Transport::Tcp, 443..=443, 2));
    Table::from_rules(both.chain(rules("198.51.100.0/25", Transport::Tcp, 443..=443, 2))).unwrap()
}

fn one_policy() -> impl Iterator<Item = Rule> {
    ["40.96.0.0/13", "2603:1006::/40"].into_iter().flat_map(|prefix| {
        rules(prefix, Transport::Tcp, 443..=443, 1).chain(rules(
            prefix,
            Transport::Udp,
            443..=443,
            1,
        ))
    })
}

/// The rule that a line of a feed leads to.
pub(crate) fn rules(
    prefix: &str,
    transport: Transport,
    ports: std::ops::RangeInclusive<u16>,
    set: u32,
) -> impl Iterator<Item = Rule> {
    let prefix: IpNet = prefix.parse().unwrap();
    std::iter::once(Rule { prefix, transport, first: *ports.start(), last: *ports.end(), set })
}

pub(crate) fn blueprint(table: &Table) -> Blueprint {
    let ids: std::collections::BTreeSet<u32> = table.groups().iter().flatten().copied().collect();
    let sets = ids.into_iter().map(|id| SetIdentity {
        id,
        service_area: "Test".to_owned(),
        category: "Optimize".to_owned(),
    });
    Blueprint {
        table: table.clone(),
        mark: MARK,
        mode: Mode::Mark,
        feed: FeedIdentity { instance: None, version: None, digest: "0".repeat(64) },
        sets: sets.collect(),
        own: Vec::new(),
        deadline: None,
        starts_off: false,
        self_check: 0,
        redirect: None,
    }
}

/// Packets of every decision in `sheet`.
pub(crate) fn decided(sheet: &CounterSheet) -> u64 {
    gateway_common::Reason::ALL.into_iter().map(|reason| sheet.reason(reason).packets).sum()
}

/// Waits for something that happens on its own.
pub(crate) fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(Duration::from_millis(10));
    }
}
