//! What can go wrong between a table and its hooks, in the operator's words.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::exit::Exit;

/// A step of a generation failed. Whatever served before still does.
#[derive(Debug, Error)]
pub enum DatapathError {
    /// A capability is missing.
    #[error(
        "missing {missing}: run as root or grant the service CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    Permission {
        /// Names of the capabilities, joined by "and".
        missing: String,
    },
    /// The pin directory is not on a BPF file system.
    #[error("{} is not on a BPF file system: mount one with `mount -t bpf bpf /sys/fs/bpf`", path.display())]
    NotBpfFs {
        /// Where one was expected.
        path: PathBuf,
    },
    /// The pin directory or something in it cannot be read or written.
    #[error("{}: {what}: {source}", path.display())]
    Pins {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error("{} is held by another breakout365: stop that one first (`systemctl stop breakout365`)", path.display())]
    Busy {
        /// The pin directory.
        path: PathBuf,
    },
    /// Another process reads what is drawn for `trace`.
    #[error("{}: another `breakout365 trace` is running, and what it reads nobody else gets: end that one first", path.display())]
    Traced {
        /// The directory that it has locked.
        path: PathBuf,
    },
    /// Nothing is published.
    #[error("nothing is loaded under {}: start `breakout365 run`", path.display())]
    NothingLoaded {
        /// The pin directory.
        path: PathBuf,
    },
    /// What is pinned does not make sense, for example after a downgrade.
    #[error("{}: {why}: publish a new generation with `breakout365 run`, or remove everything with `breakout365 down`", path.display())]
    Unreadable {
        /// The pinned object.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// What is pinned as the control map is something else.
    #[error("{}: {why}; nothing was changed: stop the daemon, then `breakout365 down` removes it", path.display())]
    NotControl {
        /// The pin.
        path: PathBuf,
        /// What it is.
        why: String,
    },
    /// The control map says neither on nor off.
    #[error("{}: the switch holds {word:#x}, which is neither on nor off, so everything is inspected; `breakout365 on` or `breakout365 off` sets it", path.display())]
    OddSwitch {
        /// The pin.
        path: PathBuf,
        /// What it holds.
        word: u64,
    },
    /// No such interface.
    #[error(
        "interface {name}: not found; see `ip link`, and the [[interface]] entries of the configuration"
    )]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// Frames of the interface start with neither an Ethernet nor an IP header.
    #[error(
        "interface {name}: not an Ethernet device, its packets cannot be classified; name the Ethernet interface below it"
    )]
    NotEthernet {
        /// Its name.
        name: String,
    },
    /// XDP is asked for where packets have no Ethernet header.
    #[error(
        "interface {name}: its packets have no Ethernet header, which XDP programs go by; use hook = \"auto\" or \"tc\" for it"
    )]
    NoXdpWithoutEthernet {
        /// Its name.
        name: String,
    },
    /// Somebody else's XDP program is attached.
    #[error(
        "interface {name}: another XDP program (id {program}) is attached and stays; use hook = \"tc\" for this interface, or remove that program first"
    )]
    ForeignXdp {
        /// The interface.
        name: String,
        /// Program id, as `bpftool prog show id` takes it; 0 if unknown.
        program: u32,
    },
    /// The driver has no native XDP, or not in this configuration.
    #[error(
        "interface {name}: native XDP is not possible here ({source}); use hook = \"tc\" or \"auto\", and with those egress.action = \"mark\""
    )]
    NoNativeXdp {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Packets cannot be redirected from or to this interface.
    #[error("egress.action redirect: interface {name}: {why}; use egress.action = \"mark\" here")]
    NoRedirect {
        /// The interface.
        name: String,
        /// Why not.
        why: String,
    },
    /// Somebody translates addresses on the uplink.
    #[error(
        "egress.action redirect: interface {name}: {rule} translates addresses, and what is redirected passes it by; leave {name} out there, or use egress.action = \"mark\" here"
    )]
    Translated {
        /// The uplink.
        name: String,
        /// The rule, in words.
        rule: String,
    },
    /// Packets cannot be redirected to this interface for now.
    #[error(
        "egress.action redirect: interface {name}: its link is down; direct packets are marked"
    )]
    LinkDown {
        /// The uplink.
        name: String,
    },
    /// The kernel cannot look routes up by a mark.
    #[error("egress.action redirect: it needs kernel 6.10; use egress.action = \"mark\" here")]
    OldKernel,
    /// A program could not be attached or switched.
    #[error("interface {name}: cannot {what}: {why}")]
    Attach {
        /// The interface.
        name: String,
        /// The action.
        what: &'static str,
        /// What the kernel or aya said.
        why: String,
    },
    /// The BPF object could not be loaded.
    #[error(
        "the kernel refuses the BPF object ({what}: {why}); kernel 5.10 or newer with CONFIG_BPF_SYSCALL and CONFIG_BPF_JIT is needed"
    )]
    Load {
        /// Which part.
        what: String,
        /// What the kernel or aya said.
        why: String,
    },
    /// A map could not be filled.
    #[error("cannot fill map {map}: {why}; nothing was published")]
    Fill {
        /// Its name.
        map: &'static str,
        /// What the kernel or aya said.
        why: String,
    },
    /// A prefix is not in the kernel as it is in the table.
    #[error(
        "prefix {prefix} reads back from the kernel as {seen}, not as port set {expected}; nothing was published, report this"
    )]
    Verify {
        /// The prefix.
        prefix: String,
        /// Its port set.
        expected: u16,
        /// What the look-up said.
        seen: String,
    },
    /// A program and the oracle disagree.
    #[error(
        "self-test of {program}: {probe}: oracle says {expected}, the program says {seen}; nothing was published, report this"
    )]
    SelfTest {
        /// The program.
        program: &'static str,
        /// The packet.
        probe: String,
        /// The oracle's answer.
        expected: String,
        /// The program's answer.
        seen: String,
    },
    /// A test run could not be done.
    #[error("BPF_PROG_TEST_RUN of {program}: {source}")]
    TestRun {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A netlink request failed.
    #[error("netlink: {what}: {why}")]
    Netlink {
        /// The request.
        what: &'static str,
        /// What the kernel said.
        why: String,
    },
    /// The caller of [`super::bring_up()`] called it off.
    #[error("called off before {step}: {why}")]
    CalledOff {
        /// The step that was next.
        step: String,
        /// The caller's reason.
        why: String,
    },
    /// Publishing failed and so did going back.
    #[error(
        "{failure}; going back failed too: {rollback}; packets keep the decision of whichever generation their hook has"
    )]
    Rollback {
        /// The first failure.
        failure: Box<DatapathError>,
        /// The failure of the way back.
        rollback: Box<DatapathError>,
    },
}

impl DatapathError {
    /// Whether programs and oracle disagreed.
    #[must_use]
    pub fn is_of_self_test(&self) -> bool {
        if let Self::Rollback { failure, .. } = self {
            return failure.is_of_self_test();
        }
        matches!(self, Self::SelfTest { .. })
    }

    /// The exit code of a command that ends with this error.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Permission { .. } => Exit::Permission,
            Self::NotBpfFs { .. } | Self::Load { .. } | Self::Netlink { .. } | Self::OldKernel => {
                Exit::System
            }
            Self::Busy { .. } | Self::Traced { .. } => Exit::Busy,
            Self::NoInterface { .. }
            | Self::NotEthernet { .. }
            | Self::NoXdpWithoutEthernet { .. }
            | Self::ForeignXdp { .. }
            | Self::NoNativeXdp { .. }
            | Self::NoRedirect { .. }
            | Self::Translated { .. }
            | Self::LinkDown { .. }
            | Self::Attach { .. } => Exit::Interface,
            Self::Pins { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::Permission
            }
            Self::Pins { .. }
            | Self::NothingLoaded { .. }
            | Self::Unreadable { .. }
            | Self::NotControl { .. }
            | Self::OddSwitch { .. }
            | Self::Fill { .. }
            | Self::Verify { .. }
            | Self::SelfTest { .. }
            | Self::TestRun { .. }
            | Self::CalledOff { .. }
            | Self::Rollback { .. } => Exit::Datapath,
        }
    }
}
