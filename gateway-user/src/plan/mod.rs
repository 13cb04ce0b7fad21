//! Plans: the difference between what is live and what would be, in words a person reads, and the
//! guards that refuse one.
//!
//! [`Plan::between`] compares two [`Side`]s, [`check()`] holds the plan against [`Guards`],
//! [`GatewayNetworks`] is what the gateway itself is connected to, and [`touched`] says how much of
//! today's direct traffic a plan changes. Everything but reading the gateway's networks is pure:
//! equal inputs, equal bytes.

mod change;
mod check;
mod gateway;
mod guard;
mod own;
mod refusal;
mod sets;
mod space;
mod special;
mod wire;

pub use change::{FamilyTotals, Plan, Side, Touched, touched};

pub use check::{check, refuses_prefix};
pub use gateway::{GatewayError, GatewayNetworks};
pub use guard::{Guard, Guards, Trigger};
pub use refusal::Refusal;
pub use sets::{ExcludeChange, SetChange};
