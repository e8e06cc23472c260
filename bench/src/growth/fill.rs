//! A site that has been in use for four weeks, made in SQL: callbacks with their bodies, leads and decisions, deliveries
//! of every fate with their attempts, cool-downs, the quarantine, and the counts of the intake, so that the books balance.
//!
//! Everything about callback `n` follows from `n`, so two connections fill different tables at once, each in the order of
//! its indexes, as rows come in on a real site. Keys come in no order, as digests do: an index that was filled in order has
//! full pages, which would all split while the intake is measured. Persons are spread over all there can be, but come in
//! order, since nobody is measured who writes them. How fast it is committed is unlike a real site, too.

use std::time::Instant;

use anyhow::Context;
use common::db::{ConnectSettings, partitions};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use time::{Duration, OffsetDateTime};

use super::sizes::Size;

/// How far back the first callback lies; the last one came in before the present hour.
pub(super) const SPAN: Duration = Duration::weeks(4);
/// What one callback takes on disk with all that belongs to it, about: measured, and rounded up.
pub(super) const BYTES_EACH: u64 = 3_200;
/// Callbacks of one statement.
const CHUNK: u64 = 50_000;
/// A part of the way that is worth a line.
const TOLD_EVERY: u64 = 10;

/// Where in time the callbacks of a site lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: OffsetDateTime,
    pub(super) end: OffsetDateTime,
}

/// Fills an empty database.
///
/// # Errors
/// When Postgres fails.
pub(super) async fn fill(settings: &ConnectSettings, size: Size) -> anyhow::Result<Span> {
    let mut connection = connect(settings).await?;
    let end: OffsetDateTime = sqlx::query_scalar("SELECT date_trunc('hour', now())").fetch_one(&mut connection).await?;
    let span = Span { start: end - SPAN, end };
    partitions::ensure_between(&mut connection, span.start, end + Duration::weeks(1)).await?;
    execute(&mut connection, RULE_SET).await?;

    let started = Instant::now();
    let mut others = connect(settings).await?;
    let (mut done, mut told) = (0, 0);
    while done < size.0 {
        let to = size.0.min(done + CHUNK);
        let seed = Seed { from: done, to, size, span };
        let (first, second) = (seed.received(), seed.worked_off());
        tokio::try_join!(execute_all(&mut connection, &first), execute_all(&mut others, &second))?;
        done = to;
        let part = done * TOLD_EVERY / size.0;
        if part > told && size.0 > CHUNK {
            told = part;
            let seconds = started.elapsed().as_secs_f64();
            let left = seconds / done as f64 * (size.0 - done) as f64;
            eprintln!("bench: filling {size}: {} % in {seconds:.0} s, {left:.0} s left", part * 100 / TOLD_EVERY);
        }
    }
    execute_all(&mut connection, &closing(size, span)).await?;
    others.close().await?;
    connection.close().await?;
    Ok(span)
}

async fn connect(settings: &ConnectSettings) -> anyhow::Result<PgConnection> {
    let mut connection = settings.connect_directly().await?;
    execute(&mut connection, "SET synchronous_commit = off").await?;
    Ok(connection)
}

async fn execute_all(connection: &mut PgConnection, statements: &[String]) -> anyhow::Result<()> {
    for statement in statements {
        execute(connection, statement).await?;
    }
    Ok(())
}

pub(super) async fn execute(connection: &mut PgConnection, statement: &str) -> anyhow::Result<()> {
    // Every part of every statement is this program's own.
    connection.execute(sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))).await.context("filling a database")?;
    Ok(())
}

const RULE_SET: &str = r#"
    INSERT INTO claygate.rule_sets (version, rules) VALUES ('growth', '[
        {"name": "hot", "when": "lead.icp_score >= 90", "to": ["alerts"], "source": [], "stop": false},
        {"name": "good", "when": "lead.icp_score >= 50", "to": ["crm"], "source": [], "stop": false}]')"#;

/// What a sender's request leaves of its headers.
const HEADERS: &str = r#"[["host", "leads.example.com"], ["content-type", "application/json"], ["content-length", "612"],
    ["user-agent", "axios/1.7.2"], ["accept", "*/*"], ["x-clay-signature", "[redacted]"]]"#;

/// Callbacks `from` to `to` - 1 of a site.
struct Seed {
    from: u64,
    to: u64,
    size: Size,
    span: Span,
}

impl Seed {
    /// Each `n` with its fate `k` (0 to 999, evenly scattered), the moment of its receipt, the beginning of the ids that
    /// are made then, a hash, its key and its person.
    fn rows(&self) -> String {
        let step = self.span.micros() / i128::from(self.size.0);
        let start_ms = self.span.start.unix_timestamp_nanos() / 1_000_000;
        format!(
            "(SELECT n, (n * 7919) % 1000 AS k, to_timestamp({start_ms} / 1e3) + n * interval '{step} microseconds' AS at,
                  lpad(to_hex({start_ms} + n * {step} / 1000), 12, '0') AS ms, md5(n::text) AS h,
                  sha256(int8send(n)) AS key,
                  substr(int8send(n * {spread}), 2, 7) || substr(sha256(int8send(n)), 1, 25) AS person
              FROM generate_series({}::bigint, {}) AS n) AS seed",
            self.from,
            self.to - 1,
            // The first seven bytes are the place among all.
            spread = (1_u64 << 56) / self.size.0,
        )
    }

    /// What the intake writes, and what holds persons back.
    fn received(&self) -> Vec<String> {
        let (rows, id, state) = (self.rows(), id(8), state());
        let callbacks = format!(
            "INSERT INTO claygate.callbacks
                 (id, source, key, key_kind, digest, received_at, state, reason, enqueued_at)
             SELECT {id}, {SOURCE}, key, 'content', sha256(key), at, {state},
                 CASE WHEN k >= 999 THEN 'rule_error' WHEN k >= 950 THEN 'recorded' WHEN k >= 550 THEN 'no_rule' END, at
             FROM {rows}"
        );
        let bodies = format!(
            r#"INSERT INTO claygate.callback_bodies (callback_id, received_at, body, headers)
             SELECT {id}, at, convert_to('{{"email": "person' || n || '@example.com", "first_name": "Given", "icp_score": "'
                 || n % 101 || '", "company_name": "Example ' || n % 5000 || '", "notes": "' || repeat(h, 14) || '"}}', 'UTF8'),
                 '{HEADERS}' FROM {rows}"#
        );
        let cooldowns = ["crm", "alerts"].map(|destination| {
            format!(
                "INSERT INTO claygate.cooldowns (destination, person, until, delivery_id)
                 SELECT '{destination}', person, at + interval '30 days', {} FROM {rows} WHERE {} AND {IS_DELIVERED}",
                delivery_id(destination),
                goes_to(destination),
            )
        });
        [callbacks, bodies].into_iter().chain(cooldowns).collect()
    }

    /// What the workers write.
    fn worked_off(&self) -> Vec<String> {
        let (rows, id) = (self.rows(), id(8));
        let leads = format!(
            r#"INSERT INTO claygate.leads (callback_id, received_at, person, email, first_name, last_name, company_name,
                 job_title, employee_count, industry, linkedin_url, icp_score, personalized_opener, extra, warnings)
             SELECT {id}, at, person, 'person' || n || '@example.com', 'Given', 'Family ' || n, 'Example ' || n % 5000,
                 'Head of Growth', n % 10000, 'Software', 'https://www.linkedin.com/in/person-' || n, n % 101,
                 'I saw what you do at Example ' || n % 5000 || ', and would like to talk about it.',
                 '{{"company_domain": "example.com"}}', '{{}}' FROM {rows} WHERE {IS_DECIDED}"#
        );
        let decisions = format!(
            r#"INSERT INTO claygate.decisions (callback_id, routing, decided_at, rules_version, outcome, reason, trace)
             SELECT {id}, 0, at, 'growth', {}, CASE WHEN k >= 999 THEN 'rule_error' WHEN k >= 550 THEN 'no_rule' END,
                 (CASE WHEN k < 150 THEN '[{{"rule": "hot", "result": "matched"}}, {{"rule": "good", "result": "matched"}}]'
                      WHEN k < 550 THEN '[{{"rule": "hot", "result": "no_match"}}, {{"rule": "good", "result": "matched"}}]'
                      ELSE '[{{"rule": "hot", "result": "no_match"}}, {{"rule": "good", "result": "no_match"}}]' END)::json
             FROM {rows} WHERE {IS_DECIDED}"#,
            state(),
        );
        let mut statements = vec![leads, decisions];
        for (destination, rule) in [("crm", "good"), ("alerts", "hot")] {
            let (delivery, whether) = (delivery_id(destination), goes_to(destination));
            statements.push(format!(
                "INSERT INTO claygate.deliveries (id, callback_id, destination, rule, person, state, reason, blocked_by,
                     created_at, ended_at, attempts, failures, enqueued_at)
                 SELECT {delivery}, {id}, '{destination}', '{rule}', person,
                     CASE k % 50 WHEN 0 THEN 'dead' WHEN 1 THEN 'skipped' ELSE 'delivered' END,
                     CASE k % 50 WHEN 0 THEN 'attempts_used' WHEN 1 THEN 'cool_down' END,
                     CASE k % 50 WHEN 1 THEN h::uuid END, at, at + interval '2 seconds', {ATTEMPTS},
                     CASE WHEN k % 50 = 0 THEN 3 ELSE GREATEST({ATTEMPTS} - 1, 0) END, at
                 FROM {rows} WHERE {whether}"
            ));
            statements.push(format!(
                "INSERT INTO claygate.attempts (delivery_id, number, started_at, duration_ms, class, status, owned)
                 SELECT {delivery}, number, at + number * interval '500 milliseconds', 85,
                     CASE WHEN number = {ATTEMPTS} AND {IS_DELIVERED} THEN 'delivered' ELSE 'transient' END,
                     CASE WHEN number = {ATTEMPTS} AND {IS_DELIVERED} THEN 200 ELSE 503 END, true
                 FROM {rows}, generate_series(1, {ATTEMPTS}) AS number WHERE {whether}"
            ));
        }
        statements
    }
}

impl Span {
    fn micros(self) -> i128 {
        (self.end - self.start).whole_microseconds()
    }
}

/// An id of version 7; one callback's ids differ by their variant's digit, 8 to b.
fn id(variant: u32) -> String {
    format!("(ms || '7' || substr(h, 1, 3) || '{variant:x}' || substr(h, 4, 15))::uuid")
}

fn delivery_id(destination: &str) -> String {
    id(if destination == "alerts" { 10 } else { 9 })
}

fn goes_to(destination: &str) -> &'static str {
    if destination == "alerts" { "k < 150" } else { "k < 550" }
}

fn state() -> &'static str {
    "CASE WHEN k >= 999 THEN 'dead' WHEN k >= 550 THEN 'skipped' ELSE 'routed' END"
}

const SOURCE: &str = "CASE WHEN n % 5 = 0 THEN 'token' ELSE 'hmac' END";
/// Changed bodies that were only recorded have no decision.
const IS_DECIDED: &str = "(k < 950 OR k = 999)";
const IS_DELIVERED: &str = "k % 50 > 1";
/// A dead delivery used up three, one that was held back none, and one in twenty needed a second.
const ATTEMPTS: &str = "CASE WHEN k % 50 = 0 THEN 3 WHEN k % 50 = 1 THEN 0 WHEN k % 20 = 3 THEN 2 ELSE 1 END";

/// The quarantine (one request in a thousand), the counts of the intake (one in ten was a repeat), how far the sweeper is,
/// and what autovacuum would have done.
fn closing(size: Size, span: Span) -> [String; 5] {
    let quarantined = size.0 / 1000;
    let step = span.micros() / i128::from(quarantined.max(1));
    let start_ms = span.start.unix_timestamp_nanos() / 1_000_000;
    [
        format!(
            "INSERT INTO claygate.quarantine (id, source, problem, detail, digest, body, headers, received_at, last_seen_at)
             SELECT md5('q' || n)::uuid, {SOURCE}, 'malformed', 'expected `,` or `}}` at line 1 column 200',
                 sha256(int8send(n)), convert_to(repeat(md5(n::text), 16), 'UTF8'), '{HEADERS}', at, at
             FROM (SELECT n, to_timestamp({start_ms} / 1e3) + n * interval '{step} microseconds' AS at
                   FROM generate_series(1::bigint, {quarantined} - 1) AS n) AS seed"
        ),
        "INSERT INTO claygate.intake_counts (instance, writer, source, hour, result, n)
         WITH counted AS (
             SELECT source, date_trunc('hour', received_at) AS hour, count(*) AS n FROM claygate.callbacks GROUP BY 1, 2)
         SELECT 'site', 0, source, hour, 'new', n FROM counted
         UNION ALL SELECT 'site', 1, source, hour, 'duplicate', n / 10 FROM counted WHERE n >= 10"
            .to_owned(),
        "INSERT INTO claygate.intake_counts (instance, writer, source, hour, result, n)
         SELECT 'site', 1, source, date_trunc('hour', received_at), 'quarantined', count(*)
         FROM claygate.quarantine GROUP BY 3, 4"
            .to_owned(),
        format!(
            "INSERT INTO claygate.sweep_marks (queue, position)
             VALUES ('callbacks', to_timestamp({}) - interval '1 hour')",
            span.end.unix_timestamp()
        ),
        "VACUUM (ANALYZE)".to_owned(),
    ]
}
