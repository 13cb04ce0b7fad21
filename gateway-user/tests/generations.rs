//! Whatever goes wrong on the way to a new generation, the old one goes on serving, and nothing of
//! the new one is left. Needs root.

use std::fs;

use aya::programs::XdpMode;
use gateway_user::datapath::{
    DatapathError, HookRequest, Loaded, Lock, Manifest, Step, TcCarrier, XdpRequest, attached,
};
use gateway_user::policy::Table;

use crate::support::foreign::{Foreign, tcx_programs, xdp_program};
use crate::support::{
    self, CLIENT, DIRECT, LAN, Marked, OTHER_ONLY, Sender, Site, decided, frame, one_table,
    other_table, traffic, wait_until,
};

/// Steps that can be called off, as a test asks for them.
const STEPS: [&str; 6] = ["Load", "SelfTest", "Pin", "Tc", "Xdp", "Current"];

fn name(step: &Step) -> &'static str {
    match step {
        Step::Load => "Load",
        Step::SelfTest => "SelfTest",
        Step::Pin => "Pin",
        Step::Tc(_) => "Tc",
        Step::Xdp(_) => "Xdp",
        Step::Current => "Current",
        Step::CleanUp => "CleanUp",
    }
}

/// Publishes, but is called off before the last step of the name `doomed`: with two interfaces,
/// the first one is switched by then.
fn fail_before(site: &Site, lock: &Lock, table: &Table, hooks: &[HookRequest], doomed: &str) {
    let last = hooks.last().unwrap().interface.name.clone();
    let before = &mut |step: &Step| {
        let is_last = match step {
            Step::Tc(interface) | Step::Xdp(interface) => *interface == last,
            Step::Load | Step::SelfTest | Step::Pin | Step::Current | Step::CleanUp => true,
        };
        if is_last && name(step) == doomed { Err("on purpose".to_owned()) } else { Ok(()) }
    };
    let Err(failure) = site.publish_unless(lock, table, hooks, before) else {
        panic!("{doomed} was not called off")
    };
    assert!(matches!(failure, DatapathError::CalledOff { .. }), "{doomed}: {failure}");
    assert!(failure.to_string().contains("on purpose"), "{failure}");
}

/// What a look at a site says of what is published.
#[derive(Debug, PartialEq)]
struct Look {
    pinned: Vec<String>,
    current: std::path::PathBuf,
    manifest: Manifest,
    attached: String,
}

fn look(site: &Site) -> Look {
    Look {
        pinned: site.pinned(),
        current: fs::read_link(site.pins().root().join("current")).unwrap(),
        manifest: Loaded::open(&site.pins()).unwrap().manifest().clone(),
        attached: format!("{:?}", attached(&site.pins()).unwrap()),
    }
}

/// Asserts that [`one_table`] decides, and that its generation counts every packet.
fn assert_one_table_serves(site: &Site) {
    let before = decided(&site.counts().decided());
    site.assert_it_marks();
    let marked = site.send_from(CLIENT, &[frame(OTHER_ONLY)]);
    assert_eq!(marked, Marked { none: 1, ..Marked::default() });
    let after = decided(&site.counts().decided());
    let sent = DIRECT.len() + support::INSPECTED.len() + 1;
    assert_eq!(after - before, u64::try_from(sent).unwrap());
}

fn assert_other_table_serves(site: &Site) {
    site.assert_it_marks();
    let marked = site.send_from(CLIENT, &[frame(OTHER_ONLY)]);
    assert_eq!(marked, Marked { direct: 1, ..Marked::default() });
}

fn assert_the_old_one_stays(old: XdpRequest, new: XdpRequest, tc: TcCarrier) {
    let site = Site::new();
    site.add_lan("eth1", "lan1");
    let lock = site.lock();
    let hooks = |xdp| {
        [LAN, "lan1"].map(|interface| HookRequest { tc, ..site.hook(interface, xdp) }).to_vec()
    };
    site.publish(&lock, &one_table(), &hooks(old)).unwrap();
    let before = look(&site);
    for step in STEPS {
        fail_before(&site, &lock, &other_table(), &hooks(new), step);
        assert_eq!(look(&site), before, "{old:?} to {new:?}, before {step}");
        assert_one_table_serves(&site);
    }
    site.publish(&lock, &other_table(), &hooks(new)).unwrap();
    let after = look(&site);
    assert_ne!(after.manifest.generation, before.manifest.generation);
    assert_other_table_serves(&site);
    site.assert_it_marks_on("eth1");
}

#[test]
fn a_failure_before_any_step_keeps_the_old_generation_behind_xdp() {
    assert_the_old_one_stays(XdpRequest::Native, XdpRequest::Native, TcCarrier::Best);
}

#[test]
fn a_failure_before_any_step_keeps_the_old_generation_behind_tc() {
    assert_the_old_one_stays(XdpRequest::No, XdpRequest::No, TcCarrier::Best);
}

#[test]
fn a_failure_before_any_step_keeps_the_old_generation_behind_clsact() {
    assert_the_old_one_stays(XdpRequest::Native, XdpRequest::No, TcCarrier::Clsact);
}

#[test]
fn a_failure_on_the_way_to_another_hook_keeps_the_old_hook() {
    let (native, generic, tc) = (XdpRequest::Native, XdpRequest::Generic, XdpRequest::No);
    for (old, new) in [(native, tc), (tc, native), (native, generic), (generic, native)] {
        assert_the_old_one_stays(old, new, TcCarrier::Best);
    }
}

#[test]
fn a_first_publication_that_fails_leaves_nothing_behind() {
    for (xdp, tc) in [
        (XdpRequest::Native, TcCarrier::Best),
        (XdpRequest::Generic, TcCarrier::Clsact),
        (XdpRequest::No, TcCarrier::Best),
    ] {
        let site = Site::new();
        let lock = site.lock();
        let hook = HookRequest { tc, ..site.hook(LAN, xdp) };
        for step in STEPS {
            fail_before(&site, &lock, &one_table(), std::slice::from_ref(&hook), step);
            assert_eq!(site.pinned(), Vec::<String>::new(), "{xdp:?}, before {step}");
            wait_until("the links are gone", || {
                xdp_program(&site.gateway, LAN).is_none()
                    && tcx_programs(&site.gateway, LAN).is_empty()
            });
            site.assert_it_marks_nothing();
        }
        site.publish(&lock, &one_table(), &[hook]).unwrap();
        site.assert_it_marks();
    }
}

#[test]
fn a_first_publication_that_falls_back_to_tc_and_fails_leaves_nothing_behind() {
    let site = Site::new();
    let mut foreign = Foreign::load();
    let _link = foreign.attach_xdp(&site.gateway, LAN, XdpMode::Driver);
    let lock = site.lock();
    let hook = site.hook(LAN, XdpRequest::IfPossible);
    fail_before(&site, &lock, &one_table(), std::slice::from_ref(&hook), "Current");
    assert_eq!(site.pinned(), Vec::<String>::new());
    site.publish(&lock, &one_table(), &[hook]).unwrap();
    site.assert_it_marks();
}

#[test]
fn an_interface_that_is_no_longer_asked_for_is_left() {
    let site = Site::new();
    site.add_lan("eth1", "lan1");
    let lock = site.lock();
    let hooks = [LAN, "lan1"].map(|interface| site.hook(interface, XdpRequest::Native));
    site.publish(&lock, &one_table(), &hooks).unwrap();
    site.assert_it_marks_on("eth1");
    site.publish(&lock, &one_table(), &hooks[..1]).unwrap();
    let names = site.gateway.enter(|| attached(&site.pins()).unwrap()).unwrap();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].interface.as_deref(), Some(LAN));
    wait_until("the links are gone", || {
        xdp_program(&site.gateway, "lan1").is_none()
            && tcx_programs(&site.gateway, "lan1").is_empty()
    });
    let direct = traffic(DIRECT);
    let none = u64::try_from(direct.len()).unwrap();
    assert_eq!(site.send_from("eth1", &direct), Marked { none, ..Marked::default() });
    site.assert_it_marks();
}

#[test]
fn old_generations_are_removed_once_the_new_one_serves() {
    let site = Site::new();
    let lock = site.lock();
    let hook = site.hook(LAN, XdpRequest::Native);
    for number in 1..=4 {
        site.publish(&lock, &one_table(), std::slice::from_ref(&hook)).unwrap();
        let generations: Vec<_> =
            site.pinned().into_iter().filter(|name| name.starts_with("gen-")).collect();
        assert_eq!(generations, [format!("gen-{number}")]);
    }
}

#[test]
fn what_a_crash_left_under_the_pins_is_no_obstacle() {
    let site = Site::new();
    let lock = site.lock();
    let hook = site.hook(LAN, XdpRequest::Native);
    site.publish(&lock, &one_table(), std::slice::from_ref(&hook)).unwrap();
    // Between pinning and switching, and between naming and renaming.
    let root = site.pins().root().to_owned();
    fs::create_dir(root.join("gen-2")).unwrap();
    std::os::unix::fs::symlink("gen-2", root.join("next")).unwrap();
    site.publish(&lock, &other_table(), &[hook]).unwrap();
    assert_other_table_serves(&site);
    let left: Vec<_> = site.pinned();
    assert!(!left.contains(&"gen-2".to_owned()) && !left.contains(&"next".to_owned()), "{left:?}");
}

#[test]
fn with_no_generation_to_go_back_to_everything_is_inspected() {
    let site = Site::new();
    let lock = site.lock();
    let hooks = |xdp| [site.hook(LAN, xdp)];
    site.publish(&lock, &one_table(), &hooks(XdpRequest::Native)).unwrap();
    // As a crash leaves it that comes before the first generation is made current.
    fs::remove_file(site.pins().root().join("current")).unwrap();
    for xdp in [XdpRequest::Native, XdpRequest::No] {
        fail_before(&site, &lock, &other_table(), &hooks(xdp), "Current");
        wait_until("the links are gone", || {
            xdp_program(&site.gateway, LAN).is_none() && tcx_programs(&site.gateway, LAN).is_empty()
        });
        site.assert_it_marks_nothing();
    }
    site.publish(&lock, &one_table(), &hooks(XdpRequest::Native)).unwrap();
    site.assert_it_marks();
}

#[test]
fn every_change_of_hook_works_and_no_packet_goes_unmarked_meanwhile() {
    let site = Site::new();
    let lock = site.lock();
    let publish = |xdp| {
        let hook = site.hook(LAN, xdp);
        site.publish(&lock, &one_table(), &[hook]).unwrap();
    };
    let (native, generic, tc) = (XdpRequest::Native, XdpRequest::Generic, XdpRequest::No);
    publish(native);
    let frames = traffic(DIRECT);
    let sender = Sender::start(&site, move |sent| {
        frames[usize::try_from(sent).unwrap() % frames.len()].clone()
    });
    for xdp in [tc, generic, native, generic, tc, native, tc, generic, native, native] {
        publish(xdp);
        assert_eq!(
            attached(&site.pins()).unwrap()[0].xdp,
            match xdp {
                XdpRequest::No => None,
                XdpRequest::Generic => Some("generic"),
                XdpRequest::Native | XdpRequest::IfPossible => Some("native"),
            }
        );
    }
    let sent = sender.stop();
    site.assert_it_marks();
    let marked = site.marked();
    let inspected = u64::try_from(support::INSPECTED.len()).unwrap();
    assert_eq!((marked.none, marked.odd), (inspected, 0));
    // Of what is in a veth's ring when native XDP is taken off, the kernel loses some.
    assert!(marked.direct > sent / 2, "{marked:?} of {sent}");
}
