//! Ten thousand flows that begin while a hundred lists are swapped: every packet of each takes the way
//! of its first. Needs root, and the program `conntrack`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use xtask::testbed::{EchoServers, Namespace, listen_v6};

use crate::support::network::{EGRESS, Network, config};
use crate::support::{MARK, wait_until};

const FLOWS: u16 = 10_000;
const SWAPS: u16 = 100;
/// How many swaps after its first packet a flow speaks again.
const ROUNDS: [u16; 5] = [0, 1, 3, 7, 15];
/// A client's port on servers, of both protocols.
const PORT: u16 = 7000;
/// The bit of the connection mark that says decided, by default.
const DECIDED: u32 = 0x0200_0000;
/// What a flow may take to be answered on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a hop sees come in, by flow, before anything else looks at it.
const SEEN: &str = "table inet seen {
    set four { type ipv4_addr; size 65536; flags dynamic; }
    set six { type ipv6_addr; size 65536; flags dynamic; }
    chain arrivals {
        type filter hook prerouting priority raw;
        iifname != \"in0\" accept
        meta l4proto != { tcp, udp } accept
        th dport != 7000 accept
        update @four { ip daddr counter }
        update @six { ip6 daddr counter }
    }
}";

/// One flow. Its number is in the address that it goes to, which no other flow has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow(u16);

/// Which lists have a flow's destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    Always,
    InEverySecond,
    Never,
}

impl Flow {
    fn all() -> impl Iterator<Item = Self> {
        (0..FLOWS).map(Self)
    }

    fn is_tcp(self) -> bool {
        self.0.is_multiple_of(2)
    }

    fn listed(self) -> Listed {
        match self.0 / 4 % 4 {
            0 => Listed::Always,
            1 | 2 => Listed::InEverySecond,
            _ => Listed::Never,
        }
    }

    fn to(self) -> SocketAddr {
        let [high, low] = self.0.to_be_bytes();
        let group = self.listed() as u8;
        let ip: IpAddr = if (self.0 / 2).is_multiple_of(2) {
            Ipv4Addr::new(40, 96 + group, high, low).into()
        } else {
            Ipv6Addr::new(0x2603, 0x1006, group.into(), 0, 0, 0, 0, self.0).into()
        };
        SocketAddr::new(ip, PORT)
    }
}

fn list(with_second: bool) -> String {
    let second = if with_second { "\"40.97.0.0/16\", \"2603:1006:1::/48\", " } else { "" };
    format!(
        "[{{\"id\": 1, \"serviceArea\": \"Exchange\", \"category\": \"Optimize\", \
         \"required\": true, \"ips\": [{second}\"40.96.0.0/16\", \"2603:1006::/48\"], \
         \"tcpPorts\": \"{PORT}\", \"udpPorts\": \"{PORT}\"}}]"
    )
}

/// What became of a TCP flow, as its client saw it: the connection, and who answered.
type Spoken = io::Result<(TcpStream, BTreeSet<u8>)>;

/// Speaks a flow's packets, each when its swap has begun.
struct Client {
    swap: watch::Receiver<u16>,
    /// One for each family: flows differ by where they go.
    udp: [UdpSocket; 2],
}

impl Client {
    async fn until(&self, round: usize, flow: Flow) {
        let begin = flow.0 / (FLOWS / SWAPS);
        // Not all at once, but over the time that a swap takes.
        let within = flow.0 % (FLOWS / SWAPS);
        let due = if round == 0 { begin } else { (begin + ROUNDS[round]).min(SWAPS - 1) };
        self.swap.clone().wait_for(|swap| *swap > due).await.unwrap();
        sleep(Duration::from_millis(within.into()) * 2).await;
    }

    async fn speak(&self, flow: Flow) -> Option<Spoken> {
        self.until(0, flow).await;
        if flow.is_tcp() {
            let spoken = timeout(PATIENCE * 4, self.speak_tcp(flow));
            return Some(spoken.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())));
        }
        for round in 0..ROUNDS.len() {
            self.until(round, flow).await;
            let socket = &self.udp[usize::from(flow.to().is_ipv6())];
            socket.send_to(b".", flow.to()).await.unwrap();
        }
        None
    }

    async fn speak_tcp(&self, flow: Flow) -> Spoken {
        let mut stream = TcpStream::connect(flow.to()).await?;
        let mut answers = BTreeSet::new();
        for round in 0..ROUNDS.len() {
            self.until(round, flow).await;
            stream.write_all(b".").await?;
            answers.insert(stream.read_u8().await?);
        }
        Ok((stream, answers))
    }
}

/// Speaks all flows from the namespace of the calling thread, to their end.
fn speak_all(swap: watch::Receiver<u16>) -> BTreeMap<Flow, Spoken> {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let udp = [UdpSocket::bind("0.0.0.0:0").await, UdpSocket::bind("[::]:0").await];
        let client = Arc::new(Client { swap, udp: udp.map(Result::unwrap) });
        let mut tasks = Vec::new();
        for flow in Flow::all() {
            let client = Arc::clone(&client);
            tasks.push((flow, tokio::spawn(async move { client.speak(flow).await })));
        }
        let mut spoken = BTreeMap::new();
        for (flow, task) in tasks {
            spoken.extend(task.await.unwrap().map(|outcome| (flow, outcome)));
        }
        spoken
    })
}

/// Answers every byte on TCP with the first letter of the hop's name, until this process ends.
fn serve_tcp(hop: &Namespace) {
    let letter = hop.role().as_bytes()[0];
    let v4 = || std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
    let listeners = hop.enter(|| [v4(), listen_v6(PORT).unwrap()]).unwrap();
    thread::spawn(move || {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let [one, other] = listeners.map(|listener| {
                listener.set_nonblocking(true).unwrap();
                TcpListener::from_std(listener).unwrap()
            });
            tokio::join!(accept(one, letter), accept(other, letter));
        });
    });
}

async fn accept(listener: TcpListener, letter: u8) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            while stream.read_u8().await.is_ok() && stream.write_u8(letter).await.is_ok() {}
        });
    }
}

/// Packets that came to a hop, by where they were going.
fn arrivals(hop: &Namespace) -> BTreeMap<IpAddr, u64> {
    let mut arrivals = BTreeMap::new();
    for set in ["four", "six"] {
        let listed = hop.run(&format!("nft -j list set inet seen {set}")).unwrap();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let sets = listed["nftables"].as_array().unwrap();
        let elements = sets.iter().find_map(|entry| entry.get("set")).unwrap()["elem"].clone();
        for element in elements.as_array().unwrap() {
            let to = element["elem"]["val"].as_str().unwrap().parse().unwrap();
            let packets = element["elem"]["counter"]["packets"].as_u64().unwrap();
            arrivals.insert(to, packets);
        }
    }
    arrivals
}

/// The connection mark of every flow, as another program than ours reads it, by where it goes.
fn connection_marks(gateway: &Namespace) -> BTreeMap<IpAddr, u32> {
    let mut marks = BTreeMap::new();
    for family in ["ipv4", "ipv6"] {
        let listed = gateway.run(&format!("conntrack -L -f {family}")).unwrap();
        let port = format!("dport={PORT}");
        for line in listed.lines().filter(|line| line.contains(&port)) {
            let word = |name: &str| {
                let found = line.split_whitespace().find_map(|word| word.strip_prefix(name));
                found.unwrap_or_else(|| panic!("no {name} in {line}"))
            };
            let before =
                marks.insert(word("dst=").parse().unwrap(), word("mark=").parse().unwrap());
            assert_eq!(before, None, "a second entry: {line}");
        }
    }
    marks
}

#[test]
fn ten_thousand_flows_over_a_hundred_swaps_keep_the_way_of_their_first_packet() {
    let network = Network::new();
    let gateway = &network.site.gateway;
    // The first flows say nothing for as long as the swaps take.
    gateway.sysctl("net/netfilter/nf_conntrack_udp_timeout", "600").unwrap();
    gateway.sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", "600").unwrap();
    let hops = [&network.direct, &network.inspector];
    let _udp = hops.map(|hop| {
        hop.nft(SEEN).unwrap();
        serve_tcp(hop);
        EchoServers::start(hop, &BTreeSet::new(), &[PORT].into()).unwrap()
    });
    let product = network.product();
    let guards = "[guards]\nallow = [\"prefixes_leaving\", \"space_leaving\"]\n";
    product.configure(&format!("{}{guards}", config(EGRESS)));
    let serve_list = |with_second| fs::write(product.file("feed.json"), list(with_second)).unwrap();
    serve_list(true);
    let daemon = product.start();

    let (swap, swaps) = watch::channel(0);
    let client = &network.site.client;
    let speaker = client.enter(|| thread::spawn(move || speak_all(swaps))).unwrap();
    let begin = Instant::now();
    for number in 1..=SWAPS {
        serve_list(number % 2 == 0);
        daemon.signal(Signal::SIGHUP);
        swap.send(number).unwrap();
        daemon.wait_for_log("published", usize::from(number) + 1);
    }
    let took = begin.elapsed();
    wait_until("every flow has spoken", || speaker.is_finished());
    let spoken = speaker.join().unwrap();

    let [direct, inspected] = hops.map(arrivals);
    let marks = connection_marks(gateway);
    let both = MARK.value | DECIDED;
    let mut ways: BTreeMap<(bool, bool, bool), u32> = BTreeMap::new();
    for flow in Flow::all() {
        let to = flow.to();
        let ip = to.ip();
        let at = |hop: &BTreeMap<IpAddr, u64>| hop.get(&ip).copied().unwrap_or(0);
        let (by_direct, by_inspected) = (at(&direct), at(&inspected));
        let is_direct = by_direct > 0;
        let what = format!("{to}: {by_direct} packets direct, {by_inspected} inspected");
        assert!(is_direct != (by_inspected > 0), "{what}");
        let mark = marks.get(&ip).unwrap_or_else(|| panic!("{what}, and no entry"));
        assert_eq!(mark & both, if is_direct { both } else { DECIDED }, "{what}, {mark:#x}");
        match flow.listed() {
            Listed::Always => assert!(is_direct, "{what}, though every list has it"),
            Listed::Never => assert!(!is_direct, "{what}, though no list has it"),
            Listed::InEverySecond => {}
        }
        let packets = by_direct + by_inspected;
        if flow.is_tcp() {
            let (_, answers) =
                spoken[&flow].as_ref().unwrap_or_else(|error| panic!("{what}: {error}"));
            let hop = if is_direct { b'd' } else { b'i' };
            assert_eq!(answers, &BTreeSet::from([hop]), "{what}");
            assert!(packets > ROUNDS.len() as u64, "{what}");
        } else {
            assert_eq!(packets, ROUNDS.len() as u64, "{what}: none lost, none twice");
        }
        if flow.listed() == Listed::InEverySecond {
            *ways.entry((flow.is_tcp(), to.is_ipv6(), is_direct)).or_default() += 1;
        }
    }
    println!("{SWAPS} swaps in {took:?}; (TCP, IPv6, direct) in every second list: {ways:?}");
    assert_eq!(ways.len(), 8, "both ways for every kind: {ways:?}");
    let least = ways.values().min().unwrap();
    assert!(*least > 100, "both lists were met: {ways:?}");
    daemon.terminate();
}
