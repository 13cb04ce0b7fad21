//! tc checks some of XDP's proposals: it finds those that are wrong, and no others. Needs root.

use std::fs;

use aya::programs::XdpMode;
use aya::programs::xdp::XdpLink;
use gateway_common::Reason;
use gateway_common::abi::Metadata;
use gateway_user::datapath::{HookRequest, Lock, XdpRequest, bring_up};
use gateway_user::policy::Table;

use crate::support::foreign::{Foreign, xdp_program};
use crate::support::product::{Product, with_hook};
use crate::support::{
    CLIENT, DIRECT, INSPECTED, LAN, Marked, Site, blueprint, count, one_table, other_table,
    traffic, wait_until,
};

/// Publishes `table` with one proposal in `self_check` checked.
fn publish(site: &Site, lock: &Lock, table: &Table, self_check: u32, hooks: &[HookRequest]) {
    let mut blueprint = blueprint(table);
    blueprint.self_check = self_check;
    let publish = || bring_up(lock, &blueprint, hooks, &mut |_| Ok(())).map(drop);
    site.gateway.enter(publish).unwrap().unwrap();
}

/// Takes our XDP off and puts a program in its place that proposes to let everything go direct.
fn forge(site: &Site, foreign: &mut Foreign) -> XdpLink {
    let link = fs::read_dir(site.pins().root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().ends_with("-xdp"))
        .unwrap();
    fs::remove_file(link).unwrap();
    // The kernel lets go of a link a moment after its last reference.
    wait_until("our XDP is gone", || xdp_program(&site.gateway, LAN).is_none());
    foreign.attach_xdp(&site.gateway, LAN, XdpMode::Driver)
}

fn forger() -> Foreign {
    Foreign::with_metadata(&[Metadata::MAGIC, Metadata::DIRECT])
}

#[test]
fn a_proposal_that_is_wrong_is_inspected_and_counted_and_one_that_is_right_is_not() {
    let site = Site::new();
    let lock = site.lock();
    publish(&site, &lock, &one_table(), 1, &[site.hook(LAN, XdpRequest::Native)]);
    let mut foreign = forger();
    let _link = forge(&site, &mut foreign);
    site.assert_it_marks();
    let counts = site.counts().tc_behind_xdp;
    assert_eq!(counts.self_checked().packets, count(DIRECT) + count(INSPECTED));
    assert_eq!(counts.self_disagreed().packets, count(INSPECTED));
    assert_eq!(counts.metadata_accepted().packets, count(DIRECT));
    let why = [Reason::NoPrefix, Reason::PortNotListed].map(|reason| counts.reason(reason).packets);
    assert_eq!(why, [4, 2]);
}

/// However few are checked: what was found wrong is no share of a share.
#[test]
fn after_a_proposal_that_is_wrong_every_one_is_checked_until_one_is_right() {
    let site = Site::new();
    let lock = site.lock();
    publish(&site, &lock, &one_table(), 1_000_000, &[site.hook(LAN, XdpRequest::Native)]);
    let mut foreign = forger();
    let _link = forge(&site, &mut foreign);
    for times in 1..=3 {
        let marked = site.send_from(CLIENT, &traffic(INSPECTED));
        assert_eq!(marked, Marked { direct: 0, none: count(INSPECTED), odd: 0 });
        let counts = site.counts().tc_behind_xdp;
        assert_eq!(counts.self_disagreed().packets, times * count(INSPECTED));
    }
}

/// What the check is for: without it, whoever can write metadata decides.
#[test]
fn without_the_check_the_same_proposals_are_taken() {
    let site = Site::new();
    let lock = site.lock();
    publish(&site, &lock, &one_table(), 0, &[site.hook(LAN, XdpRequest::Native)]);
    let mut foreign = forger();
    let _link = forge(&site, &mut foreign);
    let marked = site.send_from(CLIENT, &traffic(INSPECTED));
    assert_eq!(marked, Marked { direct: count(INSPECTED), none: 0, odd: 0 });
    let counts = site.counts().tc_behind_xdp;
    assert_eq!((counts.self_checked().packets, counts.self_disagreed().packets), (0, 0));
}

#[test]
fn what_our_xdp_proposes_is_right_also_when_the_table_changes() {
    for xdp in [XdpRequest::Native, XdpRequest::Generic] {
        let site = Site::new();
        let lock = site.lock();
        let hooks = [site.hook(LAN, xdp)];
        for table in [one_table(), other_table(), one_table()] {
            publish(&site, &lock, &table, 1, &hooks);
            site.assert_it_marks();
            let counts = site.counts().tc_behind_xdp;
            assert_eq!(counts.self_checked().packets, count(DIRECT));
            assert_eq!(counts.self_disagreed().packets, 0);
            assert_eq!(counts.metadata_accepted().packets, count(DIRECT));
        }
    }
}

#[test]
fn one_in_so_many_is_checked() {
    let site = Site::new();
    let lock = site.lock();
    publish(&site, &lock, &one_table(), 10, &[site.hook(LAN, XdpRequest::Native)]);
    let frames = vec![traffic(DIRECT)[0].clone(); 4000];
    assert_eq!(site.send_from(CLIENT, &frames).direct, 4000);
    let counts = site.counts().tc_behind_xdp;
    // 400, and a few for each CPU that they came in by.
    assert!((350..450).contains(&counts.self_checked().packets), "{counts:?}");
    assert_eq!(counts.self_disagreed().packets, 0);
    assert_eq!(counts.metadata_accepted().packets, 4000);
}

#[test]
fn the_daemon_says_once_for_a_generation_that_they_disagree() {
    let site = Site::new();
    // With "auto" the daemon would go on without XDP at its next look.
    let product = Product::new(&site, "xdp");
    product.configure(&format!("self-check = 1\n{}", with_hook(LAN, "xdp")));
    let daemon = product.start();
    site.assert_it_marks();
    let mut foreign = forger();
    let link = forge(&site, &mut foreign);
    site.assert_it_marks();
    let said = "XDP lets packets go direct that tc would not";
    daemon.wait_for_log(said, 1);
    wait_until("the daemon tells it", || {
        product.status()["daemon"]["traffic"]["self_check"]["disagreed"] == count(INSPECTED)
    });
    let status = product.status();
    assert_eq!(status["self_check"]["checked"], 2 * count(DIRECT) + count(INSPECTED));
    assert!(product.text(&["status"]).contains("MISMATCH 6 of 14 proposals"));
    site.assert_it_marks();
    // Longer than the daemon takes to look again.
    std::thread::sleep(std::time::Duration::from_secs(11));
    assert_eq!(daemon.log().matches(said).count(), 1, "{}", daemon.log());
    drop(link);
    daemon.terminate();
}
