//! Routing a batch: the rules, cool-downs, the loop guard, races, and what cannot be routed.

use std::time::Duration;

use common::db::replay;
use common::db::rows::{NewRow, RowKey, RowKeyKind, RowOnce, RowsFor, TakenIn, take_in};
use common::ids::{CallbackId, DeliveryId, RowId};
use common::person::Person;
use common::states::Reason;
use serde_json::{Value, json};
use worker::released::Releaser;
use worker::route::{BatchReport, CLAIMS_MAX};

use crate::route_rig::{ALL_TO_LOG, ONCE_TO_LOG, RouteRig, config};

fn ended(reason: Reason, state: &str) -> (String, Option<String>) {
    (state.to_owned(), Some(reason.as_str().to_owned()))
}

fn routed() -> (String, Option<String>) {
    ("routed".to_owned(), None)
}

#[tokio::test]
async fn the_built_in_rules_send_each_lead_where_it_belongs() {
    let rig = RouteRig::new("").await;
    let cases: [(Value, &[&str]); 12] = [
        (json!({"email": "a@example.com", "icp_score": 95}), &["alerts", "outreach"]),
        (json!({"email": "b@example.com", "icp_score": 90}), &["alerts", "outreach"]),
        (json!({"company_name": "C", "icp_score": 91}), &["alerts", "nurture"]),
        (json!({"email": "d@example.com", "icp_score": 89.5}), &["outreach"]),
        (json!({"email": "e@example.com", "icp_score": "85"}), &["outreach"]),
        (json!({"email": "N/A", "company_name": "F", "icp_score": 80}), &["nurture"]),
        (json!({"email": "g@example.com", "icp_score": 79}), &["nurture"]),
        (json!({"email": "h@example.com", "icp_score": 50}), &["nurture"]),
        (json!({"email": "i@example.com", "icp_score": 49}), &[]),
        (json!({"email": "j@example.com", "icp_score": 0}), &[]),
        (json!({"email": "k@example.com"}), &[]),
        (json!({"email": "l@example.com", "icp_score": null}), &[]),
    ];
    let mut ids = Vec::new();
    for (body, _) in &cases {
        ids.push(rig.callback(body).await);
    }
    let report = rig.router.route_batch(&ids).await.unwrap();
    assert_eq!((report.ended, report.dead, report.skipped), (cases.len(), 0, 0));
    for (id, (body, expected)) in ids.iter().zip(&cases) {
        let deliveries = rig.deliveries(*id).await;
        let names: Vec<&str> = deliveries.iter().map(|d| d.destination.as_str()).collect();
        assert_eq!(names, *expected, "{body}");
        assert!(deliveries.iter().all(|d| d.state == "pending"), "{body}");
        let state = if expected.is_empty() { ended(Reason::NoRule, "skipped") } else { routed() };
        assert_eq!(rig.state(*id).await, state, "{body}");
    }
    assert_eq!(rig.trace(ids[9]).await[0]["result"], "no_match", "0 is a score");
    assert_eq!(rig.trace(ids[10]).await[0]["result"], "missing_field");
    assert_eq!(rig.trace(ids[10]).await[0]["rule"], "alerts");
    let leads: i64 =
        sqlx::query_scalar("SELECT count(*) FROM claygate.leads").fetch_one(rig.test.pool()).await.unwrap();
    assert_eq!(leads, 12);
}

#[tokio::test]
async fn a_delivery_is_started_at_once_or_queued_never_both() {
    let mut rig = RouteRig::new(ALL_TO_LOG).await;
    let mut ids = Vec::new();
    for n in 0..64 {
        ids.push(rig.callback(&json!({"email": format!("{n}@example.com")})).await);
    }
    let report = rig.router.route_batch(&ids).await.unwrap();
    assert_eq!((report.ended, report.started + report.queued), (64, 64));
    assert!(report.started > 0 && report.queued > 0, "{report:?}");
    let started = rig.take_started("log");
    assert_eq!(started.len(), report.started);
    assert_eq!(rig.queued().await.get("deliver.log"), Some(&(report.queued as i64)));
    let both: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM claygate.deliveries AS d JOIN claygate.outbox AS o ON d.id = ANY(o.refs)
         WHERE d.lease_token IS NOT NULL",
    )
    .fetch_one(rig.test.pool())
    .await
    .unwrap();
    assert_eq!(both, 0);
    let again = rig.router.route_batch(&ids).await.unwrap();
    assert_eq!(again, BatchReport::default(), "a message that comes again finds nothing to do");
    assert!(rig.take_started("log").is_empty());
}

#[tokio::test]
async fn a_failing_rule_ends_the_callback_visibly_and_a_replay_routes_it() {
    let to_log = "[destinations.log]\nkind = \"log\"\n[[rules]]\nname = \"team\"\nto = [\"log\"]\n";
    let rig = RouteRig::new(&format!("{to_log}when = \"lead.team - 1 > 3\"\n")).await;
    let id = rig.callback(&json!({"email": "a@example.com", "team": "large"})).await;
    let fine = rig.callback(&json!({"email": "b@example.com", "team": 12})).await;
    let report = rig.router.route_batch(&[id, fine]).await.unwrap();
    assert_eq!((report.ended, report.dead), (2, 1));
    assert_eq!(rig.state(id).await, ended(Reason::RuleError, "dead"));
    assert_eq!(rig.state(fine).await, routed());
    let trace = rig.trace(id).await;
    assert_eq!(trace[0]["result"], "error");
    assert!(!trace.to_string().contains("large"), "a trace holds no values: {trace}");
    assert!(rig.deliveries(id).await.is_empty());

    let (_elder, rig) = rig.and(&format!("{to_log}when = \"lead.team == 'large'\"\n"));
    replay::replay_callback(&rig.database(), id).await.unwrap();
    assert_eq!(rig.queued().await.get("callbacks"), Some(&1));
    rig.router.route_batch(&[id]).await.unwrap();
    assert_eq!(rig.state(id).await, routed());
    assert_eq!(rig.deliveries(id).await.len(), 1);
    let decisions: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.decisions WHERE callback_id = $1")
        .bind(id.0)
        .fetch_one(rig.test.pool())
        .await
        .unwrap();
    assert_eq!(decisions, 2, "the first decision stays");
}

#[tokio::test]
async fn one_person_is_sent_once_within_the_cool_down() {
    let rig = RouteRig::new(ONCE_TO_LOG).await;
    let ada = |email: &str| json!({"email": email, "icp_score": 90});
    let first = rig.callback(&ada("ada@example.com")).await;
    let same_batch = rig.callback(&ada(" ADA@example.com")).await;
    let other = rig.callback(&ada("bob@example.com")).await;
    rig.router.route_batch(&[first, same_batch, other]).await.unwrap();
    let later = rig.callback(&ada("Ada@Example.com")).await;
    rig.router.route_batch(&[later]).await.unwrap();

    let winner = rig.deliveries(first).await[0].clone();
    assert_eq!(winner.state, "pending");
    assert_eq!(rig.deliveries(other).await[0].state, "pending");
    for blocked in [same_batch, later] {
        let delivery = rig.deliveries(blocked).await[0].clone();
        assert_eq!((delivery.state.as_str(), delivery.reason.as_deref()), ("skipped", Some("cool_down")));
        assert_eq!(delivery.blocked_by, Some(winner.id.0));
        assert!(!delivery.leased);
        assert_eq!(rig.state(blocked).await, routed());
    }

    replay::replay_callback(&rig.database(), later).await.unwrap();
    rig.router.route_batch(&[later]).await.unwrap();
    let replayed = rig.deliveries(later).await[1].clone();
    assert_eq!((replayed.replay, replayed.state.as_str()), (1, "pending"), "an operator is not held back");
}

#[tokio::test]
async fn what_a_dead_delivery_had_blocked_goes_on() {
    let rig = RouteRig::new(ONCE_TO_LOG).await;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(rig.callback(&json!({"email": "ada@example.com", "n": n})).await);
    }
    rig.router.route_batch(&ids).await.unwrap();
    let dead = rig.deliveries(ids[0]).await[0].id;
    rig.kill(dead).await;

    let releaser = Releaser::new(&rig.config, rig.database(), rig.doorbell.clone());
    let released = releaser.release_once(dead).await.unwrap();
    assert_eq!((released.made, released.still_blocked), (vec!["log".to_owned()], 1));
    let second = rig.deliveries(ids[1]).await;
    assert_eq!((second[0].state.as_str(), second[1].state.as_str()), ("skipped", "pending"));
    assert_eq!(second[1].replay, 1);
    let third = rig.deliveries(ids[2]).await;
    assert_eq!(third.len(), 1);
    assert_eq!(third[0].blocked_by, Some(second[1].id.0), "the chain goes on with the new holder");
    let waiting: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM claygate.outbox WHERE $1 = ANY(refs))")
        .bind(second[1].id.0)
        .fetch_one(rig.test.pool())
        .await
        .unwrap();
    assert!(waiting);

    let again = releaser.release_once(dead).await.unwrap();
    assert_eq!((again.made.len(), again.still_blocked), (0, 0), "twice is once");
    rig.kill(second[1].id).await;
    assert_eq!(releaser.release_once(second[1].id).await.unwrap().made.len(), 1);
    assert_eq!(rig.deliveries(ids[2]).await[1].state, "pending");
}

#[tokio::test]
async fn a_handed_in_row_goes_on_when_the_one_before_it_dies_whichever_kind_that_is() {
    let rig = RouteRig::new(ONCE_TO_LOG).await;
    let first = rig.callback(&json!({"email": "ada@example.com"})).await;
    rig.router.route_batch(&[first]).await.unwrap();
    let dead = rig.deliveries(first).await[0].id;
    let person = Person::by_email("ada@example.com");
    let once = Some(RowOnce { columns: person, within: Duration::from_secs(3600), reason: Reason::DuplicateRow });
    let rows: Vec<NewRow> = (1..=2u8)
        .map(|n| NewRow {
            id: RowId::new(),
            body: format!("{{\"n\":{n}}}").into_bytes(),
            key: RowKey { kind: RowKeyKind::Content, hash: [n; 32] },
            line: None,
            skip: None,
            once,
        })
        .collect();
    let to = RowsFor { destination: "log", workspace: "acme", batch: None };
    let mut connection = rig.test.pool().acquire().await.unwrap();
    let taken = take_in(&mut connection, to, &rows).await.unwrap();
    assert_eq!(taken, [TakenIn::Skipped(Reason::DuplicateRow); 2]);
    let of = async |row: RowId| -> Vec<(String, i32)> {
        sqlx::query_as("SELECT state, replay FROM claygate.deliveries WHERE row_id = $1 ORDER BY replay")
            .bind(row.0)
            .fetch_all(rig.test.pool())
            .await
            .unwrap()
    };
    let goes_on = [("skipped".to_owned(), 0), ("pending".to_owned(), 1)];

    rig.kill(dead).await;
    let releaser = Releaser::new(&rig.config, rig.database(), rig.doorbell.clone());
    let released = releaser.release_once(dead).await.unwrap();
    assert_eq!((released.made.len(), released.still_blocked), (1, 1));
    assert_eq!((of(rows[0].id).await, of(rows[1].id).await.len()), (goes_on.to_vec(), 1));
    assert_eq!(releaser.release_once(dead).await.unwrap().made.len(), 0, "twice is once");

    let second: uuid::Uuid = sqlx::query_scalar("SELECT id FROM claygate.deliveries WHERE row_id = $1 AND replay = 1")
        .bind(rows[0].id.0)
        .fetch_one(rig.test.pool())
        .await
        .unwrap();
    rig.kill(DeliveryId(second)).await;
    assert_eq!(releaser.release_once(DeliveryId(second)).await.unwrap().made.len(), 1);
    assert_eq!(of(rows[1].id).await, goes_on);
}

#[tokio::test]
async fn a_lead_does_not_go_back_to_the_workspace_it_came_from() {
    let text = "[destinations.acme]\nkind = \"log\"\n[destinations.other]\nkind = \"log\"\n\
         [destinations.again]\nkind = \"log\"\nonce_per = \"30d\"\n\
         [[rules]]\nname = \"all\"\nwhen = \"true\"\nto = [\"acme\", \"again\", \"other\"]\n";
    let mut config = config(text);
    for (name, workspace, allow_loop) in [("acme", "acme", false), ("again", "acme", true), ("other", "b", false)] {
        let destination = config.destinations.get_mut(name).unwrap();
        destination.workspace = Some(workspace.to_owned());
        destination.allow_loop = allow_loop;
    }
    let rig = RouteRig::over(testkit::postgres::TestDatabase::create().await, config);
    let id = rig.callback(&json!({"email": "a@example.com"})).await;
    let row = uuid::Uuid::now_v7();
    sqlx::query("INSERT INTO claygate.rows (id, workspace, destination) VALUES ($1, 'acme', 'acme')")
        .bind(row)
        .execute(rig.test.pool())
        .await
        .unwrap();
    sqlx::query("UPDATE claygate.callbacks SET row_id = $1 WHERE id = $2")
        .bind(row)
        .bind(id.0)
        .execute(rig.test.pool())
        .await
        .unwrap();
    rig.router.route_batch(&[id]).await.unwrap();
    let states: Vec<(String, String, Option<String>)> =
        rig.deliveries(id).await.into_iter().map(|d| (d.destination, d.state, d.reason)).collect();
    let expected = [("acme", "skipped", Some("loop")), ("again", "pending", None), ("other", "pending", None)];
    let expected = expected.map(|(d, s, r)| (d.to_owned(), s.to_owned(), r.map(str::to_owned)));
    assert_eq!(states, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_workers_on_one_batch_make_each_delivery_once() {
    let rig = RouteRig::new(ONCE_TO_LOG).await;
    let mut ids: Vec<CallbackId> = Vec::new();
    for n in 0..60 {
        ids.push(rig.callback(&json!({"email": format!("{}@example.com", n % 20)})).await);
    }
    let (elder, rig) = rig.and(ONCE_TO_LOG);
    let mut reversed = ids.clone();
    reversed.reverse();
    let tasks = [(elder.router.clone(), ids.clone()), (rig.router.clone(), reversed), (elder.router, ids.clone())]
        .map(|(router, batch)| tokio::spawn(async move { router.route_batch(&batch).await.unwrap() }));
    let mut total = BatchReport::default();
    for task in tasks {
        total += task.await.unwrap();
    }
    assert_eq!((total.ended, total.dead), (60, 0));
    assert_eq!((total.started + total.queued, total.skipped), (20, 40));
    let (deliveries, sent): (i64, i64) =
        sqlx::query_as("SELECT count(*), count(*) FILTER (WHERE state = 'pending') FROM claygate.deliveries")
            .fetch_one(rig.test.pool())
            .await
            .unwrap();
    assert_eq!((deliveries, sent), (60, 20));
}

#[tokio::test]
async fn a_row_that_the_database_refuses_takes_no_neighbour_with_it() {
    let rig = RouteRig::new(ALL_TO_LOG).await;
    rig.execute("ALTER TABLE claygate.leads ADD CONSTRAINT refuses CHECK (company_name <> 'Refused')").await;
    let mut ids = Vec::new();
    for n in 0..7 {
        let company = if n == 4 { "Refused" } else { "Example" };
        ids.push(rig.callback(&json!({"email": format!("{n}@example.com"), "company_name": company})).await);
    }
    let report = rig.router.route_batch(&ids).await.unwrap();
    assert_eq!((report.ended, report.dead), (7, 1));
    for (n, id) in ids.iter().enumerate() {
        let expected = if n == 4 { ended(Reason::Unreadable, "dead") } else { routed() };
        assert_eq!(rig.state(*id).await, expected, "{n}");
    }
}

#[tokio::test]
async fn what_is_no_lead_ends_as_dead_and_its_neighbours_are_routed() {
    let rig = RouteRig::new(ALL_TO_LOG).await;
    let broken = rig.callback_of_bytes(b"{\"email\": ").await;
    let list = rig.callback(&json!([1, 2])).await;
    let expired = rig.callback(&json!({"email": "a@example.com"})).await;
    sqlx::query("DELETE FROM claygate.callback_bodies WHERE callback_id = $1")
        .bind(expired.0)
        .execute(rig.test.pool())
        .await
        .unwrap();
    let nul = rig.callback(&json!({"email": "b@example.com", "first_name": "A\u{0}B", "x": {"\u{0}": "\u{0}"}})).await;
    rig.router.route_batch(&[broken, list, expired, nul]).await.unwrap();
    assert_eq!(rig.state(broken).await, ended(Reason::Unreadable, "dead"));
    assert_eq!(rig.state(list).await, ended(Reason::Unreadable, "dead"));
    assert_eq!(rig.state(expired).await, ended(Reason::BodyExpired, "dead"));
    assert_eq!(rig.state(nul).await, routed());
}

#[tokio::test]
async fn a_callback_that_is_claimed_again_and_again_ends_as_poison() {
    let rig = RouteRig::new(ALL_TO_LOG).await;
    let id = rig.callback(&json!({"email": "a@example.com"})).await;
    for _ in 0..CLAIMS_MAX {
        // Its worker dies between the claim and the routing.
        assert!(rig.router.count_redelivery(id).await.unwrap());
    }
    assert!(!rig.router.count_redelivery(id).await.unwrap());
    assert_eq!(rig.state(id).await, ended(Reason::Poison, "dead"));
    assert_eq!(rig.router.route_batch(&[id]).await.unwrap(), BatchReport::default());

    replay::replay_callback(&rig.database(), id).await.unwrap();
    assert_eq!(rig.router.route_redelivered(id).await.unwrap().ended, 1, "a replay starts counting anew");
    assert_eq!(rig.state(id).await, routed());
}
