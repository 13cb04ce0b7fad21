//! Whatever way an interface is attached, real packets are marked as the table says, and taking
//! it back leaves what was there before. Needs root.

use aya::programs::TcAttachType;
use gateway_user::datapath::{HookRequest, TcCarrier, XdpRequest, attached};

use crate::support::foreign::Foreign;
use crate::support::{self, CLIENT, DIRECT, LAN, MARK, Site, one_table, other_table, traffic};

/// How the only interface is attached: XDP, tc.
fn carriers(site: &Site) -> (Option<&'static str>, Option<&'static str>) {
    let hooks = attached(&site.pins()).unwrap();
    assert_eq!(hooks.len(), 1, "{hooks:?}");
    (hooks[0].xdp, hooks[0].tc)
}

fn clsact(site: &Site, xdp: XdpRequest) -> HookRequest {
    HookRequest { tc: TcCarrier::Clsact, ..site.hook(LAN, xdp) }
}

/// Qdiscs and ingress filters of the interface, as `tc` shows them.
fn clsact_as_shown(site: &Site) -> (bool, String) {
    let qdiscs = site.gateway.run(&format!("tc qdisc show dev {LAN}")).unwrap();
    let there = qdiscs.contains("clsact");
    let filters = if there {
        site.gateway.run(&format!("tc filter show dev {LAN} ingress")).unwrap()
    } else {
        String::new()
    };
    (there, filters)
}

#[test]
fn every_hook_marks_direct_packets_and_no_others() {
    for (xdp, expected) in [
        (XdpRequest::Native, (Some("native"), Some("tcx"))),
        (XdpRequest::IfPossible, (Some("native"), Some("tcx"))),
        (XdpRequest::Generic, (Some("generic"), Some("tcx"))),
        (XdpRequest::No, (None, Some("tcx"))),
    ] {
        let site = Site::new();
        let lock = site.lock();
        site.publish(&lock, &one_table(), &[site.hook(LAN, xdp)]).unwrap();
        assert_eq!(carriers(&site), expected, "{xdp:?}");
        site.assert_it_marks();
        site.take_down(lock).unwrap();
        support::wait_until("the links are gone", || {
            support::foreign::xdp_program(&site.gateway, LAN).is_none()
                && support::foreign::tcx_programs(&site.gateway, LAN).is_empty()
        });
        site.assert_it_marks_nothing();
        assert_eq!(site.pinned(), Vec::<String>::new(), "{xdp:?}");
        assert!(!site.pins().root().exists(), "{xdp:?}");
    }
}

#[test]
fn the_clsact_carrier_marks_as_tcx_does() {
    for (xdp, expected) in [
        (XdpRequest::Native, (Some("native"), Some("clsact"))),
        (XdpRequest::Generic, (Some("generic"), Some("clsact"))),
        (XdpRequest::No, (None, Some("clsact"))),
    ] {
        let site = Site::new();
        let lock = site.lock();
        site.publish(&lock, &one_table(), &[clsact(&site, xdp)]).unwrap();
        assert_eq!(carriers(&site), expected, "{xdp:?}");
        site.assert_it_marks();
        // Replaced in place by the next generation.
        site.publish(&lock, &other_table(), &[clsact(&site, xdp)]).unwrap();
        assert_eq!(carriers(&site), expected, "{xdp:?}");
        site.assert_it_marks();
        let (_, filters) = clsact_as_shown(&site);
        assert_eq!(filters.matches("handle 0x365").count(), 1, "{filters}");
    }
}

#[test]
fn xdp_decides_where_it_is_attached_and_tc_takes_its_word() {
    for xdp in [XdpRequest::Native, XdpRequest::Generic] {
        let site = Site::new();
        let lock = site.lock();
        site.publish(&lock, &one_table(), &[site.hook(LAN, xdp)]).unwrap();
        site.send_from(CLIENT, &traffic(DIRECT));
        let counts = site.counts();
        let direct = u64::try_from(DIRECT.len()).unwrap();
        let matched = gateway_common::Reason::Matched;
        assert_eq!(counts.xdp.reason(matched).packets, direct, "{xdp:?}");
        assert_eq!(counts.tc_behind_xdp.metadata_accepted().packets, direct, "{xdp:?}");
        assert_eq!(counts.tc_behind_xdp.reason(matched).packets, 0, "{xdp:?}");
        assert_eq!(counts.xdp.metadata_unsupported().packets, 0, "{xdp:?}");
    }
}

#[test]
fn other_bits_of_the_mark_survive() {
    for xdp in [XdpRequest::Native, XdpRequest::Generic, XdpRequest::No] {
        let site = Site::new();
        // Both ends here: crossing into another namespace would clear the mark.
        site.gateway.run("ip link add name out0 type veth peer name in0").unwrap();
        // The kernel's own multicast would be in the way of the counters.
        site.gateway.sysctl("net/ipv6/conf/in0/disable_ipv6", "1").unwrap();
        site.gateway.sysctl("net/ipv6/conf/out0/disable_ipv6", "1").unwrap();
        site.gateway.run("ip link set in0 address 02:00:00:00:00:02 up").unwrap();
        site.gateway.run("ip link set out0 up").unwrap();
        let both = MARK.value | 0x0040_ff01;
        site.gateway
            .nft(&format!(
                "table netdev before {{
                    chain leaving {{
                        type filter hook egress device out0 priority 0
                        meta mark set 0x40ff01
                    }}
                }}
                table inet bits {{
                    counter both {{ }}
                    counter foreign {{ }}
                    chain seen {{
                        type filter hook prerouting priority raw - 1
                        meta mark {both:#x} counter name both drop
                        meta mark 0x40ff01 counter name foreign drop
                    }}
                }}"
            ))
            .unwrap();
        let lock = site.lock();
        site.publish(&lock, &one_table(), &[site.hook("in0", xdp)]).unwrap();
        let v4 = |frames: Vec<Vec<u8>>| frames.into_iter().filter(|frame| frame[12] == 0x08);
        let direct: Vec<_> = v4(traffic(DIRECT)).collect();
        let inspected: Vec<_> = v4(traffic(support::INSPECTED)).collect();
        let mut wire = xtask::testbed::Wire::open(&site.gateway, "out0").unwrap();
        for frame in direct.iter().chain(&inspected) {
            wire.send(frame).unwrap();
        }
        support::wait_until("every frame has both marks or the foreign one", || {
            let listed = site.gateway.run("nft list counters table inet bits").unwrap();
            [("both", &direct), ("foreign", &inspected)].iter().all(|(name, frames)| {
                let counter = listed.split(&format!("counter {name} {{")).nth(1).unwrap();
                counter.trim_start().starts_with(&format!("packets {} ", frames.len()))
            })
        });
    }
}

#[test]
fn a_qdisc_that_was_added_for_us_goes_with_us() {
    let site = Site::new();
    let lock = site.lock();
    site.publish(&lock, &one_table(), &[clsact(&site, XdpRequest::No)]).unwrap();
    assert!(clsact_as_shown(&site).0);
    site.take_down(lock).unwrap();
    assert!(!clsact_as_shown(&site).0);
    site.assert_it_marks_nothing();
}

#[test]
fn a_qdisc_and_a_filter_of_somebody_else_stay() {
    let site = Site::new();
    site.gateway.run(&format!("tc qdisc add dev {LAN} clsact")).unwrap();
    let mut foreign = Foreign::load();
    let _filter = foreign.attach_filter(&site.gateway, LAN, TcAttachType::Ingress);
    let before = clsact_as_shown(&site);
    let lock = site.lock();
    site.publish(&lock, &one_table(), &[clsact(&site, XdpRequest::No)]).unwrap();
    site.assert_it_marks();
    let (_, filters) = clsact_as_shown(&site);
    assert!(filters.contains("foreign_tc") && filters.contains("b365_tc"), "{filters}");
    let [_, seen] = foreign.seen();
    assert!(seen >= u64::try_from(DIRECT.len()).unwrap(), "{seen} packets went on to it");
    site.take_down(lock).unwrap();
    assert_eq!(clsact_as_shown(&site), before);
}

#[test]
fn a_filter_that_was_added_to_our_qdisc_keeps_it() {
    let site = Site::new();
    let lock = site.lock();
    site.publish(&lock, &one_table(), &[clsact(&site, XdpRequest::No)]).unwrap();
    let _filter = Foreign::load().attach_filter(&site.gateway, LAN, TcAttachType::Egress);
    site.take_down(lock).unwrap();
    let (there, filters) = clsact_as_shown(&site);
    assert!(there && !filters.contains("b365"), "{filters}");
    let egress = site.gateway.run(&format!("tc filter show dev {LAN} egress")).unwrap();
    assert!(egress.contains("foreign_tc"), "{egress}");
}

#[test]
fn whichever_carrier_is_there_is_taken_over_in_place() {
    for (first, second, carrier) in [
        (TcCarrier::Best, TcCarrier::Clsact, "tcx"),
        (TcCarrier::Clsact, TcCarrier::Best, "clsact"),
    ] {
        let site = Site::new();
        let lock = site.lock();
        for tc in [first, second] {
            for xdp in [XdpRequest::No, XdpRequest::Native] {
                let hook = HookRequest { tc, ..site.hook(LAN, xdp) };
                site.publish(&lock, &one_table(), &[hook]).unwrap();
                assert_eq!(carriers(&site).1, Some(carrier), "{first:?} then {second:?}");
                site.assert_it_marks();
            }
        }
    }
}

#[test]
fn a_qdisc_that_somebody_removes_is_added_again_and_does_not_keep_other_interfaces_marking() {
    let site = Site::new();
    let lock = site.lock();
    site.publish(&lock, &one_table(), &[clsact(&site, XdpRequest::No)]).unwrap();
    site.gateway.run(&format!("tc qdisc del dev {LAN} clsact")).unwrap();
    site.assert_it_marks_nothing();
    site.publish(&lock, &one_table(), &[clsact(&site, XdpRequest::No)]).unwrap();
    site.assert_it_marks();
    site.gateway.run(&format!("tc qdisc del dev {LAN} clsact")).unwrap();
    site.take_down(lock).unwrap();
    assert_eq!(site.pinned(), Vec::<String>::new());
}
