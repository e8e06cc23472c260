//! The books of a site where everything has happened: they balance, and whatever is changed behind them is found and
//! named.

use std::time::Duration;

use common::db::books::{self, Check, Report, Scope, Verdict, VerifyError, spools};
use sqlx::{AssertSqlSafe, Executor};
use testkit::postgres::TestDatabase;
use time::OffsetDateTime;
use uuid::Uuid;

const NAMED_MAX: u16 = 5;

async fn read(test: &TestDatabase, hours: i64) -> Report {
    let since = OffsetDateTime::now_utc() - time::Duration::hours(hours);
    let scope = Scope { since, limit: Duration::from_secs(60), named_max: NAMED_MAX };
    books::verify(&test.settings(), scope, |_, _| {}).await.unwrap()
}

async fn execute(test: &TestDatabase, sql: &str) {
    test.pool().execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
}

async fn id(test: &TestDatabase, sql: &str) -> Uuid {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(test.pool()).await.unwrap()
}

/// Callbacks of two sources over five hours, of every state, with all that came of them.
async fn rich_site() -> TestDatabase {
    let test = TestDatabase::create().await;
    fill(&test).await;
    test
}

async fn fill(test: &TestDatabase) {
    execute(test, include_str!("books.sql")).await;
}

async fn empty(test: &TestDatabase) {
    execute(
        test,
        "TRUNCATE claygate.callbacks, claygate.callback_bodies, claygate.decisions, claygate.deliveries,
             claygate.attempts, claygate.outbox, claygate.rows, claygate.rule_sets, claygate.quarantine,
             claygate.intake_counts, claygate.spools",
    )
    .await;
}

#[tokio::test]
async fn a_site_where_everything_has_happened_balances() {
    let test = rich_site().await;
    let report = read(&test, 24).await;
    assert_eq!(report.differences, [], "{:?}", report.totals);
    assert_eq!(report.verdict, Verdict::Balanced);
    let totals = report.totals;
    assert_eq!(totals.received, totals.new + totals.duplicate + totals.conflict + totals.quarantined);
    assert_eq!((totals.new, totals.callbacks()), (200, 200));
    for part in [totals.routed, totals.skipped, totals.dead, totals.in_progress] {
        assert!(part > 0, "{totals:?}");
    }
    let deliveries = totals.deliveries;
    let parts =
        [deliveries.delivered, deliveries.skipped, deliveries.dead, deliveries.cancelled, deliveries.in_progress];
    assert!(parts.iter().all(|part| *part > 0) && parts.iter().sum::<i64>() == deliveries.all, "{deliveries:?}");
    assert_eq!(report.hours.len(), 10);

    let later = read(&test, 2).await;
    assert_eq!(later.differences, []);
    assert!(later.totals.new < totals.new && later.totals.new > 0, "{:?}", later.totals);
    assert_eq!(read(&TestDatabase::create().await, 24).await.verdict, Verdict::Balanced, "nothing at all");
}

/// What is done behind the books, the row that it is done to, and where it shows.
const TAMPERINGS: [(&str, &str, &str, Check); 20] = [
    (
        "a callback is gone",
        "SELECT id FROM claygate.callbacks WHERE state = 'skipped' AND reason = 'recorded' LIMIT 1",
        "DELETE FROM claygate.callbacks WHERE id = '$id'",
        Check::Callbacks,
    ),
    (
        "a callback that nobody counted",
        "SELECT gen_random_uuid()",
        "INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, state, reason)
         VALUES ('$id', 'clay', sha256('new'), 'header', sha256('x'), now() - interval '2 h', 'skipped', 'recorded')",
        Check::Callbacks,
    ),
    (
        "a skipped callback is said to be routed",
        "SELECT id FROM claygate.callbacks WHERE reason = 'no_rule' LIMIT 1",
        "UPDATE claygate.callbacks SET state = 'routed', reason = NULL WHERE id = '$id'",
        Check::Decisions,
    ),
    (
        "a routed callback is said to have been recorded only",
        "SELECT id FROM claygate.callbacks WHERE state = 'routed' LIMIT 1",
        "UPDATE claygate.callbacks SET state = 'skipped', reason = 'recorded' WHERE id = '$id'",
        Check::Decisions,
    ),
    (
        "a routed callback is said to wait",
        "SELECT id FROM claygate.callbacks WHERE state = 'routed' LIMIT 1",
        "UPDATE claygate.callbacks SET state = 'received' WHERE id = '$id'",
        Check::Decisions,
    ),
    (
        "a decision is gone",
        "SELECT id FROM claygate.callbacks WHERE state = 'dead' LIMIT 1",
        "DELETE FROM claygate.decisions WHERE callback_id = '$id'",
        Check::Decisions,
    ),
    (
        "one of two deliveries is gone that had no attempt",
        "SELECT c.id FROM claygate.callbacks AS c JOIN claygate.deliveries AS d ON d.callback_id = c.id
         WHERE c.routing = 0 AND d.state = 'skipped' LIMIT 1",
        "DELETE FROM claygate.deliveries WHERE callback_id = '$id' AND state = 'skipped'",
        Check::Deliveries,
    ),
    (
        "the only delivery of a replayed callback is gone",
        "SELECT id FROM claygate.callbacks WHERE routing > 0 AND state = 'routed' LIMIT 1",
        "DELETE FROM claygate.attempts USING claygate.deliveries AS d WHERE d.id = delivery_id AND d.callback_id = '$id';
         DELETE FROM claygate.deliveries WHERE callback_id = '$id'",
        Check::Deliveries,
    ),
    (
        "a delivery that no rule asked for",
        "SELECT id FROM claygate.callbacks WHERE reason = 'no_rule' LIMIT 1",
        "INSERT INTO claygate.deliveries (id, callback_id, destination, state, reason, ended_at)
         VALUES (gen_random_uuid(), '$id', 'crm', 'cancelled', 'operator', now())",
        Check::Deliveries,
    ),
    (
        "an attempt of no delivery",
        "SELECT gen_random_uuid()",
        "INSERT INTO claygate.attempts (delivery_id, number, started_at, duration_ms, class, owned)
         VALUES ('$id', 1, now(), 1, 'delivered', true)",
        Check::StrayAttempts,
    ),
    (
        "an attempt too many",
        "SELECT id FROM claygate.deliveries WHERE state = 'delivered' LIMIT 1",
        "INSERT INTO claygate.attempts (delivery_id, number, started_at, duration_ms, class, owned)
         VALUES ('$id', 9, now(), 1, 'transient', true)",
        Check::Attempts,
    ),
    (
        "an attempt is gone",
        "SELECT id FROM claygate.deliveries WHERE state = 'dead' AND attempts > 0 LIMIT 1",
        "DELETE FROM claygate.attempts WHERE delivery_id = '$id' AND number = 1",
        Check::Attempts,
    ),
    (
        "a dead delivery is said to be delivered",
        "SELECT id FROM claygate.deliveries WHERE state = 'dead' LIMIT 1",
        "UPDATE claygate.deliveries SET state = 'delivered', reason = NULL WHERE id = '$id'",
        Check::Outcomes,
    ),
    (
        "a delivered one is said to be dead",
        "SELECT id FROM claygate.deliveries WHERE state = 'delivered' LIMIT 1",
        "UPDATE claygate.deliveries SET state = 'dead', reason = 'terminal' WHERE id = '$id'",
        Check::Outcomes,
    ),
    (
        "a delivery of a callback that was never there",
        "SELECT overlay(gen_random_uuid()::text PLACING 'f' FROM 1)::uuid",
        "INSERT INTO claygate.deliveries (id, callback_id, destination, state, reason, ended_at)
         VALUES ('$id', gen_random_uuid(), 'crm', 'cancelled', 'operator', now())",
        Check::StrayDeliveries,
    ),
    (
        "the delivery of a row is gone",
        "SELECT id FROM claygate.rows WHERE callback_id IS NULL LIMIT 1",
        "DELETE FROM claygate.deliveries WHERE row_id = '$id'",
        Check::Rows,
    ),
    (
        "the delivery is gone for which a rule made a row",
        "SELECT id FROM claygate.rows WHERE callback_id IS NOT NULL LIMIT 1",
        "DELETE FROM claygate.deliveries WHERE id = '$id'",
        Check::Rows,
    ),
    (
        "the body of a callback that waits is gone",
        "SELECT id FROM claygate.callbacks WHERE state = 'received' LIMIT 1",
        "DELETE FROM claygate.callback_bodies WHERE callback_id = '$id'",
        Check::Bodies,
    ),
    (
        "the outbox entry of a callback is lost",
        "SELECT id FROM claygate.callbacks WHERE state = 'received' LIMIT 1",
        "UPDATE claygate.outbox SET refs = array_remove(refs, '$id') WHERE queue = 'callbacks'",
        Check::StuckCallbacks,
    ),
    (
        "the outbox entry of a delivery is lost",
        "SELECT id FROM claygate.deliveries WHERE state = 'pending' AND lease_until IS NULL LIMIT 1",
        "UPDATE claygate.outbox SET refs = array_remove(refs, '$id') WHERE queue = 'deliver.crm'",
        Check::StuckDeliveries,
    ),
];

#[tokio::test]
async fn whatever_is_changed_behind_the_books_is_found_and_named() {
    let test = TestDatabase::create().await;
    for (what, find, tamper, check) in TAMPERINGS {
        empty(&test).await;
        fill(&test).await;
        let id = id(&test, find).await;
        execute(&test, &tamper.replace("$id", &id.to_string())).await;
        let report = read(&test, 24).await;
        let found = report.differences.iter().find(|difference| difference.check == check);
        let named = found.unwrap_or_else(|| panic!("{what}: {:?}", report.differences));
        assert_eq!(named.ids, [id], "{what}: {:?}", report.differences);
        assert_eq!(report.verdict, Verdict::Different, "{what}");
    }
}

#[tokio::test]
async fn a_body_in_quarantine_that_is_gone_is_missed() {
    let test = rich_site().await;
    execute(&test, "DELETE FROM claygate.quarantine WHERE source = 'web'").await;
    let report = read(&test, 24).await;
    let checks: Vec<_> = report.differences.iter().map(|one| (one.check, one.source.as_deref())).collect();
    assert_eq!(checks, [(Check::Quarantine, Some("web"))]);
}

#[tokio::test]
async fn what_waits_for_its_operator_or_came_just_now_is_not_lost() {
    let test = rich_site().await;
    execute(&test, "DELETE FROM claygate.outbox").await;
    assert_eq!(read(&test, 24).await.differences.len(), 2);
    execute(
        &test,
        "INSERT INTO claygate.destination_state VALUES ('crm', 'paused', 'an operator', now());
         UPDATE claygate.callbacks SET enqueued_at = now() WHERE state = 'received'",
    )
    .await;
    assert_eq!(read(&test, 24).await.differences, []);
}

#[tokio::test]
async fn what_a_broker_has_confirmed_may_stand_in_it_for_a_day() {
    let test = rich_site().await;
    let enqueue = async |ago: &str| {
        execute(
            &test,
            &format!(
                "DELETE FROM claygate.outbox;
                 UPDATE claygate.callbacks SET received_at = received_at - interval '2 days' WHERE state = 'received';
                 UPDATE claygate.callbacks SET enqueued_at = now() - interval '{ago}' WHERE state = 'received';
                 UPDATE claygate.deliveries SET enqueued_at = now() - interval '{ago}' WHERE state = 'pending'"
            ),
        )
        .await;
        let report = read(&test, 24 * 30).await;
        report.differences.iter().filter(|one| one.check >= Check::StuckCallbacks).count()
    };
    assert_eq!(enqueue("23 h").await, 0);
    assert_eq!(enqueue("25 h").await, 2);
}

#[tokio::test]
async fn attempts_that_retention_removed_are_not_missed() {
    let test = rich_site().await;
    let parts: Vec<String> = sqlx::query_scalar(
        "SELECT 'claygate.' || c.relname FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid
         WHERE inhparent = 'claygate.attempts'::regclass ORDER BY c.relname LIMIT 2",
    )
    .fetch_all(test.pool())
    .await
    .unwrap();
    // Last week's and this week's, where all of the site's attempts are.
    execute(&test, &format!("DROP TABLE {}", parts.join(", "))).await;
    let checks: Vec<_> = read(&test, 24).await.differences.into_iter().map(|one| one.check).collect();
    assert_eq!(checks, []);
}

#[tokio::test]
async fn a_spool_that_fell_silent_leaves_the_books_incomplete() {
    let test = rich_site().await;
    let database = test.database();
    spools::speak(&database, "here", "host", 7, false).await.unwrap();
    spools::speak(&database, "gone", "host", 0, true).await.unwrap();
    assert_eq!(read(&test, 24).await.verdict, Verdict::Balanced, "one drains, one has left nothing");

    spools::speak(&database, "left", "host", 3, true).await.unwrap();
    let silent = |report: &Report| -> Vec<String> {
        report.spools.iter().filter(|spool| spool.silent).map(|spool| spool.instance.clone()).collect()
    };
    let report = read(&test, 24).await;
    assert_eq!((report.verdict, silent(&report)), (Verdict::Incomplete, vec!["left".to_owned()]));
    assert!(spools::forget(&database, "left").await.unwrap());
    assert!(!spools::forget(&database, "left").await.unwrap());

    execute(&test, "UPDATE claygate.spools SET last_seen_at = now() - interval '5 min' WHERE instance = 'here'").await;
    let report = read(&test, 24).await;
    assert_eq!((report.verdict, silent(&report)), (Verdict::Incomplete, vec!["here".to_owned()]));
    execute(&test, "DELETE FROM claygate.leads; DELETE FROM claygate.decisions").await;
    assert_eq!(read(&test, 24).await.verdict, Verdict::Different, "a difference is more than that");
}

#[tokio::test]
async fn reading_ends_with_its_limit() {
    let test = rich_site().await;
    let mut locked = test.pool().acquire().await.unwrap();
    locked.execute("BEGIN; LOCK TABLE claygate.decisions IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let scope = Scope {
        since: OffsetDateTime::now_utc() - time::Duration::DAY,
        limit: Duration::from_millis(200),
        named_max: NAMED_MAX,
    };
    let read = books::verify(&test.settings(), scope, |_, _| {}).await;
    assert!(matches!(read, Err(VerifyError::TooLong(_))), "{read:?}");
    locked.execute("ROLLBACK").await.unwrap();
}
