//! What the kernel says of an interface, over rtnetlink.

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
};

use super::DatapathError;

/// An interface of the current network namespace whose packets begin with an Ethernet header or, as those
/// of tunnels and PPP do, with their IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index: another one whenever it is created anew.
    pub index: u32,
    /// Id of the XDP program on it, whoever's it is.
    pub xdp_program: Option<u32>,
    /// Its MAC address; `None`, its packets have no Ethernet header.
    pub mac: Option<[u8; 6]>,
    /// Whether it is up and has a carrier.
    pub is_up: bool,
    /// Whether it stands for several others (bonding), whose packets come in by those.
    pub is_bond: bool,
}

impl Interface {
    /// Looks an interface up by name.
    ///
    /// # Errors
    ///
    /// [`DatapathError::NoInterface`], or [`DatapathError::NotEthernet`]: read as either, the
    /// frames of another link layer would be classified by whatever bytes stand where the headers
    /// should be.
    pub async fn find(name: &str) -> Result<Self, DatapathError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| netlink("cannot open a socket", error))?;
        let connection = tokio::spawn(connection);
        let reply = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        connection.abort();
        let link = match reply {
            Ok(Some(link)) => link,
            Ok(None) => return Err(DatapathError::NoInterface { name: name.to_owned() }),
            Err(rtnetlink::Error::NetlinkError(error))
                if error.raw_code() == -nix::libc::ENODEV =>
            {
                return Err(DatapathError::NoInterface { name: name.to_owned() });
            }
            Err(error) => return Err(netlink("cannot read a link", error)),
        };
        let is_ethernet = link.header.link_layer_type == LinkLayerType::Ether;
        if !is_ethernet && !has_no_header(link.header.link_layer_type) {
            return Err(DatapathError::NotEthernet { name: name.to_owned() });
        }
        let xdp_program = xdp_program(&link);
        let mac = link.attributes.iter().find_map(|attribute| {
            if let LinkAttribute::Address(mac) = attribute {
                <[u8; 6]>::try_from(mac.as_slice()).ok()
            } else {
                None
            }
        });
        if is_ethernet && mac.is_none() {
            return Err(DatapathError::NotEthernet { name: name.to_owned() });
        }
        Ok(Self {
            name: name.to_owned(),
            index: link.header.index,
            xdp_program,
            mac: mac.filter(|_| is_ethernet),
            is_up: link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
            is_bond: is_bond(&link),
        })
    }
}

/// Whether packets of this link layer come to tc as they are routed: `ARPHRD_NONE` (tun, `WireGuard`) and
/// `ARPHRD_PPP`. Others, such as GRE, have headers of their own there.
pub(crate) fn has_no_header(kind: LinkLayerType) -> bool {
    matches!(kind, LinkLayerType::None | LinkLayerType::Ppp)
}

/// Id of the XDP program on an interface.
pub(super) fn xdp_program(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| {
        let LinkAttribute::Xdp(xdp) = attribute else { return None };
        xdp.iter().find_map(|part| if let LinkXdp::ProgId(id) = part { Some(*id) } else { None })
    })
}

fn is_bond(link: &LinkMessage) -> bool {
    let infos = link.attributes.iter().filter_map(|attribute| {
        if let LinkAttribute::LinkInfo(infos) = attribute { Some(infos) } else { None }
    });
    infos.flatten().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bond)))
}

pub(super) fn netlink(what: &'static str, why: impl std::fmt::Display) -> DatapathError {
    DatapathError::Netlink { what, why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bond_is_known_by_its_kind() {
        for (kind, is_one) in [(InfoKind::Bond, true), (InfoKind::Veth, false)] {
            let mut link = LinkMessage::default();
            link.attributes.push(LinkAttribute::IfName("b".into()));
            link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
            assert_eq!(is_bond(&link), is_one);
        }
        assert!(!is_bond(&LinkMessage::default()));
    }
}
