//! `POST /v1/rows/{destination}`: what is taken, what is said about it, and what holds against senders of any kind.

use std::time::Duration;

use reqwest::RequestBuilder;
use serde_json::json;
use testkit::metrics::MetricsPage;
use testkit::wait::wait_for;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::gateway::{Answer, CLAY, Gateway, LIMIT, Site, read_to_end};

const TOKEN: &str = "rows-token-of-the-form";
const NDJSON: &str = "application/x-ndjson";

fn toml(limits: &str, more: &str) -> String {
    format!(
        "[ingest]\nlisten = \"127.0.0.1:0\"\nthreads = 1\nrows_tokens = [\"{TOKEN}\"]\n[ingest.limits]\n{limits}\n{CLAY}\n\
         [destinations.log]\nkind = \"log\"\n\
         [destinations.leads]\nkind = \"clay\"\nworkspace = \"acme\"\n\
         webhooks = [{{ url = \"https://clay.example.com/1\" }}]\n{more}"
    )
}

async fn site(more: &str) -> (Site, Gateway) {
    Site::with(&toml("commit_timeout = \"60s\"", more)).await
}

fn to(gateway: &Gateway, destination: &str) -> RequestBuilder {
    gateway.request_to(&format!("/v1/rows/{destination}")).bearer_auth(TOKEN)
}

/// A request of one kind of body.
fn typed(gateway: &Gateway, kind: &str) -> RequestBuilder {
    let url = format!("http://127.0.0.1:{}/v1/rows/leads", gateway.port);
    testkit::http::client().post(url).bearer_auth(TOKEN).header("Content-Type", kind)
}

async fn post(gateway: &Gateway, body: impl Into<reqwest::Body>) -> Answer {
    Answer::of(to(gateway, "leads").body(body)).await
}

async fn post_lines(gateway: &Gateway, body: impl Into<reqwest::Body>) -> Answer {
    Answer::of(typed(gateway, NDJSON).body(body)).await
}

/// Accepted, duplicates, filtered, refused.
fn counts(answer: &Answer) -> [u64; 4] {
    ["accepted", "duplicates", "filtered", "refused"]
        .map(|name| answer.json[name].as_u64().unwrap_or_else(|| panic!("{name} of {answer:?}")))
}

/// State, reason and body of every row of `leads`, in the order in which they were taken.
async fn stored(site: &Site) -> Vec<(String, Option<String>, String)> {
    use sqlx::Row;
    let sql = "SELECT d.state, d.reason, convert_from(r.body, 'UTF8') FROM claygate.rows AS r
               JOIN claygate.deliveries AS d ON d.row_id = r.id ORDER BY r.created_at, r.line, r.id";
    site.rows(sql).await.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

async fn queued(site: &Site) -> i64 {
    site.value("SELECT COALESCE(sum(cardinality(refs)), 0)::bigint FROM claygate.outbox WHERE queue = 'deliver.leads'")
        .await
}

#[tokio::test]
async fn one_object_is_durable_before_it_is_answered_and_known_when_it_comes_again() {
    let (site, gateway) = site("").await;
    let first = post(&gateway, r#"{"email":"ada@acme.example","n":1}"#).await;
    assert_eq!((first.status_word(), &first.json["duplicate"]), ("accepted", &json!(false)));
    assert_eq!(stored(&site).await, [("pending".to_owned(), None, r#"{"email":"ada@acme.example","n":1}"#.to_owned())]);
    assert_eq!(site.value::<String>("SELECT id::text FROM claygate.rows").await, first.id());
    assert_eq!(queued(&site).await, 1);

    let again = post(&gateway, r#"{"n": 1, "email": "ada@acme.example"}"#).await;
    assert_eq!((again.status_word(), again.id()), ("duplicate", first.id()));
    let run = Answer::of(to(&gateway, "leads?run=2").body(r#"{"email":"ada@acme.example","n":1}"#)).await;
    assert_eq!(run.status_word(), "accepted", "a deliberate repetition");

    let keyed = |key: &'static str, body: &'static str| to(&gateway, "leads").header("Idempotency-Key", key).body(body);
    let one = Answer::of(keyed("k", r#"{"n":2}"#)).await;
    assert_eq!(Answer::of(keyed("k", r#"{"n":2}"#)).await.id(), one.id());
    let changed = Answer::of(keyed("k", r#"{"n":3}"#)).await;
    assert_eq!((changed.status, changed.text("type")), (409, "/problems/changed-data"));
    assert_eq!(queued(&site).await, 3);
    let batches: (i64, i64, i64) = {
        use sqlx::Row;
        let sums =
            "SELECT sum(accepted)::bigint, sum(duplicates)::bigint, sum(refused)::bigint FROM claygate.row_batches
                    WHERE finished_at IS NOT NULL";
        let row = &site.rows(sums).await[0];
        (row.get(0), row.get(1), row.get(2))
    };
    assert_eq!(batches, (3, 2, 1));
    gateway.stop(&site).await;
}

#[tokio::test]
async fn arrays_and_lines_are_taken_row_by_row() {
    let (site, gateway) = site("").await;
    let array = post(&gateway, r#"[{"n":1}, 5, {"n":2}, {"n":1}, {"a":"], }"}]"#).await;
    assert_eq!((array.status, counts(&array)), (207, [3, 1, 0, 1]));
    assert_eq!(array.json["problems"], json!([{"line": 2, "problem": "expected a JSON object at line 1, column 1"}]));
    let rows = array.json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    assert_eq!(
        (&rows[2]["status"], &rows[2]["id"], &rows[2]["line"]),
        (&json!("duplicate"), &rows[0]["id"], &json!(4))
    );

    let lines = post_lines(&gateway, "{\"n\":3}\n\nnonsense\n{\"n\":4}\r\n{\"n\":2}").await;
    assert_eq!((lines.status, counts(&lines)), (207, [2, 1, 0, 1]));
    assert_eq!((&lines.json["problems"][0]["line"], &lines.json["next_line"]), (&json!(3), &json!(6)));
    assert_eq!(queued(&site).await, 5);

    for (body, status, kind) in [
        ("[]", 200, ""),
        ("[1, 2]", 400, "/problems/rows-refused"),
        ("[{\"n\":9},", 400, "/problems/malformed"),
        ("{\"n\":", 400, "/problems/malformed"),
        ("{}", 400, "/problems/malformed"),
        ("null", 400, "/problems/malformed"),
        ("", 400, "/problems/malformed"),
    ] {
        let answer = post(&gateway, body).await;
        assert_eq!((answer.status, answer.json["type"].as_str().unwrap_or_default()), (status, kind), "{body}");
    }
    let broken = post(&gateway, "[{\"n\":10},").await;
    assert_eq!((broken.json["accepted"].as_u64(), broken.status), (Some(1), 400), "what was whole is kept and said");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn nobody_gets_in_without_a_token_and_nothing_but_clay_takes_rows() {
    let (site, gateway) = site("").await;
    let without = Answer::of(gateway.request_to("/v1/rows/leads").body("{}")).await;
    assert_eq!((without.status, without.text("type")), (401, "/problems/credential-missing"));
    let wrong = Answer::of(gateway.request_to("/v1/rows/nowhere").bearer_auth("wrong").body("{}")).await;
    assert_eq!(
        (wrong.status, wrong.text("type")),
        (401, "/problems/credential-wrong"),
        "names are not told to strangers"
    );
    for (destination, kind) in [("nowhere", "/problems/unknown-destination"), ("log", "/problems/not-for-rows")] {
        let answer = Answer::of(to(&gateway, destination).body("{\"n\":1}")).await;
        assert_eq!((answer.status, answer.text("type")), (404, kind));
    }
    let get = Answer::of(testkit::http::client().get(format!("http://127.0.0.1:{}/v1/rows/leads", gateway.port))).await;
    assert_eq!((get.status, get.header("allow")), (405, "POST"));
    let table = Answer::of(typed(&gateway, "text/csv").body("a,b")).await;
    assert_eq!((table.status, table.text("type")), (415, "/problems/not-json"));
    let packed = Answer::of(to(&gateway, "leads").header("Content-Encoding", "gzip").body("a,b")).await;
    assert_eq!((packed.status, packed.text("type")), (415, "/problems/content-encoding"));
    assert_eq!(site.count("rows").await, 0);
    gateway.stop(&site).await;

    let (site, gateway) = Site::with(&toml("", "").replace(&format!("rows_tokens = [\"{TOKEN}\"]"), "")).await;
    let closed = Answer::of(to(&gateway, "leads").body("{\"n\":1}")).await;
    assert_eq!((closed.status, closed.text("type")), (404, "/problems/unknown-path"));
    gateway.stop(&site).await;
    let expired = format!("rows_tokens = [{{ value = \"{TOKEN}\", expires = \"2020-01-31T00:00:00Z\" }}]");
    let (site, gateway) = Site::with(&toml("", "").replace(&format!("rows_tokens = [\"{TOKEN}\"]"), &expired)).await;
    assert_eq!(Answer::of(to(&gateway, "leads").body("{\"n\":1}")).await.status, 401);
    gateway.stop(&site).await;
}

#[tokio::test]
async fn the_filter_holds_rows_back_with_their_reason() {
    let filter = "row_key = [\"/id\"]\n[destinations.leads.filter]\nrequired = [\"email\"]\nskip_personal = true\n\
                  skip_disposable = true\nunique_by = [\"email\"]\ndomain_fields = [\"site\"]\n";
    let (site, gateway) = site(filter).await;
    let body = json!([
        {"id": 1, "email": "ada@acme.example", "site": "https://www.Acme.example/x"},
        {"id": 2, "email": "ADA@acme.example"},
        {"id": 3, "email": "bob@gmail.com"},
        {"id": 4, "email": "eve@mailinator.com"},
        {"id": 5},
        {"id": 1, "email": "changed@acme.example"},
    ]);
    let answer = post(&gateway, body.to_string()).await;
    assert_eq!((answer.status, counts(&answer)), (200, [1, 1, 4, 0]));
    let by = json!({"disposable_email": 1, "duplicate_row": 1, "missing_field": 1, "personal_email": 1});
    assert_eq!(answer.json["filtered_by"], by);
    let alone = post(&gateway, r#"{"id":6,"email":"zoe@gmail.com"}"#).await;
    assert_eq!((alone.status_word(), &alone.json["reason"]), ("filtered", &json!("personal_email")));
    let stored = stored(&site).await;
    assert_eq!(stored[0].2, r#"{"email":"ada@acme.example","id":1,"site":"acme.example"}"#);
    assert_eq!(stored.iter().filter(|(state, ..)| state == "skipped").count(), 5);
    assert_eq!(queued(&site).await, 1);
    gateway.stop(&site).await;
}

#[tokio::test]
async fn a_body_that_breaks_off_keeps_its_rows_and_a_repeat_of_it_takes_the_rest() {
    let (site, gateway) = site("").await;
    let lines: Vec<String> = (0..3_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let whole = lines.concat();
    let half = &whole[..whole.len() / 2];
    let head = format!(
        "POST /v1/rows/leads HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: {NDJSON}\r\nContent-Length: {}\r\n\r\n",
        whole.len()
    );
    let mut stream = gateway.connect(head).await;
    stream.write_all(half.as_bytes()).await.unwrap();
    drop(stream);
    let complete = half.lines().count() as i64 - 1;
    wait_for("the rows that came whole", LIMIT, async || match site.count("rows").await {
        found if found >= complete => Ok(()),
        found => Err(found),
    })
    .await;
    let again = post_lines(&gateway, whole).await;
    let [accepted, duplicates, ..] = counts(&again);
    assert_eq!((again.status, accepted + duplicates), (200, 3_000));
    assert!(duplicates as i64 >= complete, "{duplicates} {complete}");
    assert_eq!((site.count("rows").await, site.count("deliveries").await, queued(&site).await), (3_000, 3_000, 3_000));
    assert_eq!(again.json["rows"].as_array().map(Vec::len), Some(1_000), "the list is bounded and says so");
    assert_eq!(again.json["rows_left_out"], json!(2_000));
    let left: i64 = site.value("SELECT count(*) FROM claygate.row_batches WHERE finished_at IS NULL").await;
    assert_eq!(left, 1, "the broken batch is not said to have finished");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn a_line_without_end_and_a_slow_sender_cost_neither_memory_nor_their_neighbours() {
    let (site, gateway) = Site::with(&toml("body_timeout = \"1s\"\nrows_in_flight = 1", "")).await;
    let head = format!(
        "POST /v1/rows/leads HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: {NDJSON}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    let mut stream = gateway.connect(head.clone()).await;
    chunk(&mut stream, b"{\"n\":1}\n").await;
    // Rows do not wait for the rest of their request.
    wait_for("the first row", LIMIT, async || match site.count("rows").await {
        1 => Ok(()),
        found => Err(found),
    })
    .await;
    let busy = post(&gateway, r#"{"n":2}"#).await;
    assert_eq!((busy.status, busy.header("retry-after")), (429, "1"));
    let before = memory();
    for _ in 0..2_000 {
        chunk(&mut stream, &[b'x'; 64 << 10]).await;
    }
    let grown = memory().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes for a line of 128 MB");
    chunk(&mut stream, b"\n{\"n\":3}\n").await;
    // And then nothing more comes.
    let answer = read_to_end(stream).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("\"accepted\":2") && answer.contains("\"refused\":1"), "{answer}");
    assert_eq!(post(&gateway, r#"{"n":2}"#).await.status_word(), "accepted", "the place is free again");
    gateway.stop(&site).await;
}

async fn chunk(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.write_all(b"\r\n").await.unwrap();
}

/// Resident memory of this process, which hosts the gateway.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn rows_are_refused_while_postgres_is_away_and_taken_when_it_is_back() {
    let (site, gateway) = Site::with(&toml("commit_timeout = \"2s\"", "")).await;
    assert_eq!(post(&gateway, r#"{"n":1}"#).await.status_word(), "accepted");
    site.take_postgres_away().await;
    let away = post(&gateway, r#"{"n":2}"#).await;
    assert_eq!((away.status, away.text("type"), away.header("retry-after")), (503, "/problems/unavailable", "10"));
    site.bring_postgres_back().await;
    wait_for("rows to be taken again", LIMIT, async || match post(&gateway, r#"{"n":2}"#).await {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer),
    })
    .await;
    assert_eq!(site.count("rows").await, 2);
    tokio::time::timeout(Duration::from_secs(30), gateway.stop(&site)).await.unwrap();
}

#[tokio::test]
async fn everything_is_counted_from_the_start() {
    let handle = common::telemetry::metrics::install().unwrap();
    let (site, gateway) = site("").await;
    let value = |name: &str, labels: &[(&str, &str)]| MetricsPage::new(handle.render()).value(name, labels);
    for result in ["accepted", "duplicate", "filtered", "refused"] {
        assert!(value("claygate_rows_total", &[("destination", "leads"), ("result", result)]).is_some(), "{result}");
    }
    for result in ["taken", "unauthorized", "malformed", "throttled", "unavailable"] {
        assert!(value("claygate_row_requests_total", &[("result", result)]).is_some(), "{result}");
    }
    let refused = || value("claygate_rows_total", &[("destination", "leads"), ("result", "refused")]).unwrap();
    let before = refused();
    post(&gateway, "[{\"n\":1},2,3]").await;
    assert!(refused() >= before + 2.0);
    gateway.stop(&site).await;
}
