//! News of our nftables table, of the kernel's notifications of every table.

use std::io;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use rtnetlink::packet_core::{
    NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use rtnetlink::proto::new_connection;
use rtnetlink::proto::sys::AsyncSocket as _;
use rtnetlink::proto::sys::protocols::NETLINK_NETFILTER;
use tokio::task::JoinHandle;

use super::EgressError;
use super::netlink::failed;
use super::ruleset::TABLE;

/// `NFNLGRP_NFTABLES` and `NFNL_SUBSYS_NFTABLES` in the kernel's `uapi/linux/netfilter/nfnetlink.h`.
const GROUP: u32 = 7;
const SUBSYSTEM: u16 = 10;
/// `NFT_MSG_NEWSETELEM` and `NFT_MSG_DELSETELEM` in `uapi/linux/netfilter/nf_tables.h`: elements of our
/// sets come and go by themselves.
const ELEMENTS: [u16; 2] = [12, 14];
/// The table's name in messages about tables, chains, rules and sets alike (`NFTA_TABLE_NAME`,
/// `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, `NFTA_SET_TABLE`).
const NAME: u16 = 1;
/// `struct nfgenmsg` before the attributes.
const HEADER: usize = 4;

/// A message, as far as it matters. The rules in it are not read: they may be anybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct News {
    kind: u16,
    is_ours: bool,
}

/// Each time something of our table changed, and what hears of it; that ends with the process, or when
/// it is aborted.
pub(super) fn listen() -> Result<(BoxStream<'static, ()>, JoinHandle<()>), EgressError> {
    let cannot = |source: io::Error| failed("watch nftables", source);
    let (mut connection, _, messages) =
        new_connection::<News>(NETLINK_NETFILTER).map_err(cannot)?;
    let socket = connection.socket_mut().socket_mut();
    socket.bind_auto().map_err(cannot)?;
    socket.add_membership(GROUP).map_err(cannot)?;
    let ours = messages.filter_map(|(message, _)| {
        let is_ours = match message.payload {
            NetlinkPayload::InnerMessage(news) => news.is_ours,
            // Messages were lost.
            NetlinkPayload::Overrun(_) => true,
            NetlinkPayload::Done(_) | NetlinkPayload::Error(_) | NetlinkPayload::Noop | _ => false,
        };
        std::future::ready(is_ours.then_some(()))
    });
    Ok((ours.boxed(), tokio::spawn(connection.map(drop))))
}

impl NetlinkDeserializable for News {
    type Error = io::Error;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, io::Error> {
        let (subsystem, kind) = (header.message_type >> 8, header.message_type & 0xff);
        let attributes = payload.get(HEADER..).unwrap_or_default();
        let names_ours = || {
            let mut attributes = NlasIterator::new(attributes).map_while(Result::ok);
            attributes.any(|it| {
                it.kind() == NAME && it.value().strip_suffix(&[0]) == Some(TABLE.as_bytes())
            })
        };
        let is_ours = subsystem == SUBSYSTEM && !ELEMENTS.contains(&kind) && names_ours();
        Ok(Self { kind: header.message_type, is_ours })
    }
}

/// Nothing is ever sent.
impl NetlinkSerializable for News {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        0
    }

    fn serialize(&self, _buffer: &mut [u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(kind: u16, name: &str) -> News {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        let length = u16::try_from(name.len() + 5).unwrap();
        let mut payload = vec![1, 0, 0, 0];
        payload.extend(length.to_ne_bytes());
        payload.extend(NAME.to_ne_bytes());
        payload.extend(name.as_bytes());
        payload.resize(HEADER + usize::from(length).next_multiple_of(4), 0);
        News::deserialize(&header, &payload).unwrap()
    }

    #[test]
    fn only_our_table_is_ours_and_its_elements_are_no_news() {
        let of = |kind| SUBSYSTEM << 8 | kind;
        for (kind, name, is_ours) in [
            (of(2), TABLE, true),
            (of(8), TABLE, true),
            (of(8), "breakout3655", false),
            (of(8), "filter", false),
            (of(ELEMENTS[0]), TABLE, false),
            (of(ELEMENTS[1]), TABLE, false),
            // Of conntrack.
            (1 << 8, TABLE, false),
        ] {
            assert_eq!(news(kind, name).is_ours, is_ours, "{kind:#x} {name}");
        }
    }

    #[test]
    fn what_is_cut_off_is_no_news() {
        let mut header = NetlinkHeader::default();
        header.message_type = SUBSYSTEM << 8;
        for payload in [&[][..], &[1, 0], &[1, 0, 0, 0], &[1, 0, 0, 0, 60, 0, 1, 0, b'b']] {
            assert!(!News::deserialize(&header, payload).unwrap().is_ours, "{payload:?}");
        }
    }
}
