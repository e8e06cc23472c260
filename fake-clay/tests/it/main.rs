//! The fake beside `clay-facts.md`: both edges over real HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod column;
mod webhook;
