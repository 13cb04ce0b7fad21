//! What probes ask where a name has several addresses. Needs root.

use std::fs;

use crate::support::network::{DIRECT, EGRESS, Network, config};
use crate::support::wait_until;

/// Nobody listens at the first address of each family.
const HOSTS: &str = "40.96.0.2 probed.test\n40.96.0.1 probed.test\n\
                     2603:1006::2 probed.test\n2603:1006::1 probed.test\n";

#[test]
fn of_a_name_with_several_addresses_a_silent_one_makes_room_for_the_next() {
    let network = Network::new();
    let files = tempfile::tempdir().unwrap();
    let hosts = files.path().join("hosts");
    fs::write(&hosts, HOSTS).unwrap();
    // What the daemon's resolver reads, in a mount namespace of its own.
    let script = format!("mount --bind {} /etc/hosts && exec \"$0\" \"$@\"", hosts.display());
    let product = network.product().through(&["unshare", "--mount", "sh", "-c", &script]);
    let health = "[egress.health]\nprobes = [\"probed.test:443\"]\ninterval = \"200ms\"\n\
                  timeout = \"200ms\"\nfall = 3\nrise = 2\n";
    product.configure(&config(&format!("{EGRESS}{health}")));
    let daemon = product.start();
    let told = |key: &str| {
        let families = product.status()["daemon"]["egress"]["families"].clone();
        [families[0][key].as_u64().unwrap(), families[1][key].as_u64().unwrap()]
    };
    wait_until("both families are answered", || told("probes_answered").iter().all(|it| *it >= 5));
    assert!(told("probes_failed").iter().all(|it| *it >= 1), "the first address is the silent one");
    assert_eq!(told("transitions"), [0; 2], "{}", daemon.log());
    assert_eq!(DIRECT.map(|to| network.way(to)), ["direct"; 2]);
    daemon.terminate();
}
