//! What a check says.

use std::fmt;

use serde::Serialize;

/// How bad it is, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Looked at, and as it should be.
    Ok,
    /// Worth knowing; also what could not be looked at.
    Note,
    /// Works, but not as meant, or not for all traffic.
    Warning,
    /// Direct traffic fails, or nothing goes direct.
    Error,
}

impl Severity {
    /// Its name in text and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

macro_rules! checks {
    ($($variant:ident = $name:literal, $why:literal;)*) => {
        /// The checks. Their names are stable: they are in JSON and in the manual.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "`Check::why` says it")]
        pub enum Check { $($variant,)* }

        impl Check {
            /// All of them, in the order they are told.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Why it matters, one line.
            #[must_use]
            pub const fn why(self) -> &'static str {
                match self { $(Self::$variant => $why,)* }
            }
        }
    };
}

checks! {
    Configuration = "configuration", "without it, nobody knows which interfaces, bits and uplink are meant";
    Kernel = "kernel", "older kernels lack what the programs or their attachment need";
    BpfJit = "bpf-jit", "interpreted programs cost every packet many times as much";
    BpfFileSystem = "bpf-file-system", "what is published is pinned there and outlives the daemon";
    Capabilities = "capabilities", "without them nothing can be loaded or attached";
    Daemon = "daemon", "it keeps list, way out and sign of life; what it last published stays without it";
    Mode = "mode", "in shadow, traffic is counted as direct and inspected";
    KillSwitch = "kill-switch", "while it is off, everything is inspected";
    Deadline = "deadline", "once it has passed, everything is inspected until a daemon runs again";
    Feed = "feed", "the list says what goes direct; an old one lacks what Microsoft has added since";
    Uplink = "uplink", "direct traffic leaves by it, or is inspected";
    Interface = "interface", "what comes in by an interface that is not there is not classified";
    LinkLayer = "link-layer", "packets without an Ethernet header cannot be classified as such";
    Bond = "bond", "what comes in by another member of a bond would not be classified";
    Bridge = "bridge", "behind a bridge the packets come in by its name, and inside rules miss them";
    Vlan = "vlan", "VLANs on an interface pass its hook too, whichever of them is meant";
    XdpMode = "xdp-mode", "where the driver has no native XDP, tc classifies alone";
    Metadata = "metadata", "without it tc classifies each direct packet a second time";
    Lro = "lro", "packets that the card has merged do not fit XDP, and most drivers refuse it then";
    Mtu = "mtu", "a packet longer than a page needs XDP with fragments";
    VlanOffload = "vlan-offload", "tags that the card has taken off are hidden from XDP";
    Hook = "hook", "what comes in by an interface without our programs is inspected";
    ForeignXdp = "foreign-xdp", "an interface has one native XDP program; what is there stays";
    ForeignTc = "foreign-tc", "who runs before us may take packets or their marks away";
    Forwarding = "forwarding", "a host that does not forward has no direct traffic";
    RouterAdvertisements = "router-advertisements", "a router takes none, and with them no default route, unless it is told to";
    RpFilter = "rp-filter", "strict filtering drops replies that come in by the direct uplink";
    RuleOrder = "rule-order", "a rule that is looked at before ours routes marked packets its own way";
    Networkd = "networkd", "systemd-networkd removes rules and routes that it does not know";
    NetworkManager = "network-manager", "NetworkManager clears the routes of a device it takes down";
    Nft = "nft", "the way out is kept by an nftables table, which nft puts in place";
    MarkCollision = "mark-collision", "one bit with two meanings sends traffic where nobody wants it";
    FlowOffload = "flow-offload", "offloaded flows are forwarded past netfilter, and in hardware past us";
    Clock = "clock", "certificates, ages of lists and days of additions are told by it";
    Dns = "dns", "an answer outside the selected prefixes is inspected, whatever its name";
}

impl Serialize for Check {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which one.
    #[serde(rename = "id")]
    pub check: Check,
    /// How bad it is.
    pub severity: Severity,
    /// Whether it could be looked at.
    pub seen: bool,
    /// What it is, one line.
    pub what: String,
    /// Why it matters, one line.
    pub why: &'static str,
    /// A command that mends it or shows more of it. What is above ok has one, but for what could not be
    /// looked at: there, `what` says why.
    pub fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: Check, what: impl fmt::Display) -> Self {
        Self::of(check, Severity::Ok, what)
    }

    pub(super) fn of(check: Check, severity: Severity, what: impl fmt::Display) -> Self {
        let what = what.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { check, severity, seen: true, what, why: check.why(), fix: None }
    }

    pub(super) fn fixed_by(self, command: impl Into<String>) -> Self {
        Self { fix: Some(command.into()), ..self }
    }

    pub(super) fn unseen(check: Check, why_not: impl fmt::Display) -> Self {
        let what = format_args!("not looked at: {why_not}");
        Self { seen: false, ..Self::of(check, Severity::Note, what) }
    }
}

/// All findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order of [`Check::ALL`].
    pub findings: Vec<Finding>,
}

impl Report {
    /// The worst severity.
    #[must_use]
    pub fn worst(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
    }

    /// How many findings have this severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}
