//! Chains as `iptables-save` prints them (iptables-extensions(8)).

use super::{Chains, Does, Rule};
use crate::egress::Family;

/// The table `nat` in what `program` printed.
pub(super) fn chains(program: &str, family: Family, saved: &str) -> Chains {
    let entries = ["POSTROUTING".to_owned()].into();
    let mut chains = Chains { families: [family].into(), entries, ..Chains::default() };
    let mut is_nat = false;
    for line in saved.lines() {
        if let Some(table) = line.strip_prefix('*') {
            is_nat = table == "nat";
        } else if is_nat && let Some(rest) = line.strip_prefix("-A ") {
            let mut words = words(rest).into_iter();
            let Some(chain) = words.next() else { continue };
            let place = format!("{program} nat: {line}");
            chains.rules.entry(chain).or_default().push(rule(place, words));
        }
    }
    chains
}

fn rule(place: String, mut words: impl Iterator<Item = String>) -> Rule {
    let mut rule = Rule { place, ..Rule::default() };
    let mut is_not = false;
    while let Some(word) = words.next() {
        let negated = std::mem::take(&mut is_not);
        match word.as_str() {
            "!" => is_not = true,
            "-o" => {
                // There, a plus sign stands for the rest of a name.
                let name = words.next().unwrap_or_default();
                let name = name.strip_suffix('+').map_or(name.clone(), |begin| format!("{begin}*"));
                rule.out = Some((vec![name], negated));
            }
            "-s" if !negated => match words.next().and_then(|source| source.parse().ok()) {
                Some(source) => rule.sources = Some(vec![source]),
                None => rule.asks_more = true,
            },
            "-j" | "-g" => {
                rule.does = match words.next().unwrap_or_default().as_str() {
                    "MASQUERADE" | "SNAT" | "NETMAP" => Does::Translate,
                    "ACCEPT" | "RETURN" | "DROP" => Does::End,
                    chain => Does::Jump(vec![chain.to_owned()]),
                };
                // What follows are the target's options.
                break;
            }
            "-m" => {
                let module = words.next();
                rule.asks_more |= module.as_deref() != Some("comment");
            }
            "--comment" => drop(words.next()),
            _ => rule.asks_more = true,
        }
    }
    rule
}

/// The words of a line; what is in double quotes is one.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in line.split('"').enumerate() {
        if number % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::Leaving;
    use super::*;

    fn found(rules: &str) -> Option<String> {
        let saved =
            format!("*filter\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n*nat\n{rules}\nCOMMIT\n");
        let elsewhere = ["172.17.0.0/16".parse().unwrap()];
        let families = [Family::V4].into();
        let leaving = Leaving { uplink: "wan0", families, elsewhere: &elsewhere };
        chains("iptables", Family::V4, &saved).translate(&leaving)
    }

    #[test]
    fn what_may_translate_on_the_uplink_is_found_and_nothing_else() {
        for (rules, line) in [
            ("-A POSTROUTING -o wan0 -j MASQUERADE", Some(0)),
            ("-A POSTROUTING -s 10.0.0.0/8 -j SNAT --to-source 192.0.2.1", Some(0)),
            ("-A POSTROUTING -o wan+ -m mark --mark 0x1 -j NETMAP --to 192.0.2.0/24", Some(0)),
            ("-A POSTROUTING -o wan1 -j MASQUERADE", None),
            ("-A POSTROUTING ! -o wan0 -j MASQUERADE", None),
            ("-A POSTROUTING ! -o docker0 -j MASQUERADE", Some(0)),
            ("-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", None),
            ("-A PREROUTING -p tcp -j REDIRECT --to-ports 3128", None),
            ("-A POSTROUTING -m comment --comment \"not -o wan1 -j X\" -j MASQUERADE", Some(0)),
            ("-A NAT -j MASQUERADE", None),
            ("-A POSTROUTING -j NAT\n-A NAT -j MASQUERADE", Some(1)),
            ("-A POSTROUTING -o wan0 -j ACCEPT\n-A POSTROUTING -j MASQUERADE", None),
            ("-A POSTROUTING -o wan0 -p tcp -j ACCEPT\n-A POSTROUTING -j MASQUERADE", Some(1)),
        ] {
            let place = line.and_then(|line| rules.lines().nth(line));
            let place = place.map(|line| format!("iptables nat: {line}"));
            assert_eq!(found(rules), place, "{rules}");
        }
    }
}
