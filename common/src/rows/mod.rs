//! Rows that are handed in for a Clay table: cut out of what came ([`split`]), checked, filtered and given their key
//! ([`prepare`]). Pure: who reads the bytes and who stores the rows is elsewhere ([`crate::db::row_intake`]).

pub mod prepare;
pub mod split;
mod written;

/// The largest object that Clay takes in one request, in bytes.
pub const ROW_BYTES_MAX: usize = 100_000;

/// What is added to a row on its way: `"claygate_id":"<uuid>",`.
pub const ADDED_BYTES: usize = 53;
