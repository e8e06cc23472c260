//! A site that has been in use for eight weeks, for tests of what is kept how long. Its books balance.

use common::db::{Database, partitions};
use sqlx::{AssertSqlSafe, Executor};
use time::{Duration, OffsetDateTime};

/// Fills an empty database with `callbacks` callbacks and all that came of them, the oldest eight weeks ago.
///
/// One in fifty has a delivery that waits for `crm`, which is paused, and as many rows wait for `table`.
pub async fn fill(database: &Database, callbacks: u32) {
    let mut connection = database.settings().connect_directly().await.unwrap();
    let now = OffsetDateTime::now_utc();
    partitions::ensure_between(&mut connection, now - Duration::weeks(9), now).await.unwrap();
    let sql = include_str!("old_site.sql").replace("$N", &callbacks.to_string());
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
}
