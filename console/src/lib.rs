//! The admin port: `/livez`, `/readyz`, `/metrics` and `/openapi.json`, open on a listener of its own, off the public port.
//!
//! Nothing here touches the database: probes and metrics answer from memory, so that a status page never adds load to
//! a system that is already in trouble.

pub mod openapi;
mod server;

pub use server::{AdminServer, BindError};
