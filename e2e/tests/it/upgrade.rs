//! An upgrade of the schema while somebody reads a table that it changes, as a backup does for hours.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use common::db::binary_version;
use sqlx::{Connection, PgConnection, Postgres, Transaction};
use testkit::former_schema;
use testkit::postgres::TestDatabase;
use testkit::wait::wait_until;

use crate::services::{Role, Services};
use crate::site::{LIMIT, Site};

/// The last version before one that needs the table of callbacks for itself.
const BEFORE: i32 = 11;

async fn former() -> (TestDatabase, PgConnection) {
    let test = TestDatabase::create_empty().await;
    let mut connection = test.settings().connect_directly().await.unwrap();
    former_schema::make(&mut connection, BEFORE).await;
    (test, connection)
}

/// Has read the callbacks, and goes on for as long as it lives.
async fn read(connection: &mut PgConnection) -> Transaction<'_, Postgres> {
    let mut reading = connection.begin().await.unwrap();
    sqlx::query("SELECT FROM claygate.callbacks").execute(&mut *reading).await.unwrap();
    reading
}

async fn version(test: &TestDatabase) -> i32 {
    sqlx::query_scalar("SELECT max(version) FROM claygate.schema_history").fetch_one(test.pool()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_names_who_is_in_the_way_and_goes_on_when_they_are_done() {
    let (test, mut connection) = former().await;
    let site = Site::new("").without_books();
    let migrate = |wait: &str| {
        let mut command = site.command(&["migrate", "--wait", wait]);
        command.env("CLAYGATE_DATABASE__URL", test.url());
        command
    };
    let reading = read(&mut connection).await;

    let given_up = migrate("1s").output().unwrap();
    let said = String::from_utf8(given_up.stderr).unwrap();
    assert_eq!(given_up.status.code(), Some(1), "{said}");
    assert!(said.starts_with("claygate: session ") && said.ends_with("uses a table that is to be changed\n"), "{said}");
    assert!(said.contains("(idle in transaction, for "), "{said}");
    assert_eq!(version(&test).await, BEFORE);

    let mut patient = migrate("10m").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // Kept to the end, so that the command may say more.
    let mut errors = BufReader::new(patient.stderr.take().unwrap());
    errors.read_line(&mut line).unwrap();
    assert!(line.ends_with("uses a table that is to be changed; trying again when that is over\n"), "{line}");
    reading.rollback().await.unwrap();
    let mut said = String::new();
    patient.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(patient.wait().unwrap().success(), "{said}");
    assert!(said.starts_with(&format!("The schema is at version {};", binary_version())), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_are_taken_while_an_upgrade_waits() {
    let (test, mut connection) = former().await;
    let services = Services::over(test, "");
    let reading = read(&mut connection).await;
    let ingest = services.spawn(Role::Ingest, "ingest").wait_until_started().await;
    let sender = services.sender([&ingest]);
    let mut n = 0;
    // Until the first try is over: what comes while it waits is behind it. And one at least behind that, beside the reader.
    loop {
        let is_over = ingest.log.find("the schema is not current yet; trying again").is_some();
        let answer = sender.send(format!(r#"{{"email":"{n}@example.com"}}"#)).await;
        assert_eq!(answer.body["status"], "accepted", "{}", answer.body);
        n += 1;
        if is_over {
            break;
        }
    }
    assert_eq!(version(&services.database).await, BEFORE);
    reading.rollback().await.unwrap();
    wait_until("the schema to be current", LIMIT, async || version(&services.database).await == binary_version()).await;
    let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.callbacks")
        .fetch_one(services.database.pool())
        .await
        .unwrap();
    assert_eq!(stored, n);
}
