//! What became of a known set of callbacks. Reads only.

use uuid::Uuid;

use super::{Database, DbError};
use crate::ids::CallbackId;
use crate::states::{CallbackState, DeliveryState};

/// Most callbacks that one statement asks for.
const CHUNK: usize = 1000;

/// How many callbacks are in a state for a reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
pub struct CallbackOutcome {
    /// A [`CallbackState`] as a word.
    pub state: String,
    /// Why, where it was not routed.
    pub reason: Option<String>,
    /// How many.
    pub n: i64,
}

/// How many deliveries to a destination are in a state for a reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
pub struct DeliveryOutcome {
    /// The destination's name.
    pub destination: String,
    /// A [`DeliveryState`] as a word.
    pub state: String,
    /// Why, where it was not delivered.
    pub reason: Option<String>,
    /// How many.
    pub n: i64,
}

/// What became of callbacks, and of the deliveries that were made of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// By state and reason.
    pub callbacks: Vec<CallbackOutcome>,
    /// By destination, state and reason.
    pub deliveries: Vec<DeliveryOutcome>,
}

impl Outcomes {
    /// Callbacks and deliveries that have not ended.
    pub fn in_progress(&self) -> i64 {
        let received = self.callbacks.iter().filter(|row| row.state == CallbackState::Received.as_str());
        let pending = self.deliveries.iter().filter(|row| row.state == DeliveryState::Pending.as_str());
        received.map(|row| row.n).sum::<i64>() + pending.map(|row| row.n).sum::<i64>()
    }
}

/// What became of `callbacks`, up to now. Unknown ids count nowhere.
///
/// # Errors
/// [`DbError`].
pub async fn of_callbacks(database: &Database, callbacks: &[CallbackId]) -> Result<Outcomes, DbError> {
    let ids: Vec<Uuid> = callbacks.iter().map(|id| id.0).collect();
    let mut outcomes = Outcomes::default();
    for chunk in ids.chunks(CHUNK) {
        let callbacks: Vec<CallbackOutcome> = sqlx::query_as(
            "SELECT state, reason, count(*) AS n FROM claygate.callbacks WHERE id = ANY($1) GROUP BY state, reason",
        )
        .bind(chunk)
        .fetch_all(database.pool())
        .await?;
        let deliveries: Vec<DeliveryOutcome> = sqlx::query_as(
            "SELECT destination, state, reason, count(*) AS n FROM claygate.deliveries \
             WHERE callback_id = ANY($1) GROUP BY destination, state, reason",
        )
        .bind(chunk)
        .fetch_all(database.pool())
        .await?;
        for row in callbacks {
            match outcomes.callbacks.iter_mut().find(|known| known.state == row.state && known.reason == row.reason) {
                Some(known) => known.n += row.n,
                None => outcomes.callbacks.push(row),
            }
        }
        for row in deliveries {
            let same = |known: &&mut DeliveryOutcome| {
                (&known.destination, &known.state, &known.reason) == (&row.destination, &row.state, &row.reason)
            };
            match outcomes.deliveries.iter_mut().find(same) {
                Some(known) => known.n += row.n,
                None => outcomes.deliveries.push(row),
            }
        }
    }
    outcomes.callbacks.sort();
    outcomes.deliveries.sort();
    Ok(outcomes)
}
