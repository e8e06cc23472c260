//! Reading the books of a day costs what the day holds, however much is stored besides.

use common::db::books::{JUDGE_HOURS, MISCOUNTED_DELIVERIES, STRAY_ATTEMPTS, STRAY_DELIVERIES};
use sqlx::{AssertSqlSafe, Executor};
use testkit::postgres::TestDatabase;

/// A callback every half minute for six weeks, each with a decision, a delivery and an attempt.
const FILL: [&str; 6] = [
    "INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, state)
     SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
             || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
         'clay', sha256(n::text::bytea), 'content', sha256('x'), at, 'routed'
     FROM (SELECT n, now() - make_interval(secs => 30 * (120000 - n)) AS at FROM generate_series(1, 120000) AS n) AS t",
    "INSERT INTO claygate.decisions (callback_id, routing, rules_version, outcome, trace)
     SELECT id, 0, 'v', 'routed', '[{\"rule\": \"all\", \"result\": \"matched\"}]' FROM claygate.callbacks",
    "INSERT INTO claygate.deliveries (id, callback_id, destination, state, created_at, ended_at, attempts)
     SELECT id, id, 'crm', 'delivered', received_at, received_at, 1 FROM claygate.callbacks",
    "DO $$ DECLARE week date := date_trunc('week', now())::date - 49; BEGIN
         WHILE week < date_trunc('week', now())::date - 7 LOOP
             EXECUTE format('CREATE TABLE claygate.attempts_%s PARTITION OF claygate.attempts
                 FOR VALUES FROM (%L) TO (%L)', to_char(week, 'YYYYMMDD'), week, week + 7);
             week := week + 7;
         END LOOP; END $$",
    "INSERT INTO claygate.attempts (delivery_id, number, started_at, duration_ms, class, owned)
     SELECT id, 1, created_at, 1, 'delivered', true FROM claygate.deliveries",
    "VACUUM ANALYZE",
];

#[tokio::test]
async fn the_books_of_a_day_are_read_by_index() {
    let test = TestDatabase::create().await;
    for statement in FILL {
        test.pool().execute(sqlx::raw_sql(AssertSqlSafe(statement))).await.unwrap();
    }
    // As the reader's own connection has it; the pool's would avoid such scans at any price.
    let mut connection = test.settings().connect_directly().await.unwrap();
    connection.execute("SET random_page_cost = 1.1; SET jit = off; SET work_mem = '64MB'").await.unwrap();
    let day = "now() - interval '1 day'";
    let first = "(lpad(to_hex((extract(epoch FROM now() - interval '2 days') * 1000)::bigint), 12, '0')
                  || '00000000000000000000')::uuid";
    let cases = [
        (JUDGE_HOURS, vec![day, "now()"]),
        (MISCOUNTED_DELIVERIES, vec![day, first, "20"]),
        (STRAY_ATTEMPTS, vec![day, "20"]),
        (STRAY_DELIVERIES, vec![day, first, "20"]),
    ];
    for (statement, values) in cases {
        let statement = values
            .iter()
            .enumerate()
            .fold(statement.to_owned(), |text, (at, value)| text.replace(&format!("${}", at + 1), value));
        let plan: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN {statement}"))).fetch_all(&mut connection).await.unwrap();
        let plan = plan.join("\n");
        for table in ["callbacks", "decisions", "deliveries"] {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{plan}");
        }
        // This week's and last week's partitions of the attempts at most; the rest is ruled out.
        let partitions = plan.matches(" on attempts_").count();
        assert!(partitions <= 11, "{partitions} partitions:\n{plan}");
    }
}
