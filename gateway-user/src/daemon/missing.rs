//! Hooks that somebody has taken away from us: said, told to who asks, and attached again.

use tracing::{error, warn};

use super::Daemon;
use crate::datapath::{Attached, attached_now, carrier_name};
use crate::observe::MissingHook;

/// What of an interface is missing when all of it is.
const INTERFACE: &str = "interface";

/// What the generation that serves was attached to.
#[derive(Default)]
pub(super) struct Hooked {
    hooks: Vec<Attached>,
    /// What was missing when last looked at and could not be attached.
    said: Vec<MissingHook>,
}

impl Hooked {
    /// Takes what was just published.
    pub(super) fn take(&mut self, hooks: &[Attached]) {
        hooks.clone_into(&mut self.hooks);
        self.said.clear();
    }

    /// What is missing of `now` on the interfaces that are there.
    fn missing(&self, now: &[Attached]) -> Vec<MissingHook> {
        let mut missing = Vec::new();
        for hook in &self.hooks {
            let Some(interface) = &hook.interface else { continue };
            let now = now.iter().find(|now| now.ifindex == hook.ifindex);
            let is_there = |carrier| now.is_some_and(|now| now.carriers().any(|it| it == carrier));
            let gone = hook.carriers().filter(|carrier| !is_there(*carrier));
            missing.extend(
                gone.map(|what| MissingHook { interface: interface.clone(), what: what.into() }),
            );
        }
        missing
    }

    /// What is missing and was not when last looked at.
    fn news<'a>(&mut self, missing: &'a [MissingHook]) -> Vec<&'a MissingHook> {
        let before = std::mem::replace(&mut self.said, missing.to_vec());
        missing.iter().filter(|hook| !before.contains(hook)).collect()
    }
}

impl Daemon<'_> {
    /// What is missing: interfaces that are away, and on others what is not among `now`.
    pub(super) fn missing(&self, now: &[Attached]) -> Vec<MissingHook> {
        let is_away = |name: &String| self.interfaces.get(name).is_some_and(Option::is_none);
        let mut missing = self.hooked.missing(now);
        missing.retain(|hook| !is_away(&hook.interface));
        let away = self.interfaces.keys().filter(|name| is_away(name));
        missing.extend(
            away.map(|name| MissingHook { interface: name.clone(), what: INTERFACE.into() }),
        );
        missing
    }

    /// Publishes anew where something was detached. An interface that is away has its own messages.
    pub(super) async fn look_at_hooks(&mut self) {
        let mut missing = self.detached().await;
        if !missing.is_empty() {
            // The hooks of an interface that goes may be gone before its message is read.
            self.follow_interfaces().await;
            missing = self.detached().await;
        }
        for MissingHook { interface, what } in self.hooked.news(&missing) {
            let name = carrier_name(what);
            warn!(
                event = "hook_missing",
                interface,
                carrier = what,
                "interface {interface}: somebody has detached {name}; it is attached again"
            );
        }
        if !missing.is_empty() {
            self.publish_again("a hook was gone").await;
        }
    }

    /// What is missing of interfaces that are there; nothing where that cannot be seen.
    async fn detached(&self) -> Vec<MissingHook> {
        let now = match attached_now(self.lock.pins()).await {
            Ok(now) => now,
            Err(failure) => {
                error!("hooks were not looked at: {failure}");
                return Vec::new();
            }
        };
        let mut missing = self.missing(&now);
        missing.retain(|hook| hook.what != INTERFACE);
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(ifindex: u32, xdp: Option<&'static str>, tc: Option<&'static str>) -> Attached {
        let interface = Some(format!("lan{ifindex}"));
        Attached { interface, ifindex, xdp, tc, missing: Vec::new() }
    }

    fn missing(interface: &str, what: &str) -> MissingHook {
        MissingHook { interface: interface.into(), what: what.into() }
    }

    #[test]
    fn what_was_attached_and_is_not_is_missing_also_where_its_pin_is_gone() {
        let mut hooked = Hooked::default();
        hooked.take(&[hook(1, Some("native"), Some("tcx")), hook(2, None, Some("clsact"))]);
        let all = [hook(1, Some("native"), Some("tcx")), hook(2, None, Some("clsact"))];
        assert_eq!(hooked.missing(&all), []);
        let without_xdp = [hook(1, None, Some("tcx")), hook(2, None, Some("clsact"))];
        assert_eq!(hooked.missing(&without_xdp), [missing("lan1", "native")]);
        let without_any = [hook(1, Some("native"), Some("tcx"))];
        assert_eq!(hooked.missing(&without_any), [missing("lan2", "clsact")]);
        let other_mode = [hook(1, Some("generic"), None), hook(2, None, Some("clsact"))];
        let both = [missing("lan1", "native"), missing("lan1", "tcx")];
        assert_eq!(hooked.missing(&other_mode), both);
    }

    #[test]
    fn what_is_missing_is_said_once_until_it_was_attached() {
        let mut hooked = Hooked::default();
        let (one, other) = (missing("lan1", "native"), missing("lan1", "tcx"));
        assert_eq!(hooked.news(std::slice::from_ref(&one)), [&one]);
        assert_eq!(hooked.news(&[one.clone(), other.clone()]), [&other]);
        hooked.take(&[]);
        assert_eq!(hooked.news(std::slice::from_ref(&one)), [&one]);
    }
}
