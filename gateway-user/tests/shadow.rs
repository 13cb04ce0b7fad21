//! In shadow mode everything is decided and counted as when it marks, and nothing is marked. Needs
//! root.

use nix::sys::signal::Signal;

use crate::support::product::{Product, with_hook};
use crate::support::{self, DIRECT, INSPECTED, LAN, Site, traffic};

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap()
}

#[test]
fn it_counts_what_it_would_mark_and_marks_it_after_a_reload() {
    for hook in ["auto", "tc", "generic"] {
        let site = Site::new();
        let product = Product::new(&site, hook);
        let marking = with_hook(LAN, hook);
        product.configure(&format!("mode = \"shadow\"\n{marking}"));
        let daemon = product.start();
        site.assert_it_marks_nothing();
        site.send_from(support::CLIENT, &traffic(INSPECTED));
        let status = product.status();
        assert_eq!(status["mode"], "shadow", "{hook}");
        assert_eq!(status["verdicts"]["direct"]["packets"], count(DIRECT), "{hook}");
        assert_eq!(status["verdicts"]["inspect"]["packets"], count(INSPECTED), "{hook}");
        assert_eq!(status["sets"][0]["packets"], count(DIRECT), "{hook}");
        let text = String::from_utf8(product.verb(&["status"]).stdout).unwrap();
        assert!(text.contains("shadow: direct packets are counted, none is marked"), "{text}");
        product.configure(&marking);
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_log("published", 2);
        site.assert_it_marks();
        assert_eq!(product.status()["mode"], "mark", "{hook}");
        // And back, while there is something to mark.
        product.configure(&format!("mode = \"shadow\"\n{marking}"));
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_log("published", 3);
        site.assert_it_marks_nothing();
        daemon.terminate();
    }
}
