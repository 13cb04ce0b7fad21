//! One gateway between a source and two sinks, and a turn of packets through it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramFd, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use etherparse::PacketBuilder;
use gateway_common::Transport;
use gateway_user::config::{Action, Egress, Mark, Mode, NextHop, OnFailure};
use gateway_user::datapath::{
    Blueprint, Control, FeedIdentity, HookRequest, Interface, Pins, Redirect, TcCarrier, bring_up,
    run_live,
};
use gateway_user::egress::{Keeper, Wanted};
use gateway_user::policy::{Rule, Table};
use nix::net::if_::if_nametoindex;
use tempfile::NamedTempFile;
use xtask::testbed::{BpfFs, End, Namespace, Offloads, link};

use crate::clock::Clock;
use crate::way::{By, DECIDED, Hook, MARK, Way, prefixes};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/breakout365-bench-ebpf"));
/// Destinations, each of which has its packet in a turn.
const PACKETS: u32 = 1 << 16;
/// How long the last packets of a turn may be on their way.
const LATE: Duration = Duration::from_secs(2);
/// How often a turn is done again in a row.
const AGAIN: usize = 20;

pub(crate) struct Rig {
    way: Way,
    source: Namespace,
    feeder: Ebpf,
    from: u32,
    frame: Vec<u8>,
    direct: Sink,
    other: Sink,
    gateway: Namespace,
    _sink: Namespace,
    _bpffs: BpfFs,
    _beside: Option<(Ebpf, Vec<FdLink>)>,
    /// Turns that were done again, because the rings were full.
    pub(crate) overrun: usize,
}

/// What counts behind one way out.
struct Sink {
    ebpf: Ebpf,
    _link: FdLink,
}

impl Rig {
    pub(crate) fn new(way: Way) -> Result<Self> {
        let [source, gateway, sink] = ["source", "gateway", "sink"].map(Namespace::new);
        let (source, gateway, sink) = (source?, gateway?, sink?);
        join((&gateway, "lan0"), (&source, "src0"), 1)?;
        join((&gateway, "up0"), (&sink, "in2"), 2)?;
        join((&gateway, "insp0"), (&sink, "in3"), 3)?;
        gateway.forward()?;
        gateway.ip("route add default via 10.0.3.2\n\
             neigh replace 10.0.2.2 lladdr 02:00:00:00:02:02 dev up0 nud permanent\n\
             neigh replace 10.0.3.2 lladdr 02:00:00:00:03:02 dev insp0 nud permanent\n")?;
        // Where nothing of XDP is attached, this is what has veth take XDP frames.
        gateway.run("ethtool -K lan0 gro on")?;
        let direct = Sink::new(&sink, "in2")?;
        let other = Sink::new(&sink, "in3")?;
        if matches!(way.by, By::WithEgress { .. }) {
            gateway.enter(way_out)??;
        } else {
            gateway.ip("route add default via 10.0.2.2 table 365")?;
        }
        way.set_up(&gateway)?;
        let bpffs = BpfFs::new()?;
        if let Some(hook) = way.hook() {
            gateway.enter(|| publish(hook, &Pins::new(bpffs.pins())))??;
        }
        let beside = if way.by == By::Floor {
            Some(floor(&gateway)?)
        } else if way.by == By::EmptyHooks {
            Some(empty_hooks(&gateway)?)
        } else {
            None
        };
        let from = source.enter(|| if_nametoindex("src0"))??;
        let (feeder, frame) = (feeder(way, from)?, frame()?);
        Ok(Self {
            way,
            source,
            feeder,
            from,
            frame,
            direct,
            other,
            gateway,
            _sink: sink,
            _bpffs: bpffs,
            _beside: beside,
            overrun: 0,
        })
    }

    /// Nanoseconds of CPU time per packet of one turn, in which every packet came where it should. One in which a
    /// ring of a veth pair was full is done again: on a machine that has other things to do, nobody may
    /// empty the 256 places of it in time.
    pub(crate) fn turn(&mut self, clock: &Clock) -> Result<f64> {
        // All gateways have their flows in one hash table of the kernel's, and who came last is found first.
        if self.way.is_behind_firewall {
            establish(self.way, &self.gateway)?;
        }
        let turn = self.until_it_fits(clock);
        if self.way.is_behind_firewall {
            self.gateway.run("conntrack --flush")?;
        }
        turn
    }

    fn until_it_fits(&mut self, clock: &Clock) -> Result<f64> {
        for _ in 0..AGAIN {
            if let Some(nanoseconds) = self.once(clock)? {
                return Ok(nanoseconds);
            }
            self.overrun += 1;
        }
        bail!("{}: rings were full in {AGAIN} turns; let the machine do less", self.way.name())
    }

    /// `None` where packets are missing that rings had no room for, all of them.
    fn once(&self, clock: &Clock) -> Result<Option<f64>> {
        let (direct, other, full) = (self.direct.came()?, self.other.came()?, self.full()?);
        let right = |sink: &Sink, before: u64| -> Result<u64> { Ok(sink.came()? - before) };
        let program: &ProgramFd = self.feeder.program("bench_send").context("bench_send")?.fd()?;
        let (source, frame, from) = (&self.source, &self.frame, self.from);
        let took = source.enter(|| -> Result<Duration> {
            let before = clock.now()?;
            run_live(program.as_fd(), frame, from, PACKETS)?;
            Ok(clock.now()?.saturating_sub(before))
        })??;
        let all = u64::from(PACKETS);
        let deadline = Instant::now() + LATE;
        let (came, full) = loop {
            let came = [right(&self.direct, direct)?, right(&self.other, other)?];
            let full = self.full()? - full;
            if came.iter().sum::<u64>() + full >= all || Instant::now() > deadline {
                break (came, full);
            }
            sleep(Duration::from_millis(1));
        };
        let expected = if self.way.is_direct() { [all - full, 0] } else { [0, all - full] };
        ensure!(
            came == expected,
            "{}: {came:?} packets came by the uplink and the other way, not {expected:?}; {full} found \
             no room in a ring",
            self.way.name()
        );
        Ok((full == 0).then(|| took.as_secs_f64() * 1e9 / f64::from(PACKETS)))
    }

    /// Packets that found no room in the ring of a veth pair, on the way to the gateway or out of it.
    fn full(&self) -> Result<u64> {
        let mut sum = 0;
        for (namespace, interface) in
            [(&self.source, "src0"), (&self.gateway, "up0"), (&self.gateway, "insp0")]
        {
            let text = namespace.run(&format!("ip -json -stats link show dev {interface}"))?;
            let links: serde_json::Value = serde_json::from_str(&text)?;
            let dropped = links[0]["stats64"]["tx"]["dropped"].as_u64();
            // Those that XDP sends, whose sender is not told: some kernels have them in the other, too.
            let mut errors = 0;
            let text = namespace.run(&format!("ethtool -S {interface}"))?;
            for line in text.lines() {
                if let Some((name, count)) = line.trim().split_once(": ")
                    && name.ends_with("_xdp_xmit_errors")
                {
                    errors += count.parse::<u64>()?;
                }
            }
            sum += dropped.context("no count of drops")?.max(errors);
        }
        Ok(sum)
    }
}

impl Sink {
    fn new(namespace: &Namespace, interface: &str) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT)?;
        let link = attach(&mut ebpf, "bench_sink", namespace, interface)?;
        Ok(Self { ebpf, _link: link })
    }

    fn came(&self) -> Result<u64> {
        let came: PerCpuArray<_, u64> = self.ebpf.map("CAME").context("CAME")?.try_into()?;
        Ok(came.get(&0, 0)?.iter().sum())
    }
}

fn attach(
    ebpf: &mut Ebpf,
    program: &'static str,
    namespace: &Namespace,
    interface: &str,
) -> Result<FdLink> {
    namespace.enter(|| -> Result<FdLink> {
        let program: &mut Xdp = ebpf.program_mut(program).context(program)?.try_into()?;
        program.load()?;
        let id = program.attach(interface, XdpMode::Driver)?;
        Ok(program.take_link(id)?.try_into()?)
    })?
}

/// What sends everything on from `lan0` to `up0`.
fn floor(gateway: &Namespace) -> Result<(Ebpf, Vec<FdLink>)> {
    let to = gateway.enter(|| if_nametoindex("up0"))??;
    let mut ebpf = EbpfLoader::new().override_global("SEND_TO", &to, true).load(OBJECT)?;
    let link = attach(&mut ebpf, "bench_forward", gateway, "lan0")?;
    Ok((ebpf, vec![link]))
}

/// What a hook costs that looks at nothing: by those that ours are attached to.
fn empty_hooks(gateway: &Namespace) -> Result<(Ebpf, Vec<FdLink>)> {
    let mut ebpf = Ebpf::load(OBJECT)?;
    let xdp = attach(&mut ebpf, "bench_xdp_frags", gateway, "lan0")?;
    let tc = gateway.enter(|| -> Result<FdLink> {
        let program: &mut SchedClassifier =
            ebpf.program_mut("bench_tc").context("bench_tc")?.try_into()?;
        program.load()?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options("lan0", TcAttachType::Ingress, options)?;
        Ok(program.take_link(id)?.try_into()?)
    })??;
    Ok((ebpf, vec![xdp, tc]))
}

pub(crate) fn join(one: (&Namespace, &str), other: (&Namespace, &str), number: u8) -> Result<()> {
    let addresses = |host: u8| [format!("10.0.{number}.{host}/24").parse()];
    let ([ones], [others]) = (addresses(1), addresses(2));
    let (ones, others) = ([ones?], [others?]);
    let mac = |host| [2, 0, 0, 0, number, host];
    link(
        &End { namespace: one.0, interface: one.1, mac: mac(1), addresses: &ones },
        &End { namespace: other.0, interface: other.1, mac: mac(2), addresses: &others },
        Offloads::None,
    )
}

/// Publishes the list on `lan0` of the namespace this is called in.
fn publish(hook: Hook, pins: &Pins) -> Result<()> {
    let rules = prefixes()?.into_iter().map(|prefix| Rule {
        prefix: prefix.into(),
        transport: Transport::Udp,
        first: 443,
        last: 443,
        set: 1,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let interface = runtime.block_on(Interface::find("lan0"))?;
    let hooks = [HookRequest { interface, xdp: hook.request(), tc: TcCarrier::Best }];
    let redirect = match hook {
        Hook::Redirect | Hook::RedirectByRules => {
            let found = runtime.block_on(Redirect::find("up0", &hooks, pins))?;
            Some(Redirect { table: 365, ..found })
        }
        Hook::Tc | Hook::Xdp => None,
    };
    let blueprint = Blueprint {
        table: Table::from_rules(rules)?,
        mark: Mark { value: MARK, mask: MARK },
        mode: Mode::Mark,
        feed: FeedIdentity { instance: None, version: None, digest: String::new() },
        sets: Vec::new(),
        own: Vec::new(),
        self_check: 1000,
        deadline: Some(Duration::from_hours(24)),
        starts_off: false,
        redirect,
    };
    bring_up(&pins.lock()?, &blueprint, &hooks, &mut |_| Ok(()))?;
    if hook == Hook::Redirect {
        // As the daemon finds: no rule of others, and no route to what is selected. For longer than this
        // takes, where the daemon renews it.
        let mut control = Control::open(pins)?.context("no control map")?;
        control.undisputed([Some(Duration::from_hours(24)), None])?;
    }
    Ok(())
}

/// Installs rules, route and table of `[egress]` in the namespace this is called in. They stay, and are
/// not looked after.
fn way_out() -> Result<()> {
    let wanted = Wanted {
        egress: Egress {
            interface: "up0".to_owned(),
            gateway4: Some(NextHop::Given("10.0.2.2".parse()?)),
            gateway6: None,
            table: 365,
            priority: 365,
            masquerade: false,
            clamp_mss: false,
            decided: DECIDED,
            on_failure: OnFailure::Inspect,
            health: None,
            action: Action::Mark,
        },
        mark: Mark { value: MARK, mask: MARK },
        inside: ["lan0".to_owned()].into(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(Keeper::default().establish(&wanted, None, false))?)
}

/// Has the gateway's conntrack know the flow to every destination as one that was answered, as nearly all
/// packets of a gateway are of such.
fn establish(way: Way, gateway: &Namespace) -> Result<()> {
    let (mut flows, mark) = (String::new(), way.connection_mark());
    for address in destinations(way)? {
        writeln!(
            flows,
            "-I -p udp -s 10.0.1.2 -d {address} --sport 50000 --dport 443 -t 86400 -u SEEN_REPLY,FIXED_TIMEOUT \
             -m {mark}"
        )?;
    }
    let mut file = NamedTempFile::new()?;
    file.write_all(flows.as_bytes())?;
    gateway.run(&format!("conntrack --load-file {}", file.path().display())).map(drop)
}

/// Where packets of a turn go, in this order.
fn destinations(way: Way) -> Result<Vec<Ipv4Addr>> {
    let prefixes = prefixes()?;
    let count = u32::try_from(prefixes.len())?;
    let destination = |number: u32| {
        let prefix = prefixes.get(usize::try_from(number % count)?).context("a prefix")?;
        let address = Ipv4Addr::from_bits(prefix.network().to_bits() + number / count);
        // The same way off, where nothing is listed.
        let elsewhere = Ipv4Addr::from_bits(address.to_bits() + (8 << 24));
        Ok(if way.is_to_list() { address } else { elsewhere })
    };
    (0..PACKETS).map(destination).collect()
}

/// Sends to every destination in turn, out of interface `from`.
fn feeder(way: Way, from: u32) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().override_global("SEND_TO", &from, true).load(OBJECT)?;
    let program: &mut Xdp = ebpf.program_mut("bench_send").context("bench_send")?.try_into()?;
    program.load()?;
    let mut map: Array<_, [[u8; 4]; 4]> =
        ebpf.map_mut("DESTINATION").context("DESTINATION")?.try_into()?;
    for (number, address) in (0..).zip(destinations(way)?) {
        let mut frame = frame()?;
        frame[30..34].copy_from_slice(&address.octets());
        frame[24..26].fill(0);
        let words = frame[14..34].as_chunks::<2>().0.iter();
        let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(*word))).sum();
        let [high, low] = (!u16::try_from((sum & 0xffff) + (sum >> 16))?).to_be_bytes();
        map.set(number, [address.octets(), [high, low, 0, 0], [0; 4], [0; 4]], 0)?;
    }
    Ok(ebpf)
}

/// 60 bytes; addresses, time to live and checksum are the feeder's.
fn frame() -> Result<Vec<u8>> {
    let builder =
        PacketBuilder::ethernet2([0; 6], [0; 6]).ipv4([10, 0, 1, 2], [0; 4], 64).udp(50_000, 443);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[0; 18])?;
    // No checksum: the destination is another one each time.
    frame[40..42].fill(0);
    Ok(frame)
}
