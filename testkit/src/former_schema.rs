//! The schema as it was at a former version, for tests of upgrades.

use common::db::partitions;
use refinery_core::Migration;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};

/// Every migration in the order of their versions.
pub fn migrations() -> Vec<Migration> {
    let mut all: Vec<Migration> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .map(|path| {
            let sql = std::fs::read_to_string(&path).unwrap();
            Migration::unapplied(path.file_stem().unwrap().to_str().unwrap(), &sql).unwrap()
        })
        .collect();
    all.sort();
    all
}

/// Brings an empty database to `version`, as `migrate` of the release of then did.
pub async fn make(connection: &mut PgConnection, version: i32) {
    let prepare = "CREATE SCHEMA claygate; CREATE TABLE claygate.schema_history
        (version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255), checksum varchar(255))";
    connection.execute(sqlx::raw_sql(prepare)).await.unwrap();
    for migration in migrations().iter().filter(|one| one.version() <= version) {
        let sql = migration.sql().unwrap().to_owned();
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
        sqlx::query("INSERT INTO claygate.schema_history VALUES ($1, $2, '2030-01-01T00:00:00Z', $3)")
            .bind(migration.version())
            .bind(migration.name())
            .bind(migration.checksum().to_string())
            .execute(&mut *connection)
            .await
            .unwrap();
    }
    partitions::ensure(connection).await.unwrap();
}
