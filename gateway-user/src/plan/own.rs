//! Names and properties of the operator's own entries, by the ids that their rules have.

use crate::feed::{FIRST_OWN_ID, SetId};
use crate::policy::Policy;

/// Whether `set` is an own entry, not an endpoint set.
pub(super) const fn is_own(set: SetId) -> bool {
    set >= FIRST_OWN_ID
}

/// The operator's name of an own entry.
pub(super) fn name(_policy: &Policy, _set: SetId) -> Option<String> {
    None
}

/// Whether an own entry may be wider than the guard has it.
pub(super) fn may_be_wide(_policy: &Policy, _set: SetId) -> bool {
    false
}
