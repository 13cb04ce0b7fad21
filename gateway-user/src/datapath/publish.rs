//! Publishing: switching the hooks over to a new generation, or back when that fails.
//!
//! The order is tc first, then XDP: a tc program understands the proposals of either generation,
//! and classifies by itself where there are none, so at every moment each packet is decided by
//! exactly one of the two. Links are updated in place; detaching and attaching would leave a gap.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, TcAttachType, XdpMode};
use nix::libc;
use nix::net::if_::if_indextoname;
use tracing::warn;

use super::hook::{HookRequest, TcCarrier, XdpRequest};
use super::link::{
    attach_error, attach_xdp, errno, is_dead_link, remove, remove_link, update_tcx, update_xdp,
};
use super::loaded::attached;
use super::pins::{LinkKind, Lock, remove_if_there};
use super::rollback::{Undo, roll_back};
use super::{Attached, DatapathError, Generation, Manifest, Program, clsact};

/// A step of publishing, named before it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The object is loaded, filled and read back.
    Load,
    /// Its programs are run against the oracle.
    SelfTest,
    /// Programs, counters and manifest are pinned in the generation's directory.
    Pin,
    /// tc of an interface is switched.
    Tc(String),
    /// XDP of an interface is switched.
    Xdp(String),
    /// `current` is pointed to the new generation.
    Current,
    /// Links of interfaces that are no longer ours and old generations are removed. Cannot be
    /// called off.
    CleanUp,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load => f.write_str("loading"),
            Self::SelfTest => f.write_str("the self-test"),
            Self::Pin => f.write_str("pinning"),
            Self::Tc(interface) => write!(f, "switching tc of {interface}"),
            Self::Xdp(interface) => write!(f, "switching XDP of {interface}"),
            Self::Current => f.write_str("making it current"),
            Self::CleanUp => f.write_str("cleaning up"),
        }
    }
}

/// Publishes `generation` on `hooks`, and on no other interface. `before` hears of each step
/// before it is taken and may call it off.
///
/// # Errors
///
/// Whatever step failed; the hooks are then what they were before, with the generation they had,
/// and nothing of the new one is left. Cleaning up after the switch does not undo it.
pub(super) fn publish(
    lock: &Lock,
    generation: &mut Generation,
    manifest: &Manifest,
    hooks: &[HookRequest],
    before: &mut dyn FnMut(&Step) -> Result<(), String>,
) -> Result<Vec<Attached>, DatapathError> {
    let old = lock.pins().current()?;
    let mut switch = Switch {
        lock,
        generation,
        directory: lock.pins().generation(manifest.generation),
        undo: Vec::new(),
    };
    let outcome = switch.all(manifest, hooks, before);
    let undo = switch.undo;
    if let Err(failure) = outcome {
        let rollback = roll_back(undo, old.as_deref())
            .and_then(|()| lock.remove_generation(manifest.generation));
        return Err(match rollback {
            Ok(()) => failure,
            Err(rollback) => {
                DatapathError::Rollback { failure: Box::new(failure), rollback: Box::new(rollback) }
            }
        });
    }
    // From here on the new generation serves; calling off would only leave litter.
    before(&Step::CleanUp).ok();
    if let Err(error) = clean_up(lock, manifest.generation, hooks) {
        warn!("generation {} serves, but something old is left: {error}", manifest.generation);
    }
    Ok(attached(lock.pins()).unwrap_or_default())
}

/// Removes links of interfaces that are no longer ours, and all generations but `serving`.
fn clean_up(lock: &Lock, serving: u64, hooks: &[HookRequest]) -> Result<(), DatapathError> {
    let ours: BTreeSet<u32> = hooks.iter().map(|hook| hook.interface.index).collect();
    for ((ifindex, kind), path) in lock.pins().links()? {
        if !ours.contains(&ifindex) {
            remove_link(ifindex, kind, &path)?;
        }
    }
    lock.remove_other_generations(serving)
}

/// Takes back everything under the pins: links, generations, directory.
///
/// # Errors
///
/// Something could not be removed; what is left is still under the pins.
pub async fn take_down(lock: Lock) -> Result<(), DatapathError> {
    withdraw(&lock).await?;
    lock.remove_everything()
}

/// Takes every hook off: everything is inspected, and the generation stays to look at.
///
/// # Errors
///
/// A hook could not be taken off; it is still under the pins.
pub async fn withdraw(lock: &Lock) -> Result<(), DatapathError> {
    let mut outcome = Ok(());
    // One interface that cannot be taken back must not keep the others marking.
    for ((ifindex, kind), path) in lock.pins().links()? {
        outcome = outcome.and(remove_link(ifindex, kind, &path));
        if kind == LinkKind::ClsactOwn && if_indextoname(ifindex).is_ok() {
            outcome = outcome.and(clsact::remove_unused_qdisc(ifindex).await);
        }
    }
    outcome
}

struct Switch<'a> {
    lock: &'a Lock,
    generation: &'a mut Generation,
    directory: PathBuf,
    undo: Vec<Undo>,
}

impl Switch<'_> {
    fn all(
        &mut self,
        manifest: &Manifest,
        hooks: &[HookRequest],
        before: &mut dyn FnMut(&Step) -> Result<(), String>,
    ) -> Result<(), DatapathError> {
        announce(before, &Step::Pin)?;
        self.lock.create_generation(manifest.generation)?;
        self.generation.pin(&self.directory, manifest)?;
        for hook in hooks {
            announce(before, &Step::Tc(hook.interface.name.clone()))?;
            self.switch_tc(hook, hook.xdp != XdpRequest::No)?;
        }
        for hook in hooks {
            announce(before, &Step::Xdp(hook.interface.name.clone()))?;
            self.switch_xdp(hook)?;
        }
        announce(before, &Step::Current)?;
        self.lock.set_current(manifest.generation)
    }

    /// Gives tc of an interface the program that stands behind XDP, or alone.
    fn switch_tc(&mut self, hook: &HookRequest, behind_xdp: bool) -> Result<(), DatapathError> {
        let ifindex = hook.interface.index;
        let program = match (hook.interface.mac, behind_xdp) {
            (None, _) => Program::TcIp,
            (Some(_), true) => Program::TcBehindXdp,
            (Some(_), false) => Program::Tc,
        };
        let links = self.links_of(ifindex)?;
        let old_program = if program == Program::TcIp {
            program
        } else if links.contains_key(&LinkKind::Native) || links.contains_key(&LinkKind::Generic) {
            Program::TcBehindXdp
        } else {
            Program::Tc
        };
        for kind in [LinkKind::Tcx, LinkKind::Clsact, LinkKind::ClsactOwn] {
            let Some(path) = links.get(&kind) else { continue };
            let undo = Undo::Restore { ifindex, kind, path: path.clone(), program: old_program };
            let loaded = self.generation.tc_mut(program)?;
            if kind != LinkKind::Tcx {
                // Somebody may have removed the filter; the qdisc under it stays whose it was.
                let name = &hook.interface.name;
                if clsact::replace(loaded, name).or_else(|_| clsact::attach(loaded, name)).is_ok() {
                    self.undo_once(undo);
                    return Ok(());
                }
                // Or the qdisc, too.
                remove(path)?;
                continue;
            }
            match update_tcx(loaded, path) {
                Ok(()) => {
                    self.undo_once(undo);
                    return Ok(());
                }
                Err(error) if is_dead_link(&error) => remove(path)?,
                Err(error) => return Err(attach_error(hook, "switch tc", &error)),
            }
        }
        self.attach_tc(hook, program)
    }

    fn attach_tc(&mut self, hook: &HookRequest, program: Program) -> Result<(), DatapathError> {
        let (ifindex, name) = (hook.interface.index, hook.interface.name.as_str());
        if hook.tc == TcCarrier::Best {
            let path = self.lock.pins().link(ifindex, LinkKind::Tcx);
            let loaded = self.generation.tc_mut(program)?;
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            match loaded.attach_with_options(name, TcAttachType::Ingress, options) {
                Ok(id) => {
                    let link = loaded
                        .take_link(id)
                        .map_err(|error| attach_error(hook, "keep the tc link", &error))?;
                    let link: FdLink = link
                        .try_into()
                        .map_err(|error| attach_error(hook, "keep the tc link", &error))?;
                    link.pin(&path)
                        .map_err(|error| attach_error(hook, "pin the tc link", &error))?;
                    self.undo.push(Undo::Remove { ifindex, kind: LinkKind::Tcx, path });
                    return Ok(());
                }
                // A kernel before 6.6 does not know the attach type.
                Err(error) if errno(&error) == Some(libc::EINVAL) => {}
                Err(error) => return Err(attach_error(hook, "attach tc", &error)),
            }
        }
        let kind = match clsact::add_qdisc(name)? {
            clsact::Qdisc::Found => LinkKind::Clsact,
            clsact::Qdisc::Added => LinkKind::ClsactOwn,
        };
        // The pin first: a filter without one would mark for ever, and nobody would know it is
        // ours.
        let path = self.lock.pins().link(ifindex, kind);
        clsact::pin_marker(name, &path)?;
        clsact::attach(self.generation.tc_mut(program)?, name)
            .inspect_err(|_| drop(remove_if_there(&path)))?;
        self.undo.push(Undo::Remove { ifindex, kind, path });
        Ok(())
    }

    /// Remembers how to go back. What is switched twice still goes back to what it was at first.
    fn undo_once(&mut self, undo: Undo) {
        if !self.undo.iter().any(|earlier| earlier.path() == undo.path()) {
            self.undo.push(undo);
        }
    }

    fn switch_xdp(&mut self, hook: &HookRequest) -> Result<(), DatapathError> {
        let (kind, program, mode) = match hook.xdp {
            XdpRequest::No => return self.drop_xdp(hook, None),
            _ if hook.interface.mac.is_none() => {
                let name = hook.interface.name.clone();
                return Err(DatapathError::NoXdpWithoutEthernet { name });
            }
            XdpRequest::IfPossible | XdpRequest::Native => {
                (LinkKind::Native, self.generation.native_program(), XdpMode::Driver)
            }
            // Packets of several buffers in generic mode have crashed kernels; see design notes
            // in docs/architecture.md.
            XdpRequest::Generic => (LinkKind::Generic, Program::Xdp, XdpMode::Skb),
        };
        self.drop_xdp(hook, Some(kind))?;
        let ifindex = hook.interface.index;
        if let Some(path) = self.links_of(ifindex)?.get(&kind) {
            match update_xdp(self.generation.xdp_mut(program)?, path) {
                Ok(()) => {
                    self.undo.push(Undo::Restore { ifindex, kind, path: path.clone(), program });
                    return Ok(());
                }
                Err(error) if is_dead_link(&error) => remove(path)?,
                Err(error) => return Err(attach_error(hook, "switch XDP", &error)),
            }
        }
        let path = self.lock.pins().link(ifindex, kind);
        match attach_xdp(self.generation.xdp_mut(program)?, hook, mode, &path) {
            Ok(()) => {
                self.undo.push(Undo::Remove { ifindex, kind, path });
                Ok(())
            }
            Err(DatapathError::ForeignXdp { .. } | DatapathError::NoNativeXdp { .. })
                if hook.xdp == XdpRequest::IfPossible =>
            {
                self.switch_tc(hook, false)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes our XDP off an interface, but for `keep`. tc is there by now and classifies.
    fn drop_xdp(
        &mut self,
        hook: &HookRequest,
        keep: Option<LinkKind>,
    ) -> Result<(), DatapathError> {
        let ifindex = hook.interface.index;
        let links = self.links_of(ifindex)?;
        for kind in [LinkKind::Native, LinkKind::Generic] {
            let Some(path) = links.get(&kind) else { continue };
            if Some(kind) != keep {
                remove(path)?;
                self.undo.push(Undo::Reattach { ifindex, kind, path: path.clone() });
            }
        }
        Ok(())
    }

    fn links_of(&self, ifindex: u32) -> Result<BTreeMap<LinkKind, PathBuf>, DatapathError> {
        let links = self.lock.pins().links()?;
        Ok(links
            .into_iter()
            .filter_map(|((index, kind), path)| (index == ifindex).then_some((kind, path)))
            .collect())
    }
}

pub(super) fn announce(
    before: &mut dyn FnMut(&Step) -> Result<(), String>,
    step: &Step,
) -> Result<(), DatapathError> {
    before(step).map_err(|why| DatapathError::CalledOff { step: step.to_string(), why })
}
