//! Programs of somebody else on our interfaces are neither removed nor hidden. Needs root.

use aya::programs::{LinkOrder, XdpMode};
use gateway_common::Reason;
use gateway_common::abi::Metadata;
use gateway_user::datapath::XdpRequest;

use crate::support::foreign::{Foreign, tcx_programs, xdp_program};
use crate::support::product::Product;
use crate::support::{self, CLIENT, DIRECT, LAN, Site, one_table, traffic};

/// The foreign program saw every packet that was sent, and perhaps what the client's kernel says
/// by itself (neighbour discovery, group reports).
fn assert_saw(foreign: &Foreign, hook: usize, sent: usize) {
    let seen = foreign.seen()[hook];
    assert!(seen >= u64::try_from(sent).unwrap(), "{seen} of {sent}");
}

#[test]
fn hook_xdp_is_refused_and_names_the_program_that_stays() {
    for by_netlink in [false, true] {
        let site = Site::new();
        let mut foreign = Foreign::load();
        let _link = if by_netlink {
            let pin = site.bpffs.path().join("foreign");
            foreign.attach_xdp_by_netlink(&site.gateway, LAN, &pin);
            None
        } else {
            Some(foreign.attach_xdp(&site.gateway, LAN, XdpMode::Driver))
        };
        let id = foreign.xdp_id();
        let product = Product::new(&site, "xdp");
        let named = format!("id {id})");
        product.assert_refused(&["run"], 8, &["interface lan0", "another XDP program", &named]);
        assert_eq!(xdp_program(&site.gateway, LAN), Some(u64::from(id)));
        support::wait_until("nothing of ours is attached", || {
            tcx_programs(&site.gateway, LAN).is_empty()
        });
        assert_eq!(site.pinned(), Vec::<String>::new());
        site.assert_it_marks_nothing();
        assert_saw(&foreign, 0, DIRECT.len());
    }
}

#[test]
fn hook_xdp_is_refused_where_a_program_is_attached_in_generic_mode() {
    let site = Site::new();
    let mut foreign = Foreign::load();
    let _link = foreign.attach_xdp(&site.gateway, LAN, XdpMode::Skb);
    let named = format!("id {})", foreign.xdp_id());
    Product::new(&site, "xdp").assert_refused(&["run"], 8, &["interface lan0", &named]);
    site.assert_it_marks_nothing();
    assert_saw(&foreign, 0, DIRECT.len());
}

#[test]
fn hook_auto_falls_back_to_tc_behind_the_program_that_stays() {
    for by_netlink in [false, true] {
        let site = Site::new();
        let mut foreign = Foreign::load();
        let _link = if by_netlink {
            let pin = site.bpffs.path().join("foreign");
            foreign.attach_xdp_by_netlink(&site.gateway, LAN, &pin);
            None
        } else {
            Some(foreign.attach_xdp(&site.gateway, LAN, XdpMode::Driver))
        };
        let product = Product::new(&site, "auto");
        let daemon = product.start();
        daemon.wait_for_log("tc classifies alone", 1);
        let hook = &product.status()["hooks"][0];
        assert_eq!((hook["xdp"].as_str(), hook["tc"].as_str()), (None, Some("tcx")), "{hook}");
        site.assert_it_marks();
        assert_saw(&foreign, 0, DIRECT.len());
        daemon.terminate();
        assert!(product.verb(&["down"]).status.success());
        assert_eq!(xdp_program(&site.gateway, LAN), Some(u64::from(foreign.xdp_id())));
        // The kernel lets go of a link a moment after its last reference.
        support::wait_until("our tc program is gone", || {
            tcx_programs(&site.gateway, LAN).is_empty()
        });
        site.assert_it_marks_nothing();
    }
}

#[test]
fn a_tcx_program_stays_and_sees_every_packet_after_us() {
    let site = Site::new();
    let mut foreign = Foreign::load();
    let _link = foreign.attach_tcx(&site.gateway, LAN, LinkOrder::last());
    let id = foreign.tc_id();
    let product = Product::new(&site, "tc");
    let daemon = product.start();
    let programs = tcx_programs(&site.gateway, LAN);
    assert_eq!((programs.len(), programs.last()), (2, Some(&id)), "ours is in front");
    site.assert_it_marks();
    let sent = DIRECT.len() + support::INSPECTED.len();
    assert_saw(&foreign, 1, sent);
    daemon.terminate();
    assert!(product.verb(&["down"]).status.success());
    support::wait_until("only the foreign program is left", || {
        tcx_programs(&site.gateway, LAN) == [id]
    });
    site.assert_it_marks_nothing();
    assert_saw(&foreign, 1, sent + DIRECT.len());
}

#[test]
fn a_tcx_program_that_comes_after_us_keeps_its_place_when_we_publish_again() {
    let site = Site::new();
    let lock = site.lock();
    let hook = site.hook(LAN, XdpRequest::Native);
    site.publish(&lock, &one_table(), std::slice::from_ref(&hook)).unwrap();
    let mut foreign = Foreign::load();
    let _link = foreign.attach_tcx(&site.gateway, LAN, LinkOrder::first());
    site.publish(&lock, &one_table(), &[hook]).unwrap();
    let programs = tcx_programs(&site.gateway, LAN);
    assert_eq!((programs.len(), programs.first()), (2, Some(&foreign.tc_id())));
    site.assert_it_marks();
}

#[test]
fn metadata_of_somebody_else_proposes_nothing() {
    let (magic, direct) = (Metadata::MAGIC, Metadata::DIRECT);
    let proposals: [&[u32]; 8] = [
        &[],
        &[0x5a5a_5a5a],
        &[0x5a5a_5a5a, direct],
        &[1, 2, 3, 4],
        // Nearly ours: too short, another layout, another proposal, not at the front.
        &[magic],
        &[magic + 1, direct],
        &[magic, direct + 1],
        &[0, magic, direct],
    ];
    for words in proposals {
        let site = Site::new();
        let mut foreign = Foreign::with_metadata(words);
        let _link = foreign.attach_xdp(&site.gateway, LAN, XdpMode::Driver);
        let lock = site.lock();
        site.publish(&lock, &one_table(), &[site.hook(LAN, XdpRequest::No)]).unwrap();
        site.assert_it_marks();
        let counts = site.counts();
        let direct = u64::try_from(DIRECT.len()).unwrap();
        assert_eq!(counts.tc.reason(Reason::Matched).packets, direct, "{words:x?}");
        assert_eq!(counts.tc.metadata_accepted().packets, 0, "{words:x?}");
    }
}

#[test]
fn down_leaves_the_programs_of_others_as_they_were() {
    let site = Site::new();
    site.add_lan("eth1", "lan1");
    let (mut one, mut other) = (Foreign::load(), Foreign::load());
    let _xdp = one.attach_xdp(&site.gateway, "lan1", XdpMode::Driver);
    let _tcx = one.attach_tcx(&site.gateway, LAN, LinkOrder::first());
    let _tcx = other.attach_tcx(&site.gateway, LAN, LinkOrder::last());
    let programs = || {
        [LAN, "lan1"]
            .map(|name| (xdp_program(&site.gateway, name), tcx_programs(&site.gateway, name)))
    };
    let before = programs();
    let lock = site.lock();
    let hooks = [site.hook(LAN, XdpRequest::Native), site.hook("lan1", XdpRequest::IfPossible)];
    site.publish(&lock, &one_table(), &hooks).unwrap();
    assert_ne!(programs(), before);
    site.assert_it_marks();
    site.assert_it_marks_on("eth1");
    site.take_down(lock).unwrap();
    support::wait_until("everything of ours is gone", || programs() == before);
    site.send_from(CLIENT, &traffic(DIRECT));
}
