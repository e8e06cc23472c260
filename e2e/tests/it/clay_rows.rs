//! Rows that are handed in over HTTP, in whole processes: a process that dies in the middle of a request, and numbers on
//! their way into Clay.

use std::collections::BTreeSet;
use std::fmt::Write;

use fake_clay::{FakeClay, Settings, TableSettings};
use serde_json::{Value, json};
use testkit::receiver::Receiver;
use testkit::wait::wait_for;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::site::{LIMIT, Site, Up};

const TOKEN: &str = "a token of whoever has rows";

/// A site with this configuration that takes rows by [`TOKEN`].
pub(crate) fn site(config: &str) -> Site {
    let site = Site::new(config);
    let file = site.folder().join("claygate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replacen("[ingest]\n", &format!("[ingest]\nrows_tokens = [\"{TOKEN}\"]\n"), 1);
    std::fs::write(file, text).unwrap();
    site
}

/// Hands lines in for `leads`.
pub(crate) async fn hand_in(up: &Up, lines: String) -> Value {
    let request = testkit::http::client().post(format!("http://127.0.0.1:{}/v1/rows/leads", up.port));
    let request = request.bearer_auth(TOKEN).header("content-type", "application/x-ndjson").timeout(LIMIT);
    let answer = request.body(lines).send().await.unwrap();
    let status = answer.status();
    let body = answer.bytes().await.unwrap();
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

async fn count(site: &Site) -> i64 {
    let database = site.database();
    let n = sqlx::query_scalar("SELECT count(*) FROM claygate.rows").fetch_one(database.pool()).await.unwrap();
    database.close().await;
    n
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_in_the_middle_of_a_request_has_stored_each_line_once() {
    const ROWS: i64 = 30_000;
    let clay = FakeClay::start(Settings { limit: None, ..Settings::default() }).await.unwrap();
    let table = clay.add_table("leads", TableSettings::default());
    // Hardly anything is sent meanwhile: the rows are what is counted.
    let site = site(&format!(
        "[destinations.leads]\nkind = \"clay\"\nallow_private = true\nrate = \"1/s\"\nburst = 1\n\
         webhooks = [{{ url = \"{}\" }}]\n",
        table.url()
    ));
    let lines = (0..ROWS).fold(String::new(), |mut lines, n| {
        writeln!(lines, "{{\"email\":\"person-{n}@acme.example\",\"n\":{n}}}").unwrap();
        lines
    });
    // A second death comes behind the first, in lines that were not stored before.
    let mut up = site.up().await;
    let mut stored = 0;
    for goal in [1, ROWS / 3] {
        let head = format!(
            "POST /v1/rows/leads HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\
             content-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
            lines.len()
        );
        let mut client = TcpStream::connect(("127.0.0.1", up.port)).await.unwrap();
        // Two thirds of the request and never more: whenever the process dies, it is in the middle of it.
        let part = lines.as_bytes()[..lines.len() / 3 * 2].to_owned();
        let sending = tokio::spawn(async move {
            client.write_all(head.as_bytes()).await?;
            client.write_all(&part).await?;
            std::future::pending::<std::io::Result<()>>().await
        });
        wait_for(&format!("{goal} rows"), LIMIT, || async {
            let found = count(&site).await;
            if found >= goal { Ok(()) } else { Err(found) }
        })
        .await;
        up.kill();
        sending.abort();
        up = site.up().await;
        stored = count(&site).await;
        assert!((goal..ROWS).contains(&stored), "{stored} rows behind the kill");
    }

    let answer = hand_in(&up, lines).await;
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(ROWS - stored), &json!(stored)), "{answer}");
    assert_eq!((&answer["refused"], &answer["filtered"]), (&json!(0), &json!(0)), "{answer}");
    let database = site.database();
    let bodies: Vec<String> = sqlx::query_scalar("SELECT convert_from(body, 'UTF8') FROM claygate.rows")
        .fetch_all(database.pool())
        .await
        .unwrap();
    let distinct: BTreeSet<&String> = bodies.iter().collect();
    assert_eq!((bodies.len(), distinct.len()), (ROWS as usize, ROWS as usize));
    let deliveries: (i64, i64) =
        sqlx::query_as("SELECT count(*), count(DISTINCT row_id) FROM claygate.deliveries WHERE destination = 'leads'")
            .fetch_one(database.pool())
            .await
            .unwrap();
    assert_eq!(deliveries, (ROWS, ROWS));
    database.close().await;
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_reach_clay_as_they_were_written() {
    let clay = Receiver::start().await;
    let site = site(&format!(
        "[destinations.leads]\nkind = \"clay\"\nallow_private = true\nrate = \"1000/s\"\n\
         webhooks = [{{ url = \"{}\" }}]\n[destinations.leads.filter]\ndomain_fields = [\"site\", \"/company/site\"]\n",
        clay.url("/webhook")
    ));
    let up = site.up().await;
    // The second one is tidied up on its way, which must not touch its numbers either.
    let row = |site: &str, n: u8| {
        format!(
            "{{\"id\":1234567890123456789012345{n},\"below\":{{\"id\":-98765432109876543210,\"list\":[1.10,1e2]}},\
             \"company\":{{\"site\":\"{site}\",\"number\":36893488147419103232}},\"site\":\"{site}\"}}\n"
        )
    };
    let answer = hand_in(&up, row("acme.example", 1) + &row("https://www.acme.example/about", 2)).await;
    assert_eq!(answer["accepted"], 2, "they differ in the last digit: {answer}");
    std::fs::write(site.folder().join("people.jsonl"), row("acme.example", 3)).unwrap();
    site.json(&["send", "people.jsonl", "--to", "leads", "--map", "below=under", "--json"]).await;
    let requests = wait_for("three rows", LIMIT, || async {
        let requests = clay.requests();
        if requests.len() == 3 { Ok(requests) } else { Err(requests.len()) }
    })
    .await;
    let bodies: Vec<String> = requests.iter().map(|request| String::from_utf8(request.body.clone()).unwrap()).collect();
    for n in 1..=3 {
        let id = format!("\"id\":1234567890123456789012345{n},");
        let body = bodies.iter().find(|body| body.contains(&id)).unwrap_or_else(|| panic!("{id} in {bodies:?}"));
        for part in [
            "\"id\":-98765432109876543210,\"list\":[1.10,1e2]",
            "\"number\":36893488147419103232",
            "\"site\":\"acme.example\"",
            "\"claygate_id\":\"",
        ] {
            assert!(body.contains(part), "{part} in {body}");
        }
        assert!(!body.contains("www.") && body.contains(if n == 3 { "\"under\":" } else { "\"below\":" }), "{body}");
    }
    assert!(up.terminate().success());
}
