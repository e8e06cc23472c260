//! The admin port: `/livez`, `/readyz` and `/metrics`, open on a listener of its own, off the public port.
//!
//! Nothing here touches the database: probes and metrics answer from memory, so that a status page never adds load to
//! a system that is already in trouble.

mod server;

pub use server::{AdminServer, BindError};
