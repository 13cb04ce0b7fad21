//! Redirecting: from which interfaces to which uplink, and whether that can work at this moment.
//!
//! A port that cannot take frames loses each of them without a word, so what is not known to work
//! is refused.

use std::collections::BTreeMap;

use aya::util::KernelVersion;

use super::port::XdpFeatures;
use super::probe::GATEWAY_MAC;
use super::{DatapathError, HookRequest, Interface, XdpRequest};

/// The loopback interface has this index in every network namespace; test runs come in by it.
const LOOPBACK: u32 = 1;

/// Where Direct packets are redirected to, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The uplink's name.
    pub name: String,
    /// Its index.
    pub uplink: u32,
    /// MAC addresses of the inside interfaces, by index: frames for others are not ours to route.
    pub ports: BTreeMap<u32, [u8; 6]>,
}

impl Redirect {
    /// Redirecting from `hooks` to the interface `name`, if both can and the link is up.
    ///
    /// # Errors
    ///
    /// [`DatapathError::OldKernel`], or [`DatapathError::NoRedirect`] with the interface that
    /// cannot.
    pub async fn find(name: &str, hooks: &[HookRequest]) -> Result<Self, DatapathError> {
        // BPF_FIB_LOOKUP_MARK: commit 5311591fbb34. Without it, connected and VPN routes would not
        // win over the uplink as they do for marked packets.
        if !KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(6, 10, 0)) {
            return Err(DatapathError::OldKernel);
        }
        let refused =
            |name: &str, why: String| DatapathError::NoRedirect { name: name.to_owned(), why };
        let features = |interface: &Interface| {
            XdpFeatures::of(interface.index)
                .map_err(|error| refused(&interface.name, error.to_string()))
        };
        let uplink = Interface::find(name).await?;
        if !features(&uplink)?.sends() {
            let why = "its driver takes no XDP frames at the moment (some do only while the port has \
                       an XDP program; of a veth pair, the other end has to have one, or GRO)";
            return Err(refused(name, why.to_owned()));
        }
        if !uplink.is_up {
            return Err(refused(name, "its link is down".to_owned()));
        }
        let mut ports = BTreeMap::new();
        for HookRequest { interface, xdp, .. } in hooks {
            if matches!(xdp, XdpRequest::No | XdpRequest::Generic) {
                let why = "only native XDP redirects, and its hook is another one".to_owned();
                return Err(refused(&interface.name, why));
            }
            if !features(interface)?.redirects() {
                let why = "its driver cannot redirect packets".to_owned();
                return Err(refused(&interface.name, why));
            }
            ports.insert(interface.index, interface.mac);
        }
        Ok(Self { name: name.to_owned(), uplink: uplink.index, ports })
    }

    /// All entries of the map: also what the self-test's packets come in by, where nothing is ever
    /// attached.
    pub(super) fn entries(&self) -> BTreeMap<u32, [u8; 8]> {
        let [a, b] = GATEWAY_MAC;
        let under_test = (LOOPBACK, [a, b, 0, 0, 0, 0]);
        let all = self.ports.iter().map(|(index, mac)| (*index, *mac)).chain([under_test]);
        all.map(|(index, [a, b, c, d, e, f])| (index, [a, b, c, d, e, f, 0, 0])).collect()
    }
}
