//! A direct flow that is masqueraded is reset however its uplink is lost, also where the kernel has
//! removed its entry before anybody looks, and also when its client only waits. Needs root.

use std::time::Instant;

use crate::support::network::{DIRECT, EGRESS, Flow, INSPECTED, Network, config};
use crate::support::{SOON, wait_until};

#[test]
fn a_client_that_only_waits_is_reset_however_its_uplink_is_lost() {
    for (what, fail, lost) in [
        ("set down", "ip link set up0 down", &DIRECT[..]),
        ("removed", "ip link delete up0", &DIRECT),
        ("without its address", "ip address del 10.36.2.1/24 dev up0", &DIRECT[..1]),
    ] {
        let network = Network::new();
        let product = network.product();
        product.configure(&config(&format!("{EGRESS}masquerade = true\n")));
        let daemon = product.start();
        let mut waiting = DIRECT.map(|to| network.flow(to).unwrap());
        assert_eq!(waiting.each_mut().map(Flow::ask), ["direct"; 2], "{what}");
        let mut inspected = INSPECTED.map(|to| network.flow(to).unwrap());
        assert_eq!(inspected.each_mut().map(Flow::ask), ["inspector"; 2], "{what}");
        let begin = Instant::now();
        network.gateway(fail);
        for (flow, to) in waiting.iter_mut().zip(lost) {
            let heard = flow.wait();
            let took = begin.elapsed();
            assert!(heard.contains("reset"), "{what}: {to}: {heard} after {took:?}");
            assert!(took < SOON, "{what}: {to}: {took:?}");
        }
        wait_until("that is told", || {
            let egress = &product.status()["daemon"]["egress"];
            (0..lost.len()).all(|family| egress["families"][family]["state"] == "down")
        });
        for to in lost {
            assert_eq!(network.way(to), "inspector", "{what}");
        }
        let told = product.status()["daemon"]["egress"].clone();
        assert!(told["put_back"].as_u64().unwrap() <= 1, "nobody has removed more: {told}");
        assert_eq!(inspected.each_mut().map(Flow::ask), ["inspector"; 2], "{what}");
        daemon.terminate();
    }
}
