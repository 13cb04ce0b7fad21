//! Redirecting to the uplink: refused where it cannot work from the start, marking instead while it
//! cannot for a time, family by family.

use tracing::warn;

use super::{Daemon, hooks};
use crate::config::{Action, Config, Egress};
use crate::datapath::{DatapathError, HookRequest, Redirect, XdpRequest};
use crate::egress::Family;

impl Daemon<'_> {
    /// What a generation of `config` on `hooks` might redirect to; `None`, it marks. Then only native
    /// XDP will do, and `hooks` say so.
    ///
    /// # Errors
    ///
    /// It cannot redirect, and `config` has not served yet: what has may be in the way for a time
    /// only. An uplink that is down always is.
    pub(super) async fn redirect(
        &self,
        config: &Config,
        hooks: &mut [HookRequest],
    ) -> Result<Option<Redirect>, DatapathError> {
        match redirect(config, hooks).await {
            Ok(redirect) => {
                if redirect.is_some() {
                    for hook in hooks {
                        hook.xdp = XdpRequest::Native;
                    }
                }
                Ok(redirect)
            }
            Err(problem) if waits(&problem) || self.serves_redirect_of(config) => {
                warn!("direct packets are marked until this is over: {problem}");
                Ok(None)
            }
            Err(problem) => Err(problem),
        }
    }

    /// Leaves the families out that have no way out: what netfilter does not let go direct, XDP must
    /// not send past it.
    pub(super) fn as_far_as_up(&self, redirect: Option<Redirect>) -> Option<Redirect> {
        let redirect = Redirect {
            ipv4: self.egress.is_up(Family::V4),
            ipv6: self.egress.is_up(Family::V6),
            ..redirect?
        };
        (redirect.ipv4 || redirect.ipv6).then_some(redirect)
    }

    /// Publishes anew when what serves marks where it could redirect now, or the other way round.
    pub(super) async fn follow_redirect(&mut self) {
        if self.redirect_has_changed().await {
            self.publish_again("the uplink has changed").await;
        }
    }

    /// Whether what serves marks where it could redirect now, or the other way round, or redirects
    /// from or to what is another interface by now.
    pub(super) async fn redirect_has_changed(&self) -> bool {
        let Some(serving) = &self.serving else { return false };
        let config = &serving.revision.config;
        if uplink(config).is_none() {
            return false;
        }
        let now = match hooks::wanted(config, &self.may_be_away(None)).await {
            Ok((hooks, _)) => redirect(config, &hooks).await.ok().flatten(),
            Err(_) => None,
        };
        self.as_far_as_up(now) != serving.redirect
    }

    fn serves_redirect_of(&self, config: &Config) -> bool {
        let served = self.serving.as_ref().map(|serving| &serving.revision.config);
        served.is_some_and(|served| {
            served.egress == config.egress && served.interfaces == config.interfaces
        })
    }
}

/// What an uplink that is to come, or to come back, is refused for.
fn waits(problem: &DatapathError) -> bool {
    matches!(problem, DatapathError::LinkDown { .. } | DatapathError::NoInterface { .. })
}

async fn redirect(
    config: &Config,
    hooks: &[HookRequest],
) -> Result<Option<Redirect>, DatapathError> {
    match uplink(config) {
        Some(uplink) => Redirect::find(&uplink.interface, hooks).await.map(Some),
        None => Ok(None),
    }
}

fn uplink(config: &Config) -> Option<&Egress> {
    config.egress.as_ref().filter(|egress| egress.action == Action::Redirect)
}
