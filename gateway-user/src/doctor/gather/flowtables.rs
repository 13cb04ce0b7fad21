//! Flowtables, by what `nft` lists for people: its JSON leaves their flags out.

use super::super::{Flowtable, Seen};
use crate::marks::{Looked, program};

/// Those of the ruleset in `looked`; `nft` is asked again only where there are any.
pub(super) async fn read(looked: &Looked) -> Seen<Vec<Flowtable>> {
    let ruleset = looked.ruleset.as_ref();
    let ruleset = ruleset.ok_or_else(|| "the nftables rules could not be listed".to_owned())?;
    let objects = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !objects.iter().any(|object| object.get("flowtable").is_some()) {
        return Ok(Vec::new());
    }
    let text = program("nft", &["list", "flowtables"]).await?;
    Ok(parse(&text.ok_or_else(|| "there is no `nft`".to_owned())?))
}

/// As nftables prints them (`do_list_flowtables` and `flowtable_print_declaration` in its `src/rule.c`).
fn parse(text: &str) -> Vec<Flowtable> {
    let mut found: Vec<Flowtable> = Vec::new();
    let mut table = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", family, name, "{"] => table = format!("{family} {name}"),
            ["flowtable", name, "{"] => {
                found.push(Flowtable { place: format!("{table} {name}"), in_hardware: false });
            }
            ["flags", flags @ ..] => {
                let is_offload = |flag: &&str| flag.trim_matches([',', ';']) == "offload";
                if let Some(last) = found.last_mut() {
                    last.in_hardware = flags.iter().any(is_offload);
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flowtables_are_read_with_where_they_forward() {
        let text = "table inet fast {\n\
                    \tflowtable soft {\n\
                    \t\thook ingress priority filter\n\
                    \t\tdevices = { \"lan0\", \"wan0\" }\n\
                    \t\tcounter\n\
                    \t}\n\
                    \tflowtable hard {\n\
                    \t\thook ingress priority filter + 10\n\
                    \t\tdevices = { \"lan0\" }\n\
                    \t\tflags offload\n\
                    \t\tcounter\n\
                    \t}\n\
                    }\n\
                    table ip empty {\n\
                    }\n\
                    table ip other {\n\
                    \tflowtable flags {\n\
                    \t\thook ingress priority filter\n\
                    \t}\n\
                    }\n";
        let told: Vec<_> = parse(text).into_iter().map(|it| (it.place, it.in_hardware)).collect();
        let expected =
            [("inet fast soft", false), ("inet fast hard", true), ("ip other flags", false)];
        assert_eq!(told, expected.map(|(place, in_hardware)| (place.to_owned(), in_hardware)));
    }

    #[tokio::test]
    async fn without_a_ruleset_nothing_is_said_of_flowtables() {
        assert!(read(&Looked::default()).await.is_err());
        let ruleset = Some(serde_json::json!({ "nftables": [{ "table": { "name": "t" } }] }));
        assert_eq!(read(&Looked { ruleset, ..Looked::default() }).await, Ok(Vec::new()));
    }
}
