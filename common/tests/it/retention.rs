//! Retention on a site of eight weeks: what is older goes, what waits stays, nobody is blocked, and the books balance.

use std::time::Duration;

use common::db::books::{self, Report, Scope, Verdict};
use common::db::replay::{self, ReplayError};
use common::db::retention::{self, Done, Pace, Run};
use common::db::sweep::{self, SweepLimits};
use common::db::{Database, partitions};
use common::ids::{CallbackId, DeliveryId};
use common::retention::{Policy, What};
use sqlx::{AssertSqlSafe, Connection, Executor, PgPool};
use testkit::old_site;
use testkit::postgres::TestDatabase;
use testkit::wait::wait_for;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const CALLBACKS: u32 = 1_000;
const LIMIT: Duration = Duration::from_secs(30);

const fn days(n: u64) -> Option<Duration> {
    Some(Duration::from_secs(n * 86_400))
}

/// All but the keys.
const PARTS: Policy =
    Policy { attempts: days(14), bodies: days(14), leads: days(21), decisions: days(28), rows: days(7), keys: None };
const KEYS: Policy = Policy { attempts: None, bodies: None, leads: None, decisions: None, rows: None, keys: days(35) };

async fn old_site() -> (TestDatabase, Database) {
    let test = TestDatabase::create().await;
    let database = test.database();
    old_site::fill(&database, CALLBACKS).await;
    (test, database)
}

async fn run(database: &Database, policy: &Policy) -> Vec<Done> {
    let done = retention::run(database.settings(), policy, Pace::AtOnce, &CancellationToken::new(), |_| {}).await;
    match done.unwrap() {
        Run::Ended(all) => all,
        other => panic!("{other:?}"),
    }
}

/// (removed, held) of one kind.
fn of(all: &[Done], what: What) -> (u64, u64) {
    let found = all.iter().find(|done| done.what == what).unwrap();
    (found.removed, found.held)
}

async fn count(pool: &PgPool, from: &str) -> u64 {
    let n: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM claygate.{from}")))
        .fetch_one(pool)
        .await
        .unwrap();
    n.unsigned_abs()
}

async fn execute(pool: &PgPool, sql: &str) {
    pool.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
}

async fn one<T>(pool: &PgPool, sql: &str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await.unwrap()
}

async fn read_books(test: &TestDatabase) -> Report {
    let since = OffsetDateTime::now_utc() - time::Duration::weeks(10);
    let scope = Scope { since, limit: LIMIT, named_max: 5 };
    books::verify(&test.settings(), scope, |_, _| {}).await.unwrap()
}

async fn assert_balanced(test: &TestDatabase) -> Report {
    let report = read_books(test).await;
    // Its pending work stands still, and is in no outbox.
    assert_eq!((report.verdict, report.differences.as_slice()), (Verdict::Balanced, &[][..]));
    report
}

/// The weeks of a table that statements reach, oldest first.
async fn weeks(pool: &PgPool, table: &str) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid
         WHERE inhparent = ('claygate.' || $1)::regclass AND NOT inhdetachpending ORDER BY 1",
    )
    .bind(table)
    .fetch_all(pool)
    .await
    .unwrap()
}

const NEEDED: &str =
    "EXISTS (SELECT FROM claygate.deliveries AS d WHERE d.callback_id = x.callback_id AND d.state = 'pending')";

#[tokio::test]
async fn what_is_older_goes_and_what_waits_stays() {
    let (test, database) = old_site().await;
    let pool = test.pool();
    assert_eq!(assert_balanced(&test).await.totals.new, i64::from(CALLBACKS));
    let planned = retention::plan(database.settings(), &PARTS).await.unwrap();
    let before = [count(pool, "leads").await, count(pool, "decisions").await, count(pool, "callbacks").await];

    let all = run(&database, &PARTS).await;
    for (plan, done) in planned.iter().zip(&all) {
        assert_eq!((plan.what, plan.removed), (done.what, done.removed + done.held), "as planned");
    }
    // Eight or nine whole weeks were there, of which the last two and the one that goes on are kept.
    for (what, table, time) in
        [(What::Attempts, "attempts", "started_at"), (What::Bodies, "callback_bodies", "received_at")]
    {
        let (removed, held) = of(&all, what);
        assert!((6..=7).contains(&removed) && held == 0, "{what:?}: {removed}, {held}");
        assert_eq!(count(pool, &format!("{table} WHERE {time} < now() - interval '21 days'")).await, 0);
        assert!(count(pool, &format!("{table} WHERE {time} < now() - interval '13 days'")).await > 0);
    }
    let (removed, held) = of(&all, What::Leads);
    assert_eq!(count(pool, "leads").await, before[0] - removed);
    assert_eq!(count(pool, "leads AS x WHERE received_at < now() - interval '21 days'").await, held);
    let needed = format!("leads AS x WHERE received_at < now() - interval '21 days' AND {NEEDED}");
    assert!(held > 5 && count(pool, &needed).await == held, "{held}");
    let (removed, held) = of(&all, What::Decisions);
    assert!(removed > 300 && held == 0 && count(pool, "decisions").await == before[1] - removed, "{removed}, {held}");
    let old = "decisions WHERE decided_at < now() - interval '28 days'";
    assert!(count(pool, old).await > 5 && count(pool, &format!("{old} AND outcome <> 'dead'")).await == 0);
    let (removed, held) = of(&all, What::Rows);
    assert!(removed > 50 && held > 5, "{removed}, {held}");
    let old = "rows WHERE body IS NOT NULL AND created_at < now() - interval '7 days'";
    assert_eq!(count(pool, old).await, held);
    assert_eq!(count(pool, "rows WHERE key IS NOT NULL").await, u64::from(CALLBACKS) / 10, "keys stay");
    assert_eq!(count(pool, "callbacks").await, before[2]);
    assert_balanced(&test).await;

    let again = run(&database, &PARTS).await;
    for (first, second) in all.iter().zip(&again) {
        assert_eq!((second.removed, second.held), (0, first.held), "{:?}", second.what);
    }
    execute(
        pool,
        "UPDATE claygate.deliveries SET state = 'cancelled', reason = 'operator', ended_at = now(), next_attempt_at = NULL
         WHERE state = 'pending'",
    )
    .await;
    let last = run(&database, &PARTS).await;
    for what in [What::Leads, What::Rows] {
        assert_eq!(of(&last, what), (of(&all, what).1, 0), "what waited has ended");
    }
    assert_balanced(&test).await;
}

#[tokio::test]
async fn with_its_key_everything_of_a_callback_goes() {
    let (test, database) = old_site().await;
    let pool = test.pool();
    let before = read_books(&test).await;
    let all = run(&database, &KEYS).await;
    let (removed, held) = of(&all, What::Keys);
    assert!(removed > 350 && held > 8, "{removed}, {held}");
    let until = all.iter().find(|done| done.what == What::Keys).unwrap().until;
    assert_eq!((until.minute(), until.second(), until.nanosecond()), (0, 0, 0));

    // Whatever is left of that time belongs to what waits.
    let left = "callbacks AS x WHERE received_at < date_trunc('hour', now() - interval '35 days')";
    let waiting = "EXISTS (SELECT FROM claygate.deliveries AS d WHERE d.callback_id = x.id AND d.state = 'pending')";
    assert!(count(pool, left).await > 3);
    assert_eq!(count(pool, left).await, count(pool, &format!("{left} AND {waiting}")).await);
    for table in ["leads", "decisions", "deliveries", "callback_bodies"] {
        let orphans = format!(
            "{table} AS x WHERE callback_id IS NOT NULL
                 AND NOT EXISTS (SELECT FROM claygate.callbacks AS c WHERE c.id = x.callback_id)"
        );
        assert_eq!(count(pool, &orphans).await, 0, "{table}");
    }
    for orphans in [
        "attempts AS x WHERE NOT EXISTS (SELECT FROM claygate.deliveries AS d WHERE d.id = x.delivery_id)",
        "deliveries AS x WHERE row_id IS NOT NULL AND NOT EXISTS (SELECT FROM claygate.rows AS r WHERE r.id = x.row_id)",
        "rows AS x WHERE callback_id IS NOT NULL AND NOT EXISTS (SELECT FROM claygate.callbacks AS c WHERE c.id = x.callback_id)",
        "cooldowns AS x WHERE NOT EXISTS (SELECT FROM claygate.deliveries AS d WHERE d.id = x.delivery_id)",
        "callback_aliases WHERE received_at < now() - interval '35 days 1 hour'",
        "quarantine WHERE last_seen_at < now() - interval '35 days 1 hour'",
        "intake_counts WHERE hour < now() - interval '35 days 1 hour'",
        "row_batches AS x WHERE started_at < now() - interval '35 days 1 hour'
             AND NOT EXISTS (SELECT FROM claygate.rows AS r WHERE r.batch_id = x.id)",
    ] {
        assert_eq!(count(pool, orphans).await, 0, "{orphans}");
    }
    assert!(count(pool, "quarantine WHERE received_at < now() - interval '36 days'").await > 3, "seen again lately");

    let after = assert_balanced(&test).await;
    assert_eq!(after.since, until, "the books begin where something is left");
    assert!(after.totals.new < before.totals.new && after.totals.new > 500, "{:?}", after.totals);
    let again = run(&database, &KEYS).await;
    assert_eq!(of(&again, What::Keys), (0, held));
    // A longer time later on brings nothing back: the books still begin at the mark.
    run(&database, &Policy { keys: days(50), ..Policy::default() }).await;
    assert_eq!(read_books(&test).await.since, until);
}

#[tokio::test]
async fn a_week_of_bodies_is_held_while_something_in_it_waits() {
    let (test, database) = old_site().await;
    let pool = test.pool();
    let bodies = Policy { bodies: days(14), ..Policy::default() };
    let id: Uuid = one(pool, "SELECT id FROM claygate.callbacks ORDER BY received_at LIMIT 1 OFFSET 250").await;
    // Without a sweep nobody knows what waits.
    execute(pool, "DELETE FROM claygate.sweep_marks").await;
    let weeks_before = weeks(pool, "callback_bodies").await;
    assert_eq!(of(&run(&database, &bodies).await, What::Bodies).0, 0);
    execute(pool, "INSERT INTO claygate.sweep_marks VALUES ('callbacks', now() - interval '11 min')").await;

    replay::replay_callback(&database, CallbackId(id)).await.unwrap();
    let (removed, held) = of(&run(&database, &bodies).await, What::Bodies);
    assert!(removed > 0 && held > 3, "{removed}, {held}");
    assert_eq!(count(pool, &format!("callback_bodies WHERE callback_id = '{id}'")).await, 1);

    // A run that was killed between detaching and dropping a week in which something was made to wait meanwhile.
    let week = weeks(pool, "callback_bodies").await.remove(0);
    execute(pool, &format!("ALTER TABLE claygate.callback_bodies DETACH PARTITION claygate.{week}")).await;
    assert_eq!(count(pool, &format!("callback_bodies WHERE callback_id = '{id}'")).await, 0);
    assert_eq!(of(&run(&database, &bodies).await, What::Bodies), (0, held));
    assert_eq!(count(pool, &format!("callback_bodies WHERE callback_id = '{id}'")).await, 1, "it is back");

    // It was routed, and the sweeper has seen it; another run was killed at the same place.
    execute(pool, &format!("UPDATE claygate.callbacks SET state = 'skipped', reason = 'no_rule' WHERE id = '{id}'"))
        .await;
    let swept =
        sweep::callbacks(&database, SweepLimits { read_max: 300, ..SweepLimits::default() }, None).await.unwrap();
    assert_eq!((swept.requeued, swept.next, swept.is_cut), (0, None, true), "the mark moves a stretch at a time");
    while sweep::callbacks(&database, SweepLimits::default(), None).await.unwrap().is_cut {}
    execute(pool, &format!("ALTER TABLE claygate.callback_bodies DETACH PARTITION claygate.{week}")).await;
    assert_eq!(of(&run(&database, &bodies).await, What::Bodies), (held, 0));
    assert_eq!(count(pool, &format!("callback_bodies WHERE callback_id = '{id}'")).await, 0);
    let gone: Option<String> = one(pool, &format!("SELECT to_regclass('claygate.{week}')::text")).await;
    assert_eq!(gone, None);
    assert!(weeks(pool, "callback_bodies").await.len() < weeks_before.len() - 4);
    assert!(matches!(replay::replay_callback(&database, CallbackId(id)).await, Err(ReplayError::BodyExpired)));
}

#[tokio::test]
async fn a_reader_holds_a_week_and_nobody_else() {
    let (test, database) = old_site().await;
    let pool = test.pool();
    let attempts = Policy { attempts: days(14), ..Policy::default() };
    let mut analyst = test.settings().connect_directly().await.unwrap();
    let mut reading = analyst.begin().await.unwrap();
    reading.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    let read: i64 =
        sqlx::query_scalar("SELECT count(*) FROM claygate.attempts").fetch_one(&mut *reading).await.unwrap();

    let running = tokio::spawn({
        let database = database.clone();
        async move { run(&database, &attempts).await }
    });
    wait_for("a week to be waited for", LIMIT, async || {
        let waiting: i64 = one(
            pool,
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%DETACH PARTITION%CONCURRENTLY'
                 AND datname = current_database()",
        )
        .await;
        if waiting == 1 { Ok(()) } else { Err(waiting) }
    })
    .await;
    // Meanwhile attempts are recorded, and weeks are made.
    let mut other = test.settings().connect_directly().await.unwrap();
    other.execute("SET lock_timeout = '1s'").await.unwrap();
    let recorded = "INSERT INTO claygate.attempts (delivery_id, number, started_at, duration_ms, class, owned)
                    SELECT id, 99, now(), 1, 'transient', false FROM claygate.deliveries LIMIT 1";
    assert_eq!(other.execute(recorded).await.unwrap().rows_affected(), 1);
    let all = running.await.unwrap();
    let (removed, held) = of(&all, What::Attempts);
    assert!(removed == 0 && held > 5, "{removed}, {held}");
    let next_year = OffsetDateTime::now_utc() + time::Duration::weeks(52);
    partitions::ensure_between(&mut other, next_year, next_year).await.unwrap();
    let seen: i64 =
        sqlx::query_scalar("SELECT count(*) FROM claygate.attempts").fetch_one(&mut *reading).await.unwrap();
    assert_eq!(seen, read, "a snapshot is a snapshot");
    execute(pool, "DELETE FROM claygate.attempts WHERE number = 99").await;
    // The books have no difference while a detachment is under way.
    assert_balanced(&test).await;

    reading.rollback().await.unwrap();
    assert_eq!(of(&run(&database, &attempts).await, What::Attempts), (held, 0));
    assert_balanced(&test).await;
}

#[tokio::test]
async fn a_replay_holds_what_it_sends_or_finds_it_gone() {
    let (test, database) = old_site().await;
    let pool = test.pool();
    let leads = Policy { leads: days(21), ..Policy::default() };
    let dead = "SELECT id FROM claygate.deliveries WHERE state = 'dead' AND created_at < now() - interval '40 days' ORDER BY id";
    let (first, second): (Uuid, Uuid) = (one(pool, dead).await, one(pool, &format!("{dead} OFFSET 1")).await);

    let again = replay::replay_delivery(&database, DeliveryId(first), None).await.unwrap();
    run(&database, &leads).await;
    let kept = format!(
        "leads AS l JOIN claygate.deliveries AS d USING (callback_id) WHERE d.id = '{}' AND d.state = 'pending'",
        again.0
    );
    assert_eq!(count(pool, &kept).await, 1, "what is sent again is still needed");
    let gone = replay::replay_delivery(&database, DeliveryId(second), None).await;
    assert!(matches!(gone, Err(ReplayError::BodyExpired)), "{gone:?}");
    assert_eq!(count(pool, "deliveries WHERE replay > 0").await, 1);

    // A lead that somebody else removes just now.
    let young =
        "SELECT id FROM claygate.deliveries WHERE state = 'dead' AND created_at > now() - interval '10 days' LIMIT 1";
    let young: Uuid = one(pool, young).await;
    let mut remover = test.settings().connect_directly().await.unwrap();
    let mut removing = remover.begin().await.unwrap();
    let statement = format!(
        "DELETE FROM claygate.leads USING claygate.deliveries AS d WHERE d.id = '{young}' AND leads.callback_id = d.callback_id"
    );
    removing.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await.unwrap();
    let replaying = tokio::spawn({
        let database = database.clone();
        async move { replay::replay_delivery(&database, DeliveryId(young), None).await }
    });
    wait_for("the replay to wait", LIMIT, async || {
        let waiting = one::<i64>(pool, "SELECT count(*) FROM pg_locks WHERE NOT granted").await;
        if waiting > 0 { Ok(()) } else { Err(waiting) }
    })
    .await;
    removing.commit().await.unwrap();
    let gone = replaying.await.unwrap();
    assert!(matches!(gone, Err(ReplayError::BodyExpired)), "{gone:?}");
    assert_balanced(&test).await;
}

#[tokio::test]
async fn one_run_at_a_time_and_a_stop_is_heard() {
    let (test, database) = old_site().await;
    let mut other = test.settings().connect_directly().await.unwrap();
    let lock = "SELECT pg_advisory_lock(hashtextextended('claygate.retention', 0))";
    other.execute(lock).await.unwrap();
    let never = CancellationToken::new();
    let elsewhere = retention::run(database.settings(), &PARTS, Pace::AtOnce, &never, |_| {}).await.unwrap();
    assert_eq!(elsewhere, Run::Elsewhere);
    other.close().await.unwrap();

    let stop = CancellationToken::new();
    let stopped =
        retention::run(database.settings(), &PARTS, Pace::Background, &stop, |_| stop.cancel()).await.unwrap();
    let Run::Stopped(all) = stopped else { panic!("{stopped:?}") };
    assert_eq!(all.iter().map(|done| (done.what, done.removed)).collect::<Vec<_>>(), [(What::Attempts, 1)]);
    assert!(of(&run(&database, &PARTS).await, What::Attempts).0 > 4, "the next run goes on");
    assert_balanced(&test).await;
}

/// Rows that were read so far, of all that retention reads.
async fn rows_read(pool: &PgPool) -> i64 {
    one(
        pool,
        "SELECT sum(seq_tup_read + idx_tup_fetch)::int8 FROM pg_stat_user_tables
         WHERE schemaname = 'claygate' AND relname IN ('callbacks', 'deliveries', 'leads', 'decisions', 'rows', 'quarantine')",
    )
    .await
}

#[tokio::test]
async fn a_run_with_nothing_to_remove_reads_what_is_held_and_no_more() {
    let test = TestDatabase::create().await;
    let database = test.database();
    old_site::fill(&database, 20_000).await;
    let pool = test.pool();
    let years =
        Policy { leads: days(800), decisions: days(800), rows: days(800), keys: days(800), ..Policy::default() };
    // Whoever counts reports when it ends, or at the next statement after a second.
    let before = wait_for("the filling to be counted", LIMIT, async || {
        let (read, inserted) = (
            rows_read(pool).await,
            one::<i64>(pool, "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'rows'").await,
        );
        if inserted == 4_000 { Ok(read) } else { Err(inserted) }
    })
    .await;
    let all = run(&database, &years).await;
    assert!(all.iter().all(|done| (done.removed, done.held) == (0, 0)), "{all:?}");
    let marked = wait_for("the run to be counted", LIMIT, async || {
        let marks =
            one::<i64>(pool, "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'retention_marks'").await;
        if marks == 6 { Ok(rows_read(pool).await) } else { Err(marks) }
    })
    .await;
    assert!(marked - before <= 20, "{} rows were read", marked - before);
}
