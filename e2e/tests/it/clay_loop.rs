//! `claygate loop` over a table that answers for some rows, late for others, and at first not at all.

use fake_clay::{CallTo, Column, FakeClay, Keep, Settings, Table, TableSettings};
use serde_json::{Value, json};
use testkit::wait::wait_for;

use crate::clay_rows::{hand_in, site};
use crate::site::{LIMIT, Site, Up};

const SECRET: &str = "a secret of the table";
/// Rows that are handed in while the table calls nobody, and those behind them.
const SILENT: u64 = 4;
const LATER: u64 = 6;

fn config(table: &Table) -> String {
    format!(
        "[sources.back]\npath = \"/back\"\nidempotency = {{ pointers = [\"/claygate_id\"] }}\n\
         verify = {{ kind = \"token\", header = \"X-Clay-Signature\", secrets = [\"{SECRET}\"] }}\n\
         [destinations.leads]\nkind = \"clay\"\nworkspace = \"acme\"\nallow_private = true\nrate = \"1000/s\"\n\
         webhooks = [{{ url = \"{}\" }}]\nexpect_within = \"1s\"\nprice_per_row = 0.01\n\
         [destinations.crm]\nkind = \"log\"\n[[rules]]\nname = \"all\"\nwhen = \"true\"\nto = [\"crm\"]\n",
        table.url()
    )
}

fn people(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|n| json!({"email": format!("person-{n}@example.com")}).to_string() + "\n").collect()
}

async fn call_back(up: &Up, body: Value) -> Value {
    let request = testkit::http::client().post(format!("http://127.0.0.1:{}/back", up.port));
    let answer = request.header("X-Clay-Signature", SECRET).body(body.to_string()).send().await.unwrap();
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

/// The report of the one destination, once these are its sent, submissions, returned, outstanding and overdue.
async fn wait_for_report(site: &Site, expected: [u64; 5]) -> Value {
    wait_for(&format!("the report to count {expected:?}"), LIMIT, || async {
        let mut report = site.json(&["loop", "--json"]).await;
        let line = report["destinations"][0].take();
        let names = ["sent", "submissions", "returned", "outstanding", "overdue"];
        if names.map(|name| line[name].as_u64().unwrap()) == expected { Ok(line) } else { Err(line) }
    })
    .await
}

async fn said(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let output = site.run(arguments).await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_counts_once_however_often_it_was_sent_and_came_back() {
    let clay = FakeClay::start(Settings { limit: None, keep: Keep::Rows, ..Settings::default() }).await.unwrap();
    let silent = clay.add_table("leads", TableSettings::default());
    let site = site(&config(&silent));
    let up = site.up().await;
    let (code, text) = said(&site, &["loop"]).await;
    assert!(code == Some(0) && text.starts_with("leads: no row was sent since "), "{text}");
    let (code, text) = said(&site, &["loop", "--missing"]).await;
    assert!(code == Some(0) && text.starts_with("No row that was sent since "), "{text}");
    let (code, text) = said(&site, &["loop", "--resend", "--yes"]).await;
    assert_eq!((code, text.as_str()), (Some(0), "No overdue row can be sent again.\n"));

    hand_in(&up, people(0..SILENT)).await;
    wait_for_report(&site, [SILENT, SILENT, 0, SILENT, SILENT]).await;
    let [yes, missing, resend, json] = ["--yes", "--missing", "--resend", "--json"];
    for options in [&[yes][..], &[missing, yes], &[json, yes], &[resend, missing], &[resend, json]] {
        let arguments = [&["loop"], options].concat();
        assert_eq!(said(&site, &arguments).await.0, Some(2), "{arguments:?}");
    }
    let (code, text) = said(&site, &["loop", "--resend"]).await;
    assert!(code == Some(2) && text.contains("leads") && text.contains("cost 0.04 at 0.01 each"), "{text}");
    let (code, text) = said(&site, &["loop", "--resend", "--yes"]).await;
    assert!(code == Some(0) && text.contains("Queued 4 rows."), "{text}");
    wait_for_report(&site, [SILENT, 2 * SILENT, 0, SILENT, SILENT]).await;

    // Late, and of whichever sending: the row has one id.
    let late = silent.rows()[0].cells["claygate_id"].clone();
    let answer = call_back(&up, json!({"claygate_id": late, "email": "person-0@example.com"})).await;
    assert_eq!(answer["status"], "accepted");
    wait_for_report(&site, [SILENT, 2 * SILENT, 1, SILENT - 1, SILENT - 1]).await;
    let listed = site.json(&["loop", "--missing", "--json"]).await;
    let listed = listed.as_array().unwrap();
    assert!(listed.len() == 3 && listed.iter().all(|row| row["id"] != late && row["times_sent"] == 2), "{listed:?}");
    let (_, page) = said(&site, &["loop", "--missing", "--limit", "2"]).await;
    let more = page.lines().last().unwrap().strip_prefix("More: --before ").unwrap_or_else(|| panic!("{page}"));
    let rest = site.json(&["loop", "--missing", "--limit", "2", "--before", more, "--json"]).await;
    assert_eq!(rest.as_array().unwrap().as_slice(), &listed[2..]);

    let column = Column::calling(CallTo::Url(format!("http://127.0.0.1:{}/back", up.port)));
    let column = Some(column.header("X-Clay-Signature", SECRET));
    let table = clay.add_table("leads", TableSettings { column, ..TableSettings::default() });
    hand_in(&up, people(SILENT..SILENT + LATER)).await;
    let all = SILENT + LATER;
    wait_for_report(&site, [all, 2 * SILENT + LATER, LATER + 1, SILENT - 1, SILENT - 1]).await;
    let (_, text) = said(&site, &["loop", "--resend", "--yes"]).await;
    assert!(text.contains("Queued 3 rows."), "{text}");
    let submissions = 2 * SILENT + LATER + SILENT - 1;
    let report = wait_for_report(&site, [all, submissions, all, 0, 0]).await;
    assert_eq!((&report["cost"], &report["cost_per_returned_row"]), (&json!("0.17"), &json!("0.017")), "{report}");
    let email = report["fields"].as_array().unwrap().iter().find(|field| field["field"] == "email").cloned();
    assert_eq!(email, Some(json!({"field": "email", "leads": all, "share": 1.0})), "{report}");
    let histogram: u64 =
        report["histogram"].as_array().unwrap().iter().map(|part| part["rows"].as_u64().unwrap()).sum();
    assert_eq!(histogram, all, "{report}");
    assert_eq!(table.counts().accepted, LATER + SILENT - 1);

    // And again: nothing of it counts twice.
    call_back(&up, json!({"claygate_id": late, "email": "person-0@example.com", "title": "CTO"})).await;
    wait_for("the last callback to be routed", LIMIT, || async {
        let events = site.json(&["events", "list", "--json"]).await;
        let open = events.as_array().unwrap().iter().find(|event| event["state"] == "received").cloned();
        open.map_or(Ok(()), Err)
    })
    .await;
    wait_for_report(&site, [all, submissions, all, 0, 0]).await;
    let (_, text) = said(&site, &["loop"]).await;
    for part in ["  sent                 10  and 7 times again\n", "  returned             10   100.0 %\n"] {
        assert!(text.contains(part), "{text}");
    }
    let (code, text) = said(&site, &["loop", "--destination", "nowhere"]).await;
    assert!(code == Some(1) && text.contains("there is no destination \"nowhere\""), "{text}");
    assert!(up.terminate().success());
}
