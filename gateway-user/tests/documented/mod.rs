//! The commands of the papers: a table of all, and a gateway that they are typed on.

pub(crate) mod gateway;
pub(crate) mod rows;
