//! The harness itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use testkit::postgres::TestDatabase;

#[tokio::test]
async fn databases_are_migrated_apart_and_dropped() {
    let first = TestDatabase::create().await;
    let second = TestDatabase::create().await;
    sqlx::query("INSERT INTO claygate.sweep_marks VALUES ('callbacks', now())").execute(first.pool()).await.unwrap();
    let count = "SELECT count(*) FROM claygate.sweep_marks";
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(first.pool()).await.unwrap(), 1);
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(second.pool()).await.unwrap(), 0);

    let name = first.settings().database;
    drop(first);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_database WHERE datname = $1")
        .bind(&name)
        .fetch_one(second.pool())
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn many_tests_at_once_share_one_template() {
    let databases = (0..8).map(|_| tokio::spawn(TestDatabase::create())).collect::<Vec<_>>();
    for database in databases {
        let database = database.await.unwrap();
        let version: i32 = sqlx::query_scalar("SELECT max(version) FROM claygate.schema_history")
            .fetch_one(database.pool())
            .await
            .unwrap();
        assert_eq!(version, common::db::binary_version());
    }
}
