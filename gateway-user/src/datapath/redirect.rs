//! Redirecting: from which interfaces to which uplink, and whether that can work at this moment.
//!
//! A port that cannot take frames loses each of them without a word, so what is not known to work
//! is refused.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use aya::util::KernelVersion;

use super::pins::LinkKind;
use super::port::{ACT_NDO_XMIT, ACT_REDIRECT, xdp_features};
use super::probe::GATEWAY_MAC;
use super::{DatapathError, HookRequest, Interface, Pins, XdpRequest};

/// The loopback interface has this index in every network namespace; test runs come in by it.
const LOOPBACK: u32 = 1;

/// Where Direct packets are redirected to, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The uplink's name.
    pub name: String,
    /// Its index.
    pub uplink: u32,
    /// Its MAC address, which packets leave with.
    pub mac: [u8; 6],
    /// Whether packets of IPv4 are: the uplink has a way for them. Else they are marked.
    pub ipv4: bool,
    /// Whether packets of IPv6 are.
    pub ipv6: bool,
    /// The only next hop that packets of IPv6 are sent to; `None`, whichever the look-up gives.
    pub hop6: Option<Ipv6Addr>,
    /// The direct table, in which the way is looked up while [`super::Control::undisputed`] says so; zero, it
    /// is looked up by all rules.
    pub table: u32,
    /// MAC addresses of the inside interfaces, by index: frames for others are not ours to route.
    pub ports: BTreeMap<u32, [u8; 6]>,
}

const NO_HEADER: &str = "not an Ethernet device, and what is redirected has an Ethernet header";

impl Redirect {
    /// Redirecting both IP versions from `hooks` to the interface `name`, if all can and the link is
    /// up. What is attached under `pins` is ours.
    ///
    /// # Errors
    ///
    /// [`DatapathError::OldKernel`], [`DatapathError::ForeignXdp`], [`DatapathError::NoRedirect`] with
    /// the interface that cannot, or [`DatapathError::LinkDown`].
    pub async fn find(
        name: &str,
        hooks: &[HookRequest],
        pins: &Pins,
    ) -> Result<Self, DatapathError> {
        // BPF_FIB_LOOKUP_MARK: commit 5311591fbb34. Without it, connected and VPN routes would not
        // win over the uplink as they do for marked packets.
        if !KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(6, 10, 0)) {
            return Err(DatapathError::OldKernel);
        }
        // First what is wrong with an uplink or without: it would not come right when that comes.
        let links = pins.links()?;
        let mut ports = BTreeMap::new();
        for hook in hooks {
            let index = hook.interface.index;
            let is_ours = [LinkKind::Native, LinkKind::Generic]
                .iter()
                .any(|kind| links.contains_key(&(index, *kind)));
            ports.insert(index, can_redirect(hook, is_ours).await?);
        }
        let uplink = match Interface::find(name).await {
            Err(DatapathError::NotEthernet { .. }) => {
                return Err(refused(name, NO_HEADER));
            }
            uplink => uplink?,
        };
        let Some(mac) = uplink.mac else { return Err(refused(name, NO_HEADER)) };
        if !can(&uplink, ACT_NDO_XMIT).await? {
            let why = "its driver takes no XDP frames at the moment (some do only while the port has \
                       an XDP program; of a veth pair, the other end has to have one, or GRO)";
            return Err(refused(name, why));
        }
        if !uplink.is_up {
            return Err(DatapathError::LinkDown { name: name.to_owned() });
        }
        Ok(Self {
            name: name.to_owned(),
            uplink: uplink.index,
            mac,
            ipv4: true,
            ipv6: true,
            hop6: None,
            table: 0,
            ports,
        })
    }

    /// Index of the interface that packets of IPv4 and of IPv6 are redirected to; zero, they are marked.
    #[must_use]
    pub fn uplinks(&self) -> [u32; 2] {
        [self.ipv4, self.ipv6].map(|is_redirected| if is_redirected { self.uplink } else { 0 })
    }

    /// The next hop of IPv6, as the programs compare it; zeros, any.
    pub(super) fn hop_words(&self) -> [u16; 8] {
        self.hop6.map_or([0; 8], |hop| hop.segments().map(u16::to_be))
    }

    /// The first inside interface and its MAC address, as the programs compare it.
    pub(super) fn first_port(&self) -> (u32, [u16; 3]) {
        let Some((index, mac)) = self.ports.first_key_value() else { return (0, [0; 3]) };
        let mut words = [0; 3];
        for (word, pair) in words.iter_mut().zip(mac.as_chunks::<2>().0) {
            *word = u16::from_ne_bytes(*pair);
        }
        (*index, words)
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

/// The MAC address of `hook`'s interface, if packets that come in there can be redirected. `is_ours`: an
/// XDP program on it is.
async fn can_redirect(hook: &HookRequest, is_ours: bool) -> Result<[u8; 6], DatapathError> {
    let HookRequest { interface, xdp, .. } = hook;
    let Interface { name, xdp_program, is_bond, mac, .. } = interface;
    let Some(mac) = mac else { return Err(refused(name, NO_HEADER)) };
    if matches!(xdp, XdpRequest::No | XdpRequest::Generic) {
        return Err(refused(name, "only native XDP redirects, and its hook is another one"));
    }
    if let Some(program) = xdp_program.filter(|_| !is_ours) {
        return Err(DatapathError::ForeignXdp { name: name.clone(), program });
    }
    if *is_bond {
        let why = "it is a bond, whose packets XDP sees come in by the members, not by it";
        return Err(refused(name, why));
    }
    if !can(interface, ACT_REDIRECT).await? {
        return Err(refused(name, "its driver cannot redirect packets"));
    }
    Ok(*mac)
}

async fn can(interface: &Interface, what: u64) -> Result<bool, DatapathError> {
    let features = xdp_features(interface.index).await;
    Ok(features.map_err(|why| refused(&interface.name, why))? & what != 0)
}

fn refused(name: &str, why: impl Into<String>) -> DatapathError {
    DatapathError::NoRedirect { name: name.to_owned(), why: why.into() }
}
