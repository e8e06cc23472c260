//! The schema: eight processes at once, a newer schema under an older binary, partitions.

use std::pin::pin;
use std::time::Duration;

use common::db::{MigrateError, Migrated, binary_version, migrate, partitions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testkit::former_schema;
use testkit::postgres::TestDatabase;
use testkit::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(30);

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

/// A backup may read a table for hours. The intake must not wait behind a migration that waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_uses_a_table_is_given_way_to_and_named() {
    let test = TestDatabase::create_empty().await;
    let mut reader = test.pool().acquire().await.unwrap();
    former_schema::make(&mut reader, 11).await;
    let mut reading = reader.begin().await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid() FROM (SELECT count(*) FROM claygate.callbacks) AS read")
        .fetch_one(&mut *reading)
        .await
        .unwrap();

    let settings = test.settings();
    let migration = tokio::spawn(async move { migrate(&settings).await });
    wait_until("the migration to wait for the reader", LIMIT, async || {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'claygate.callbacks'::regclass AND NOT granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
        )
        .fetch_one(test.pool())
        .await
        .unwrap()
    })
    .await;
    // It came later and gets its turn, while the reader is still there.
    let later = sqlx::query("SELECT FROM claygate.callbacks").execute(test.pool());
    tokio::time::timeout(LIMIT, later).await.expect("the migration gives way").unwrap();
    let error = migration.await.unwrap().unwrap_err();
    let MigrateError::InUse(holders) = &error else { panic!("{error:?}") };
    assert_eq!(holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [pid]);
    let (shown, named) = (error.to_string(), format!("session {pid} (idle in transaction, for "));
    assert!(shown.starts_with(&named) && shown.ends_with(" s) uses a table that is to be changed"), "{shown}");

    let (settings, nobody) = (test.settings(), MigrateError::InUse(Vec::new()));
    nobody.wait_for_holders(&settings).await.unwrap();
    let mut waiting = pin!(error.wait_for_holders(&settings));
    assert!(tokio::time::timeout(Duration::from_secs(2), &mut waiting).await.is_err(), "the reader is still there");
    reading.rollback().await.unwrap();
    waiting.await.unwrap();
    let done = migrate(&settings).await.unwrap();
    let missing = former_schema::migrations().iter().filter(|one| one.version() > 11).count();
    assert_eq!(done, Migrated::Current { version: binary_version(), applied: missing });
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

/// Every table and index, and the file it is in.
async fn files_of_relations(connection: &mut PgConnection) -> Vec<(String, i64)> {
    sqlx::query_as(
        "SELECT relname::text, relfilenode::bigint FROM pg_class
         WHERE relnamespace = 'claygate'::regnamespace AND relfilenode <> 0 ORDER BY relname",
    )
    .fetch_all(connection)
    .await
    .unwrap()
}

/// A large site would stand still for as long as it takes to write its callbacks anew, or to read them.
#[tokio::test]
async fn checks_become_those_of_types_without_a_look_at_what_is_there() {
    let test = TestDatabase::create_empty().await;
    // One, since each tells the statistics of its own reads.
    let mut connection = test.pool().acquire().await.unwrap();
    former_schema::make(&mut connection, 11).await;
    sqlx::raw_sql(
        "INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at)
         VALUES (gen_random_uuid(), 'clay', sha256('a'), 'content', sha256('a'), now());
         INSERT INTO claygate.intake_counts VALUES ('i', 0, 'clay', date_trunc('hour', now()), 'new', 1);
         INSERT INTO claygate.outbox (queue, refs) VALUES ('callbacks', ARRAY[gen_random_uuid()])",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
    let files = files_of_relations(&mut connection).await;
    let later: Vec<_> =
        former_schema::migrations().into_iter().filter(|one| (12..=14).contains(&one.version())).collect();
    assert_eq!(later.len(), 3);
    for migration in later {
        let began = reads_of_tables(&mut connection).await;
        let sql = migration.sql().unwrap().to_owned();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await.unwrap();
        assert_eq!(reads_of_tables(&mut connection).await, began, "{migration} reads what is there");
    }
    assert_eq!(files_of_relations(&mut connection).await, files, "something was written anew");
}

/// How often a table of ours was read from its beginning to its end.
async fn reads_of_tables(connection: &mut PgConnection) -> i64 {
    sqlx::raw_sql("SELECT pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    sqlx::query_scalar("SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables WHERE schemaname = 'claygate'")
        .fetch_one(connection)
        .await
        .unwrap()
}

/// What was refused by a table's CHECK is refused by its columns' types.
#[tokio::test]
async fn what_a_column_may_hold_is_held_to() {
    let test = TestDatabase::create().await;
    let callback = |column: &str, value: &str| {
        let values =
            [("key", "sha256('a')"), ("key_kind", "'header'"), ("digest", "sha256('a')"), ("state", "'received'")]
                .map(|(name, good)| if name == column { value } else { good });
        format!(
            "INSERT INTO claygate.callbacks (id, source, received_at, key, key_kind, digest, state)
             VALUES (gen_random_uuid(), 'clay', now(), {})",
            values.join(", ")
        )
    };
    let counted =
        |result: &str| format!("INSERT INTO claygate.intake_counts VALUES ('i', 0, 'clay', now(), {result}, 1)");
    let queued = |refs: &str| format!("INSERT INTO claygate.outbox (queue, refs) SELECT 'callbacks', {refs}");
    for (sql, refused) in [
        (callback("state", "'received'"), None),
        (callback("key", "'short'"), Some("sha256_digest_has_32_bytes")),
        (callback("digest", "'short'"), Some("sha256_digest_has_32_bytes")),
        (callback("key_kind", "'line'"), Some("key_kind_known")),
        (callback("state", "'lost'"), Some("callback_state_known")),
        (callback("state", "'dead'"), Some("callbacks_reason_when_not_routed")),
        ("UPDATE claygate.callbacks SET revision = 1".to_owned(), None),
        ("UPDATE claygate.callbacks SET key_kind = 'content'".to_owned(), Some("callbacks_content_has_one_revision")),
        ("UPDATE claygate.callbacks SET state = 'lost'".to_owned(), Some("callback_state_known")),
        (counted("'new'"), None),
        (counted("'other'"), Some("intake_result_known")),
        (queued("array_agg(gen_random_uuid()) FROM generate_series(1, 64)"), None),
        (queued("array_agg(gen_random_uuid()) FROM generate_series(1, 65)"), Some("outbox_refs_bounded")),
        (queued("'{}'"), Some("outbox_refs_bounded")),
    ] {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(test.pool()).await;
        let constraint = done.err().map(|error| error.as_database_error().unwrap().constraint().unwrap().to_owned());
        assert_eq!(constraint.as_deref(), refused, "{sql}");
    }
}
