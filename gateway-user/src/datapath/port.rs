//! What an interface's driver can do with XDP, over the `netdev` family of generic netlink.

use std::io;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _,
    NlasIterator, Parseable as _, ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

/// Kernel `include/uapi/linux/netdev.h` (6.3, commit d3d854fd6a1d).
const FAMILY: &str = "netdev";
const VERSION: u8 = 1;
const DEV_GET: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
const ACT_REDIRECT: u64 = 1 << 1;
const ACT_NDO_XMIT: u64 = 1 << 2;

/// What a driver can do at the moment: some can send only while a program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct XdpFeatures(u64);

impl XdpFeatures {
    /// Asks the kernel, in the network namespace of this thread.
    pub(super) fn of(ifindex: u32) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let name = GenlCtrlAttrs::FamilyName(FAMILY.to_owned());
        let question = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] };
        let family = ask(&socket, GenlMessage::from_payload(question))?;
        let family = family.nlas.iter().find_map(|attribute| {
            if let GenlCtrlAttrs::FamilyId(id) = attribute { Some(*id) } else { None }
        });
        let mut question = GenlMessage::from_payload(Device { ifindex, features: 0 });
        question.set_resolved_family_id(family.ok_or(io::ErrorKind::InvalidData)?);
        ask(&socket, question).map(|device| Self(device.features))
    }

    /// Whether its packets can be redirected elsewhere.
    pub(super) fn redirects(self) -> bool {
        self.0 & ACT_REDIRECT != 0
    }

    /// Whether it sends what is redirected to it.
    pub(super) fn sends(self) -> bool {
        self.0 & ACT_NDO_XMIT != 0
    }
}

/// One question, one answer.
#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else it is, it is no answer")]
fn ask<F>(socket: &Socket, question: GenlMessage<F>) -> io::Result<F>
where
    F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + std::fmt::Debug,
{
    let mut message = NetlinkMessage::from(question);
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<GenlMessage<F>>::deserialize(&bytes);
    match answer.map_err(io::Error::other)?.payload {
        NetlinkPayload::InnerMessage(message) => Ok(message.payload),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `NETDEV_CMD_DEV_GET`: question and answer.
#[derive(Debug)]
struct Device {
    ifindex: u32,
    features: u64,
}

impl Device {
    fn attribute(&self) -> DefaultNla {
        DefaultNla::new(IFINDEX, self.ifindex.to_ne_bytes().to_vec())
    }
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        DEV_GET
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        self.attribute().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attribute().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self { ifindex: 0, features: 0 };
        for attribute in NlasIterator::new(bytes) {
            let attribute = DefaultNla::parse(&attribute?)?;
            let mut value = vec![0; attribute.value_len()];
            attribute.emit_value(&mut value);
            match (attribute.kind(), value.first_chunk(), value.first_chunk()) {
                (IFINDEX, Some(index), _) => device.ifindex = u32::from_ne_bytes(*index),
                (XDP_FEATURES, _, Some(bits)) => device.features = u64::from_ne_bytes(*bits),
                _ => {}
            }
        }
        Ok(device)
    }
}
