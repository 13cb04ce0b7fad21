//! Links, and the programs on them.

use std::collections::{BTreeMap, BTreeSet};

use aya::programs::tc::TcAttachType;
use aya::programs::{SchedClassifier, loaded_programs};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
};
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use super::super::{Link, LinkLayer, Program, Seen};
use crate::datapath::{Attached, has_no_header};

/// What our programs' names begin with.
const OURS: &str = "b365_";
/// Of our filter, see `datapath::clsact`.
const OUR_FILTER: TcHandle = TcHandle { major: 0, minor: 0x365 };

/// Every link of this network namespace.
pub(super) struct Links {
    links: Seen<Vec<LinkMessage>>,
    /// Names of loaded programs by number, where they may be seen.
    programs: BTreeMap<u32, String>,
}

impl Links {
    pub(super) async fn read() -> Self {
        let programs = loaded_programs().map_while(Result::ok).filter_map(|program| {
            Some((program.id(), program.name_as_str().filter(|it| !it.is_empty())?.to_owned()))
        });
        Self { links: dump().await, programs: programs.collect() }
    }

    /// The link of this name; `hooks` says what we have attached.
    #[expect(clippy::wildcard_enum_match_arm, reason = "there are more attributes every year")]
    pub(super) fn link(&self, name: &str, hooks: &[Attached]) -> Seen<Option<Link>> {
        let links = self.links.as_ref().map_err(Clone::clone)?;
        let Some(message) = links.iter().find(|link| name_of(link) == Some(name)) else {
            return Ok(None);
        };
        let index = message.header.index;
        let mut link = Link {
            index,
            layer: match message.header.link_layer_type {
                LinkLayerType::Ether => LinkLayer::Ethernet,
                kind if has_no_header(kind) => LinkLayer::Ip,
                _ => LinkLayer::Other,
            },
            kind: kind_of(message),
            is_up: message.header.flags.contains(LinkFlags::Up),
            has_carrier: message.header.flags.contains(LinkFlags::LowerUp),
            ..Link::default()
        };
        let hook = hooks.iter().find(|hook| hook.ifindex == index);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(above) => {
                    let above = links.iter().find(|link| link.header.index == *above);
                    link.member_of = above.and_then(|above| {
                        Some((name_of(above)?.to_owned(), kind_of(above).unwrap_or_default()))
                    });
                }
                LinkAttribute::Xdp(xdp) => link.xdp = self.xdp(xdp, hook),
                _ => {}
            }
        }
        let on_it = links.iter().filter(|other| {
            other.attributes.contains(&LinkAttribute::Link(index))
                && kind_of(other).as_deref() == Some("vlan")
        });
        link.vlans = on_it.filter_map(name_of).map(str::to_owned).collect::<BTreeSet<_>>();
        Ok(Some(link))
    }

    /// The filters at the ingress of the clsact qdisc of the interface with this index.
    pub(super) async fn filters(&self, index: u32) -> Seen<Vec<Program>> {
        let index = i32::try_from(index).map_err(|error| error.to_string())?;
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| format!("netlink: {error}"))?;
        let connection = tokio::spawn(connection);
        let filters = handle.traffic_filter(index).get().ingress().execute().try_collect().await;
        connection.abort();
        let filters: Vec<TcMessage> = filters.map_err(|error| format!("netlink: {error}"))?;
        // A filter without a handle is the head of its chain.
        let mut filters: Vec<&TcMessage> =
            filters.iter().filter(|it| it.header.handle != TcHandle::default()).collect();
        // Within a priority they are listed in the order they run (`cls_bpf_walk`: the newest first).
        filters.sort_by_key(|filter| (chain(filter), priority(filter)));
        Ok(filters.into_iter().map(self::filter).collect())
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "only these are programs")]
    fn xdp(&self, parts: &[LinkXdp], hook: Option<&Attached>) -> Vec<Program> {
        let mut programs = Vec::new();
        for part in parts {
            let (id, mode) = match part {
                LinkXdp::DrvProgId(id) => (*id, "native"),
                LinkXdp::SkbProgId(id) => (*id, "generic"),
                LinkXdp::HwProgId(id) => (*id, "offloaded"),
                _ => continue,
            };
            let name = self.programs.get(&id);
            // One of ours holds the place by a link that is pinned: nobody else's is there.
            let ours = hook.is_some_and(|hook| hook.xdp == Some(mode))
                && name.is_none_or(|name| name.starts_with(OURS));
            let name = name.map_or_else(|| format!("number {id}"), Clone::clone);
            programs.push(Program { name: format!("{mode} program {name}"), ours });
        }
        programs
    }
}

/// Programs of the TCX ingress, in the order they run.
pub(super) fn tcx(name: &str) -> Seen<Vec<Program>> {
    let (_, programs) = SchedClassifier::query_tcx(name, TcAttachType::Ingress)
        .map_err(|error| format!("{error} (needs CAP_SYS_ADMIN, and a kernel from 6.6 on)"))?;
    let named = programs.iter().map(|program| {
        let name = program.name_as_str().unwrap_or_default();
        Program {
            name: format!("program {name} (number {})", program.id()),
            ours: name.starts_with(OURS),
        }
    });
    Ok(named.collect())
}

async fn dump() -> Seen<Vec<LinkMessage>> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| format!("netlink: {error}"))?;
    let connection = tokio::spawn(connection);
    let links = handle.link().get().execute().try_collect().await;
    connection.abort();
    links.map_err(|error| format!("netlink: {error}"))
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::IfName(name) = attribute { Some(name.as_str()) } else { None }
    })
}

fn kind_of(link: &LinkMessage) -> Option<String> {
    let infos = link.attributes.iter().filter_map(|attribute| {
        if let LinkAttribute::LinkInfo(info) = attribute { Some(info) } else { None }
    });
    infos.flatten().find_map(|info| {
        if let LinkInfo::Kind(kind) = info { Some(InfoKind::to_string(kind)) } else { None }
    })
}

/// The first one is 0; others are gone to from there.
fn chain(filter: &TcMessage) -> u32 {
    let chain = filter.attributes.iter().find_map(|attribute| {
        if let TcAttribute::Chain(chain) = attribute { Some(*chain) } else { None }
    });
    chain.unwrap_or(0)
}

/// The upper half of `tcm_info`; the lower one runs first.
fn priority(filter: &TcMessage) -> u32 {
    filter.header.info >> 16
}

#[expect(clippy::wildcard_enum_match_arm, reason = "there are more attributes every year")]
fn filter(message: &TcMessage) -> Program {
    let mut name = "a filter".to_owned();
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => name = format!("a {kind} filter"),
            TcAttribute::Options(options) => {
                let named = options.iter().find_map(|option| {
                    let TcOption::Bpf(TcFilterBpfOption::ProgName(name)) = option else {
                        return None;
                    };
                    Some(name)
                });
                if let Some(named) = named {
                    return Program {
                        name: format!("filter {named}"),
                        ours: named.starts_with(OURS) || message.header.handle == OUR_FILTER,
                    };
                }
            }
            _ => {}
        }
    }
    Program { name, ours: message.header.handle == OUR_FILTER }
}
