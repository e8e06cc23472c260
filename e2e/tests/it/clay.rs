//! Tables of Clay, as an operator sees them: what is held, what is left, and going on.

use fake_clay::{FakeClay, Keep, Settings, Table, TableSettings};
use serde_json::{Value, json};
use testkit::wait::wait_for;

use crate::sender::Sender;
use crate::site::{LIMIT, Site};

async fn fake() -> FakeClay {
    FakeClay::start(Settings { limit: None, keep: Keep::Rows, ..Settings::default() }).await.unwrap()
}

/// Leads of the source `clay` go into `tables`, which are one destination's.
fn config(tables: &[&Table], keys: &str) -> String {
    let webhook = |table: &&Table| {
        let token = table.token().map(|token| format!(", token = \"{token}\"")).unwrap_or_default();
        format!("{{ url = \"{}\"{token} }}", table.url())
    };
    let webhooks: Vec<String> = tables.iter().map(webhook).collect();
    format!(
        "[destinations.leads]\nkind = \"clay\"\nworkspace = \"acme\"\nallow_private = true\nwebhooks = [{}]\n{keys}\n\
         [[rules]]\nname = \"all\"\nwhen = \"true\"\nto = [\"leads\"]\n",
        webhooks.join(", ")
    )
}

fn lead(number: usize) -> String {
    json!({"email": format!("person-{number}@example.com"), "first_name": "Ada"}).to_string()
}

/// The only destination, once it is in `state`.
async fn listed(site: &Site, state: &str) -> Value {
    wait_for(&format!("the destination to be {state}"), LIMIT, || async {
        let mut list = site.json(&["destinations", "list", "--json"]).await;
        let line = list[0].take();
        if line["state"] == state { Ok(line) } else { Err(line) }
    })
    .await
}

async fn wait_for_rows(table: &Table, n: u64) {
    wait_for(&format!("{n} rows"), LIMIT, || async {
        let accepted = table.counts().accepted;
        if accepted == n { Ok(()) } else { Err(accepted) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_pauses_through_a_restart_until_the_destination_is_resumed() {
    let clay = fake().await;
    let table = clay.add_table("leads", TableSettings { token: Some("old".into()), ..TableSettings::default() });
    let site = Site::new(&config(&[&table], ""));
    let up = site.up().await;
    let sender = Sender::new(&site, &up);
    sender.send(lead(1)).await;
    wait_for_rows(&table, 1).await;

    table.rotate_token(Some("new"));
    sender.send(lead(2)).await;
    let paused = listed(&site, "paused").await;
    assert!(paused["reason"].as_str().unwrap().contains("401"), "{paused}");
    assert_eq!((&paused["workspace"], &paused["rate"]), (&json!("acme"), &json!("9.7/s, burst 18")));
    assert_eq!(paused["webhooks"], json!({"active": 0, "paused": 1, "full": 0, "dead": 0}));

    up.kill();
    let up = site.up().await;
    // A lead behind it is looked at and waits: nothing was asked for it.
    sender.follow([up.port]);
    let behind = sender.send(lead(3)).await;
    wait_for("the lead behind it to wait", LIMIT, || async {
        let events = site.json(&["events", "list", "--json"]).await;
        let event = events.as_array().unwrap().iter().find(|event| event["id"] == behind.id()).cloned();
        let event = event.unwrap_or_default();
        if event["deliveries"] == json!(["leads: pending"]) { Ok(()) } else { Err(event) }
    })
    .await;
    assert_eq!(listed(&site, "paused").await["reason"], paused["reason"]);
    assert_eq!(table.counts().refused.values().sum::<u64>(), 1, "{:?}", table.counts());

    table.rotate_token(Some("old"));
    assert!(site.run(&["destinations", "resume", "leads"]).await.status.success());
    wait_for_rows(&table, 3).await;
    assert_eq!(listed(&site, "running").await["webhooks"]["active"], 1);
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_url_rows_wait_and_everybody_can_see_it_until_there_is_one() {
    let clay = fake().await;
    let [one, two] = ["one", "two"]
        .map(|name| clay.add_table(name, TableSettings { cap: Some(2), token: None, ..TableSettings::default() }));
    let site = Site::new(&config(&[&one], "cap = 100"));
    let up = site.up().await;
    let sender = Sender::new(&site, &up);
    for number in 1..=3 {
        sender.send(lead(number)).await;
    }
    let waiting = listed(&site, "waiting").await;
    assert_eq!(waiting["webhooks"], json!({"active": 0, "paused": 0, "full": 1, "dead": 0}));
    assert!(waiting["reason"].as_str().unwrap().contains("claygate quota"), "{waiting}");
    wait_for("the metric to tell it", LIMIT, || async {
        let page = up.metrics().await;
        let dry = page.value("claygate_clay_no_webhook_left", &[("destination", "leads")]);
        if dry == Some(1.0) { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
    let quota = site.json(&["quota", "--json"]).await;
    let line = &quota[0];
    assert_eq!((&line["used"], &line["left"], &line["cap"]), (&json!(2), &json!(98), &json!(100)), "{quota}");
    assert_eq!((&line["state"], &line["workspace"], &line["per_day"]), (&json!("full"), &json!("acme"), &json!(2.0)));
    let shown = String::from_utf8(site.run(&["quota"]).await.stdout).unwrap();
    assert!(shown.contains("leads") && !shown.contains("webhook-"), "{shown}");
    assert!(up.terminate().success());

    std::fs::write(
        site.folder().join("claygate.toml"),
        format!(
            "[ingest]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{}",
            config(&[&two], "cap = 100")
        ),
    )
    .unwrap();
    let up = site.up().await;
    wait_for_rows(&two, 1).await;
    assert_eq!(one.counts().accepted, 2);
    assert!(up.terminate().success());
}

/// The names of metrics, and of the labels and values that are asked for, in an expression.
fn metrics_of(expression: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    expression.split(|c| !is_name(c)).filter(|word| word.starts_with("claygate_")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_alert_rules_ask_for_metrics_that_exist() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/alerts.yml");
    let rules: Value = serde_norway::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let rules: Vec<&Value> =
        rules["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap()).collect();
    assert!(rules.len() >= 4);
    let clay = fake().await;
    let table = clay.add_table("leads", TableSettings::default());
    let site = Site::new(&config(&[&table], ""));
    let up = site.up().await;
    let page = up.metrics().await;
    for rule in rules {
        let names = metrics_of(rule["expr"].as_str().unwrap());
        assert!(!names.is_empty(), "{rule}");
        for name in names {
            assert!(page.has(&name), "{} asks for {name}, which is not in:\n{page}", rule["alert"]);
        }
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].is_string(), "{rule}");
        }
    }
    for name in ["claygate_rows_outstanding", "claygate_rows_overdue"] {
        assert_eq!(page.value(name, &[("destination", "leads")]), Some(0.0), "{page}");
    }
    for state in ["paused", "dead", "full", "active"] {
        assert!(
            page.value("claygate_clay_webhooks", &[("destination", "leads"), ("state", state)]).is_some(),
            "{page}"
        );
    }
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_rule_makes_of_a_form_are_tidied_as_those_that_are_handed_in() {
    let clay = fake().await;
    let [whole, own] =
        ["whole", "own"].map(|name| clay.add_table(name, TableSettings { token: None, ..TableSettings::default() }));
    let destination = |name: &str, table: &Table, more: &str| {
        format!(
            "[destinations.{name}]\nkind = \"clay\"\nallow_private = true\nwebhooks = [{{ url = \"{}\" }}]\n{more}\
             [destinations.{name}.filter]\ndomain_fields = [\"website\"]\nunique_by = [\"website\"]\n",
            table.url()
        )
    };
    let site = Site::new(&format!(
        "{}{}[sources.website-form]\npath = \"/form\"\n\
         verify = {{ kind = \"token\", header = \"X-Form\", secrets = [\"form-secret\"] }}\n\
         [[rules]]\nname = \"form\"\nsource = [\"website-form\"]\nwhen = \"has(lead.email)\"\nto = [\"whole\", \"own\"]\n",
        destination("whole", &whole, ""),
        destination("own", &own, "body = { site = \"{{ lead.website }}\" }\n")
    ));
    let up = site.up().await;
    for website in ["https://www.Acme.example/about", "acme.example", "other.example"] {
        let answer = testkit::http::client()
            .post(format!("http://127.0.0.1:{}/form", up.port))
            .header("X-Form", "form-secret")
            .body(json!({"email": "ada@acme.example", "website": website}).to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        // One after the other: which of two rows is the repeat is then no chance.
        wait_for("the lead to be routed", LIMIT, || async {
            let latest = site.json(&["events", "list", "--json"]).await[0].take();
            let deliveries = latest["deliveries"].as_array().map(Vec::as_slice).unwrap_or_default();
            let ended = deliveries.iter().filter(|one| !one.as_str().unwrap().ends_with("pending")).count();
            if ended == 2 { Ok(()) } else { Err(latest) }
        })
        .await;
    }
    let sites = |table: &Table, field: &str| -> Vec<String> {
        table.rows().iter().map(|row| row.cells[field].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(sites(&whole, "website"), ["acme.example", "other.example"]);
    assert_eq!(sites(&own, "site"), ["acme.example", "other.example"]);
    assert!(up.terminate().success());
}
