//! Somebody else's XDP and tc programs, from an object that is not the product's.

use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::{PerCpuArray, ProgramArray};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use gateway_user::datapath::{Outcome, RunOptions, run_xdp};
use xtask::testbed::Namespace;

static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/breakout365-foreign-ebpf"));

/// Their programs, loaded; whoever attaches them holds the link.
pub(crate) struct Foreign(Ebpf);

impl Foreign {
    /// Programs that leave packets as they are.
    pub(crate) fn load() -> Self {
        Self::with_metadata(&[])
    }

    /// Programs of which the XDP one puts up to four words of metadata in front of each packet.
    pub(crate) fn with_metadata(words: &[u32]) -> Self {
        let mut all = [0_u32; 4];
        all[..words.len()].copy_from_slice(words);
        let count = u32::try_from(words.len()).unwrap();
        let mut ebpf = EbpfLoader::new()
            .override_global("METADATA_WORDS", &count, true)
            .override_global("METADATA", &all[..], true)
            .load(OBJECT)
            .unwrap();
        let xdp: &mut Xdp = ebpf.program_mut("foreign_xdp").unwrap().try_into().unwrap();
        xdp.load().unwrap();
        let tc: &mut SchedClassifier = ebpf.program_mut("foreign_tc").unwrap().try_into().unwrap();
        tc.load().unwrap();
        Self(ebpf)
    }

    fn xdp(&mut self) -> &mut Xdp {
        self.0.program_mut("foreign_xdp").unwrap().try_into().unwrap()
    }

    fn tc(&mut self) -> &mut SchedClassifier {
        self.0.program_mut("foreign_tc").unwrap().try_into().unwrap()
    }

    pub(crate) fn xdp_id(&mut self) -> u32 {
        self.xdp().info().unwrap().id()
    }

    pub(crate) fn tc_id(&mut self) -> u32 {
        self.tc().info().unwrap().id()
    }

    /// Attaches XDP by a link.
    pub(crate) fn attach_xdp(
        &mut self,
        namespace: &Namespace,
        interface: &str,
        mode: XdpMode,
    ) -> XdpLink {
        let xdp = self.xdp();
        namespace
            .enter(|| {
                let id = xdp.attach(interface, mode).unwrap();
                xdp.take_link(id).unwrap()
            })
            .unwrap()
    }

    /// Attaches XDP as iproute2 does, over netlink and without a link; `pin` is a free path on a
    /// BPF file system.
    pub(crate) fn attach_xdp_by_netlink(
        &mut self,
        namespace: &Namespace,
        interface: &str,
        pin: &Path,
    ) {
        self.xdp().pin(pin).unwrap();
        namespace
            .run(&format!("ip link set dev {interface} xdpdrv pinned {}", pin.display()))
            .unwrap();
    }

    /// Attaches tc by a TCX link, in front of or behind whatever is there.
    pub(crate) fn attach_tcx(
        &mut self,
        namespace: &Namespace,
        interface: &str,
        order: LinkOrder,
    ) -> SchedClassifierLink {
        let tc = self.tc();
        namespace
            .enter(|| {
                let options = TcAttachOptions::TcxOrder(order);
                let id = tc.attach_with_options(interface, TcAttachType::Ingress, options).unwrap();
                tc.take_link(id).unwrap()
            })
            .unwrap()
    }

    /// Adds tc as a filter of a clsact qdisc, which is there.
    pub(crate) fn attach_filter(
        &mut self,
        namespace: &Namespace,
        interface: &str,
        at: TcAttachType,
    ) -> SchedClassifierLink {
        let tc = self.tc();
        namespace
            .enter(|| {
                let options =
                    TcAttachOptions::Netlink(NlOptions { priority: 7, ..NlOptions::default() });
                let id = tc.attach_with_options(interface, at, options).unwrap();
                tc.take_link(id).unwrap()
            })
            .unwrap()
    }

    /// Packets that XDP and tc have seen.
    pub(crate) fn seen(&self) -> [u64; 2] {
        let map = self.0.map("SEEN").unwrap();
        let seen = PerCpuArray::<_, u64>::try_from(map).unwrap();
        [0, 1].map(|index| seen.get(&index, 0).unwrap().iter().sum())
    }

    /// Runs the XDP program on `frame` with `next` behind it.
    pub(crate) fn run_in_front_of(&mut self, next: &Xdp, frame: &[u8]) -> Outcome {
        let map = self.0.map_mut("NEXT").unwrap();
        let mut array = ProgramArray::try_from(map).unwrap();
        array.set(0, next.fd().unwrap(), 0).unwrap();
        let fd = self.xdp().fd().unwrap().try_clone().unwrap();
        run_xdp(fd.as_fd(), frame, RunOptions::default()).unwrap()
    }
}

/// Ids of the TCX programs at the ingress of an interface, in the order they run.
pub(crate) fn tcx_programs(namespace: &Namespace, interface: &str) -> Vec<u32> {
    let query = || SchedClassifier::query_tcx(interface, TcAttachType::Ingress).unwrap();
    let (_, programs) = namespace.enter(query).unwrap();
    programs.iter().map(aya::programs::ProgramInfo::id).collect()
}

/// Id of the XDP program on an interface, as `ip` says.
pub(crate) fn xdp_program(namespace: &Namespace, interface: &str) -> Option<u64> {
    let listed = namespace.run(&format!("ip -json -details link show dev {interface}")).unwrap();
    let links: serde_json::Value = serde_json::from_str(&listed).unwrap();
    links[0]["xdp"]["prog"]["id"].as_u64()
}
