//! A feed is either understood in full or refused as a whole, with its place.

use std::collections::BTreeSet;

use gateway_user::feed::{self, Category, Snapshot, parse};
use proptest::prelude::*;
use serde_json::{Value, json};

const UNTIDY: &[u8] = include_bytes!("fixtures/untidy.json");
const NESTED: &[u8] = include_bytes!("fixtures/nested.json");

fn refusal(text: &str) -> String {
    parse(text.as_bytes(), "f.json").unwrap_err().to_string()
}

/// A feed whose second record, id 7, is good but for `field`.
fn with(field: &str, value: &Value) -> String {
    let good = json!({
        "id": 7, "serviceArea": "Skype", "serviceAreaDisplayName": "Teams", "ips": ["192.0.2.0/24"],
        "urls": ["a.example"], "tcpPorts": "443", "udpPorts": "443", "category": "Optimize",
        "expressRoute": true, "required": true, "notes": "n",
    });
    let mut first = good.clone();
    first["id"] = 1.into();
    let mut second = good;
    second[field] = value.clone();
    json!([first, second]).to_string()
}

#[test]
fn untidy_feeds_mean_what_a_person_reads() {
    let snapshot = parse(UNTIDY, "untidy").unwrap();
    assert_eq!(snapshot.sets.keys().copied().collect::<Vec<_>>(), [3, 5, 7]);
    assert_eq!((&snapshot.instance, &snapshot.version), (&None, &None));
    let calls = &snapshot.sets[&7];
    assert_eq!(calls.tcp.to_string(), "80,443,3000-3020");
    assert_eq!(calls.udp.to_string(), "3478-3481");
    let prefixes: Vec<_> = calls.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["192.0.2.64/26", "198.51.100.0/24", "2001:db8:7::/48"]);
    assert_eq!(
        (calls.category, calls.required, calls.express_route),
        (Category::Optimize, true, true)
    );
    assert!(calls.notes.is_empty() && calls.urls.is_empty());
    assert_eq!(snapshot.sets[&3].service_area, "Brand.New");
    let portless = &snapshot.sets[&5];
    assert!(portless.tcp.is_empty() && portless.udp.is_empty() && portless.prefixes.len() == 1);
    assert_eq!(portless.urls, BTreeSet::from(["*.a.example".into(), "b.example".into()]));
}

#[test]
fn the_digest_is_of_the_meaning_not_of_the_text() {
    let mut records: Vec<Value> = serde_json::from_slice(UNTIDY).unwrap();
    let before = parse(UNTIDY, "untidy").unwrap().digest;
    records.reverse();
    records[2]["tcpPorts"] = "80,443,3000-3020".into();
    let tidier = serde_json::to_vec(&records).unwrap();
    assert_eq!(parse(&tidier, "tidier").unwrap().digest, before);
    records[2]["tcpPorts"] = "80,443,3000-3021".into();
    let other = serde_json::to_vec(&records).unwrap();
    assert_ne!(parse(&other, "other").unwrap().digest, before);
}

#[test]
fn canonical_text_reads_back_to_the_same_snapshot() {
    for bytes in [UNTIDY, NESTED] {
        let bare = parse(bytes, "bare").unwrap();
        let named = Snapshot {
            instance: Some("Worldwide".into()),
            version: Some("2026010100".into()),
            ..bare.clone()
        };
        for snapshot in [bare, named] {
            let text = feed::write(&snapshot).unwrap();
            assert_eq!(parse(text.as_bytes(), "canonical").unwrap(), snapshot);
            let other = text.replacen("443", "444", 1);
            assert!(parse(other.as_bytes(), "canonical").is_err());
        }
    }
}

#[test]
fn fields_that_are_wrong_are_refused_by_record_and_field() {
    let cases = [
        ("ips", json!(["192.0.2.1/24"]), "has host bits set; its network is 192.0.2.0/24"),
        ("ips", json!(["2001:db8::1/64"]), "has host bits set"),
        ("ips", json!(["192.0.2.0"]), "is not a prefix"),
        ("ips", json!(["192.0.2.0/33"]), "is not a prefix"),
        ("ips", json!(["192.0.2.0/024"]), "is not a prefix"),
        ("ips", json!(["192.0.2.0/+24"]), "is not a prefix"),
        ("ips", json!(["192.000.2.0/24"]), "is not a prefix"),
        ("ips", json!(["192.0.2/24"]), "is not a prefix"),
        ("ips", json!([" 192.0.2.0/24"]), "is not a prefix"),
        ("ips", json!(["2001:db8::/129"]), "is not a prefix"),
        ("ips", json!([""]), "is not a prefix"),
        ("ips", json!(["::ffff:192.0.2.0/120"]), "is IPv4 mapped into IPv6"),
        ("ips", json!(["::ffff:0:0/96"]), "is IPv4 mapped into IPv6"),
        ("ips", json!([7]), "holds something else than texts"),
        ("ips", json!("192.0.2.0/24"), "is not a list"),
        ("ips", json!(null), "is not a list"),
        ("urls", json!({}), "is not a list"),
        ("urls", json!(["a b"]), "is not a host name"),
        ("tcpPorts", json!("0"), "\"0\" is not a port"),
        ("tcpPorts", json!("65536"), "\"65536\" is not a port"),
        ("tcpPorts", json!("80,"), "\"\" is not a port"),
        ("tcpPorts", json!(443), "is not a text"),
        ("udpPorts", json!("3481-3478"), "the range \"3481-3478\" ends before it begins"),
        ("category", json!("optimize"), "expected Optimize, Allow or Default"),
        ("category", json!(1), "is not a text"),
        ("required", json!("true"), "is neither true nor false"),
        ("expressRoute", json!(0), "is neither true nor false"),
        ("serviceArea", json!(""), "is not a name"),
        ("serviceArea", json!("a\u{1b}[2J"), "is not a name"),
        ("notes", json!([]), "is not a text"),
    ];
    for (field, value, problem) in cases {
        let refusal = refusal(&with(field, &value));
        let start = format!("f.json: set 7 (record 1): field {field:?} ");
        assert!(refusal.starts_with(&start), "{refusal}");
        assert!(refusal.contains(problem), "{refusal}");
        assert!(!refusal.contains(['\n', '\u{1b}']), "{refusal:?}");
    }
}

#[test]
fn ids_that_are_wrong_are_refused_by_record() {
    for id in [json!(-1), json!("7"), json!(7.5), json!(4_294_967_296_u64), json!(null)] {
        let refusal = refusal(&with("id", &id));
        assert!(refusal.starts_with("f.json: record 1: field \"id\" "), "{refusal}");
    }
    assert_eq!(
        refusal(&with("id", &json!(1))),
        "f.json: set 1 (record 1): field \"id\" is taken by another record"
    );
}

#[test]
fn missing_fields_are_refused_by_name() {
    for field in ["id", "serviceArea", "category", "required"] {
        let mut records: Vec<Value> = serde_json::from_slice(NESTED).unwrap();
        records[1].as_object_mut().unwrap().remove(field);
        let refusal = refusal(&json!(records).to_string());
        assert!(refusal.ends_with(&format!("field {field:?} is missing")), "{refusal}");
    }
}

#[test]
fn what_is_no_endpoint_list_is_refused_in_one_line() {
    for text in [
        "",
        " ",
        "[]",
        "[[]]",
        "[1]",
        "{}",
        "1",
        "null",
        "\"a\"",
        "[",
        "[{}",
        "[{}]",
        "[{}],",
        "{\"sets\":[]}",
        "{\"sets\":{},\"digest\":\"\"}",
        "\u{feff}[]",
        "<html></html>",
        "{\"error\":{\"code\":\"429\"}}",
        "[{\"id\":1,\"id\":2}]",
        "[null]",
    ] {
        let refusal = refusal(text);
        assert!(refusal.starts_with("f.json: ") && !refusal.contains('\n'), "{text}: {refusal}");
    }
    assert!(refusal(&"[".repeat(100_000)).starts_with("f.json: "), "no stack overflow");
    let long = " ".repeat(feed::MAX_BYTES + 1);
    assert!(refusal(&long).contains("is longer than"));
}

#[test]
fn an_envelope_is_refused_when_its_own_fields_are_wrong() {
    let snapshot = parse(NESTED, "nested").unwrap();
    let good: Value = serde_json::from_str(&feed::write(&snapshot).unwrap()).unwrap();
    for (field, value) in [
        ("version", json!("2026")),
        ("version", json!("20260731xx")),
        ("version", json!(2_026_073_100_u64)),
        ("instance", json!("")),
        ("digest", json!("0")),
        ("digest", json!(null)),
        ("sets", json!([])),
    ] {
        let mut envelope = good.clone();
        envelope[field] = value;
        let refusal = refusal(&envelope.to_string());
        assert!(refusal.starts_with("f.json: "), "{refusal}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[0-9a-f:./, -]{0,12}".prop_map(Value::from),
        ".{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

const FIELDS: [&str; 11] = [
    "id",
    "serviceArea",
    "serviceAreaDisplayName",
    "ips",
    "urls",
    "tcpPorts",
    "udpPorts",
    "category",
    "expressRoute",
    "required",
    "notes",
];

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, "f.json");
    }

    #[test]
    fn damaged_bytes_are_understood_or_refused(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = UNTIDY.to_vec();
        bytes[at.index(UNTIDY.len())] = byte;
        if let Ok(snapshot) = parse(&bytes, "f.json") {
            let text = feed::write(&snapshot).unwrap();
            prop_assert_eq!(parse(text.as_bytes(), "canonical").unwrap(), snapshot);
        }
    }

    #[test]
    fn any_value_in_any_field_is_understood_or_refused(
        field in prop::sample::select(FIELDS.to_vec()),
        value in any_json(),
    ) {
        match parse(with(field, &value).as_bytes(), "f.json") {
            Ok(snapshot) => {
                let text = feed::write(&snapshot).unwrap();
                prop_assert_eq!(parse(text.as_bytes(), "canonical").unwrap(), snapshot);
            }
            Err(refusal) => {
                let refusal = refusal.to_string();
                prop_assert!(refusal.contains(field), "{}", refusal);
                prop_assert!(!refusal.contains('\n'), "{}", refusal);
            }
        }
    }
}
