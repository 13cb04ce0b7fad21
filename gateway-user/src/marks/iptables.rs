//! Rules as `iptables-save` prints them (iptables-extensions(8)).

use std::collections::BTreeSet;

use super::{Collision, MarkOf, Ours, Use};

/// The collisions in what `program` printed.
pub(super) fn collisions(program: &str, saved: &str, ours: Ours) -> BTreeSet<Collision> {
    let mut found = BTreeSet::new();
    let mut table = "?";
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if line.starts_with("-A ") {
            let place = format!("{program} {table}: {line}");
            for (of, does, bits) in uses(line, ours) {
                found.insert(Collision { place: place.clone(), of, does, bits });
            }
        }
    }
    found
}

/// Options of matches and targets come behind the one they belong to.
fn uses(line: &str, ours: Ours) -> Vec<(MarkOf, Use, u32)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |option: &str| {
        let at = words.iter().position(|word| *word == option)?;
        words.get(at.saturating_add(1)).copied()
    };
    let mut found = Vec::new();
    let mut module = "";
    for pair in words.windows(2) {
        let [option, argument] = pair else { continue };
        match *option {
            "-m" | "-j" => module = argument,
            "--mark" => {
                let of = match module {
                    "mark" => MarkOf::Packet,
                    "connmark" => MarkOf::Connection,
                    _ => continue,
                };
                if let Some((value, mask)) = value_and_mask(argument) {
                    let told = ours.compared(of, mask, Some(value));
                    found.extend(told.map(|(does, bits)| (of, does, bits)));
                }
            }
            "--set-xmark" | "--set-mark" | "--tproxy-mark" => {
                let of = match module {
                    "MARK" | "TPROXY" => MarkOf::Packet,
                    "CONNMARK" => MarkOf::Connection,
                    _ => continue,
                };
                // What a socket here gets is routed nowhere else: our bits may be cleared.
                let is_taken =
                    module == "TPROXY" || (module == "MARK" && words.contains(&"--transparent"));
                if let Some((value, mask)) = value_and_mask(argument) {
                    let written = if is_taken { value } else { mask | value };
                    let told = ours.written(of, !written);
                    found.extend(told.map(|(does, bits)| (of, does, bits)));
                }
            }
            _ => {}
        }
    }
    let mask = |option| after(option).and_then(number).unwrap_or(u32::MAX);
    for (option, of, mask) in [
        ("--restore-mark", MarkOf::Packet, "--nfmask"),
        ("--save-mark", MarkOf::Connection, "--ctmask"),
    ]
    .map(|(option, of, name)| (option, of, mask(name)))
    {
        if words.contains(&option) {
            found.extend(ours.written(of, !mask).map(|(does, bits)| (of, does, bits)));
        }
    }
    found
}

/// `VALUE` or `VALUE/MASK`.
fn value_and_mask(text: &str) -> Option<(u32, u32)> {
    match text.split_once('/') {
        Some((value, mask)) => number(value).zip(number(mask)),
        None => Some((number(text)?, u32::MAX)),
    }
}

fn number(text: &str) -> Option<u32> {
    let hex = text.strip_prefix("0x");
    hex.map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mark;

    const OURS: Ours =
        Ours { mark: Mark { value: 0x0100_0000, mask: 0x0100_0000 }, decided: 0x0200_0000 };

    #[test]
    fn every_way_to_touch_a_mark_is_told() {
        let (packet, connection) = (MarkOf::Packet, MarkOf::Connection);
        for (rule, expected) in [
            (
                "-A PREROUTING -j MARK --set-xmark 0x1/0xffffffff",
                vec![(packet, Use::Writes, 0x0100_0000)],
            ),
            ("-A PREROUTING -j MARK --set-xmark 0x1/0xff", vec![]),
            (
                "-A PREROUTING -j MARK --set-xmark 0x1000000/0x0",
                vec![(packet, Use::Writes, 0x0100_0000)],
            ),
            (
                "-A PREROUTING -m mark --mark 0x1 -j ACCEPT",
                vec![(packet, Use::Compares, 0x0100_0000)],
            ),
            ("-A PREROUTING -m mark --mark 0x1/0xff -j ACCEPT", vec![]),
            ("-A FORWARD -m connmark --mark 0x1000000/0x1000000 -j ACCEPT", vec![]),
            (
                "-A FORWARD -m connmark --mark 0x3000000/0xf000000 -j DROP",
                vec![(connection, Use::Reads, 0x0300_0000)],
            ),
            (
                "-A PREROUTING -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
                vec![(packet, Use::Writes, 0x0100_0000)],
            ),
            ("-A PREROUTING -j CONNMARK --save-mark --nfmask 0xff00 --ctmask 0xff00", vec![]),
            (
                "-A PREROUTING -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
                vec![(connection, Use::Writes, 0x0300_0000)],
            ),
            (
                "-A PREROUTING -p tcp -j TPROXY --on-port 3129 --on-ip 0.0.0.0 --tproxy-mark 0x1/0x1",
                vec![],
            ),
            (
                "-A PREROUTING -p tcp -j TPROXY --on-port 3129 --on-ip 0.0.0.0 --tproxy-mark 0x1/0x1000001",
                vec![],
            ),
            (
                "-A PREROUTING -p tcp -j TPROXY --on-port 3129 --on-ip 0.0.0.0 --tproxy-mark 0x1000001/0xffffffff",
                vec![(packet, Use::Writes, 0x0100_0000)],
            ),
            (
                "-A PREROUTING -p tcp -m socket --transparent -j MARK --set-xmark 0x1/0x1000001",
                vec![],
            ),
            (
                "-A PREROUTING -p tcp -m socket --transparent -j CONNMARK --set-xmark 0x0/0xffffffff",
                vec![(connection, Use::Writes, 0x0300_0000)],
            ),
            ("-A FORWARD -j NFQUEUE --queue-num 0", vec![]),
        ] {
            let saved = format!("*mangle\n:PREROUTING ACCEPT [0:0]\n{rule}\nCOMMIT\n");
            let found = collisions("iptables", &saved, OURS);
            let place = format!("iptables mangle: {rule}");
            assert!(found.iter().all(|it| it.place == place), "{found:?}");
            let told: Vec<_> = found.into_iter().map(|it| (it.of, it.does, it.bits)).collect();
            assert_eq!(told, expected, "{rule}");
        }
    }
}
