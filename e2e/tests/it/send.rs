//! `claygate send`: the rows of a file, each once, whatever happens on the way.

use std::fmt::Write;
use std::path::Path;
use std::process::Stdio;

use fake_clay::{FakeClay, Keep, Settings, Table, TableSettings};
use serde_json::json;
use testkit::wait::wait_for;

use crate::site::{LIMIT, Site};

pub(crate) fn config(table: &Table) -> String {
    format!(
        "[destinations.leads]\nkind = \"clay\"\nallow_private = true\nrate = \"1000/s\"\nburst = 1000\n\
         webhooks = [{{ url = \"{}\" }}]\n[destinations.leads.filter]\nrequired = [\"email\"]\nskip_personal = true\n",
        table.url()
    )
}

pub(crate) async fn fake() -> (FakeClay, Table) {
    let clay = FakeClay::start(Settings { limit: None, keep: Keep::Rows, ..Settings::default() }).await.unwrap();
    let table = clay.add_table("leads", TableSettings { token: None, ..TableSettings::default() });
    (clay, table)
}

const CSV: &str = "Work Email,Name,Size\r\nada@acme.example,\"Ada, \"\"Countess\"\"\nof Lovelace\",007\r\n\
                   bob@gmail.com,Bob,1\r\nragged\r\neve@acme.example,Eve,\r\n,Nobody,5\r\neve@acme.example,Eve,\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_sent_once_and_what_became_of_each_row_is_said() {
    let (_clay, table) = fake().await;
    let site = Site::new(&config(&table));
    std::fs::write(site.folder().join("people.csv"), CSV).unwrap();
    let send = ["send", "people.csv", "--to", "leads", "--map", "Work Email=email", "--json"];
    let report = async |more: &[&str]| {
        let output = site.run(&[&send, more].concat()).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| json!(text)))
    };
    let counts = |report: &serde_json::Value| {
        ["accepted", "duplicates", "filtered", "refused"].map(|name| report[name].as_u64())
    };
    let held_back = json!({"missing_field": 1, "personal_email": 1});
    let problems = json!([{"line": 5, "problem": "1 fields where the header has 3"}]);

    let (code, dry) = report(&["--dry-run"]).await;
    assert_eq!((code, counts(&dry)), (Some(1), [Some(3), Some(0), Some(2), Some(1)]), "{dry}");
    assert_eq!((&dry["filtered_by"], &dry["problems"]), (&held_back, &problems));
    let ada = json!({"email": "ada@acme.example", "Name": "Ada, \"Countess\"\nof Lovelace", "Size": "007"});
    assert_eq!(dry["samples"][0], ada);

    let up = site.up().await;
    let (code, first) = report(&["--wait"]).await;
    assert_eq!((code, counts(&first)), (Some(1), [Some(2), Some(1), Some(2), Some(1)]), "{first}");
    assert_eq!((&first["filtered_by"], &first["problems"]), (&held_back, &problems));
    assert_eq!(first["states"], json!({"delivered": 2, "skipped": 2}));
    assert_eq!(table.counts().accepted, 2);

    let (_, same) = report(&["--wait"]).await;
    assert_eq!((counts(&same), &same["batch"]), (counts(&first), &first["batch"]), "nothing is sent again");
    assert_eq!(table.counts().accepted, 2);
    let (_, again) = report(&["--again", "--wait"]).await;
    assert_eq!(counts(&again), [Some(3), Some(0), Some(2), Some(1)], "each line on purpose");
    assert_eq!(table.counts().accepted, 5);

    let (code, said) = report(&["--map", "No Column=x"]).await;
    assert_eq!(code, Some(1));
    assert!(said.as_str().unwrap().contains("there is no column \"No Column\""), "{said}");
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_send_goes_on_where_it_was_and_stores_each_row_once() {
    let lines = (0..ROWS).fold(String::new(), |mut lines, n| {
        writeln!(lines, "{{\"email\":\"person-{n}@acme.example\",\"n\":{n}}}").unwrap();
        lines
    });
    kill_and_go_on("people.jsonl", |path| std::fs::write(path, lines).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_shows_rows_as_the_destination_sends_them_and_says_what_is_meant() {
    let (_clay, table) = fake().await;
    let body = "body = { mail = \"{{ lead.email }}\", row = \"{{ claygate.row_id }}\" }\n[destinations.leads.filter]";
    let site = Site::new(&config(&table).replace("[destinations.leads.filter]", body));
    std::fs::write(site.folder().join("people.csv"), CSV).unwrap();
    let report = site.run(&["send", "people.csv", "--to", "leads", "--map", "Work Email=email", "--dry-run"]).await;
    let text = String::from_utf8(report.stdout).unwrap();
    assert!(text.starts_with("{\"mail\":\"ada@acme.example\"}\n{\"mail\":\"eve@acme.example\"}\n"), "{text}");

    for (arguments, expected) in [
        (["--to", "leads"], "--map \"Work Email=email\"; what is sent of the file is: Work Email, Name, Size"),
        (["--to", "alerts"], "\"alerts\" is no destination of kind clay; the configuration has: leads"),
    ] {
        let output = site.run(&[&["send", "people.csv", "--dry-run"], &arguments[..]].concat()).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(expected), "{said}");
    }
}

/// Rows of the file that a killed `send` goes on with.
pub(crate) const ROWS: i64 = 60_000;

/// Sends the [`ROWS`] that `write` writes, and kills it again and again on the way.
pub(crate) async fn kill_and_go_on(file: &str, write: impl FnOnce(&Path)) {
    let (_clay, table) = fake().await;
    // Nothing is sent meanwhile: the rows are what is counted.
    let site = Site::new(&config(&table).replace("rate = \"1000/s\"\nburst = 1000", "rate = \"1/s\"\nburst = 1"));
    write(&site.folder().join(file));
    let up = site.up().await;
    let database = site.database();
    let send = ["send", file, "--to", "leads", "--json"];
    let count = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM claygate.rows").fetch_one(database.pool()).await.unwrap()
    };
    let mut kills = 0;
    for goal in [1, ROWS / 3, ROWS / 2] {
        let mut child = site.command(&send).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for(&format!("{goal} rows"), LIMIT, async || match count().await {
            found if found >= goal => Ok(()),
            found => Err(found),
        })
        .await;
        child.kill().unwrap();
        child.wait().unwrap();
        kills += i32::from(count().await < ROWS);
    }
    assert!(kills > 0, "no kill came in the middle");
    let report = site.json(&send).await;
    assert_eq!((&report["accepted"], &report["duplicates"]), (&json!(ROWS), &json!(0)), "{report}");
    assert_eq!(count().await, ROWS);
    drop(database);
    assert!(up.terminate().success());
}
