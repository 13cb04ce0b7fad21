//! Statements of an nftables ruleset, as `nft --json list ruleset` gives it (libnftables-json(5)).

use std::collections::BTreeSet;

use serde_json::Value;

use super::bits::Bits;
use super::{Collision, MarkOf, Ours};

/// Our own table: family and name.
const OWN: (&str, &str) = ("inet", "breakout365");

/// The collisions in a ruleset. What iptables-nft made is in it too, but only partly in words: see
/// [`super::iptables`].
pub(super) fn collisions(ruleset: &Value, ours: Ours) -> BTreeSet<Collision> {
    let objects = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rules = objects.iter().filter_map(|object| object.get("rule"));
    let mut found = BTreeSet::new();
    for rule in rules {
        let text = |key: &str| rule[key].as_str().unwrap_or("?");
        let (family, table) = (text("family"), text("table"));
        let statements = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_iptables = statements.iter().any(|statement| statement.get("xt").is_some());
        if (family, table) == OWN || is_iptables {
            continue;
        }
        let place = format!(
            "nft {family} {table}, chain {}, rule handle {}",
            text("chain"),
            rule["handle"].as_u64().unwrap_or_default()
        );
        let is_taken = statements.iter().any(gives_to_a_socket);
        for statement in statements {
            for (of, does, bits) in uses(statement, ours, is_taken) {
                found.insert(Collision { place: place.clone(), of, does, bits });
            }
        }
    }
    found
}

/// What a socket here gets is routed nowhere else: that its rule clears our bits takes nothing from us.
fn gives_to_a_socket(statement: &Value) -> bool {
    let asks_for_one = statement["match"]["left"]["socket"]["key"] == "transparent";
    statement.get("tproxy").is_some() || asks_for_one
}

fn uses(statement: &Value, ours: Ours, is_taken: bool) -> Vec<(MarkOf, super::Use, u32)> {
    if let Some(mangle) = statement.get("mangle") {
        let Some(of) = mark(&mangle["key"]) else { return Vec::new() };
        let written = bits(&mangle["value"], of);
        let is_cleared = is_taken && of == MarkOf::Packet;
        let kept = written.kept | if is_cleared { written.zero } else { 0 };
        return ours.written(of, kept).map(|(does, bits)| (of, does, bits)).into_iter().collect();
    }
    if let Some(compared) = statement.get("match") {
        let value = number(&compared["right"]);
        let Some((of, mask)) = masked(&compared["left"]) else { return Vec::new() };
        // `mark & x` without a value asks for any of the bits.
        let value = if compared["op"] == "in" && value == Some(mask) { None } else { value };
        let found = ours.compared(of, mask, value);
        return found.map(|(does, bits)| (of, does, bits)).into_iter().collect();
    }
    // Maps, meters and sets that have a mark for a key.
    let mut keys = Vec::new();
    keys_in(statement, &mut keys);
    let told = keys.into_iter().filter_map(|(of, mask)| {
        ours.compared(of, mask, None).map(|(does, bits)| (of, does, bits))
    });
    told.collect()
}

/// Marks that are read anywhere in `value`.
fn keys_in(value: &Value, found: &mut Vec<(MarkOf, u32)>) {
    if let Some(key) = masked(value) {
        found.push(key);
        return;
    }
    match value {
        Value::Object(members) => members.values().for_each(|member| keys_in(member, found)),
        Value::Array(members) => members.iter().for_each(|member| keys_in(member, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A mark, or the bits of one under a mask.
fn masked(value: &Value) -> Option<(MarkOf, u32)> {
    if let Some(of) = mark(value) {
        return Some((of, u32::MAX));
    }
    let [left, right] = value.get("&")?.as_array()?.as_slice() else { return None };
    mark(left).zip(number(right))
}

fn mark(value: &Value) -> Option<MarkOf> {
    let is_mark = |kind: &str| value[kind]["key"] == "mark";
    if is_mark("meta") { Some(MarkOf::Packet) } else { is_mark("ct").then_some(MarkOf::Connection) }
}

fn number(value: &Value) -> Option<u32> {
    if let Some(text) = value.as_str() {
        let digits = text.strip_prefix("0x");
        return digits.map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok());
    }
    value.as_u64()?.try_into().ok()
}

/// What an expression that is written to the mark `of` leaves of it.
fn bits(value: &Value, of: MarkOf) -> Bits {
    if mark(value) == Some(of) {
        return Bits::OLD;
    }
    if let Some(number) = number(value) {
        return Bits::constant(number);
    }
    for (sign, combine) in
        [("&", Bits::and as fn(Bits, Bits) -> Bits), ("|", Bits::or), ("^", Bits::xor)]
    {
        let operands = value.get(sign).and_then(Value::as_array).map(Vec::as_slice);
        if let Some([first, more @ ..]) = operands {
            let first = bits(first, of);
            return more.iter().fold(first, |left, right| combine(left, bits(right, of)));
        }
    }
    Bits::default()
}

#[cfg(test)]
mod tests {
    use super::super::Use;
    use super::*;
    use crate::config::Mark;
    use serde_json::json;

    const OURS: Ours =
        Ours { mark: Mark { value: 0x0100_0000, mask: 0x0100_0000 }, decided: 0x0200_0000 };

    fn told(expr: &Value) -> Vec<(MarkOf, Use, u32)> {
        let rule =
            json!({ "family": "ip", "table": "t", "chain": "c", "handle": 4, "expr": [expr] });
        let found = collisions(&json!({ "nftables": [{ "rule": rule }] }), OURS);
        assert!(found.iter().all(|it| it.place == "nft ip t, chain c, rule handle 4"), "{found:?}");
        found.into_iter().map(|it| (it.of, it.does, it.bits)).collect()
    }

    #[test]
    fn writes_reads_and_comparisons_are_told_apart() {
        let meta = json!({ "meta": { "key": "mark" } });
        let ct = json!({ "ct": { "key": "mark" } });
        let (packet, connection) = (MarkOf::Packet, MarkOf::Connection);
        for (expr, expected) in [
            (
                json!({ "mangle": { "key": meta, "value": 1 } }),
                vec![(packet, Use::Writes, 0x0100_0000)],
            ),
            (
                json!({ "mangle": { "key": meta, "value": { "|": [{ "&": [meta, 0xffff_ff00_u32] }, 1] } } }),
                vec![],
            ),
            (
                json!({ "mangle": { "key": meta, "value": { "|": [meta, 0x0100_0000] } } }),
                vec![(packet, Use::Writes, 0x0100_0000)],
            ),
            (
                json!({ "mangle": { "key": ct, "value": meta } }),
                vec![(connection, Use::Writes, 0x0300_0000)],
            ),
            (
                json!({ "match": { "op": "==", "left": meta, "right": 1 } }),
                vec![(packet, Use::Compares, 0x0100_0000)],
            ),
            (
                json!({ "match": { "op": "==", "left": { "&": [meta, 0x0100_0000] }, "right": 0x0100_0000 } }),
                vec![],
            ),
            (
                json!({ "match": { "op": "!=", "left": { "&": [ct, 0x0100_0000] }, "right": 0 } }),
                vec![],
            ),
            (
                json!({ "match": { "op": "==", "left": { "&": [ct, 0xff00_0000_u32] }, "right": 0x0400_0000 } }),
                vec![(connection, Use::Reads, 0x0300_0000)],
            ),
            (
                json!({ "vmap": { "key": meta, "data": { "set": [[1, { "accept": null }]] } } }),
                vec![(packet, Use::Reads, 0x0100_0000)],
            ),
            (
                json!({ "match": { "op": "==", "left": { "meta": { "key": "iifname" } }, "right": "x" } }),
                vec![],
            ),
        ] {
            assert_eq!(told(&expr), expected, "{expr}");
        }
    }

    #[test]
    fn a_rule_that_gives_to_a_socket_may_clear_our_bits_and_not_set_them() {
        let meta = json!({ "meta": { "key": "mark" } });
        let set = |value: Value| json!({ "mangle": { "key": meta, "value": value } });
        let connection = json!({ "mangle": { "key": { "ct": { "key": "mark" } }, "value": 0 } });
        let socket = json!({ "match": { "op": "==", "left": { "socket": { "key": "transparent" } }, "right": 1 } });
        for taken in [json!({ "tproxy": { "port": 3129 } }), socket] {
            for (write, collides) in [
                (set(json!(1)), false),
                (set(json!({ "|": [{ "&": [meta, 0xfeff_fffe_u32] }, 1] })), false),
                (set(json!(0x0100_0001)), true),
                (connection.clone(), true),
            ] {
                let rule = json!({ "family": "ip", "table": "t", "chain": "c", "handle": 4,
                    "expr": [taken, write] });
                let found = collisions(&json!({ "nftables": [{ "rule": rule }] }), OURS);
                assert_eq!(!found.is_empty(), collides, "{taken} {write}");
            }
        }
    }

    #[test]
    fn our_own_table_does_not_collide() {
        let rule = json!({ "family": "inet", "table": "breakout365", "chain": "c", "handle": 1,
            "expr": [{ "mangle": { "key": { "meta": { "key": "mark" } }, "value": 0 } }] });
        assert!(collisions(&json!({ "nftables": [{ "rule": rule }] }), OURS).is_empty());
    }
}
