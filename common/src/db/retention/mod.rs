//! Removes what is older than the configuration keeps it, without blocking anything and without taking anything from what
//! has not ended (`docs/adr/0028-retention.md`).
//!
//! [`weeks`] drops partitions, [`parts`] removes what belongs to callbacks and rows, [`keys`] removes these themselves.
//! One run at a time over all processes, on one connection. Each step is a transaction: a run that is killed has removed
//! what it has removed, and the next one goes on. Whoever makes something old wait again holds what it needs
//! ([`super::subjects`]), and a run leaves that alone.

mod keys;
mod parts;
mod weeks;

pub use keys::{DELETE_CALLBACKS, DELETE_ROWS, LOCK_CALLBACKS, LOCK_ROWS};
pub use parts::{DELETE_DECISIONS, DELETE_LEADS, DELETE_OBJECTS, LOCK_LEADS, LOCK_OBJECTS};

use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{ConnectSettings, DbError};
use crate::retention::{Policy, What};

/// Leads, decisions, objects or callbacks of one step.
const STEP: i64 = 2_000;
/// How long a week waits for those who read its table, and a step for what somebody holds.
const LOCK_TIMEOUT: &str = "5s";
/// The advisory lock of a run.
const LOCK_KEY: &str = "hashtextextended('claygate.retention', 0)";
/// A step that collides with another transaction is done again.
const COLLISIONS_MAX: u32 = 8;

/// How a run goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Rests after each step for as long as it took: half of one connection at most.
    Background,
    /// As fast as it can.
    AtOnce,
}

/// What became of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Done {
    /// Which.
    pub what: What,
    /// What is older was looked at.
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
    /// How much was removed: weeks of attempts and bodies; callbacks and rows by their keys.
    pub removed: u64,
    /// How much is old enough and was left, because something that has not ended needs it, or somebody reads it.
    pub held: u64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Everything was looked at.
    Ended(Vec<Done>),
    /// It was told to stop; the next one goes on.
    Stopped(Vec<Done>),
    /// Another process runs it just now.
    Elsewhere,
}

/// Removes what `policy` does not keep. `progress` is told about each kind after every step.
///
/// # Errors
/// [`DbError`]; what was removed before stays removed, and the call can be repeated.
///
/// # Cancel safety
/// The connection closes, and the step under way is rolled back; a week may be left detached, which the next run ends.
pub async fn run(
    settings: &ConnectSettings,
    policy: &Policy,
    pace: Pace,
    stop: &CancellationToken,
    mut progress: impl FnMut(&Done) + Send,
) -> Result<Run, DbError> {
    let mut connection = connect(settings).await?;
    let lock = format!("SELECT pg_try_advisory_lock({LOCK_KEY})");
    if !sqlx::query_scalar(AssertSqlSafe(lock)).fetch_one(&mut connection).await? {
        connection.close().await?;
        return Ok(Run::Elsewhere);
    }
    let mut all = Vec::new();
    for what in What::ALL {
        let Some(kept) = policy.of(what) else { continue };
        let until = cutoff(&mut connection, what, kept).await?;
        mark(&mut connection, what, until).await?;
        let done = Done { what, until, removed: 0, held: 0 };
        let mut remover = Remover { connection: &mut connection, done, pace, stop, progress: &mut progress };
        match what {
            What::Attempts | What::Bodies => remover.remove_weeks().await?,
            What::Leads => remover.walk(Walk::Leads).await?,
            What::Decisions => remover.walk(Walk::Decisions).await?,
            What::Rows => remover.walk(Walk::Objects).await?,
            What::Keys => {
                for walk in Walk::OF_KEYS {
                    remover.walk(walk).await?;
                }
            }
        }
        all.push(remover.done);
        if stop.is_cancelled() {
            connection.close().await?;
            return Ok(Run::Stopped(all));
        }
    }
    connection.close().await?;
    Ok(Run::Ended(all))
}

/// What a run would look at, and how much of it is there: `held` is not known before.
///
/// # Errors
/// [`DbError`]; nothing is ever changed.
pub async fn plan(settings: &ConnectSettings, policy: &Policy) -> Result<Vec<Done>, DbError> {
    let mut connection = connect(settings).await?;
    connection.execute("SET default_transaction_read_only = on").await?;
    let mut all = Vec::new();
    for what in What::ALL {
        let Some(kept) = policy.of(what) else { continue };
        let until = cutoff(&mut connection, what, kept).await?;
        let removed = match what {
            What::Attempts | What::Bodies => weeks::count(&mut connection, what, until).await?,
            What::Leads | What::Decisions | What::Rows => parts::count(&mut connection, what, until).await?,
            What::Keys => keys::count(&mut connection, until).await?,
        };
        all.push(Done { what, until, removed, held: 0 });
    }
    connection.close().await?;
    Ok(all)
}

/// Everything is found by key; while tables are young the planner would rather read them whole.
async fn connect(settings: &ConnectSettings) -> Result<PgConnection, DbError> {
    let mut connection = settings.connect_directly().await?;
    let set = format!(
        "SET enable_seqscan = off; SET random_page_cost = 1.1; SET jit = off; SET lock_timeout = '{LOCK_TIMEOUT}'"
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(set))).await?;
    Ok(connection)
}

/// The moment before which `what` is not kept. Keys go by whole hours, as the books are kept.
async fn cutoff(connection: &mut PgConnection, what: What, kept: Duration) -> Result<OffsetDateTime, DbError> {
    let unit = if what == What::Keys { "hour" } else { "microseconds" };
    Ok(sqlx::query_scalar("SELECT date_trunc($1, now() - make_interval(secs => $2))")
        .bind(unit)
        .bind(kept.as_secs_f64())
        .fetch_one(connection)
        .await?)
}

/// Says that what is older than `until` may be gone, before anything is.
async fn mark(connection: &mut PgConnection, what: What, until: OffsetDateTime) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO claygate.retention_marks AS mark (what, until) VALUES ($1, $2)
         ON CONFLICT (what) DO UPDATE SET until = GREATEST(mark.until, EXCLUDED.until)",
    )
    .bind(what.as_str())
    .bind(until)
    .execute(connection)
    .await?;
    Ok(())
}

/// From when on all of `what` is there; `None`: nothing was ever removed.
pub(super) async fn kept_since(connection: &mut PgConnection, what: What) -> Result<Option<OffsetDateTime>, DbError> {
    Ok(sqlx::query_scalar("SELECT until FROM claygate.retention_marks WHERE what = $1")
        .bind(what.as_str())
        .fetch_optional(connection)
        .await?)
}

/// One kind of a run.
struct Remover<'a> {
    connection: &'a mut PgConnection,
    done: Done,
    pace: Pace,
    stop: &'a CancellationToken,
    progress: &'a mut (dyn FnMut(&Done) + Send),
}

/// What is walked by its key, a step at a time.
#[derive(Clone, Copy)]
enum Walk {
    Leads,
    Decisions,
    Objects,
    Callbacks,
    Rows,
    Aliases,
    Quarantine,
    Batches,
    Counts,
}

impl Walk {
    /// Everything that `keys` removes, in order.
    const OF_KEYS: [Self; 6] =
        [Self::Callbacks, Self::Rows, Self::Aliases, Self::Quarantine, Self::Batches, Self::Counts];

    async fn step(self, connection: &mut PgConnection, from: Place, until: OffsetDateTime) -> Result<Step, DbError> {
        match self {
            Self::Leads => parts::remove_unneeded(connection, from, until, LOCK_LEADS, DELETE_LEADS).await,
            Self::Objects => parts::remove_unneeded(connection, from, until, LOCK_OBJECTS, DELETE_OBJECTS).await,
            Self::Rows => parts::remove_unneeded(connection, from, until, LOCK_ROWS, DELETE_ROWS).await,
            Self::Decisions => parts::remove_decisions(connection, from, until).await,
            Self::Callbacks => keys::remove_callbacks(connection, from, until).await,
            Self::Aliases => keys::remove_rest(connection, until, keys::ALIASES).await,
            Self::Quarantine => keys::remove_rest(connection, until, keys::QUARANTINE).await,
            Self::Batches => keys::remove_rest(connection, until, keys::BATCHES).await,
            Self::Counts => keys::remove_rest(connection, until, keys::COUNTS).await,
        }
    }
}

/// Behind what a step begins: as much of it as its key has.
#[derive(Clone, Copy)]
struct Place {
    received_at: Option<OffsetDateTime>,
    id: Uuid,
    routing: i32,
}

impl Place {
    const START: Self = Self { received_at: None, id: Uuid::nil(), routing: -1 };
}

/// What a step did.
struct Step {
    removed: u64,
    held: u64,
    /// Where the next one goes on; `None`: nothing is left.
    next: Option<Place>,
}

/// Removes those of `locked` that nothing needs. A statement of its own: what was made to wait before the lock was there is
/// seen.
async fn delete_locked(
    connection: &mut PgConnection,
    statement: &'static str,
    locked: &[Uuid],
    next: Option<Place>,
) -> Result<Step, DbError> {
    if locked.is_empty() {
        return Ok(Step { removed: 0, held: 0, next: None });
    }
    let removed = sqlx::query(statement).bind(locked).execute(connection).await?.rows_affected();
    Ok(Step { removed, held: locked.len() as u64 - removed, next })
}

impl Remover<'_> {
    /// Takes steps until nothing is left, or a stop is asked for.
    async fn walk(&mut self, walk: Walk) -> Result<(), DbError> {
        let (mut from, mut collisions) = (Place::START, 0);
        while !self.stop.is_cancelled() {
            let started = Instant::now();
            let step = match walk.step(self.connection, from, self.done.until).await {
                Err(DbError::Collision(_)) if collisions < COLLISIONS_MAX => {
                    collisions += 1;
                    continue;
                }
                step => step?,
            };
            collisions = 0;
            self.note(step.removed, step.held);
            let Some(next) = step.next else { return Ok(()) };
            from = next;
            self.rest(started).await;
        }
        Ok(())
    }

    fn note(&mut self, removed: u64, held: u64) {
        self.done.removed += removed;
        self.done.held += held;
        (self.progress)(&self.done);
    }

    async fn rest(&mut self, started: Instant) {
        if self.pace == Pace::Background {
            let _ = tokio::time::timeout(started.elapsed(), self.stop.cancelled()).await;
        }
    }
}
