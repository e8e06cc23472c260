//! The schema: eight processes at once, a newer schema under an older binary, partitions.

use common::db::{Migrated, binary_version, migrate, partitions};
use testkit::postgres::TestDatabase;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_on_an_empty_database_all_succeed() {
    let test = TestDatabase::create_empty().await;
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let settings = test.settings();
            tokio::spawn(async move { migrate(&settings).await })
        })
        .collect();
    let mut applied_in_all = 0;
    for run in runs {
        match run.await.unwrap().unwrap() {
            Migrated::Current { version, applied } => {
                assert_eq!(version, binary_version());
                applied_in_all += applied;
            }
            newer @ Migrated::Newer { .. } => panic!("nothing is newer than this binary: {newer:?}"),
        }
    }
    let known: i64 =
        sqlx::query_scalar("SELECT count(*) FROM claygate.schema_history").fetch_one(test.pool()).await.unwrap();
    assert_eq!(applied_in_all, usize::try_from(known).unwrap(), "each migration is applied exactly once");
}

#[tokio::test]
async fn an_older_binary_starts_on_a_newer_schema() {
    let test = TestDatabase::create().await;
    let newer = binary_version() + 1;
    sqlx::query(
        "INSERT INTO claygate.schema_history (version, name, applied_on, checksum)
         VALUES ($1, 'from_the_future', '2030-01-01T00:00:00Z', '1')",
    )
    .bind(newer)
    .execute(test.database().pool())
    .await
    .unwrap();
    let done = migrate(&test.settings()).await.unwrap();
    assert_eq!(done, Migrated::Newer { schema: newer, binary: binary_version() });
}

#[tokio::test]
async fn partitions_are_there_for_last_week_and_the_weeks_to_come() {
    let test = TestDatabase::create().await;
    let database = test.database();
    for weeks in [-1, 0, 1, 8] {
        sqlx::query(
            "INSERT INTO claygate.callback_bodies (callback_id, received_at, body, headers)
             VALUES (gen_random_uuid(), now() + make_interval(weeks => $1), 'x', '{}')",
        )
        .bind(weeks)
        .execute(database.pool())
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn many_processes_make_the_same_partition() {
    let test = TestDatabase::create().await;
    let long_ago = time::OffsetDateTime::now_utc() - time::Duration::weeks(60);
    let makers: Vec<_> = (0..6)
        .map(|_| {
            let database = test.database();
            tokio::spawn(async move {
                let mut connection = database.pool().acquire().await.unwrap();
                partitions::ensure_between(&mut connection, long_ago, long_ago).await
            })
        })
        .collect();
    for maker in makers {
        maker.await.unwrap().unwrap();
    }
}

/// A server in another time zone must not move any timestamp.
#[tokio::test]
async fn the_session_speaks_utc_whatever_the_server_does() {
    let test = TestDatabase::create().await;
    let database = test.database();
    sqlx::query(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = %L', current_database(), 'Asia/Kolkata'); END $$",
    )
    .execute(database.pool())
    .await
    .unwrap();
    let zone: String =
        sqlx::query_scalar("SELECT current_setting('timezone')").fetch_one(test.database().pool()).await.unwrap();
    assert_eq!(zone, "UTC");
}
