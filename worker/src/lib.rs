//! Queue out: routes stored callbacks and delivers what came of them. In the order of the data's way:
//!
//! `route` judges a batch of callbacks and commits what becomes of it, `lanes` hand deliveries over, `deliver` leases and
//! sends them to `destinations`; `released` goes on with what a cool-down had blocked, `rescue` and `sweep` find what got
//! stuck or lost. The [`Application`] holds them together; [`service`] is the process around it.
//!
//! Guarantee: no message is acknowledged before the rows that make it unnecessary are committed. This crate never takes
//! callbacks in, and holds no SQL.

mod application;
mod dead_letters;
pub mod deliver;
pub mod destinations;
pub mod duties;
pub mod health;
pub mod lanes;
mod one_by_one;
pub mod released;
pub mod rescue;
pub mod retention;
pub mod route;
pub mod service;
pub mod sweep;
pub mod telemetry;

pub use application::{Application, RunError, StartError};
