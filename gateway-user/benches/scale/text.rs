//! A configuration with many own prefixes, as an operator's script would write it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use ipnet::IpNet;

/// Protocol and ports of the lists that the prefixes are divided among.
const LISTS: [(&str, &str); 4] =
    [("tcp", "443"), ("tcp", "80, 443"), ("udp", "443"), ("udp", "3478-3481")];

/// A configuration with `count` distinct own prefixes, three of four IPv4.
pub(crate) fn configuration(count: usize) -> Result<String> {
    let prefixes = prefixes(count)?;
    let mut text = "version = 1\n[[interface]]\nname = \"lan0\"\n".to_owned();
    for (number, (protocol, ports)) in LISTS.iter().enumerate() {
        write!(
            text,
            "[[policy.include]]\nname = \"list-{number}\"\nprotocol = \"{protocol}\"\n\
             ports = \"{ports}\"\nprefixes = [\n"
        )?;
        for prefix in prefixes.iter().skip(number).step_by(LISTS.len()) {
            writeln!(text, "  \"{prefix}\",")?;
        }
        text += "]\n";
    }
    Ok(text)
}

/// The same ones in every run, nested and clustered as real lists are, and in space that no guard
/// objects to: 11.0.0.0 to 99.255.255.255, and `2a00::/8`.
fn prefixes(count: usize) -> Result<BTreeSet<IpNet>> {
    let mut prefixes = BTreeSet::new();
    let mut number: u32 = 0;
    while prefixes.len() < count {
        // Multiplying by an odd number spreads the numbers over all of 32 bits (Knuth).
        let spread = number.wrapping_mul(2_654_435_761);
        let [a, b, c, d] = spread.to_be_bytes();
        let prefix = if number.is_multiple_of(4) {
            let segments =
                [0x2a00 | u16::from(a), u16::from_be_bytes([b, c & 0xf0]), u16::from(d) << 8];
            let [first, second, third] = segments;
            let length = 32 + u8::try_from(number / 4 % 17)?;
            IpNet::new(Ipv6Addr::new(first, second, third, 0, 0, 0, 0, 0).into(), length)?
        } else {
            let length = 20 + u8::try_from(number / 4 % 11)?;
            IpNet::new(Ipv4Addr::new(11 + a % 89, b, c, d).into(), length)?
        };
        prefixes.insert(prefix.trunc());
        number = number.wrapping_add(1);
    }
    Ok(prefixes)
}
