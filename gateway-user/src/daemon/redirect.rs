//! Redirecting to the uplink: refused where it cannot work from the start, marking instead while it
//! cannot for a time.

use tracing::warn;

use super::{Daemon, hooks};
use crate::config::{Action, Config, Egress};
use crate::datapath::{DatapathError, HookRequest, Redirect, XdpRequest};

impl Daemon<'_> {
    /// Where a generation of `config` on `hooks` redirects to; `None`, it marks. Then only native XDP
    /// will do, and `hooks` say so.
    ///
    /// # Errors
    ///
    /// It cannot redirect, and `config` has not served yet: what has may be in the way for a time
    /// only, such as a link that is down.
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
            Err(problem) if self.serves_redirect_of(config) => {
                warn!("direct packets are marked until this is over: {problem}");
                Ok(None)
            }
            Err(problem) => Err(problem),
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
        now != serving.redirect
    }

    fn serves_redirect_of(&self, config: &Config) -> bool {
        let served = self.serving.as_ref().map(|serving| &serving.revision.config);
        served.is_some_and(|served| {
            served.egress == config.egress && served.interfaces == config.interfaces
        })
    }
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
