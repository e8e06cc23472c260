//! `POST /v1/rows/{destination}`: rows for a table of Clay, one or a million in a request.
//!
//! [`receive`] is the way of a request: proof, destination, admission, then [`reading`] takes the body as it comes, cuts
//! it into rows, and gives groups of them to [`store`], which commits each group before the next bytes are read; that is
//! the back-pressure. [`answer`] is what goes back: counts for all rows, details for a bounded number.
//!
//! Guarantee: no row is said to be taken before its group is committed, and a request that breaks off keeps what was
//! committed. Rows are not spooled while Postgres is away: their senders are programs that can come again, which a
//! column of Clay is not (ADR 18).

pub(crate) mod answer;
mod reading;
pub(crate) mod receive;
mod store;
mod tally;
