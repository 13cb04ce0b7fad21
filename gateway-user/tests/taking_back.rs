//! Taking everything back: nothing is marked any more when the way out goes, and what cannot be taken
//! back is said and keeps nothing else. Needs root.

use std::fs;

use gateway_user::exit::Exit;
use serde_json::Value;

use crate::support::network::{EGRESS, Network, config};

#[test]
fn nothing_is_attached_any_more_when_the_table_goes() {
    for on_stop in ["keep", "detach"] {
        let network = Network::new();
        let before = network.everything();
        let product = network.product();
        let (seen, pins) = (product.file("seen"), network.site.pins());
        let script = format!(
            "case \"$1\" in delete) ls {} > {};; esac",
            pins.root().display(),
            seen.display()
        );
        let product = product.with_nft(&script);
        product.configure(&format!("on-stop = {on_stop:?}\n{}", config(EGRESS)));
        product.start().terminate();
        if on_stop == "keep" {
            product.json(&["down"]);
        }
        let seen = fs::read_to_string(seen).unwrap();
        assert!(seen.contains("control"), "{on_stop}: the pins go last: {seen:?}");
        assert!(!seen.contains("link-") && !seen.contains("clsact-"), "{on_stop}: {seen:?}");
        assert_eq!(network.everything(), before, "{on_stop}");
        assert!(!pins.root().exists(), "{on_stop}");
    }
}

#[test]
fn a_table_that_cannot_be_removed_is_said_and_all_the_rest_goes() {
    for has_rules in [true, false] {
        let network = Network::new();
        let product = network.product();
        product.start().terminate();
        if !has_rules {
            for command in ["ip rule del pref 365", "ip rule del pref 366"] {
                network.gateway(command);
                network.gateway(&command.replace("ip ", "ip -6 "));
            }
            network.gateway("ip route flush table 365");
            network.gateway("ip -6 route flush table 365");
        }
        let product = product.with_nft("echo no table for you >&2; exit 1");
        let output = product.verb(&["down", "--json"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(Exit::Egress as i32), "{said}");
        assert!(said.contains("no table for you") && said.lines().count() == 1, "{said}");
        let removed: Value = serde_json::from_slice(&output.stdout).unwrap();
        let (rules, routes) = if has_rules { (4, 2) } else { (0, 0) };
        assert_eq!(removed["egress"]["rules"], rules, "{removed}");
        assert_eq!(removed["egress"]["routes"], routes, "{removed}");
        assert_eq!(removed["egress"]["table"], false, "{removed}");
        assert_eq!(removed["hooks"][0]["interface"], "lan0", "{removed}");
        assert!(!network.site.pins().root().exists());
        assert!(!network.gateway("ip rule").contains("365"));
        let text = product.verb(&["down"]);
        assert_eq!(text.status.code(), Some(Exit::Egress as i32));
        assert_eq!(String::from_utf8(text.stdout).unwrap(), "nothing was detached\n");
    }
}
