//! Sets for ipset.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::{Export, ExportError, Piece};
use crate::policy::transport_name;

const EXPLANATION: &str = "\
Load it with `ipset restore`, again whenever it changes: new sets are filled and swapped in.
  iptables  -t mangle -A PREROUTING -m set --match-set breakout365_direct4 dst,dst \\
      -j MARK --set-xmark 0x01000000/0x01000000
  ip6tables -t mangle -A PREROUTING -m set --match-set breakout365_direct6 dst,dst \\
      -j MARK --set-xmark 0x01000000/0x01000000
";

/// Elements of a set: some 64 bytes of kernel memory each.
const MAX_ELEMENTS: u64 = 1 << 22;
/// What ipset reserves room for unless it is told otherwise.
const DEFAULT_ELEMENTS: u64 = 1 << 16;

/// Pieces do not overlap, so no element has to be taken back by `nomatch`.
pub(super) fn render(export: &Export) -> Result<String, ExportError> {
    let (v4, v6): (Vec<Piece>, Vec<Piece>) =
        export.merged().into_iter().partition(|piece| matches!(piece.prefix, IpNet::V4(_)));
    let mut text = export.header("#", EXPLANATION);
    for (name, family, pieces) in
        [("breakout365_direct4", "inet", v4), ("breakout365_direct6", "inet6", v6)]
    {
        let needed = pieces.iter().fold(0_u64, |sum, piece| sum.saturating_add(elements(piece)));
        if needed > MAX_ELEMENTS {
            return Err(ExportError::TooManyElements { needed });
        }
        let room = needed.max(DEFAULT_ELEMENTS);
        let create = format!("hash:net,port family {family} maxelem {room}");
        // Writing to a text cannot fail.
        let _ = writeln!(text, "create {name}_new {create} -exist\nflush {name}_new");
        for Piece { prefix, transport, first, last, .. } in &pieces {
            let _ = write!(text, "add {name}_new {prefix},{}:{first}", transport_name(*transport));
            let _ = if first == last { writeln!(text) } else { writeln!(text, "-{last}") };
        }
        let _ = writeln!(text, "create {name} {create} -exist");
        let _ = writeln!(text, "swap {name}_new {name}\ndestroy {name}_new");
    }
    Ok(text)
}

/// ipset holds one for each port.
fn elements(piece: &Piece) -> u64 {
    u64::from(piece.last).saturating_sub(piece.first.into()).saturating_add(1)
}
