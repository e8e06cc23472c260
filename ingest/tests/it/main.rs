//! The intake over real TCP, against a real Postgres.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod books;
mod gateway;
mod idempotency;
mod metrics;
mod openapi;
mod outage;
mod partitions;
mod problems;
mod process;
mod release;
mod rows;
mod spool_files;
mod taking_in;
mod verification;
