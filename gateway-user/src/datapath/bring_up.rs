//! From a table to a published generation, all steps in order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gateway_common::Reason;
use tracing::warn;

use super::publish::{announce, publish};
use super::windows::known_flows;
use super::{
    Attached, Control, DatapathError, FeedIdentity, Generation, HookRequest, Lock, Manifest,
    OwnIdentity, Program, Redirect, Scope, SelfTestReport, SetIdentity, Setting, Step, self_test,
};
use crate::config::{Mark, Mode};
use crate::policy::Table;

/// What a generation is made from.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// The table.
    pub table: Table,
    /// The bits that say Direct.
    pub mark: Mark,
    /// Whether they are set.
    pub mode: Mode,
    /// The feed the table was compiled from.
    pub feed: FeedIdentity,
    /// The selected endpoint sets.
    pub sets: Vec<SetIdentity>,
    /// The selected own includes.
    pub own: Vec<OwnIdentity>,
    /// tc checks one proposal of XDP in so many; 0 is none.
    pub self_check: u32,
    /// Whether a switch that is not there yet, as after a boot, is off at first.
    pub starts_off: bool,
    /// How long packets go direct after the last [`Control::renew`]; `None` is without end.
    pub deadline: Option<Duration>,
    /// Where Direct packets are redirected to; `None`, they are marked. In shadow, neither.
    pub redirect: Option<Redirect>,
}

/// A generation that was just published.
pub struct Published {
    /// What it is made of.
    pub manifest: Manifest,
    /// Its hooks.
    pub attached: Vec<Attached>,
    /// What its self-test covered.
    pub self_test: SelfTestReport,
    /// Its programs and maps; the pins keep them alive without it.
    pub generation: Generation,
}

/// Loads a generation, tests it and publishes it on `hooks`, and on no other interface. `before`
/// hears of each step before it is taken and may call it off. The deadline is renewed with each step,
/// or once the new generation serves if it has passed; what the operator has switched off stays off.
///
/// # Errors
///
/// Whatever step failed. What was published before is untouched, or put back.
pub fn bring_up(
    lock: &Lock,
    blueprint: &Blueprint,
    hooks: &[HookRequest],
    before: &mut dyn FnMut(&Step) -> Result<(), String>,
) -> Result<Published, DatapathError> {
    let (mut control, is_new) = Control::obtain(lock, blueprint.deadline, blueprint.starts_off)?;
    let deadline = control.deadline()?;
    under(&mut control, lock, blueprint, hooks, before).map_err(|failure| {
        // Under new switches there is nothing; others are as before.
        let back = if is_new { lock.remove_control() } else { control.set_deadline(deadline) };
        match back {
            Ok(()) => failure,
            Err(rollback) => {
                DatapathError::Rollback { failure: Box::new(failure), rollback: Box::new(rollback) }
            }
        }
    })
}

/// All steps, under these switches.
fn under(
    control: &mut Control,
    lock: &Lock,
    blueprint: &Blueprint,
    hooks: &[HookRequest],
    before: &mut dyn FnMut(&Step) -> Result<(), String>,
) -> Result<Published, DatapathError> {
    let path = control.path().to_owned();
    // What nobody has followed since the daemon was gone does not go direct again for the moment until
    // something newer serves.
    let mut was_gone = control.standing()?.refusal == Some(Reason::DaemonGone);
    let before = &mut |step: &Step| {
        was_gone &= *step != Step::CleanUp;
        if !was_gone {
            control.renew(blueprint.deadline).map_err(|error| error.to_string())?;
        }
        before(step)
    };
    announce(before, &Step::Load)?;
    let table = &blueprint.table;
    let listed = &table.sources().interfaces;
    let indexes: BTreeMap<String, u32> = hooks
        .iter()
        .filter(|hook| listed.contains(&hook.interface.name))
        .map(|hook| (hook.interface.name.clone(), hook.interface.index))
        .collect();
    let sources = Scope {
        prefixes: table.sources().prefixes.clone(),
        interfaces: listed.iter().map(|name| (name.clone(), indexes.get(name).copied())).collect(),
    };
    let redirect = blueprint.redirect.clone().filter(|_| blueprint.mode == Mode::Mark);
    let uplink = redirect.as_ref().map(|redirect| redirect.name.clone());
    let setting = Setting {
        mark: blueprint.mark,
        mode: blueprint.mode,
        ingress: indexes,
        hooks: hooks.iter().map(|hook| hook.interface.index).collect(),
        self_check: blueprint.self_check,
        redirect,
        programs: programs(hooks),
        static_functions: false,
    };
    let mut generation = Generation::load_under(&path, table, setting)?;
    announce(before, &Step::SelfTest)?;
    let report = self_test(&mut generation, table)?;
    let (prefixes_v4, prefixes_v6) = table.count_by_family();
    let manifest = Manifest {
        generation: lock.next_generation()?,
        breakout365: env!("CARGO_PKG_VERSION").to_owned(),
        loaded_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        feed: blueprint.feed.clone(),
        table: table.digest(),
        mark_value: blueprint.mark.value,
        mark_mask: blueprint.mark.mask,
        mode: blueprint.mode,
        prefixes_v4,
        prefixes_v6,
        sets: blueprint.sets.clone(),
        own: blueprint.own.clone(),
        redirects_to: uplink,
        groups: table.all_groups(),
        sources,
        interfaces: hooks.iter().map(|hook| hook.interface.name.clone()).collect(),
        support: table.support_identity(),
    };
    let windows: Vec<u32> = table.support().windows().iter().map(|window| window.id).collect();
    if !windows.is_empty() {
        generation.take_flows(&known_flows(lock.pins(), &windows))?;
    }
    let attached = publish(lock, &mut generation, &manifest, hooks, before)?;
    // Not before: what served until now may redirect what this one does not.
    let uplinks = generation.setting().redirect.as_ref().map_or([0; 2], Redirect::uplinks);
    if let Err(error) = control.redirect_to(uplinks) {
        warn!("direct packets may be marked that could be redirected: {error}");
    }
    // It serves; without this, all that is missing is the check.
    if let Err(error) = generation.set_serving() {
        warn!("proposals of XDP are not checked: {error}");
    }
    Ok(Published { manifest, attached, self_test: report, generation })
}

/// What is loaded for these hooks; all there is for none, to look at.
fn programs(hooks: &[HookRequest]) -> BTreeSet<Program> {
    if hooks.is_empty() {
        return Program::ALL.into();
    }
    let of_hooks = hooks.iter().flat_map(HookRequest::programs).copied();
    of_hooks.chain([Program::Explain]).collect()
}
