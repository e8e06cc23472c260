//! What runs in processes of its own, started by the orchestrator as `bench role <plan>`: so each one's CPU time and
//! memory can be told from the others'.
//!
//! A role gets its plan as JSON on the command line, says what it has to say as JSON lines on stdout, and is told to go
//! on by a line on stdin. When stdin ends, its parent is gone, and so is it.

pub mod broker;
pub mod destination;
pub mod fake_clay;
pub mod http_limit;
pub mod load;
pub mod postgres_writer;
mod wire;

pub(crate) use wire::GO;

use serde::{Deserialize, Serialize};
use tokio::task::LocalSet;

/// A role, and its plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Sends callbacks.
    Load(load::Plan),
    /// Receives deliveries.
    Destination(destination::Plan),
    /// Takes callbacks and does nothing with them but check them.
    HttpLimit(http_limit::Plan),
    /// Writes callbacks into Postgres, without HTTP in front.
    PostgresWriter(postgres_writer::Plan),
    /// Publishes and consumes, without Postgres in front.
    Broker(broker::Plan),
    /// Takes rows, as Clay does.
    FakeClay(fake_clay::Plan),
}

/// Plays `role` to its end.
///
/// # Errors
/// What the role fails of.
pub fn play(role: Role) -> anyhow::Result<()> {
    // All of them are lean on purpose: one thread, except where what is measured has several.
    if let Role::HttpLimit(plan) = role {
        return http_limit::run(plan);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        match role {
            Role::Load(plan) => load::run(plan).await,
            Role::Destination(plan) => destination::run(plan).await,
            Role::PostgresWriter(plan) => postgres_writer::run(plan).await,
            Role::Broker(plan) => broker::run(plan).await,
            Role::FakeClay(plan) => fake_clay::run(plan).await,
            Role::HttpLimit(_) => Ok(()),
        }
    })
}
