//! A gateway between a client, an inspector and a direct hop, and flows through it.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::{fs, thread};

use ipnet::IpNet;
use xtask::testbed::{BpfFs, EchoServers, End, Namespace, Offloads, link, uninterrupted};

use super::product::{Product, with_hook};
use super::{CLIENT, LAN, PATIENCE, Site, allow_many_files, wait_until};

/// The direct uplink of the gateway.
pub(crate) const UPLINK: &str = "up0";
/// What names it and its next hops.
pub(crate) const EGRESS: &str =
    "[egress]\ninterface = \"up0\"\ngateway4 = \"10.36.2.2\"\ngateway6 = \"fd36:2::2\"\n";
/// What the product's feed lists, one of each family.
pub(crate) const DIRECT: [&str; 2] = ["40.96.0.1:443", "[2603:1006::1]:443"];
/// Right beside them: another port.
pub(crate) const INSPECTED: [&str; 2] = ["40.96.0.1:444", "[2603:1006::1]:444"];

/// Answered by TCP, too: an address that the feed lists, and a port that it does not.
pub(crate) const BESIDE: [&str; 2] = ["40.97.0.1:443", "40.97.0.1:444"];

/// A gateway whose main table leads to an inspector, and whose uplink to a direct hop. Both answer
/// for every address with their own name and the address they see:
///
/// ```text
/// client eth0 ── lan0 gateway insp0 ── in0 inspector
///                             up0 ──── in0 direct
/// ```
pub(crate) struct Network {
    pub(crate) site: Site,
    pub(crate) inspector: Namespace,
    pub(crate) direct: Namespace,
}

impl Network {
    pub(crate) fn new() -> Self {
        allow_many_files();
        let site = Site {
            client: Namespace::new("client").unwrap(),
            gateway: Namespace::new("gateway").unwrap(),
            bpffs: BpfFs::new().unwrap(),
        };
        let [inspector, direct] = ["inspector", "direct"].map(|role| Namespace::new(role).unwrap());
        join((&site.gateway, LAN), (&site.client, CLIENT), 1);
        join((&site.gateway, UPLINK), (&direct, "in0"), 2);
        join((&site.gateway, "insp0"), (&inspector, "in0"), 3);
        site.client.ip(&default_routes(1, 1)).unwrap();
        site.gateway.ip(&default_routes(3, 2)).unwrap();
        site.gateway.forward().unwrap();
        for (hop, number) in [(&direct, 2), (&inspector, 3)] {
            hop.ip(&default_routes(number, 1)).unwrap();
            serve(hop);
        }
        // A new link's carrier, and the addresses and routes that hang on it, come a moment later.
        wait_until("every link is up", || {
            let routes = site.gateway.run("ip -d route show table all").unwrap();
            !routes.contains("linkdown") && routes.matches("local fe80::").count() == 3
        });
        Self { site, inspector, direct }
    }

    pub(crate) fn product(&self) -> Product<'_> {
        let product = Product::new(&self.site, "auto");
        product.configure(&config(EGRESS));
        product
    }

    /// A new TCP flow from the client; `None` where nobody answers.
    pub(crate) fn flow(&self, to: &str) -> Option<Flow> {
        flow(&self.site.client, to)
    }

    /// A new UDP flow from the client.
    pub(crate) fn datagrams(&self, to: &str) -> Flow {
        datagrams(&self.site.client, to)
    }

    /// From now on both hops count the middles of TCP flows to port 443 that they have not seen begin.
    pub(crate) fn count_middles(&self) {
        for hop in [&self.inspector, &self.direct] {
            // Without a rule that asks for it, nothing is tracked there.
            hop.sysctl("net/netfilter/nf_conntrack_tcp_loose", "1").unwrap();
            hop.nft(MIDDLES).unwrap();
        }
    }

    /// Asserts that neither hop has been handed any.
    pub(crate) fn assert_no_middles(&self, after: &str) {
        for hop in [&self.inspector, &self.direct] {
            let listing = hop.run("nft list counters table inet middle").unwrap();
            assert_eq!(counted(&listing, "middle"), 0, "{}, {after}: {listing}", hop.role());
        }
    }

    /// Lets nothing be published until what it gives is called.
    pub(crate) fn lock_publication(&self) -> impl FnOnce() + use<> {
        let [control, kept] = ["control", "kept"].map(|pin| self.site.pins().root().join(pin));
        fs::rename(&control, &kept).unwrap();
        fs::create_dir(&control).unwrap();
        move || {
            fs::remove_dir(&control).unwrap();
            fs::rename(&kept, &control).unwrap();
        }
    }

    /// Who answers a new flow, by TCP.
    pub(crate) fn way(&self, to: &str) -> String {
        self.flow(to).map_or_else(|| "nobody".to_owned(), |mut flow| flow.ask())
    }

    /// Asserts that of both families, and both protocols, what the table says is direct and the rest
    /// inspected.
    pub(crate) fn assert_it_parts(&self) {
        for to in DIRECT {
            assert_eq!(self.way(to), "direct", "tcp {to}: {}", self.sight());
            assert_eq!(self.datagrams(to).ask(), "direct", "udp {to}: {}", self.sight());
        }
        for to in INSPECTED {
            assert_eq!(self.way(to), "inspector", "tcp {to}: {}", self.sight());
        }
    }

    /// What a flow that nobody answers may have come to grief on.
    pub(crate) fn sight(&self) -> String {
        let hops = [&self.site.client, &self.site.gateway, &self.direct, &self.inspector];
        let neighbours = hops.map(|hop| {
            let seen = ["ip neigh", "ip -6 neigh", "ip -s link"].map(|it| hop.run(it).unwrap());
            format!("\n{}:\n{}", hop.role(), seen.concat())
        });
        let gateway = ["cat /proc/net/nf_conntrack", "ip rule", "nft list ruleset"];
        let gateway = gateway.map(|it| self.site.gateway.run(it).unwrap_or_default());
        format!("{}\n{}", neighbours.concat(), gateway.join("\n"))
    }

    pub(crate) fn assert_all_is_inspected(&self) {
        for to in DIRECT.into_iter().chain(INSPECTED) {
            assert_eq!(self.way(to), "inspector", "{to}: {}", self.sight());
        }
    }

    /// Rules, routes of every table, and the whole nftables ruleset with handles.
    pub(crate) fn everything(&self) -> Vec<String> {
        [
            "ip -d rule",
            "ip -6 -d rule",
            "ip -d route show table all",
            "ip -6 -d route show table all",
            "nft -s -a list ruleset",
        ]
        .map(|command| self.site.gateway.run(command).unwrap())
        .into()
    }

    pub(crate) fn gateway(&self, command: &str) -> String {
        self.site.gateway.run(command).unwrap()
    }
}

/// A flow from the client, with whoever answers.
pub(crate) enum Flow {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Flow {
    /// Asks once more: who answers, `direct` or `inspector`.
    pub(crate) fn ask(&mut self) -> String {
        self.answer().split(' ').next().unwrap().to_owned()
    }

    /// As [`Flow::ask`], but with the words of the error where there is one.
    pub(crate) fn ask_or_error(&mut self) -> String {
        self.answer().to_lowercase()
    }

    /// What a TCP client hears that says nothing and waits, in small letters.
    pub(crate) fn wait(&mut self) -> String {
        let Self::Tcp(stream) = self else { panic!("no TCP") };
        match uninterrupted(|| stream.read(&mut [0])) {
            Ok(length) => format!("{length} bytes"),
            Err(error) => error.to_string().to_lowercase(),
        }
    }

    /// The whole answer: who, and which address they see.
    pub(crate) fn answer(&mut self) -> String {
        let mut answer = [0; 128];
        let length = match self {
            Self::Tcp(stream) => {
                let sent = stream.write_all(b".");
                sent.and_then(|()| uninterrupted(|| stream.read(&mut answer)))
            }
            Self::Udp(socket) => {
                let sent = socket.send(b".");
                sent.and_then(|_| uninterrupted(|| socket.recv(&mut answer)))
            }
        };
        match length {
            Ok(length) => String::from_utf8_lossy(&answer[..length]).into_owned(),
            Err(error) => format!("nobody ({error})"),
        }
    }
}

/// A new TCP flow out of a namespace; `None` where nobody answers.
pub(crate) fn flow(from: &Namespace, to: &str) -> Option<Flow> {
    let to: SocketAddr = to.parse().unwrap();
    let stream = from.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Some(Flow::Tcp(stream))
}

/// A new UDP flow out of a namespace.
pub(crate) fn datagrams(from: &Namespace, to: &str) -> Flow {
    let open = || {
        let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(to).unwrap();
        socket
    };
    let socket = from.enter(open).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    Flow::Udp(socket)
}

/// Packets under a counter of a listing.
pub(crate) fn counted(listing: &str, name: &str) -> u64 {
    let (_, rest) = listing.split_once(&format!("counter {name} {{")).unwrap();
    rest.split_whitespace().nth(1).unwrap().parse().unwrap()
}

const MIDDLES: &str = "table inet middle {
    counter middle { }
    chain input {
        type filter hook input priority filter;
        tcp dport 443 ct state new tcp flags & (syn | rst) == 0x0 counter name middle
    }
}";

/// Joins two namespaces; the first has host number 1 in network `number`, the other 2.
pub(crate) fn join(one: (&Namespace, &str), other: (&Namespace, &str), number: u8) {
    let addresses = |host: u8| -> Vec<IpNet> {
        [format!("10.36.{number}.{host}/24"), format!("fd36:{number}::{host}/64")]
            .map(|net| net.parse().unwrap())
            .into()
    };
    let (ones, others) = (addresses(1), addresses(2));
    let mac = |host| [2, 0x36, 0, 0, number, host];
    link(
        &End { namespace: one.0, interface: one.1, mac: mac(1), addresses: &ones },
        &End { namespace: other.0, interface: other.1, mac: mac(2), addresses: &others },
        Offloads::Default,
    )
    .unwrap();
}

pub(crate) fn default_routes(number: u8, host: u8) -> String {
    format!(
        "route add default via 10.36.{number}.{host}\nroute add default via fd36:{number}::{host}\n"
    )
}

/// Answers in `hop`, until this process ends, every byte and datagram with the hop's name and the
/// sender's address.
fn serve(hop: &Namespace) {
    let prefixes = ["40.96.0.0/13", "2603:1006::/40"].map(|prefix| prefix.parse().unwrap());
    EchoServers::own(hop, &BTreeSet::from(prefixes)).unwrap();
    let bind = || {
        let tcp = DIRECT.into_iter().chain(INSPECTED).chain(BESIDE);
        let tcp: Vec<_> = tcp.map(TcpListener::bind).collect();
        (tcp, DIRECT.map(UdpSocket::bind))
    };
    let (tcp, udp) = hop.enter(bind).unwrap();
    for listener in tcp {
        let (listener, name) = (listener.unwrap(), hop.role().to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let name = name.clone();
                thread::spawn(move || converse(stream, &name));
            }
        });
    }
    for socket in udp {
        let (socket, name) = (socket.unwrap(), hop.role().to_owned());
        thread::spawn(move || {
            let mut byte = [0];
            while let Ok((_, from)) = socket.recv_from(&mut byte) {
                socket.send_to(format!("{name} {}", from.ip()).as_bytes(), from).ok();
            }
        });
    }
}

fn converse(mut stream: TcpStream, name: &str) {
    let Ok(from) = stream.peer_addr() else { return };
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|length| length > 0) {
        if stream.write_all(format!("{name} {}", from.ip()).as_bytes()).is_err() {
            return;
        }
    }
}

pub(crate) fn config(egress: &str) -> String {
    format!("{}{egress}", with_hook(LAN, "auto"))
}
