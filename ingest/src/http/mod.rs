//! The public port: what a sender's request goes through, from its first byte to its answer.
//!
//! [`receive`] is the way of a request; [`admission`] bounds what is taken at once, [`body`] reads, [`headers`] keeps
//! what may be kept, [`problem`] and [`answer`] are what goes back. Nothing here touches the database.

pub(crate) mod admission;
pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod headers;
pub(crate) mod problem;
pub(crate) mod receive;
