//! The loop of rows: what came back is counted once per row, and what is missing is listed and sent again once.

use std::time::Duration;

use common::db::loop_report::{self, Fields, Open, Seconds};
use common::db::missing_rows::{self, Missing, Plan};
use sqlx::{AssertSqlSafe, PgPool};
use testkit::postgres::TestDatabase;
use time::OffsetDateTime;
use uuid::Uuid;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// A row that was handed in, sent so many minutes ago, with its delivery that ended. Answers the row.
async fn sent(pool: &PgPool, destination: &str, minutes_ago: i32) -> Uuid {
    sent_as(pool, destination, minutes_ago, "delivered").await
}

async fn sent_as(pool: &PgPool, destination: &str, minutes_ago: i32, state: &str) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "WITH made AS (
             INSERT INTO claygate.rows (id, workspace, destination, key, key_kind, body, webhook, sent_at, times_sent)
             VALUES ($1, 'acme', $2, sha256($1::text::bytea), 'content', '{}', 'w', now() - make_interval(mins => $3), 1)
             RETURNING id
         )
         INSERT INTO claygate.deliveries (id, row_id, destination, person, state, ended_at, next_attempt_at)
         SELECT $4, id, $2, sha256(id::text::bytea), $5, CASE WHEN $5 <> 'pending' THEN now() END,
             CASE WHEN $5 = 'pending' THEN now() END
         FROM made",
    )
    .bind(id)
    .bind(destination)
    .bind(minutes_ago)
    .bind(Uuid::now_v7())
    .bind(state)
    .execute(pool)
    .await
    .unwrap();
    id
}

/// The row comes back so many seconds after it was sent, as a lead with these fields.
async fn back(pool: &PgPool, row: Uuid, seconds: i32, email: Option<&str>, extra: &str) {
    sqlx::query(
        "WITH returned AS (
             UPDATE claygate.rows SET returned_at = sent_at + make_interval(secs => $2), returned_by = $3 WHERE id = $1
             RETURNING returned_at
         )
         INSERT INTO claygate.leads (callback_id, received_at, email, icp_score, extra, warnings)
         SELECT $3, returned_at, $4, 85, $5::jsonb, '{}' FROM returned",
    )
    .bind(row)
    .bind(seconds)
    .bind(Uuid::now_v7())
    .bind(email)
    .bind(extra)
    .execute(pool)
    .await
    .unwrap();
}

async fn ago(test: &TestDatabase, time: Duration) -> OffsetDateTime {
    loop_report::now(&test.database()).await.unwrap() - time
}

#[tokio::test]
async fn a_report_counts_rows_their_way_and_what_they_brought() {
    let test = TestDatabase::create().await;
    let pool = test.pool();
    let database = test.database();
    let (since, due) = (ago(&test, 7 * DAY).await, Some(ago(&test, DAY).await));
    let empty = loop_report::read(&database, "leads", since, due).await.unwrap();
    assert_eq!((empty.sent, empty.returned, empty.overdue, empty.seconds), (0, 0, Some(0), None));
    assert_eq!((empty.fields, empty.histogram), (Fields::default(), vec![0; 7]));

    for (seconds, email, extra) in [
        (10, Some("ada@example.com"), r#"{"tier": "A", "claygate_id": "x", "nothing": null}"#),
        (60, Some("bob@example.com"), r#"{"tier": "", "tags": []}"#),
        (61, None, r#"{"tier": "B"}"#),
        (90_000, Some("eve@example.com"), "{}"),
    ] {
        let row = sent(pool, "leads", 2 * 24 * 60).await;
        back(pool, row, seconds, email, extra).await;
    }
    sent(pool, "leads", 25 * 60).await;
    let twice = sent(pool, "leads", 10).await;
    sqlx::query("UPDATE claygate.rows SET times_sent = 2 WHERE id = $1").bind(twice).execute(pool).await.unwrap();
    // Too long ago, of another table, never taken, and one of an older version.
    sent(pool, "leads", 8 * 24 * 60).await;
    sent(pool, "others", 10).await;
    let unsent = sent(pool, "leads", 10).await;
    sqlx::query("UPDATE claygate.rows SET sent_at = NULL WHERE id = $1").bind(unsent).execute(pool).await.unwrap();
    let old = sent(pool, "leads", 10).await;
    sqlx::query("UPDATE claygate.rows SET times_sent = 0 WHERE id = $1").bind(old).execute(pool).await.unwrap();

    let found = loop_report::read(&database, "leads", since, due).await.unwrap();
    assert_eq!((found.sent, found.submissions, found.returned, found.overdue), (7, 8, 4, Some(1)));
    assert_eq!(found.seconds, Some(Seconds { p50: 60.0, p90: 90_000.0, max: 90_000.0 }));
    assert_eq!(found.histogram, [2, 1, 0, 0, 0, 0, 1]);
    let fields: Vec<(&str, u64)> = found.fields.filled.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    assert_eq!(found.fields.leads, 4);
    assert_eq!(fields, [("icp_score", 4), ("email", 3), ("tier", 2)]);
    assert_eq!(loop_report::read(&database, "leads", since, None).await.unwrap().overdue, None);

    let open = loop_report::count_open(&database, "leads", HOUR).await.unwrap();
    assert_eq!(open, Open { outstanding: 2, overdue: 0 }, "the one of 25 hours ago is not waited for any more");
    let open = loop_report::count_open(&database, "leads", 24 * HOUR).await.unwrap();
    assert_eq!(open, Open { outstanding: 3, overdue: 1 });
}

#[tokio::test]
async fn pages_of_missing_rows_follow_each_other_over_all_destinations() {
    let test = TestDatabase::create().await;
    let mut expected = Vec::new();
    for n in 0..7 {
        expected.push(sent(test.pool(), if n % 2 == 0 { "leads" } else { "others" }, 120 + n).await);
    }
    let returned = sent(test.pool(), "leads", 200).await;
    back(test.pool(), returned, 5, None, "{}").await;
    sent(test.pool(), "leads", 30).await;
    sent(test.pool(), "nobody", 300).await;
    let due = ago(&test, HOUR).await;
    let missing = Missing {
        due_until: vec![("leads".to_owned(), due), ("others".to_owned(), due)],
        since: ago(&test, DAY).await,
    };
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let page = missing_rows::list(&test.database(), &missing, before, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some((last.sent_at, last.id));
        assert!(page.iter().all(|row| row.delivery.as_deref() == Some("delivered") && row.times_sent == 1));
        found.extend(page.into_iter().map(|row| row.id));
    }
    assert_eq!(found, expected);
}

/// Every delivery of `row`, oldest first.
async fn deliveries(test: &TestDatabase, row: Uuid) -> Vec<(i32, String)> {
    sqlx::query_as(
        "SELECT replay, state FROM claygate.deliveries WHERE row_id = $1 OR callback_id = $1 ORDER BY replay",
    )
    .bind(row)
    .fetch_all(test.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn what_is_missing_is_sent_again_once_and_takes_its_cool_down_along() {
    let test = TestDatabase::create().await;
    let (pool, database) = (test.pool(), test.database());
    let mut rows = Vec::new();
    for n in 0..3 {
        rows.push(sent(pool, "leads", 120 + n).await);
    }
    let on_its_way = sent_as(pool, "leads", 130, "pending").await;
    let expired = sent(pool, "leads", 140).await;
    sqlx::query("UPDATE claygate.rows SET body = NULL WHERE id = $1").bind(expired).execute(pool).await.unwrap();
    let returned = sent(pool, "leads", 150).await;
    back(pool, returned, 5, None, "{}").await;
    // One that a rule made, by its second delivery.
    let callback = Uuid::now_v7();
    for statement in [
        "INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, state)
         VALUES ($1, 'clay', sha256('x'), 'content', sha256('x'), now(), 'routed')",
        "INSERT INTO claygate.leads (callback_id, received_at, extra, warnings) VALUES ($1, now(), '{}', '{}')",
        "INSERT INTO claygate.deliveries (id, callback_id, destination, replay, state, ended_at)
         SELECT gen_random_uuid(), $1, 'leads', n, 'delivered', now() FROM generate_series(0, 1) AS n",
        "INSERT INTO claygate.rows (id, workspace, destination, callback_id, webhook, sent_at)
         SELECT id, 'acme', 'leads', $1, 'w', now() - interval '3 h' FROM claygate.deliveries
         WHERE callback_id = $1 AND replay = 0",
    ] {
        sqlx::query(statement).bind(callback).execute(pool).await.unwrap();
    }
    let (since, due) = (ago(&test, DAY).await, ago(&test, HOUR).await);
    let missing = Missing { due_until: vec![("leads".to_owned(), due)], since };
    let plan = |again, on_the_way| vec![("leads".to_owned(), Plan { again, on_the_way, expired: 1 })];
    assert_eq!(missing_rows::plan(&database, &missing).await.unwrap(), plan(4, 1));

    let resend = || missing_rows::resend(&database, ("leads", due), since, Some(DAY), |_| ());
    let (one, other) = tokio::join!(resend(), resend());
    assert_eq!(one.unwrap() + other.unwrap(), 4, "two at once send each row once");
    let again = [(0, "delivered".to_owned()), (1, "pending".to_owned())];
    for row in &rows {
        assert_eq!(deliveries(&test, *row).await, again);
    }
    let third = (2, "pending".to_owned());
    assert_eq!(deliveries(&test, callback).await.last(), Some(&third));
    assert_eq!(deliveries(&test, on_its_way).await.len(), 1);
    assert_eq!(deliveries(&test, returned).await.len(), 1);
    let (queued, cooled): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT sum(cardinality(refs))::bigint FROM claygate.outbox WHERE queue = 'deliver.leads'),
             (SELECT count(*) FROM claygate.cooldowns AS c JOIN claygate.deliveries AS d ON d.id = c.delivery_id
              WHERE d.state = 'pending' AND d.replay = 1)",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!((queued, cooled), (4, 3));
    assert_eq!(missing_rows::plan(&database, &missing).await.unwrap(), plan(0, 5));
    assert_eq!(resend().await.unwrap(), 0);
}

/// What is asked of the loop reads indexes, however large the tables are.
#[tokio::test]
async fn the_loop_reads_indexes_on_large_tables() {
    let test = TestDatabase::create().await;
    let mut connection = test.pool().acquire().await.unwrap();
    for statement in [
        "INSERT INTO claygate.rows (id, workspace, destination, body, webhook, sent_at, times_sent, returned_at, returned_by)
         SELECT gen_random_uuid(), 'acme', CASE WHEN n % 3 = 0 THEN 'others' ELSE 'leads' END,
             convert_to(repeat('x', 200), 'UTF8'), 'w', now() - make_interval(mins => n), 1,
             CASE WHEN n % 10 > 0 THEN now() END, CASE WHEN n % 10 > 0 THEN gen_random_uuid() END
         FROM generate_series(1, 30000) AS n",
        "INSERT INTO claygate.deliveries (id, row_id, destination, state, ended_at)
         SELECT gen_random_uuid(), id, destination, 'delivered', sent_at FROM claygate.rows",
        "INSERT INTO claygate.leads (callback_id, received_at, extra, warnings)
         SELECT returned_by, returned_at, '{}', '{}' FROM claygate.rows WHERE returned_by IS NOT NULL",
        "VACUUM ANALYZE claygate.rows, claygate.deliveries, claygate.leads",
    ] {
        sqlx::query(statement).execute(&mut *connection).await.unwrap();
    }
    let week = "(now() - interval '7 days')";
    let due = "(now() - interval '1 day')";
    for (name, statement, values, index) in [
        ("counts", loop_report::COUNTS, vec!["'leads'", week, due, "'{1,2,3,4,5,6}'"], "rows_sent"),
        ("fields", loop_report::FIELDS, vec!["'leads'", week, "100", "100"], "rows_sent"),
        ("open", loop_report::OPEN, vec!["'leads'", "86400", "86400", "1000"], "rows_outstanding"),
        ("list", missing_rows::LIST, vec!["'{leads}'", "ARRAY[now()]", week, "NULL", "NULL", "50"], "rows_outstanding"),
        ("plan", missing_rows::PLAN, vec!["'leads'", due, week], "rows_outstanding"),
        ("page", missing_rows::PAGE, vec!["'leads'", due, week, "NULL", "NULL", "500"], "rows_outstanding"),
    ] {
        let statement = values
            .iter()
            .enumerate()
            .rev()
            .fold(statement.to_owned(), |text, (at, value)| text.replace(&format!("${}", at + 1), value));
        let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN {statement}")))
            .fetch_all(&mut *connection)
            .await
            .unwrap();
        let plan = plan.join("\n");
        let scanned = ["Seq Scan on rows", "Seq Scan on deliveries"].iter().any(|scan| plan.contains(scan));
        assert!(plan.contains(index) && !scanned, "{name}:\n{plan}");
    }
}
