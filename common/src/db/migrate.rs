//! Brings the schema up to date. Safe to run from many processes at once: they take turns under an advisory lock.
//!
//! refinery takes no lock of its own, and aborts when the database has a migration that this binary does not know.
//! Both are handled here: the lock is *polled* (a waiting lock would hold a snapshot and block CREATE INDEX
//! CONCURRENTLY), and a newer schema is left alone, so that a rolling deployment's older binaries go on.
//! The migrations run on the very connection that holds the lock (`docs/adr/0002-migrations.md`).
//!
//! A migration that changes a table needs it for itself. While it waits for somebody who reads the table (a backup, an
//! analyst's transaction), whoever comes later waits behind it, the intake among them. So it waits for [`LOCK_TIMEOUT`] at
//! most, gives way, and says who is in the way; callers wait for one of those to be done
//! ([`MigrateError::wait_for_holders`]), which holds nobody up, and try again.

use std::fmt;
use std::time::{Duration, Instant};

use refinery_core::Migration;
use refinery_core::traits::r#async::{AsyncMigrate, AsyncQuery, AsyncTransaction};
use sha2::{Digest, Sha256};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor, Row};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{ConnectSettings, DbError, is_lock_timeout, partitions};

mod embedded {
    refinery::embed_migrations!("../migrations");
}

/// The lock's key: the bytes of `claygate`.
const LOCK_KEY: i64 = i64::from_be_bytes(*b"claygate");
const POLL_EVERY: Duration = Duration::from_millis(50);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(300);
const HISTORY: &str = "claygate.schema_history";
/// How long a migration waits for a table that others use. More than Postgres' `deadlock_timeout` (1 s), after which an
/// autovacuum in the way is ended; less than what the intake waits for before it spools.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How many of those in the way are named.
const NAMED: i64 = 5;

/// What [`migrate`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migrated {
    /// The schema is at this binary's version.
    Current {
        /// The schema's version.
        version: i32,
        /// Migrations applied by this call.
        applied: usize,
    },
    /// The schema is newer than this binary: nothing was changed.
    Newer {
        /// The schema's version.
        schema: i32,
        /// The newest version that this binary knows.
        binary: i32,
    },
}

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database cannot be reached or refused a statement.
    #[error("preparing the migration failed")]
    Database(#[from] DbError),
    /// A migration failed; those before it are applied.
    #[error("applying the migrations failed")]
    Refinery(#[from] Box<refinery_core::Error>),
    /// Others use a table that is to be changed; the migrations before are applied.
    #[error("{} a table that is to be changed", in_use_by(.0))]
    InUse(Vec<Holder>),
}

/// A session in whose transaction tables of ours are used.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    /// The session, as `pg_stat_activity.pid` and `pg_terminate_backend` know it.
    pub pid: i32,
    /// `active`, `idle in transaction` …; `None` where Postgres does not tell this role.
    pub state: Option<String>,
    /// When its transaction began; `None` where Postgres does not tell this role.
    pub began: Option<OffsetDateTime>,
    /// Seconds since then, by Postgres' clock.
    pub seconds: Option<f64>,
}

impl MigrateError {
    /// Waits for what a further try has to wait for: until one of those who use a table is done, five minutes at most, since
    /// somebody else may have been in the way. At once where nobody is.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn wait_for_holders(&self, settings: &ConnectSettings) -> Result<(), DbError> {
        let holders = match self {
            Self::InUse(holders) if !holders.is_empty() => holders,
            _ => return Ok(()),
        };
        let deadline = Instant::now() + WAIT_MAX;
        let (pids, began): (Vec<i32>, Vec<Option<OffsetDateTime>>) =
            holders.iter().map(|holder| (holder.pid, holder.began)).unzip();
        let mut connection = settings.connect_directly().await?;
        loop {
            let there: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM (SELECT unnest($1::integer[]) AS pid, unnest($2::timestamptz[]) AS began) AS named
                 JOIN pg_stat_activity AS a ON a.pid = named.pid AND a.xact_start IS NOT DISTINCT FROM named.began",
            )
            .bind(&pids)
            .bind(&began)
            .fetch_one(&mut connection)
            .await?;
            if usize::try_from(there) != Ok(holders.len()) || Instant::now() >= deadline {
                return Ok(connection.close().await?);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn is_lock_timeout(&self) -> bool {
        let error = match self {
            Self::Database(DbError::Other(error)) => Some(error),
            Self::Refinery(error) => match error.kind() {
                refinery_core::error::Kind::Connection(_, source) => source.downcast_ref(),
                _ => None,
            },
            _ => None,
        };
        error.is_some_and(is_lock_timeout)
    }
}

fn in_use_by(holders: &[Holder]) -> String {
    let named: Vec<String> = holders.iter().map(ToString::to_string).collect();
    match named.as_slice() {
        [] => "a session that has ended meanwhile used".to_owned(),
        [one] => format!("session {one} uses"),
        several => format!("sessions {} use", several.join(", ")),
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.pid)?;
        match (&self.state, self.seconds) {
            (Some(state), Some(seconds)) => write!(f, " ({state}, for {seconds:.0} s)"),
            (Some(state), None) => write!(f, " ({state})"),
            (None, _) => Ok(()),
        }
    }
}

/// Applies what is missing, and makes the partitions of the coming weeks.
///
/// # Errors
/// [`MigrateError`]; the call can be repeated, and should be after [`MigrateError::InUse`].
///
/// # Cancel safety
/// A cancelled call closes the connection, which gives the lock back; each migration is a transaction of its own.
pub async fn migrate(settings: &ConnectSettings) -> Result<Migrated, MigrateError> {
    let mut session = Session(settings.connect_directly().await?);
    session.lock().await?;
    match session.bring_up_to_date().await {
        Ok(done) => {
            session.0.close().await.map_err(DbError::from)?;
            Ok(done)
        }
        Err(error) if error.is_lock_timeout() => Err(MigrateError::InUse(session.holders().await?)),
        Err(error) => Err(error),
    }
}

/// The newest schema version that this binary knows.
pub fn binary_version() -> i32 {
    embedded::migrations::runner().get_migrations().iter().map(Migration::version).max().unwrap_or(0)
}

/// Names the schema that this binary makes: 16 hex digits that change with any migration's text.
pub fn schema_fingerprint() -> String {
    let mut hash = Sha256::new();
    for migration in embedded::migrations::runner().get_migrations() {
        hash.update(migration.to_string());
        hash.update(migration.checksum().to_be_bytes());
    }
    let digest = hash.finalize();
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The connection that holds the lock, as refinery wants it.
struct Session(PgConnection);

impl Session {
    async fn lock(&mut self) -> Result<(), DbError> {
        while !sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK_KEY).fetch_one(&mut self.0).await? {
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }

    async fn bring_up_to_date(&mut self) -> Result<Migrated, MigrateError> {
        let limit = LOCK_TIMEOUT.as_millis();
        let prepare = format!("SET lock_timeout = {limit}; CREATE SCHEMA IF NOT EXISTS claygate");
        self.0.execute(sqlx::raw_sql(AssertSqlSafe(prepare))).await.map_err(DbError::from)?;
        let mut runner = embedded::migrations::runner();
        runner.set_migration_table_name(HISTORY);
        let binary = binary_version();
        let schema = self.schema_version().await?;
        let done = if schema > binary {
            Migrated::Newer { schema, binary }
        } else {
            let report = runner.run_async(self).await.map_err(Box::new)?;
            Migrated::Current { version: binary, applied: report.applied_migrations().len() }
        };
        partitions::ensure(&mut self.0).await?;
        Ok(done)
    }

    /// Whose transactions use tables of ours, the oldest first. Those that began while a table was waited for were behind
    /// this one, not in its way.
    async fn holders(&mut self) -> Result<Vec<Holder>, DbError> {
        let rows = sqlx::query(
            "SELECT a.pid, a.state, a.xact_start, extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds
             FROM pg_stat_activity AS a
             WHERE a.pid <> pg_backend_pid()
                 AND (a.xact_start IS NULL OR a.xact_start < clock_timestamp() - make_interval(secs => $1))
                 AND EXISTS (
                     SELECT FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
                     WHERE l.pid = a.pid AND l.granted AND c.relnamespace = 'claygate'::regnamespace
                         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 )
             ORDER BY a.xact_start LIMIT $2",
        )
        .bind(LOCK_TIMEOUT.as_secs_f64())
        .bind(NAMED)
        .fetch_all(&mut self.0)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Holder {
                    pid: row.try_get("pid")?,
                    state: row.try_get("state")?,
                    began: row.try_get("xact_start")?,
                    seconds: row.try_get("seconds")?,
                })
            })
            .collect()
    }

    async fn schema_version(&mut self) -> Result<i32, DbError> {
        let history: Option<String> =
            sqlx::query_scalar("SELECT to_regclass($1)::text").bind(HISTORY).fetch_one(&mut self.0).await?;
        if history.is_none() {
            return Ok(0);
        }
        let version: Option<i32> =
            sqlx::query_scalar("SELECT max(version) FROM claygate.schema_history").fetch_one(&mut self.0).await?;
        Ok(version.unwrap_or(0))
    }
}

impl AsyncTransaction for Session {
    type Error = sqlx::Error;

    async fn execute<'a, T: Iterator<Item = &'a str> + Send + 'a>(
        &'a mut self,
        queries: T,
    ) -> Result<usize, Self::Error> {
        let mut transaction = self.0.begin().await?;
        let mut count = 0;
        for query in queries {
            // Only the embedded files and refinery's own bookkeeping come this way.
            transaction.execute(sqlx::raw_sql(AssertSqlSafe(query))).await?;
            count += 1;
        }
        transaction.commit().await?;
        Ok(count)
    }
}

impl AsyncQuery<Vec<Migration>> for Session {
    async fn query<'a>(&'a mut self, query: &'a str) -> Result<Vec<Migration>, Self::Error> {
        let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(&mut self.0).await?;
        rows.iter()
            .map(|row| {
                let applied_on: String = row.try_get(2)?;
                let checksum: String = row.try_get(3)?;
                Ok(Migration::applied(
                    row.try_get(0)?,
                    row.try_get(1)?,
                    OffsetDateTime::parse(&applied_on, &Rfc3339).map_err(decode)?,
                    checksum.parse().map_err(decode)?,
                ))
            })
            .collect()
    }
}

fn decode(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

impl AsyncMigrate for Session {}
