//! Redirecting: from which interfaces to which uplink, and whether that can work at this moment.
//!
//! A port that cannot take frames loses each of them without a word, so what is not known to work
//! is refused.

use std::collections::BTreeMap;

use aya::util::KernelVersion;

use super::port::{ACT_NDO_XMIT, ACT_REDIRECT, xdp_features};
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
    /// Whether packets of IPv4 are: the uplink has a way for them. Else they are marked.
    pub ipv4: bool,
    /// Whether packets of IPv6 are.
    pub ipv6: bool,
    /// MAC addresses of the inside interfaces, by index: frames for others are not ours to route.
    pub ports: BTreeMap<u32, [u8; 6]>,
}

impl Redirect {
    /// Redirecting both IP versions from `hooks` to the interface `name`, if all can and the link is
    /// up.
    ///
    /// # Errors
    ///
    /// [`DatapathError::OldKernel`], [`DatapathError::NoRedirect`] with the interface that cannot, or
    /// [`DatapathError::LinkDown`].
    pub async fn find(name: &str, hooks: &[HookRequest]) -> Result<Self, DatapathError> {
        // BPF_FIB_LOOKUP_MARK: commit 5311591fbb34. Without it, connected and VPN routes would not
        // win over the uplink as they do for marked packets.
        if !KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(6, 10, 0)) {
            return Err(DatapathError::OldKernel);
        }
        let refused =
            |name: &str, why: String| DatapathError::NoRedirect { name: name.to_owned(), why };
        let can = async |interface: &Interface, what: u64| {
            let features = xdp_features(interface.index).await;
            let features = features.map_err(|why| refused(&interface.name, why))?;
            Ok::<bool, DatapathError>(features & what != 0)
        };
        let uplink = match Interface::find(name).await {
            Err(DatapathError::NotEthernet { .. }) => {
                let why = "not an Ethernet device, and what is redirected has an Ethernet header";
                return Err(refused(name, why.to_owned()));
            }
            uplink => uplink?,
        };
        if !can(&uplink, ACT_NDO_XMIT).await? {
            let why = "its driver takes no XDP frames at the moment (some do only while the port has \
                       an XDP program; of a veth pair, the other end has to have one, or GRO)";
            return Err(refused(name, why.to_owned()));
        }
        if !uplink.is_up {
            return Err(DatapathError::LinkDown { name: name.to_owned() });
        }
        let mut ports = BTreeMap::new();
        for HookRequest { interface, xdp, .. } in hooks {
            if matches!(xdp, XdpRequest::No | XdpRequest::Generic) {
                let why = "only native XDP redirects, and its hook is another one".to_owned();
                return Err(refused(&interface.name, why));
            }
            if !can(interface, ACT_REDIRECT).await? {
                let why = "its driver cannot redirect packets".to_owned();
                return Err(refused(&interface.name, why));
            }
            ports.insert(interface.index, interface.mac);
        }
        Ok(Self { name: name.to_owned(), uplink: uplink.index, ipv4: true, ipv6: true, ports })
    }

    /// Index of the interface that packets of IPv4 and of IPv6 are redirected to; zero, they are marked.
    pub(super) fn uplinks(&self) -> [u32; 2] {
        [self.ipv4, self.ipv6].map(|is_redirected| if is_redirected { self.uplink } else { 0 })
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
