//! Redirecting to the uplink: refused where it cannot work from the start, marking instead while it
//! cannot for a time, family by family.
//!
//! What ends it is a word of the control map, written before anything slow; a generation follows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, warn};

use super::change::Serving;
use super::{Daemon, hooks};
use crate::config::{Action, Config, Egress};
use crate::datapath::{
    Blueprint, Control, DatapathError, HookRequest, Loaded, Pins, Published, Redirect, XdpRequest,
};
use crate::egress::{Family, Keeper, Undisputed};
use crate::exit::Failure;
use crate::translation;

/// What others load into netfilter has no message here: it is looked at again when this is so old.
const OLD: Duration = Duration::from_secs(5);

/// Whether somebody translates addresses on the uplink, as it was seen last.
#[derive(Default)]
pub(super) struct Translation {
    seen: Option<(Instant, Result<Option<String>, String>)>,
}

/// What keeps the way out, and ends redirecting under `pins` where it sees a family down: what
/// netfilter does not let go direct, XDP must not send past it.
pub(super) fn keeper(pins: &Pins) -> Keeper {
    let pins = pins.clone();
    Keeper::telling(move |down: &BTreeSet<Family>| {
        let families = [Family::V4, Family::V6].map(|family| down.contains(&family));
        if families != [false; 2] {
            with_control(&pins, |control| control.end_redirecting(families));
        }
    })
}

impl Daemon<'_> {
    /// What a generation of `config` on `hooks` might redirect to; `None`, it marks.
    ///
    /// # Errors
    ///
    /// It cannot redirect, and nothing has that serves: what has may be in the way for a time only, and
    /// must not go on. An uplink that is down always is.
    pub(super) async fn redirect(
        &mut self,
        config: &Config,
        hooks: &[HookRequest],
    ) -> Result<Option<Redirect>, DatapathError> {
        self.translation.seen = None;
        match self.find(config, hooks).await {
            Err(problem) if waits(&problem) || self.marks_instead(config) => {
                warn!("direct packets are marked until this is over: {problem}");
                self.narrow(None);
                Ok(None)
            }
            found => found,
        }
    }

    /// Publishes, and redirects as far as the uplink is up, for which only native XDP will do. Where
    /// that cannot be had after all it marks, if that may be, and gives what it did not redirect to.
    pub(super) fn bring_up_redirecting(
        &mut self,
        blueprint: &mut Blueprint,
        config: &Config,
        hooks: &[HookRequest],
    ) -> Result<(Published, Option<Redirect>), Failure> {
        blueprint.redirect = self.as_far_as_up(blueprint.redirect.take());
        self.narrow(blueprint.redirect.as_ref());
        let Some(redirect) = blueprint.redirect.clone() else {
            return Ok((self.bring_up(blueprint, hooks)?, None));
        };
        let native = hooks.iter().cloned();
        let native: Vec<HookRequest> =
            native.map(|hook| HookRequest { xdp: XdpRequest::Native, ..hook }).collect();
        match self.bring_up(blueprint, &native) {
            Err(problem) if is_of_native_xdp(&problem) && self.marks_instead(config) => {
                warn!("direct packets are marked, `breakout365 reload` tries again: {problem}");
                blueprint.redirect = None;
                Ok((self.bring_up(blueprint, hooks)?, Some(redirect)))
            }
            published => Ok((published?, None)),
        }
    }

    /// Leaves the families out that have no way out: what netfilter does not let go direct, XDP must
    /// not send past it.
    fn as_far_as_up(&self, redirect: Option<Redirect>) -> Option<Redirect> {
        let ipv6 = self.egress.is_up(Family::V6);
        let hop6 = match self.egress.next_hop(Family::V6) {
            Some(IpAddr::V6(hop)) if ipv6 => Some(hop),
            Some(_) | None => None,
        };
        let table = self.egress.wanted().map_or(0, |wanted| wanted.egress.table);
        let ipv4 = self.egress.is_up(Family::V4);
        let redirect = Redirect { ipv4, ipv6, hop6, table, ..redirect? };
        (redirect.ipv4 || redirect.ipv6).then_some(redirect)
    }

    /// Publishes anew when what serves marks where it could redirect now, or the other way round.
    pub(super) async fn follow_redirect(&mut self) {
        if self.redirect_has_changed().await {
            self.publish_again("the uplink has changed").await;
        }
    }

    /// Whether what serves marks where it could redirect now, or the other way round, or redirects
    /// from or to what is another interface by now. What it may redirect no longer it marks from here
    /// on, whatever becomes of a generation that follows.
    pub(super) async fn redirect_has_changed(&mut self) -> bool {
        let Some(serving) = &self.serving else { return false };
        let config = serving.revision.config.clone();
        if uplink(&config).is_none() {
            return false;
        }
        let now = match hooks::wanted(&config, &self.may_be_away(None)).await {
            Ok((hooks, _)) => self.find(&config, &hooks).await.ok().flatten(),
            Err(_) => None,
        };
        let now = self.as_far_as_up(now);
        let Some(serving) = &self.serving else { return false };
        if now == serving.redirect {
            let uplinks = now.as_ref().map_or([0; 2], Redirect::uplinks);
            with_control(self.lock.pins(), |control| control.redirect_to(uplinks));
            return false;
        }
        self.narrow(now.as_ref());
        serving.redirect.is_some() || now != serving.refused
    }

    /// Has ways looked up by all rules.
    pub(super) fn give_up_undisputed(&mut self) {
        self.undisputed = None;
        // That of a daemon before this one, too.
        with_control(self.lock.pins(), |control| control.undisputed([None; 2]));
    }

    /// Has the ways of what serves looked up in the direct table alone, while nobody disputes them.
    pub(super) fn claim_undisputed(&mut self) {
        let (Some(serving), Some(wanted)) = (&self.serving, self.egress.wanted()) else { return };
        if serving.redirect.is_none() {
            return;
        }
        let Serving { revision, support, .. } = serving;
        let prefixes = revision.compiled.table.prefixes().chain(support.prefixes());
        let prefixes = prefixes.map(|(prefix, _)| prefix);
        let pins = self.lock.pins().clone();
        let leases = move |leases| with_control(&pins, |control| control.undisputed(leases));
        self.undisputed = Some(Undisputed::watch(wanted.clone(), prefixes, leases));
    }

    /// By whom the way of a family is disputed that is redirected, by its name.
    pub(super) fn disputes(&self) -> BTreeMap<String, String> {
        let redirect = self.serving.as_ref().and_then(|serving| serving.redirect.as_ref());
        let (Some(undisputed), Some(redirect)) = (&self.undisputed, redirect) else {
            return BTreeMap::new();
        };
        let is_redirected = |family: &Family| match family {
            Family::V4 => redirect.ipv4,
            Family::V6 => redirect.ipv6,
        };
        let disputes = undisputed.disputes().into_iter();
        let disputes = disputes.filter(|(family, _)| is_redirected(family));
        disputes.map(|(family, who)| (family.name().to_owned(), who)).collect()
    }

    /// Has what serves redirect no further than this.
    fn narrow(&self, redirect: Option<&Redirect>) {
        let uplinks = redirect.map_or([0; 2], Redirect::uplinks);
        with_control(self.lock.pins(), |control| control.redirect_no_further_than(uplinks));
    }

    async fn find(
        &mut self,
        config: &Config,
        hooks: &[HookRequest],
    ) -> Result<Option<Redirect>, DatapathError> {
        let Some(egress) = uplink(config) else { return Ok(None) };
        let name = egress.interface.clone();
        match self.translation.look(config, egress).await {
            Ok(None) => Redirect::find(&name, hooks, self.lock.pins()).await.map(Some),
            Ok(Some(rule)) => Err(DatapathError::Translated { name, rule }),
            Err(problem) => {
                let why = format!("whether addresses are translated there is not known: {problem}");
                Err(DatapathError::NoRedirect { name, why })
            }
        }
    }

    /// Whether `config` may mark for want of redirecting: it has redirected, or what is pinned may
    /// redirect to what takes frames no longer, which a refusal would leave so.
    fn marks_instead(&self, config: &Config) -> bool {
        match &self.serving {
            Some(serving) => {
                let served = &serving.revision.config;
                served.egress == config.egress && served.interfaces == config.interfaces
            }
            None => match Loaded::open(self.lock.pins()) {
                Ok(loaded) => loaded.manifest().redirects_to.is_some(),
                Err(DatapathError::NothingLoaded { .. }) => false,
                Err(_) => true,
            },
        }
    }
}

impl Translation {
    async fn look(&mut self, config: &Config, egress: &Egress) -> Result<Option<String>, String> {
        if let Some((when, seen)) = &self.seen
            && when.elapsed() < OLD
        {
            return seen.clone();
        }
        let inside = config.interfaces.iter().map(|interface| interface.name.clone()).collect();
        let seen = translation::on_the_way_out(egress, &inside).await;
        self.seen = Some((Instant::now(), seen.clone()));
        seen
    }
}

/// Without a control map of ours nothing is published, which says why, and nothing redirected.
fn with_control(pins: &Pins, work: impl FnOnce(&mut Control) -> Result<(), DatapathError>) {
    let outcome = match Control::open(pins) {
        Ok(Some(mut control)) => work(&mut control),
        Ok(None) | Err(DatapathError::NotControl { .. }) => Ok(()),
        Err(problem) => Err(problem),
    };
    if let Err(problem) = outcome {
        error!("{problem}");
    }
}

/// What an uplink that is to come, or to come back, is refused for.
fn waits(problem: &DatapathError) -> bool {
    matches!(problem, DatapathError::LinkDown { .. } | DatapathError::NoInterface { .. })
}

fn is_of_native_xdp(problem: &DatapathError) -> bool {
    matches!(problem, DatapathError::ForeignXdp { .. } | DatapathError::NoNativeXdp { .. })
}

fn uplink(config: &Config) -> Option<&Egress> {
    config.egress.as_ref().filter(|egress| egress.action == Action::Redirect)
}
