//! The way back: what a step of publishing changed, undone with the programs of the generation
//! before.

use std::path::{Path, PathBuf};

use aya::programs::{ProgramError, SchedClassifier, Xdp, XdpMode};
use aya_obj::programs::XdpAttachType;

use super::generation::chain;
use super::link::{
    attach_xdp_link, is_dead_link, name_of, other, remove_link, update_tcx, update_xdp,
};
use super::pins::{LinkKind, remove_if_there};
use super::{DatapathError, Program, clsact};

/// How to get back to what was before a step.
pub(super) enum Undo {
    /// Give the link its old program.
    Restore { ifindex: u32, kind: LinkKind, path: PathBuf, program: Program },
    /// Remove a link that was not there.
    Remove { ifindex: u32, kind: LinkKind, path: PathBuf },
    /// Attach XDP again that was taken off.
    Reattach { ifindex: u32, kind: LinkKind, path: PathBuf },
}

impl Undo {
    /// The pin that changes.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Restore { path, .. }
            | Self::Remove { path, .. }
            | Self::Reattach { path, .. } => path,
        }
    }
}

/// Undoes steps, last first, with the programs of the old generation.
pub(super) fn roll_back(undo: Vec<Undo>, old: Option<&Path>) -> Result<(), DatapathError> {
    let old_program = |program: Program| {
        let old = old.ok_or_else(|| DatapathError::Unreadable {
            path: PathBuf::from("current"),
            why: "no generation to go back to".to_owned(),
        })?;
        Ok::<_, DatapathError>(old.join(program.name()))
    };
    let either = |first: Program, second: Program| {
        let path = old_program(first)?;
        if path.exists() { Ok(path) } else { old_program(second) }
    };
    // The best native program of the old generation: it may be of another kernel's making.
    let old_native = || either(Program::XdpFrags, Program::Xdp);
    // Whether there is XDP in front of it is told by the pins of links, which a crash may have left.
    // Either classifies without a proposal.
    let old_tc = |program: Program| match program {
        Program::Tc => either(program, Program::TcBehindXdp),
        Program::TcBehindXdp => either(program, Program::Tc),
        Program::Xdp | Program::XdpFrags | Program::TcIp | Program::Explain => old_program(program),
    };
    // One that had no XDP has tc, which decides without.
    let had_xdp = |path: Result<PathBuf, DatapathError>| path.ok().filter(|path| path.exists());
    let go_back = |step: Undo| {
        match step {
            Undo::Remove { ifindex, kind, path } => remove_link(ifindex, kind, &path)?,
            // A crash came before there was a generation: nothing decides for this link.
            Undo::Restore { ifindex, kind, path, .. } if old.is_none() => {
                remove_link(ifindex, kind, &path)?;
            }
            Undo::Restore { ifindex, kind, path, program } => {
                let back = |error: ProgramError| go_back_error(ifindex, &error);
                match kind {
                    LinkKind::Native | LinkKind::Generic => {
                        let pinned = if kind == LinkKind::Native {
                            old_native()
                        } else {
                            old_program(Program::Xdp)
                        };
                        let Some(pinned) = had_xdp(pinned) else {
                            return remove_link(ifindex, kind, &path);
                        };
                        let mut old = open_xdp(&pinned, ifindex)?;
                        gone_is_done(update_xdp(&mut old, &path), &path).map_err(back)?;
                    }
                    LinkKind::Tcx => {
                        let mut old = open_tc(&old_tc(program)?, ifindex)?;
                        gone_is_done(update_tcx(&mut old, &path), &path).map_err(back)?;
                    }
                    LinkKind::Clsact | LinkKind::ClsactOwn => {
                        let mut old = open_tc(&old_tc(program)?, ifindex)?;
                        clsact::replace(&mut old, &name_of(ifindex))?;
                    }
                }
            }
            Undo::Reattach { .. } if old.is_none() => {}
            Undo::Reattach { ifindex, kind, path } => {
                let (pinned, mode) = if kind == LinkKind::Native {
                    (old_native(), XdpMode::Driver)
                } else {
                    (old_program(Program::Xdp), XdpMode::Skb)
                };
                let Some(pinned) = had_xdp(pinned) else { return Ok(()) };
                let mut old = open_xdp(&pinned, ifindex)?;
                let link = attach_xdp_link(&mut old, ifindex, mode)
                    .map_err(|error| go_back_error(ifindex, &error))?;
                link.pin(&path).map_err(|error| go_back_error(ifindex, &other(error)))?;
            }
        }
        Ok(())
    };
    // One interface that cannot go back must not keep the others on the refused generation.
    let mut outcome = Ok(());
    for step in undo.into_iter().rev() {
        outcome = outcome.and(go_back(step));
    }
    outcome
}

/// A link whose interface is gone has nothing to go back to.
fn gone_is_done(outcome: Result<(), ProgramError>, path: &Path) -> Result<(), ProgramError> {
    match outcome {
        Err(error) if is_dead_link(&error) => remove_if_there(path).map_err(other),
        other => other,
    }
}

fn open_xdp(path: &Path, ifindex: u32) -> Result<Xdp, DatapathError> {
    Xdp::from_pin(path, XdpAttachType::Interface).map_err(|error| go_back_error(ifindex, &error))
}

fn open_tc(path: &Path, ifindex: u32) -> Result<SchedClassifier, DatapathError> {
    SchedClassifier::from_pin(path).map_err(|error| go_back_error(ifindex, &error))
}

fn go_back_error(ifindex: u32, error: &ProgramError) -> DatapathError {
    DatapathError::Attach {
        name: name_of(ifindex),
        what: "go back to the old program",
        why: chain(error),
    }
}
