//! Throw-away servers and builders for the tests. Never part of a shipped binary.

pub mod http;
pub mod postgres;
pub mod receiver;
pub mod wait;
