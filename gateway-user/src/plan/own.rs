//! Names and properties of the operator's own entries, by the ids that their rules have.

use crate::feed::{FIRST_OWN_ID, SetId};
use crate::policy::{OwnInclude, Policy, own_place};

/// Whether `set` is an own entry, not an endpoint set.
pub(super) const fn is_own(set: SetId) -> bool {
    set >= FIRST_OWN_ID
}

/// The operator's name of an own entry; `None` for a set of the feed.
pub(super) fn name(policy: &Policy, set: SetId) -> Option<String> {
    own(policy, set).map(|entry| entry.name.clone())
}

/// Whether an own entry may be wider than the guard has it.
pub(super) fn may_be_wide(policy: &Policy, set: SetId) -> bool {
    own(policy, set).is_some_and(|entry| entry.allow_wide)
}

fn own(policy: &Policy, set: SetId) -> Option<&OwnInclude> {
    policy.includes.get(own_place(set)?)
}
