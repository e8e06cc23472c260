//! Lists of much that does not match: a page reads a bounded number of rows, says where it stopped, and the pages after it
//! have everything, once.

use common::db::dead_letters::{self, DeadFilter};
use common::db::events::{self, EventFilter};
use common::db::page::LOOKED_AT_MAX;
use common::db::{Database, quarantine};
use common::ids::CallbackId;
use common::person::Person;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgExecutor, PgPool};
use testkit::postgres::TestDatabase;
use uuid::Uuid;

/// More than two pages may look at.
const STORED: u32 = 25_000;
/// Places, from the newest, around those where pages end; four rows are of one moment.
const PLACES: [u32; 9] = [3, 9_999, 10_000, 10_001, 10_002, 19_999, 20_000, 20_001, 24_990];
const LIMIT: u32 = 50;

/// An id by which rows of one moment sort the other way round than they were made.
const ID: &str = "(lpad(to_hex(100000 - n), 12, '0') || '7000800000000000000f')::uuid";

fn places() -> String {
    PLACES.map(|place| place.to_string()).join(", ")
}

/// `STORED` routed callbacks, numbered from the newest, but for those at [`PLACES`]: of another source, and skipped.
async fn store_callbacks(pool: &PgPool) {
    insert_callbacks(pool).await;
    execute(pool, "VACUUM ANALYZE claygate.callbacks").await;
}

/// The same without statistics.
async fn insert_callbacks(pool: &PgPool) {
    let insert = format!(
        "INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, state, reason)
         SELECT {ID}, CASE WHEN n IN ({places}) THEN 'rare' ELSE 'clay' END, sha256(n::text::bytea), 'content', sha256('x'),
             now() - interval '1 hour' - (n / 4) * interval '1 second',
             CASE WHEN n IN ({places}) THEN 'skipped' ELSE 'routed' END, CASE WHEN n IN ({places}) THEN 'no_rule' END
         FROM generate_series(0, {STORED} - 1) AS n",
        places = places(),
    );
    execute(pool, &insert).await;
}

/// The callbacks at [`PLACES`] in the order of a list.
async fn rare(pool: &PgPool) -> Vec<Uuid> {
    let ids = "SELECT id FROM claygate.callbacks WHERE source = 'rare' ORDER BY received_at DESC, id DESC";
    sqlx::query_scalar(ids).fetch_all(pool).await.unwrap()
}

async fn execute(pool: &PgPool, statement: &str) {
    sqlx::query(AssertSqlSafe(statement.to_owned())).execute(pool).await.unwrap();
}

/// Every page of `filter`: its ids, and whether it was cut.
async fn pages_of_events(database: &Database, mut filter: EventFilter, limit: u32) -> Vec<(Vec<Uuid>, bool)> {
    let mut pages = Vec::new();
    loop {
        let page = events::list(database, &filter, limit).await.unwrap().unwrap();
        pages.push((page.lines.iter().map(|event| event.id).collect(), page.is_cut));
        let Some((_, id)) = page.next else { break pages };
        filter.before = Some(CallbackId(id));
        assert!(pages.len() < 30, "the pages have no end");
    }
}

async fn pages_of_dead(database: &Database, mut filter: DeadFilter, limit: u32) -> Vec<(Vec<Uuid>, bool)> {
    let mut pages = Vec::new();
    loop {
        let page = dead_letters::list(database, &filter, limit).await.unwrap();
        pages.push((page.lines.iter().map(|letter| letter.id).collect(), page.is_cut));
        let Some(next) = page.next else { break pages };
        filter.before = Some(next);
        assert!(pages.len() < 30, "the pages have no end");
    }
}

fn ids(pages: &[(Vec<Uuid>, bool)]) -> Vec<Uuid> {
    pages.iter().flat_map(|(ids, _)| ids).copied().collect()
}

#[tokio::test]
async fn rare_callbacks_are_listed_once_over_pages_that_are_cut() {
    let test = TestDatabase::create().await;
    let database = test.database();
    store_callbacks(test.pool()).await;
    let expected = rare(test.pool()).await;
    assert_eq!(expected.len(), PLACES.len());
    for filter in [
        EventFilter { state: Some("skipped".to_owned()), ..EventFilter::default() },
        EventFilter { source: Some("rare".to_owned()), ..EventFilter::default() },
    ] {
        let pages = pages_of_events(&database, filter.clone(), LIMIT).await;
        assert_eq!(ids(&pages), expected);
        assert_eq!(pages.iter().map(|(_, is_cut)| *is_cut).collect::<Vec<_>>(), [true, true, false]);
        // Full pages and cut ones behind each other.
        for limit in [1, 2, 3] {
            assert_eq!(ids(&pages_of_events(&database, filter.clone(), limit).await), expected, "by {limit}");
        }
    }
    let nobody = EventFilter { source: Some("nobody".to_owned()), ..EventFilter::default() };
    assert_eq!(ids(&pages_of_events(&database, nobody, LIMIT).await), [] as [Uuid; 0]);
    let all = pages_of_events(&database, EventFilter::default(), 1_000).await;
    assert!(all.iter().all(|(_, is_cut)| !is_cut), "a page that fills is not cut");
    assert_eq!(ids(&all).len(), STORED as usize);
}

#[tokio::test]
async fn what_waits_and_the_few_that_are_dead_are_found_at_once() {
    let test = TestDatabase::create().await;
    let (database, pool) = (test.database(), test.pool());
    store_callbacks(pool).await;
    for statement in [
        "UPDATE claygate.callbacks SET state = 'received', reason = NULL WHERE id = (
             SELECT id FROM claygate.callbacks WHERE source = 'rare' ORDER BY received_at DESC LIMIT 1)",
        "INSERT INTO claygate.sweep_marks SELECT 'callbacks', received_at FROM claygate.callbacks WHERE state = 'received'",
        "UPDATE claygate.callbacks SET state = 'dead', reason = 'rule_error' WHERE state = 'skipped'",
        // Once more than they are dead: one had been routed again.
        "INSERT INTO claygate.decisions (callback_id, routing, rules_version, outcome, reason, trace)
         SELECT id, 0, 'v', 'dead', 'rule_error', '[]' FROM claygate.callbacks WHERE source = 'rare'",
    ] {
        execute(pool, statement).await;
    }
    let of = |state: &str| EventFilter { state: Some(state.to_owned()), ..EventFilter::default() };
    let expected = rare(pool).await;
    let uncut = |ids: &[Uuid]| vec![(ids.to_vec(), false)];
    assert_eq!(pages_of_events(&database, of("received"), LIMIT).await, uncut(&expected[..1]));
    assert_eq!(pages_of_events(&database, of("dead"), LIMIT).await, uncut(&expected[1..]));
    assert_eq!(ids(&pages_of_events(&database, of("dead"), 3).await), expected[1..]);
    // Many that had been dead once: they are looked through like every other state.
    let again = "INSERT INTO claygate.decisions (callback_id, routing, rules_version, outcome, reason, trace)
                 SELECT id, 0, 'v', 'dead', 'rule_error', '[]' FROM claygate.callbacks WHERE source = 'clay'";
    execute(pool, again).await;
    let pages = pages_of_events(&database, of("dead"), LIMIT).await;
    assert_eq!(ids(&pages), expected[1..]);
    assert_eq!(pages.iter().map(|(_, is_cut)| *is_cut).collect::<Vec<_>>(), [true, true, false]);
}

/// Somebody who has nearly all leads.
const MANY: &str = "many@example.com";
/// Somebody who has a few of them, next to each other and of two moments, behind as many as a page looks at.
const FEW: &str = "few@example.com";
const FEW_STORED: usize = 7;

/// A lead of each callback of [`store_callbacks`].
async fn store_leads(pool: &PgPool) {
    sqlx::query(
        "INSERT INTO claygate.leads (callback_id, received_at, person, email, extra, warnings)
         SELECT id, received_at, CASE WHEN is_few THEN $1 ELSE $2 END, CASE WHEN is_few THEN $3 ELSE $4 END, '{}', '{}'
         FROM (
             SELECT id, received_at,
                 row_number() OVER (ORDER BY received_at DESC, id DESC) BETWEEN 12001 AND 12000 + $5 AS is_few
             FROM claygate.callbacks
         ) AS callbacks",
    )
    .bind(&named(FEW).0[..])
    .bind(&named(MANY).0[..])
    .bind(FEW)
    .bind(MANY)
    .bind(i64::try_from(FEW_STORED).unwrap())
    .execute(pool)
    .await
    .unwrap();
}

fn named(text: &str) -> Person {
    Person::named(text).unwrap()
}

/// The callbacks of somebody in the order of a list.
async fn leads_of(pool: &PgPool, email: &str) -> Vec<Uuid> {
    let ids = "SELECT callback_id FROM claygate.leads WHERE email = $1 ORDER BY received_at DESC, callback_id DESC";
    sqlx::query_scalar(ids).bind(email).fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn the_callbacks_of_a_person_are_listed_once_however_many_others_have() {
    let test = TestDatabase::create().await;
    let (database, pool) = (test.database(), test.pool());
    store_callbacks(pool).await;
    store_leads(pool).await;
    let of = |text: &str| EventFilter { person: Some(named(text)), ..EventFilter::default() };

    let few = leads_of(pool, FEW).await;
    assert_eq!(few.len(), FEW_STORED);
    assert_eq!(pages_of_events(&database, of(" Few@Example.COM "), LIMIT).await, [(few.clone(), false)]);
    for limit in 1..=5 {
        assert_eq!(ids(&pages_of_events(&database, of(FEW), limit).await), few, "by {limit}");
    }
    assert_eq!(pages_of_events(&database, of("nobody@example.com"), LIMIT).await, [(Vec::new(), false)]);
    let all = pages_of_events(&database, of(MANY), 1_000).await;
    assert!(all.iter().all(|(_, is_cut)| !is_cut), "a page that fills is not cut");
    assert_eq!(ids(&all), leads_of(pool, MANY).await);

    // Those at the places are of the person who has many.
    let expected = rare(pool).await;
    for filter in [
        EventFilter { state: Some("skipped".to_owned()), ..of(MANY) },
        EventFilter { source: Some("rare".to_owned()), ..of(MANY) },
    ] {
        let pages = pages_of_events(&database, filter.clone(), LIMIT).await;
        assert_eq!(ids(&pages), expected);
        assert_eq!(pages.iter().map(|(_, is_cut)| *is_cut).collect::<Vec<_>>(), [true, true, false]);
        for limit in [1, 2, 3] {
            assert_eq!(ids(&pages_of_events(&database, filter.clone(), limit).await), expected, "by {limit}");
        }
    }
    let of_neither = EventFilter { source: Some("rare".to_owned()), state: Some("routed".to_owned()), ..of(MANY) };
    assert_eq!(ids(&pages_of_events(&database, of_neither, LIMIT).await), [] as [Uuid; 0]);
    let of_few = EventFilter { source: Some("clay".to_owned()), state: Some("routed".to_owned()), ..of(FEW) };
    assert_eq!(ids(&pages_of_events(&database, of_few, 2).await), few);

    let moment = events::list(&database, &of(FEW), LIMIT).await.unwrap().unwrap().lines[0].received_at;
    let since = EventFilter { since: Some(moment), ..of(FEW) };
    let of_moment = "SELECT callback_id FROM claygate.leads WHERE email = $1 AND received_at >= $2
                     ORDER BY received_at DESC, callback_id DESC";
    let expected: Vec<Uuid> = sqlx::query_scalar(of_moment).bind(FEW).bind(moment).fetch_all(pool).await.unwrap();
    assert!(!expected.is_empty() && expected.len() < FEW_STORED);
    assert_eq!(ids(&pages_of_events(&database, since.clone(), 2).await), expected);
    // Somebody else's callback is a place to go on behind, too.
    let before = leads_of(pool, MANY).await.last().copied().map(CallbackId);
    assert_eq!(ids(&pages_of_events(&database, EventFilter { before, ..since }, LIMIT).await), [] as [Uuid; 0]);
    let gone = EventFilter { before: Some(CallbackId::new()), ..of(FEW) };
    assert_eq!(events::list(&database, &gone, LIMIT).await.unwrap(), None);
}

/// A dead delivery and a dead decision of each callback, of one moment; those at [`PLACES`] are for the reason `poison`, their
/// callbacks are dead still, and they have a second dead delivery for `alerts`.
async fn store_dead(pool: &PgPool) {
    store_callbacks(pool).await;
    for statement in [
        "INSERT INTO claygate.deliveries (id, callback_id, destination, state, reason, created_at, ended_at, attempts)
         SELECT gen_random_uuid(), id, 'crm', 'dead', CASE source WHEN 'rare' THEN 'poison' ELSE 'terminal' END, received_at,
             received_at, 1
         FROM claygate.callbacks",
        "INSERT INTO claygate.deliveries (id, callback_id, destination, state, reason, created_at, ended_at, attempts)
         SELECT gen_random_uuid(), id, 'alerts', 'dead', 'terminal', received_at, received_at, 1
         FROM claygate.callbacks WHERE source = 'rare'",
        "INSERT INTO claygate.decisions (callback_id, routing, decided_at, rules_version, outcome, reason, trace)
         SELECT id, 0, received_at, 'v', 'dead', CASE source WHEN 'rare' THEN 'poison' ELSE 'rule_error' END, '[]'
         FROM claygate.callbacks",
        "UPDATE claygate.callbacks SET state = 'dead', reason = 'poison' WHERE source = 'rare'",
    ] {
        execute(pool, statement).await;
    }
    execute(pool, "VACUUM ANALYZE claygate.callbacks, claygate.deliveries, claygate.decisions").await;
}

#[tokio::test]
async fn rare_dead_letters_are_listed_once_over_pages_that_are_cut() {
    let test = TestDatabase::create().await;
    let (database, pool) = (test.database(), test.pool());
    store_dead(pool).await;
    let expected = |condition: &str| {
        let ids = format!(
            "SELECT id FROM (
                 SELECT id, ended_at, destination, reason FROM claygate.deliveries UNION ALL
                 SELECT id, received_at, NULL, reason FROM claygate.callbacks WHERE state = 'dead'
             ) AS letters WHERE {condition} ORDER BY ended_at DESC, id DESC"
        );
        async move { sqlx::query_scalar::<_, Uuid>(AssertSqlSafe(ids)).fetch_all(pool).await.unwrap() }
    };
    let filter = |destination: Option<&str>, reason: Option<&str>| DeadFilter {
        destination: destination.map(str::to_owned),
        reason: reason.map(str::to_owned),
        ..DeadFilter::default()
    };
    for (filter, condition, cuts) in [
        (filter(None, Some("poison")), "reason = 'poison'", 2),
        (filter(Some("crm"), Some("poison")), "reason = 'poison' AND destination = 'crm'", 2),
        (filter(Some("alerts"), None), "destination = 'alerts'", 0),
        (filter(None, Some("unsendable")), "false", 2),
        (filter(Some("nowhere"), None), "false", 0),
    ] {
        let expected = expected(condition).await;
        let pages = pages_of_dead(&database, filter.clone(), LIMIT).await;
        assert_eq!(ids(&pages), expected, "{filter:?}");
        assert_eq!(pages.iter().filter(|(_, is_cut)| *is_cut).count(), cuts, "{filter:?}");
        assert_eq!(ids(&pages_of_dead(&database, filter.clone(), 2).await), expected, "{filter:?}");
    }
    let all = pages_of_dead(&database, DeadFilter::default(), 1_000).await;
    assert_eq!(ids(&all), expected("true").await);
}

#[tokio::test]
async fn what_is_rare_in_quarantine_is_listed_once_over_pages_that_are_cut() {
    let test = TestDatabase::create().await;
    let database = test.database();
    let insert = format!(
        "INSERT INTO claygate.quarantine (id, source, problem, detail, digest, body, headers, received_at, last_seen_at)
         SELECT {ID}, CASE WHEN n IN ({}) THEN 'rare' ELSE 'clay' END, 'malformed', 'x', sha256(n::text::bytea), 'x', '{{}}',
             now() - (n / 4) * interval '1 second', now()
         FROM generate_series(0, {STORED} - 1) AS n",
        places()
    );
    execute(test.pool(), &insert).await;
    let (mut found, mut before, mut cuts) = (0, None, 0);
    loop {
        let page = quarantine::list(&database, Some("rare"), None, before, LIMIT).await.unwrap().unwrap();
        found += page.lines.len();
        cuts += u32::from(page.is_cut);
        let Some((_, id)) = page.next else { break };
        before = Some(CallbackId(id));
    }
    assert_eq!((found, cuts), (PLACES.len(), 2));
    let (limit, most) = (LIMIT.to_string(), LOOKED_AT_MAX.to_string());
    let (read, plan) =
        rows_read(test.pool(), quarantine::LIST, &["'nobody'", "NULL", "NULL", "NULL", &limit, &most]).await;
    assert!(read <= f64::from(LOOKED_AT_MAX), "{read} rows were read:\n{plan}");
    assert_eq!(quarantine::list(&database, None, None, Some(CallbackId::new()), LIMIT).await.unwrap(), None);
}

/// The rows that `statement` reads from tables, and its plan.
async fn rows_read(database: impl PgExecutor<'_>, statement: &str, parameters: &[&str]) -> (f64, String) {
    let statement = parameters
        .iter()
        .enumerate()
        .fold(statement.to_owned(), |text, (at, value)| text.replace(&format!("${}", at + 1), value));
    let explain = AssertSqlSafe(format!("EXPLAIN (ANALYZE, FORMAT JSON) {statement}"));
    let plan: Value = sqlx::query_scalar(explain).fetch_one(database).await.unwrap();
    (rows_of(&plan[0]["Plan"]), serde_json::to_string_pretty(&plan).unwrap())
}

fn rows_of(node: &Value) -> f64 {
    let number = |name: &str| node[name].as_f64().unwrap_or_default();
    let own = number("Actual Rows") + number("Rows Removed by Filter") + number("Rows Removed by Index Recheck");
    let own = if node["Relation Name"].is_string() { own * number("Actual Loops") } else { 0.0 };
    own + node["Plans"].as_array().into_iter().flatten().map(rows_of).sum::<f64>()
}

/// However large the tables are.
#[tokio::test]
async fn a_page_reads_a_bounded_number_of_rows() {
    let test = TestDatabase::create().await;
    let pool = test.pool();
    store_dead(pool).await;
    let (limit, most) = (LIMIT.to_string(), LOOKED_AT_MAX.to_string());
    let events = |source, state| vec![source, state, "NULL", "NULL", "NULL", &limit, &most];
    let dead = |reason| vec![reason, "NULL", "NULL", "NULL", &limit, &most];
    let in_page = f64::from(3 * LIMIT);
    let looked_at = f64::from(LOOKED_AT_MAX);
    for (statement, parameters, most) in [
        (events::LIST, events("NULL", "NULL"), in_page),
        (events::LIST, events("'nobody'", "NULL"), looked_at + in_page),
        (events::LIST, events("NULL", "'skipped'"), looked_at + in_page),
        (events::LIST_DEAD, events("NULL", "'dead'"), 4.0 * looked_at + in_page),
        // Dead deliveries and dead decisions, and of each of the latter its callback.
        (dead_letters::LIST, dead("NULL"), 2.0 * looked_at + in_page),
        (dead_letters::LIST, dead("'unsendable'"), 2.0 * looked_at + in_page),
        (dead_letters::LIST_OF_DESTINATION, [dead("NULL"), vec!["'alerts'"]].concat(), in_page),
        (dead_letters::LIST_OF_DESTINATION, [dead("NULL"), vec!["'nowhere'"]].concat(), in_page),
        (dead_letters::LIST_OF_DESTINATION, [dead("'poison'"), vec!["'crm'"]].concat(), looked_at + in_page),
    ] {
        let (read, plan) = rows_read(pool, statement, &parameters).await;
        assert!(read <= most, "{parameters:?}: {read} rows were read, not {most} at most:\n{plan}");
    }
}

/// However many leads a person has, on tables that were never analysed and on those that were; also with a plan that was made
/// while there was next to nothing, and kept.
#[tokio::test]
async fn a_page_of_a_person_reads_a_bounded_number_of_rows() {
    const PREPARED: &str = "EXECUTE page ($1, $2, $3, $4, $5, $6, $7, $8)";
    let test = TestDatabase::create().await;
    let pool = test.pool();
    let mut kept = pool.acquire().await.unwrap();
    let prepare = format!(
        "PREPARE page (text, text, timestamptz, timestamptz, uuid, bigint, bigint, bytea) AS {}",
        events::LIST_OF_PERSON
    );
    for statement in [prepare.as_str(), "SET plan_cache_mode = force_generic_plan"] {
        sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut *kept).await.unwrap();
    }
    let (limit, most) = (LIMIT.to_string(), LOOKED_AT_MAX.to_string());
    let bytea = |text: &str| format!("'\\x{}'::bytea", hex::encode(named(text).0));
    let (many, few, nobody) = (bytea(MANY), bytea(FEW), bytea("nobody@example.com"));
    // One lead more than the page shows, and of each that is shown its callback, its lead and its delivery.
    let in_page = f64::from(4 * LIMIT + 1);
    // Of each lead its callback.
    let looked_at = 2.0 * f64::from(LOOKED_AT_MAX);
    let last = "'ffffffff-ffff-ffff-ffff-ffffffffffff'";
    let questions = [
        (["NULL", "NULL", "NULL", "NULL", "NULL", &limit, &most, &many], in_page),
        (["NULL", "NULL", "NULL", "(now() - interval '2 hours')", last, &limit, &most, &many], in_page),
        (["NULL", "'skipped'", "NULL", "NULL", "NULL", &limit, &most, &many], looked_at + in_page),
        (["'nobody'", "NULL", "(now() - interval '1 day')", "NULL", "NULL", &limit, &most, &many], looked_at + in_page),
        (["NULL", "NULL", "NULL", "NULL", "NULL", &limit, &most, &few], 4.0 * FEW_STORED as f64),
        (["'nobody'", "NULL", "NULL", "NULL", "NULL", &limit, &most, &few], 4.0 * FEW_STORED as f64),
        (["NULL", "NULL", "NULL", "NULL", "NULL", &limit, &most, &nobody], 0.0),
    ];
    rows_read(&mut *kept, PREPARED, &questions[0].0).await;
    insert_callbacks(pool).await;
    store_leads(pool).await;
    for analysed in [false, true] {
        if analysed {
            execute(pool, "VACUUM ANALYZE claygate.callbacks, claygate.leads").await;
        }
        for (parameters, most) in &questions {
            for (read, plan) in [
                rows_read(pool, events::LIST_OF_PERSON, parameters).await,
                rows_read(&mut *kept, PREPARED, parameters).await,
            ] {
                let what = format!("{parameters:?}, analysed: {analysed}");
                assert!(read <= *most, "{what}: {read} rows were read, not {most} at most:\n{plan}");
                assert!(!plan.contains("Seq Scan"), "{what}:\n{plan}");
            }
        }
    }
}
