//! Throw-away servers and builders for the tests. Never part of a shipped binary.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up ends here")]

pub mod attempts;
pub mod former_schema;
pub mod http;
pub mod metrics;
pub mod old_site;
pub mod own_postgres;
pub mod postgres;
pub mod proxy;
pub mod rabbitmq;
pub mod receiver;
pub mod wait;
