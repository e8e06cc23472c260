//! Two who report of the same deliveries at the same moment: each attempt is recorded once and numbered, and only the
//! holder's says what becomes of the delivery.

use std::time::Duration;

use common::db::DbError;
use common::db::attempts::{Attempt, AttemptWriter, Recorded, Verdict};
use common::ids::DeliveryId;
use common::states::{Class, Reason};
use sqlx::PgPool;
use testkit::attempts::delivered;
use testkit::postgres::TestDatabase;
use testkit::wait::wait_until;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(20);
const AT_ONCE: i64 = 16;
const ROUNDS: usize = 25;

/// Deliveries that are leased under one token, by their ids.
async fn leased(pool: &PgPool, n: i64) -> (Vec<DeliveryId>, Uuid) {
    let token = Uuid::new_v4();
    let mut ids: Vec<DeliveryId> = sqlx::query_scalar(
        "INSERT INTO claygate.deliveries (id, callback_id, destination, next_attempt_at, lease_until, lease_token)
         SELECT gen_random_uuid(), gen_random_uuid(), 'crm', now(), now() + interval '1 hour', $2
         FROM generate_series(1, $1) RETURNING id",
    )
    .bind(n)
    .bind(token)
    .fetch_all(pool)
    .await
    .unwrap();
    ids.sort_unstable();
    (ids, token)
}

/// What somebody reports whose lease ran out long ago.
fn straggler(delivery: DeliveryId) -> Attempt {
    let verdict = Verdict::Dead(Reason::Terminal);
    Attempt { verdict, class: Class::Permanent, status: Some(400), ..delivered(delivery, Uuid::new_v4()) }
}

/// Records, and does so again at once as often as the writer is asked to.
async fn record(writer: &mut AttemptWriter, attempts: &[Attempt]) -> Vec<Recorded> {
    loop {
        match writer.record(attempts, LIMIT).await {
            Err(DbError::Collision(_)) => {}
            recorded => return recorded.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_holder_and_a_straggler_at_once_are_both_recorded_and_the_holder_decides() {
    let test = TestDatabase::create().await;
    let (mut one, mut other) = (AttemptWriter::new(test.settings()), AttemptWriter::new(test.settings()));
    for round in 0..ROUNDS {
        let (of_one, token_of_one) = leased(test.pool(), AT_ONCE).await;
        let (of_other, token_of_other) = leased(test.pool(), AT_ONCE).await;
        // Each holds what the other is late with.
        let report = |held: &[DeliveryId], token: Uuid, late: &[DeliveryId]| -> Vec<Attempt> {
            let held = held.iter().map(|id| delivered(*id, token));
            held.chain(late.iter().map(|id| straggler(*id))).collect()
        };
        let (first, second) = (report(&of_one, token_of_one, &of_other), report(&of_other, token_of_other, &of_one));
        let (mut recorded, second) = tokio::join!(record(&mut one, &first), record(&mut other, &second));
        recorded.extend(second);
        assert_eq!(recorded.iter().filter(|one| one.owned).count(), of_one.len() + of_other.len(), "in round {round}");
        for id in of_one.iter().chain(&of_other) {
            let mut numbers: Vec<i32> =
                recorded.iter().filter(|one| one.delivery == *id).map(|one| one.number).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, [1, 2], "in round {round}");
        }
        let ids: Vec<Uuid> = of_one.iter().chain(&of_other).map(|id| id.0).collect();
        let unlike: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM claygate.deliveries AS d WHERE id = ANY($1) AND NOT (
                 state = 'delivered' AND reason IS NULL AND attempts = 2 AND failures = 0 AND lease_token IS NULL
                 AND ARRAY['delivered', 'permanent'] =
                     (SELECT array_agg(class ORDER BY class) FROM claygate.attempts WHERE delivery_id = d.id)
                 AND 'delivered' = (SELECT string_agg(class, ' ') FROM claygate.attempts WHERE delivery_id = d.id AND owned)
             )",
        )
        .bind(&ids)
        .fetch_one(test.pool())
        .await
        .unwrap();
        assert_eq!(unlike, 0, "in round {round}");
    }
}

#[tokio::test]
async fn a_lease_that_is_given_away_while_its_attempt_is_recorded_decides_nothing() {
    let test = TestDatabase::create().await;
    let (ids, token) = leased(test.pool(), 2).await;
    // Whoever gives a lease away has the row, and has not committed.
    let mut giving = test.pool().begin().await.unwrap();
    let next = Uuid::new_v4();
    sqlx::query("UPDATE claygate.deliveries SET lease_token = $2 WHERE id = $1")
        .bind(ids[1].0)
        .bind(next)
        .execute(&mut *giving)
        .await
        .unwrap();
    let mut writer = AttemptWriter::new(test.settings());
    let attempts: Vec<Attempt> = ids.iter().map(|id| delivered(*id, token)).collect();
    let recording = tokio::spawn(async move { writer.record(&attempts, LIMIT).await.unwrap() });
    wait_until("the record to wait for the row", LIMIT, async || {
        sqlx::query_scalar::<_, bool>(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                 AND wait_event_type = 'Lock' AND query LIKE 'WITH input%')",
        )
        .fetch_one(test.pool())
        .await
        .unwrap()
    })
    .await;
    giving.commit().await.unwrap();
    let mut recorded = recording.await.unwrap();
    recorded.sort_unstable_by_key(|one| one.delivery);
    let of = |place: usize| (recorded[place].delivery, recorded[place].number, recorded[place].owned);
    assert_eq!((recorded.len(), of(0), of(1)), (2, (ids[0], 1, true), (ids[1], 1, false)));
    let (state, lease, tried): (String, Option<Uuid>, i32) =
        sqlx::query_as("SELECT state, lease_token, attempts FROM claygate.deliveries WHERE id = $1")
            .bind(ids[1].0)
            .fetch_one(test.pool())
            .await
            .unwrap();
    assert_eq!((state.as_str(), lease, tried), ("pending", Some(next), 1));
}
