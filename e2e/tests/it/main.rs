//! Real processes, real crashes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod compose;
mod crash;
mod demo;
mod first_lead;
mod help;
mod lifecycle;
mod marker;
mod metrics;
mod repair;
mod sender;
mod site;
