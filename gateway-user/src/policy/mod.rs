//! Policy: what the operator selects, compiled with a snapshot into the table the kernel holds.

mod table;

pub use table::{SetId, Table};
