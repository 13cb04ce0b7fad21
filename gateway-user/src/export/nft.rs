//! Sets for nftables.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::{Export, Piece};
use crate::policy::transport_name;

const EXPLANATION: &str = "\
Load it with `nft -f`, again whenever it changes: only the two sets are replaced, at once.
Rules that use them are in the same table:
  nft add chain inet breakout365_export mark '{ type filter hook prerouting priority mangle; }'
  nft add rule inet breakout365_export mark ip daddr . meta l4proto . th dport @direct4 \\
      meta mark set meta mark or 0x01000000
  nft add rule inet breakout365_export mark ip6 daddr . meta l4proto . th dport @direct6 \\
      meta mark set meta mark or 0x01000000
";

pub(super) fn render(export: &Export) -> String {
    let (v4, v6): (Vec<Piece>, Vec<Piece>) =
        export.merged().into_iter().partition(|piece| matches!(piece.prefix, IpNet::V4(_)));
    let sets = [("direct4", "ipv4_addr", v4), ("direct6", "ipv6_addr", v6)];
    let mut text = export.header("#", EXPLANATION);
    text.push_str("\ntable inet breakout365_export {\n");
    for (name, addresses, _) in &sets {
        // Writing to a text cannot fail.
        let _ = write!(
            text,
            "\tset {name} {{\n\t\ttype {addresses} . inet_proto . inet_service\n\
             \t\tflags interval\n\t}}\n"
        );
    }
    text.push_str("}\n");
    for (name, _, pieces) in &sets {
        let _ = writeln!(text, "\nflush set inet breakout365_export {name}");
        if pieces.is_empty() {
            continue;
        }
        let _ = writeln!(text, "add element inet breakout365_export {name} {{");
        for piece in pieces {
            let Piece { prefix, transport, first, last, .. } = piece;
            let _ = write!(text, "\t{prefix} . {} . {first}", transport_name(*transport));
            let _ = if first == last { writeln!(text, ",") } else { writeln!(text, "-{last},") };
        }
        text.push_str("}\n");
    }
    text
}
