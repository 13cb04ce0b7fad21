//! Conntrack entries of direct flows: listed by their mark, and removed one by one.

use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::StreamExt as _;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use nix::libc;
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _,
};
use rtnetlink::proto::sys::SocketAddr as KernelAddress;
use rtnetlink::proto::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::proto::{ConnectionHandle, new_connection};
use tokio::task::JoinHandle;

use super::netlink::failed;
use super::routing::Family;
use super::{EgressError, Words};

/// `enum ctattr_type` in the kernel's `uapi/linux/netfilter/nfnetlink_conntrack.h`; the ones that the
/// crate has no name for.
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;
/// So many requests at once: their replies fit a socket's buffer.
const AT_ONCE: usize = 128;

/// A flow whose connection mark says direct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its IP protocol.
    pub protocol: u8,
    /// Who began it, as it came in. The port is zero for protocols that have none.
    pub source: SocketAddr,
    /// Where its first packet went, before any NAT.
    pub destination: SocketAddr,
    /// What names the entry: tuple, zone, and the id, so that no later one of this tuple is meant.
    entry: Vec<ConntrackAttribute>,
}

impl Flow {
    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.destination.ip())
    }
}

/// What became of entries that were to be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    /// Removed.
    pub(super) removed: u64,
    /// Still there: the kernel does not remove what hardware forwards.
    pub(super) left: u64,
}

/// A connection to conntrack.
pub(super) struct Conntrack {
    handle: ConnectionHandle<NetfilterMessage>,
    connection: JoinHandle<()>,
}

impl Conntrack {
    pub(super) fn open() -> Result<Self, EgressError> {
        let (connection, handle, _) = new_connection(NETLINK_NETFILTER)
            .map_err(|source| failed("open a conntrack socket", source))?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// The flows whose mark has both of these words, direct and decided. The kernel compares, so that
    /// a gateway with a million other flows lists ours.
    pub(super) async fn direct(&self, words: Words) -> Result<Vec<Flow>, EgressError> {
        let attributes = vec![
            ConntrackAttribute::CtaMark(words.direct()),
            ConntrackAttribute::Other(DefaultNla::new(
                CTA_MARK_MASK,
                words.bits().to_be_bytes().into(),
            )),
        ];
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        let request =
            message(NetfilterProtoFamily::Unspec, ConntrackMessage::Get(attributes), flags);
        let mut replies = self
            .handle
            .request(request, KernelAddress::new(0, 0))
            .map_err(|error| failed("list flows", io::Error::other(error)))?;
        let mut flows = Vec::new();
        while let Some(reply) = replies.next().await {
            if let NetlinkPayload::Error(error) = reply.payload {
                return Err(failed("list flows", error.to_io()));
            }
            if let NetlinkPayload::InnerMessage(message) = reply.payload
                && let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) =
                    message.inner
            {
                flows.extend(Flow::read(attributes));
            }
        }
        Ok(flows)
    }

    /// Removes exactly these entries. One that is gone already counts as neither.
    pub(super) async fn remove(&self, flows: &[Flow]) -> Result<Ended, EgressError> {
        let mut ended = Ended::default();
        for some in flows.chunks(AT_ONCE) {
            let requests = some.iter().map(|flow| {
                let family = match flow.family() {
                    Family::V4 => NetfilterProtoFamily::IPv4,
                    Family::V6 => NetfilterProtoFamily::IPv6,
                };
                let delete = ConntrackMessage::Delete(flow.entry.clone());
                message(family, delete, NLM_F_REQUEST | NLM_F_ACK)
            });
            let mut replies = self
                .handle
                .request_batch(requests, KernelAddress::new(0, 0))
                .map_err(|error| failed("remove flows", io::Error::other(error)))?;
            let (mut gone, mut left) = (0_usize, 0_usize);
            while let Some(reply) = replies.next().await {
                let NetlinkPayload::Error(error) = reply.payload else { continue };
                match error.to_io().raw_os_error() {
                    None | Some(0) => {}
                    Some(libc::ENOENT) => gone = gone.saturating_add(1),
                    Some(libc::EBUSY) => left = left.saturating_add(1),
                    Some(_) => return Err(failed("remove flows", error.to_io())),
                }
            }
            let removed = some.len().saturating_sub(gone).saturating_sub(left);
            ended.removed = ended.removed.saturating_add(removed as u64);
            ended.left = ended.left.saturating_add(left as u64);
        }
        Ok(ended)
    }
}

impl Drop for Conntrack {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The flow of an entry that the kernel says it has removed, if its mark has both of our words.
pub(super) fn removed(message: NetlinkMessage<NetfilterMessage>, words: Words) -> Option<Flow> {
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    let NetfilterMessageInner::Conntrack(ConntrackMessage::Delete(attributes)) = message.inner
    else {
        return None;
    };
    let is_direct = attributes.iter().any(|attribute| {
        matches!(attribute, ConntrackAttribute::CtaMark(mark) if mark & words.bits() == words.direct())
    });
    is_direct.then(|| Flow::read(attributes)).flatten()
}

fn message(
    family: NetfilterProtoFamily,
    inner: ConntrackMessage,
    flags: u16,
) -> NetlinkMessage<NetfilterMessage> {
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner);
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message
}

impl Flow {
    /// `None` for what has no addresses.
    fn read(mut attributes: Vec<ConntrackAttribute>) -> Option<Self> {
        attributes.retain(|attribute| {
            matches!(attribute, ConntrackAttribute::CtaTupleOrig(_))
                || matches!(attribute.kind(), CTA_ID | CTA_ZONE)
        });
        let tuple = attributes.iter().find_map(|attribute| {
            if let ConntrackAttribute::CtaTupleOrig(tuple) = attribute { Some(tuple) } else { None }
        })?;
        let (mut source, mut destination) = ((None, 0), (None, 0));
        let mut protocol = None;
        for part in tuple {
            if let Tuple::Ip(addresses) = part {
                for address in addresses {
                    if let IPTuple::SourceAddress(ip) = address {
                        source.0 = Some(*ip);
                    } else if let IPTuple::DestinationAddress(ip) = address {
                        destination.0 = Some(*ip);
                    }
                }
            } else if let Tuple::Proto(parts) = part {
                for part in parts {
                    if let ProtoTuple::Protocol(number) = part {
                        protocol = Some(u8::from(*number));
                    } else if let ProtoTuple::SourcePort(port) = part {
                        source.1 = *port;
                    } else if let ProtoTuple::DestinationPort(port) = part {
                        destination.1 = *port;
                    }
                }
            }
        }
        let address = |(ip, port): (Option<IpAddr>, u16)| ip.map(|ip| SocketAddr::new(ip, port));
        Some(Self {
            protocol: protocol?,
            source: address(source)?,
            destination: address(destination)?,
            entry: attributes,
        })
    }
}
