//! Chains of `nft --json list ruleset` (libnftables-json(5)).

use ipnet::IpNet;
use serde_json::Value;

use super::{Chains, Does, Rule};
use crate::egress::Family;

/// Our own table: family and name.
const OWN: (&str, &str) = ("inet", "breakout365");

/// The tables that translate after routing, but for ours. Of what iptables-nft has made it says too
/// little: see [`super::iptables`].
pub(super) fn chains(ruleset: &Value) -> Vec<Chains> {
    let objects = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |kind: &'static str| objects.iter().filter_map(move |object| object.get(kind));
    let tables = of("table").filter_map(|table| {
        let (family, name) = (table["family"].as_str()?, table["name"].as_str()?);
        let families = match family {
            "ip" => [Family::V4].into(),
            "ip6" => [Family::V6].into(),
            "inet" => [Family::V4, Family::V6].into(),
            _ => return None,
        };
        if (family, name) == OWN {
            return None;
        }
        let is_of = |object: &&Value| object["family"] == family && object["table"] == name;
        let mut chains = Chains { families, ..Chains::default() };
        for chain in of("chain").filter(is_of) {
            let Some(name) = chain["name"].as_str() else { continue };
            chains.rules.insert(name.to_owned(), Vec::new());
            if chain["type"] == "nat" && chain["hook"] == "postrouting" {
                chains.entries.insert(name.to_owned());
            }
        }
        for object in of("rule").filter(is_of) {
            let Some(name) = object["chain"].as_str() else { continue };
            let handle = object["handle"].as_u64().unwrap_or_default();
            let place = format!(
                "nft {family} {}, chain {name}, rule handle {handle}",
                text(&object["table"])
            );
            let statements = object["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
            chains.rules.entry(name.to_owned()).or_default().push(rule(place, statements));
        }
        Some(chains)
    });
    tables.filter(|chains| !chains.entries.is_empty()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn rule(place: String, statements: &[Value]) -> Rule {
    let mut rule = Rule { place, ..Rule::default() };
    for statement in statements {
        let Some((kind, value)) = statement.as_object().and_then(|object| object.iter().next())
        else {
            continue;
        };
        match kind.as_str() {
            "match" => condition(&mut rule, value),
            "masquerade" | "snat" => rule.does = Does::Translate,
            "accept" | "return" | "drop" | "reject" => rule.does = Does::End,
            "jump" | "goto" => {
                rule.does = Does::Jump(vec![text(&value["target"]).to_owned()]);
            }
            "vmap" => rule.does = by_map(value),
            "counter" | "comment" | "log" | "notrack" => {}
            _ => rule.asks_more = true,
        }
    }
    rule
}

fn condition(rule: &mut Rule, condition: &Value) {
    let (left, right) = (&condition["left"], &condition["right"]);
    let is_not = condition["op"] == "!=";
    let key = left["meta"]["key"].as_str();
    let understood = match key {
        Some("oifname" | "oif") => names(right).map(|names| rule.out = Some((names, is_not))),
        Some("nfproto") if !is_not => {
            let family = match right.as_str() {
                Some("ipv4") => Some(Family::V4),
                Some("ipv6") => Some(Family::V6),
                Some(_) | None => None,
            };
            family.map(|family| rule.family = Some(family))
        }
        None if left["payload"]["field"] == "saddr" && !is_not => {
            networks(right).map(|networks| rule.sources = Some(networks))
        }
        Some(_) | None => None,
    };
    rule.asks_more |= understood.is_none();
}

/// All of a value, or of the set that it is; `None` where one is not understood, such as a named set.
fn each<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    match value["set"].as_array() {
        Some(elements) => elements.iter().map(read).collect(),
        None => Some(vec![read(value)?]),
    }
}

fn names(value: &Value) -> Option<Vec<String>> {
    each(value, |name| name.as_str().filter(|name| !name.starts_with('@')).map(str::to_owned))
}

fn networks(value: &Value) -> Option<Vec<IpNet>> {
    each(value, |network| {
        if let Some(address) = network.as_str() {
            return address.parse().ok().map(|address: std::net::IpAddr| address.into());
        }
        let prefix = &network["prefix"];
        let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
        IpNet::new(prefix["addr"].as_str()?.parse().ok()?, length).ok()
    })
}

/// Where a verdict map may lead.
fn by_map(map: &Value) -> Does {
    let Some(pairs) = map["data"]["set"].as_array() else { return Does::JumpSomewhere };
    let targets = pairs.iter().filter_map(|pair| {
        let verdict = &pair[1];
        let target = verdict.get("jump").or_else(|| verdict.get("goto"))?;
        Some(text(&target["target"]).to_owned())
    });
    Does::Jump(targets.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Leaving;
    use super::*;

    /// The rule of a postrouting chain of `family` that translates what leaves by `wan0`.
    fn found(family: &str, rules: &[(&str, Value)]) -> Option<String> {
        let mut objects = vec![
            json!({ "table": { "family": family, "name": "t" } }),
            json!({ "chain": { "family": family, "table": "t", "name": "post", "type": "nat",
                "hook": "postrouting" } }),
            json!({ "chain": { "family": family, "table": "t", "name": "more" } }),
        ];
        for (number, (chain, expr)) in (1..).zip(rules) {
            objects.push(json!({ "rule": { "family": family, "table": "t", "chain": chain,
                "handle": number, "expr": expr } }));
        }
        let elsewhere = ["172.17.0.0/16".parse().unwrap()];
        let families = [Family::V4].into();
        let leaving = Leaving { uplink: "wan0", families, elsewhere: &elsewhere };
        let all = chains(&json!({ "nftables": objects }));
        all.iter().find_map(|chains| chains.translate(&leaving))
    }

    fn out(op: &str, names: &Value) -> Value {
        json!({ "match": { "op": op, "left": { "meta": { "key": "oifname" } }, "right": names } })
    }

    #[test]
    fn what_may_translate_on_the_uplink_is_found_and_nothing_else() {
        let masquerade = json!({ "masquerade": null });
        let accept = json!({ "accept": null });
        let wan = out("==", &json!("wan0"));
        let source = |address: &str, len: u8| {
            json!({ "match": { "op": "==",
                "left": { "payload": { "protocol": "ip", "field": "saddr" } },
                "right": { "prefix": { "addr": address, "len": len } } } })
        };
        let jump = json!({ "jump": { "target": "more" } });
        let nfproto = |name: &str| json!({ "match": { "op": "==", "left": { "meta": { "key": "nfproto" } }, "right": name } });
        for (family, rules, handle) in [
            ("ip", vec![("post", json!([masquerade]))], Some(1)),
            (
                "ip",
                vec![(
                    "post",
                    json!([wan, { "counter": null }, { "snat": { "addr": "192.0.2.1" } }]),
                )],
                Some(1),
            ),
            ("ip", vec![("post", json!([out("==", &json!("wan1")), masquerade]))], None),
            ("ip", vec![("post", json!([out("==", &json!("wan*")), masquerade]))], Some(1)),
            (
                "ip",
                vec![("post", json!([out("==", &json!({ "set": ["a", "wan0"] })), masquerade]))],
                Some(1),
            ),
            (
                "ip",
                vec![("post", json!([out("!=", &json!({ "set": ["a", "wan0"] })), masquerade]))],
                None,
            ),
            ("ip", vec![("post", json!([out("==", &json!("@wans")), masquerade]))], Some(1)),
            ("ip", vec![("post", json!([source("172.17.0.0", 16), masquerade]))], None),
            ("ip", vec![("post", json!([source("172.16.0.0", 12), masquerade]))], Some(1)),
            // Elsewhere in the walk.
            ("ip", vec![("more", json!([masquerade]))], None),
            ("ip", vec![("post", json!([jump])), ("more", json!([masquerade]))], Some(2)),
            (
                "ip",
                vec![
                    ("post", json!([out("==", &json!("lan0")), jump])),
                    ("more", json!([masquerade])),
                ],
                None,
            ),
            (
                "ip",
                vec![
                    ("post", json!([{ "vmap": { "key": 1, "data": "@map" } }])),
                    ("more", json!([masquerade])),
                ],
                Some(2),
            ),
            // What went out before it.
            ("ip", vec![("post", json!([wan, accept])), ("post", json!([masquerade]))], None),
            (
                "ip",
                vec![
                    ("post", json!([wan, { "limit": null }, accept])),
                    ("post", json!([masquerade])),
                ],
                Some(2),
            ),
            // The other family.
            ("ip6", vec![("post", json!([masquerade]))], None),
            ("inet", vec![("post", json!([nfproto("ipv6"), masquerade]))], None),
            ("inet", vec![("post", json!([nfproto("ipv4"), masquerade]))], Some(1)),
        ] {
            let place = handle.map(|handle| {
                let chain = rules[handle - 1].0;
                format!("nft {family} t, chain {chain}, rule handle {handle}")
            });
            assert_eq!(found(family, &rules), place, "{family} {rules:?}");
        }
    }
}
