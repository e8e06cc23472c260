//! `claygate.attempts`, and what an attempt makes of its delivery: both stand or fall together.
//!
//! Every attempt is recorded. What it means for the delivery counts only while the attempt's lease token is still on it
//! (constraints see to it that only a pending delivery has one), so a delivery ends once whatever stragglers report.
//! Holders change their deliveries in the order of ids; stragglers come after, so that two writers that are late with what
//! the other holds may collide, and try again.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::types::Json;
use sqlx::{Connection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::clay_webhooks::{self, Counted};
use super::destination_state::Hold;
use super::{ConnectSettings, DbError, destination_state, rows};
use crate::ids::{DeliveryId, RowId};
use crate::queue::{BATCH_MAX, QueueName};
use crate::states::{Class, DeliveryState, DestinationState, Reason};

/// Most attempts of one [`record`].
pub const RECORD_MAX: usize = BATCH_MAX;

/// What an attempt means for its delivery.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The destination took it.
    Delivered,
    /// Given up.
    Dead(Reason),
    /// To be tried again.
    Again {
        /// After this time.
        wait: Duration,
        /// It used up a place in the retry schedule.
        failed: bool,
        /// And the destination is not to be sent to until an operator says so.
        hold: Option<DestinationState>,
    },
}

/// A row that an attempt submitted to a table of Clay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The row.
    pub row: RowId,
    /// Where it was counted before.
    pub counted: Counted,
    /// Whether Clay took it.
    pub taken: Taken,
}

/// Whether Clay took a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It said so.
    Yes,
    /// It said that it did not, or was not asked: the count is taken back.
    No,
    /// Its answer was lost, or says neither: the count stays.
    Unknown,
}

/// One attempt that was made.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Of which delivery.
    pub delivery: DeliveryId,
    /// Where it went.
    pub destination: String,
    /// The lease it was made under.
    pub token: Uuid,
    /// What follows.
    pub verdict: Verdict,
    /// Its class.
    pub class: Class,
    /// The answer's status.
    pub status: Option<u16>,
    /// What went wrong; without anything of the lead.
    pub error: Option<String>,
    /// The beginning of the answer's body, at most 4096 bytes.
    pub response: Vec<u8>,
    /// The step it ended at.
    pub step: usize,
    /// What its steps captured, to be kept for the next attempt; `None`: as it was.
    pub captured: Option<serde_json::Value>,
    /// How long it took.
    pub duration: Duration,
    /// How long ago it began.
    pub age: Duration,
    /// The row that it submitted, where it goes into a table of Clay.
    pub submission: Option<Submission>,
}

/// A connection of its own that records, dialled when it is needed and again when it broke.
pub struct AttemptWriter {
    settings: ConnectSettings,
    connection: Option<PgConnection>,
    /// Whether the last commit went through is not known.
    in_doubt: bool,
}

impl AttemptWriter {
    /// One that connects when it is first used.
    pub fn new(settings: ConnectSettings) -> Self {
        Self { settings, connection: None, in_doubt: false }
    }

    /// [`record`], within `limit`. After a failure that is not the rows' own the connection is dialled anew.
    ///
    /// # Errors
    /// As [`record`]; [`DbError::Unavailable`] also when `limit` is over. Whether that commit went through is not
    /// known then; the next call looks, and answers for what is recorded already as that commit would have.
    pub async fn record(&mut self, attempts: &[Attempt], limit: Duration) -> Result<Vec<Recorded>, DbError> {
        // Taken out, so that a cancelled or broken statement never meets the next one.
        let taken = self.connection.take();
        let in_doubt = std::mem::replace(&mut self.in_doubt, true);
        let writing = async {
            let mut connection = match taken {
                Some(connection) => connection,
                None => self.connect().await.map_err(away)?,
            };
            let written = if in_doubt {
                record_again(&mut connection, attempts).await
            } else {
                record(&mut connection, attempts).await
            };
            self.in_doubt = match &written {
                Ok(_) => false,
                Err(DbError::Unavailable(_) | DbError::Other(_)) => true,
                Err(DbError::Collision(_) | DbError::Refused { .. }) => in_doubt,
            };
            if !matches!(written, Err(DbError::Unavailable(_) | DbError::Other(_))) {
                self.connection = Some(connection);
            }
            written
        };
        match tokio::time::timeout(limit, writing).await {
            Ok(written) => written,
            Err(_) => Err(DbError::Unavailable(sqlx::Error::PoolTimedOut)),
        }
    }

    /// Every row is looked up by its key, whatever the planner thinks of tables that it has never analysed: a plan that
    /// reads them whole is kept while they grow.
    async fn connect(&self) -> Result<PgConnection, DbError> {
        let options = self.settings.work_options();
        Ok(PgConnection::connect_with(&options.options([("enable_hashjoin", "off"), ("enable_mergejoin", "off")]))
            .await?)
    }
}

/// Whatever keeps a connection from coming about (a changed password, too), none of the rows is to blame.
fn away(error: DbError) -> DbError {
    match error {
        DbError::Collision(source) | DbError::Other(source) | DbError::Refused { source, .. } => {
            DbError::Unavailable(source)
        }
        unavailable @ DbError::Unavailable(_) => unavailable,
    }
}

/// What the record of an attempt did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Of which delivery.
    pub delivery: DeliveryId,
    /// The attempt's number, from 1.
    pub number: i32,
    /// Its verdict counted.
    pub owned: bool,
    /// The database's clock.
    pub at: OffsetDateTime,
    /// Its end gave a cool-down back, so there is an entry in the queue `released`.
    pub released: bool,
}

/// Records up to [`RECORD_MAX`] attempts of as many deliveries, in one commit. A delivery that is not there any more
/// (retention, erasure) is left out.
///
/// # Errors
/// [`DbError::Collision`]: the same again at once; [`DbError::Refused`]: one of them is refused, nothing was recorded.
///
/// # Cancel safety
/// Either everything is recorded or nothing.
pub async fn record(connection: &mut PgConnection, attempts: &[Attempt]) -> Result<Vec<Recorded>, DbError> {
    let mut sorted: Vec<&Attempt> = attempts.iter().collect();
    sorted.sort_unstable_by_key(|attempt| attempt.delivery);
    let holds: Vec<Hold<'_>> = sorted.iter().filter_map(|attempt| hold_of(attempt)).collect();
    if holds.is_empty() && sorted.iter().all(|attempt| attempt.submission.is_none()) {
        return write(connection, &sorted).await;
    }
    let mut transaction = connection.begin().await?;
    let recorded = write(&mut transaction, &sorted).await?;
    settle(&mut transaction, &sorted).await?;
    if !holds.is_empty() {
        destination_state::hold(&mut transaction, &holds).await?;
    }
    transaction.commit().await?;
    Ok(recorded)
}

/// Notes which rows Clay took, and takes back what was counted for those that it did not take.
async fn settle(connection: &mut PgConnection, sorted: &[&Attempt]) -> Result<(), DbError> {
    let submissions = |taken: Taken| {
        sorted.iter().filter_map(|attempt| attempt.submission.as_ref()).filter(move |one| one.taken == taken)
    };
    // URLs before rows, as whoever counts locks them.
    let refused: Vec<&Counted> = submissions(Taken::No).map(|one| &one.counted).collect();
    if !refused.is_empty() {
        clay_webhooks::take_back(connection, &refused).await?;
    }
    let sent: Vec<RowId> = submissions(Taken::Yes).map(|one| one.row).collect();
    if !sent.is_empty() {
        rows::mark_sent(connection, &sent).await?;
    }
    Ok(())
}

/// [`record`] after one whose commit may have gone through: what it recorded is left as it is, and answered for.
///
/// # Errors
/// As [`record`].
///
/// # Cancel safety
/// As [`record`].
pub async fn record_again(connection: &mut PgConnection, attempts: &[Attempt]) -> Result<Vec<Recorded>, DbError> {
    let mut transaction = connection.begin().await?;
    // Waits for the doubtful transaction, should it still be running.
    sqlx::query("SELECT FROM claygate.deliveries WHERE id = ANY($1) ORDER BY id FOR UPDATE")
        .bind(attempts.iter().map(|a| a.delivery.0).collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await?;
    let rows = sqlx::query(
        "SELECT a.delivery_id AS id, a.number, a.owned, now() AS at, false AS released
         FROM unnest($1::uuid[], $2::uuid[]) AS i (id, token)
         JOIN claygate.attempts AS a ON a.delivery_id = i.id AND a.lease_token = i.token",
    )
    .bind(attempts.iter().map(|a| a.delivery.0).collect::<Vec<_>>())
    .bind(attempts.iter().map(|a| a.token).collect::<Vec<_>>())
    .fetch_all(&mut *transaction)
    .await?;
    let mut known = rows.iter().map(recorded).collect::<Result<Vec<_>, _>>()?;
    let missing: Vec<Attempt> =
        attempts.iter().filter(|a| known.iter().all(|one| one.delivery != a.delivery)).cloned().collect();
    if !missing.is_empty() {
        known.extend(record(&mut transaction, &missing).await?);
    }
    transaction.commit().await?;
    Ok(known)
}

fn hold_of(attempt: &Attempt) -> Option<Hold<'_>> {
    match &attempt.verdict {
        Verdict::Again { hold: Some(state), .. } => Some(Hold {
            destination: &attempt.destination,
            state: *state,
            reason: attempt.error.as_deref().unwrap_or(attempt.class.as_str()),
            age: attempt.age,
        }),
        _ => None,
    }
}

async fn write(connection: &mut PgConnection, sorted: &[&Attempt]) -> Result<Vec<Recorded>, DbError> {
    let rows = sqlx::query(
        "WITH input AS MATERIALIZED (
             SELECT unnest($1::uuid[]) AS id, unnest($2::uuid[]) AS token, unnest($3::text[]) AS state,
                 unnest($4::text[]) AS reason, unnest($5::boolean[]) AS failed, unnest($6::float8[]) AS wait,
                 unnest($7::jsonb[]) AS captured, unnest($8::text[]) AS class, unnest($9::smallint[]) AS status,
                 unnest($10::text[]) AS error, unnest($11::bytea[]) AS response, unnest($12::smallint[]) AS step,
                 unnest($13::integer[]) AS duration_ms, unnest($14::float8[]) AS age, unnest($15::text[]) AS queue
         ), owned AS (
             UPDATE claygate.deliveries AS d SET attempts = d.attempts + 1, state = i.state, reason = i.reason,
                 ended_at = CASE WHEN i.state <> 'pending' THEN now() END,
                 next_attempt_at = CASE WHEN i.state = 'pending' THEN now() + make_interval(secs => i.wait) END,
                 lease_until = NULL, lease_token = NULL, failures = d.failures + i.failed::integer, claims = 0,
                 captured = COALESCE(i.captured, d.captured)
             FROM input AS i WHERE d.id = i.id AND d.lease_token = i.token
             RETURNING d.id, d.destination, d.person, d.attempts AS number, true AS owned, d.state, d.next_attempt_at,
                 i.queue, i.token, i.class, i.status, i.error, i.response, i.step, i.duration_ms, i.age
         ), late AS (
             UPDATE claygate.deliveries AS d SET attempts = d.attempts + 1
             FROM input AS i WHERE d.id = i.id AND i.id NOT IN (SELECT id FROM owned)
             RETURNING d.id, d.destination, d.person, d.attempts AS number, false AS owned, d.state, d.next_attempt_at,
                 i.queue, i.token, i.class, i.status, i.error, i.response, i.step, i.duration_ms, i.age
         ), changed AS MATERIALIZED (
             SELECT * FROM owned UNION ALL SELECT * FROM late
         ), tried AS (
             INSERT INTO claygate.attempts (delivery_id, number, started_at, duration_ms, step, class, status, error,
                 response, owned, lease_token)
             SELECT id, number, now() - make_interval(secs => age), duration_ms, step, class, status, error, response,
                 owned, token
             FROM changed
         ), again AS (
             INSERT INTO claygate.outbox (queue, refs, due_at)
             SELECT queue, array_agg(id), next_attempt_at FROM changed WHERE owned AND state = 'pending'
             GROUP BY queue, next_attempt_at
         ), ended AS MATERIALIZED (
             SELECT c.destination, c.person, c.delivery_id
             FROM claygate.cooldowns AS c
             JOIN changed ON (c.destination, c.person) = (changed.destination, changed.person)
             WHERE c.delivery_id = changed.id AND changed.owned AND changed.state = 'dead'
             ORDER BY c.destination, c.person FOR UPDATE OF c
         ), released AS (
             DELETE FROM claygate.cooldowns AS c USING ended
             WHERE (c.destination, c.person) = (ended.destination, ended.person) AND c.delivery_id = ended.delivery_id
             RETURNING c.delivery_id
         ), told AS (
             INSERT INTO claygate.outbox (queue, refs)
             SELECT $16, array_agg(DISTINCT delivery_id) FROM released HAVING count(*) > 0
         )
         SELECT id, number, owned, now() AS at, id IN (SELECT delivery_id FROM released) AS released FROM changed",
    )
    .bind(sorted.iter().map(|a| a.delivery.0).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| a.token).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| a.verdict.state().as_str()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| a.verdict.reason().map(Reason::as_str)).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| matches!(a.verdict, Verdict::Again { failed: true, .. })).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| a.verdict.wait().as_secs_f64()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| a.captured.as_ref().map(Json)).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| a.class.as_str()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| a.status.and_then(|s| i16::try_from(s).ok())).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| a.error.as_deref()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| (!a.response.is_empty()).then_some(a.response.as_slice())).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| i16::try_from(a.step).unwrap_or(i16::MAX)).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| i32::try_from(a.duration.as_millis()).unwrap_or(i32::MAX)).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| a.age.as_secs_f64()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|a| QueueName::deliver(&a.destination).as_str().to_owned()).collect::<Vec<_>>())
    .bind(QueueName::released().as_str())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| recorded(row).map_err(DbError::from)).collect()
}

fn recorded(row: &PgRow) -> Result<Recorded, sqlx::Error> {
    Ok(Recorded {
        delivery: DeliveryId(row.try_get("id")?),
        number: row.try_get("number")?,
        owned: row.try_get("owned")?,
        at: row.try_get("at")?,
        released: row.try_get("released")?,
    })
}

impl Verdict {
    /// The state that follows.
    pub const fn state(&self) -> DeliveryState {
        match self {
            Self::Delivered => DeliveryState::Delivered,
            Self::Dead(_) => DeliveryState::Dead,
            Self::Again { .. } => DeliveryState::Pending,
        }
    }

    /// Why it is given up, where it is.
    pub const fn reason(&self) -> Option<Reason> {
        match self {
            Self::Dead(reason) => Some(*reason),
            _ => None,
        }
    }

    const fn wait(&self) -> Duration {
        match self {
            Self::Again { wait, .. } => *wait,
            _ => Duration::ZERO,
        }
    }
}
