//! What every answer makes of a delivery.

use common::queue::QueueName;
use testkit::receiver::{Answer, Receiver};
use testkit::wait::wait_for;

use crate::deliver_rig::{PATIENCE, Rig};

fn http(url: &str) -> String {
    format!(
        "[destinations.crm]\nkind = \"http\"\nurl = \"{url}\"\nallow_private = true\nretries = [\"60s\", \"300s\"]\n\
         timeout = \"2s\"\nconnect_timeout = \"1s\"\n"
    )
}

#[tokio::test]
async fn a_delivered_one_is_recorded_and_carries_its_id() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(201).body("made"));
    let rig = Rig::start(&http(&receiver.url("/leads"))).await;
    let id = rig.deliver("crm").await;
    assert_eq!(rig.end(id).await, ("delivered".to_owned(), None));

    let requests = receiver.requests();
    assert_eq!(requests.len(), 1);
    let request = &requests[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/leads"));
    assert_eq!(request.header("webhook-id"), Some(id.to_string().as_str()));
    assert_eq!(request.header("idempotency-key"), Some(id.to_string().as_str()));
    assert_eq!(request.json()["email"], "ada@example.com");
    assert_eq!(request.json()["claygate"]["delivery_id"], id.to_string());
    let attempts = rig.attempts(id).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!((attempts[0].number, attempts[0].class.as_str(), attempts[0].status), (1, "delivered", Some(201)));
    assert_eq!((attempts[0].response.as_deref(), attempts[0].owned), (Some(b"made".as_slice()), true));
    wait_for("the acknowledgement", PATIENCE, async || {
        let (queued, _) = rig.queued(&QueueName::deliver("crm")).await;
        if queued == 0 { Ok(()) } else { Err(queued) }
    })
    .await;
}

#[tokio::test]
async fn a_log_destination_records_without_a_request() {
    let rig = Rig::start("[destinations.notes]\nkind = \"log\"\n").await;
    let id = rig.deliver("notes").await;
    assert_eq!(rig.end(id).await, ("delivered".to_owned(), None));
    assert_eq!(rig.attempts(id).await.len(), 1);
}

#[tokio::test]
async fn passing_troubles_are_tried_again_on_schedule() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&http(&receiver.url("/leads"))).await;
    for answer in [Answer::status(500), Answer::status(408), Answer::reset(), Answer::hang(), Answer::status(425)] {
        receiver.answer_with(answer.clone());
        let id = rig.deliver("crm").await;
        let row = rig.tried(id, 1).await;
        assert_eq!((row.state.as_str(), row.failures), ("pending", 1), "{answer:?}");
        let wait = row.wait_s.unwrap();
        assert!((55.0..=66.0).contains(&wait), "{answer:?}: {wait}");
        assert_eq!(rig.attempts(id).await[0].class, "transient", "{answer:?}");
    }
    let (queued, due) = rig.queued(&QueueName::deliver("crm")).await;
    assert!(queued >= 5 && due.unwrap() > 30.0, "{queued} {due:?}");
}

#[tokio::test]
async fn a_schedule_that_is_used_up_ends_as_a_dead_letter() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(503));
    let rig = Rig::start(&http(&receiver.url("/leads"))).await;
    let id = rig.deliver("crm").await;
    for attempt in 1..=2 {
        rig.tried(id, attempt).await;
        rig.hurry(id, "crm").await;
    }
    assert_eq!(rig.end(id).await, ("dead".to_owned(), Some("attempts_used".to_owned())));
    let ids: Vec<_> = receiver.requests().iter().map(|r| r.header("webhook-id").unwrap().to_owned()).collect();
    assert_eq!(ids, vec![id.to_string(); 3]);
    let numbers: Vec<_> = rig.attempts(id).await.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
}

#[tokio::test]
async fn retry_after_is_honoured_and_never_shortens_the_schedule() {
    let receiver = Receiver::start().await;
    for (asked, expected) in [("1", 60.0), ("600", 600.0)] {
        // A lane of its own for each: a throttled lane sends nothing.
        let rig = Rig::start(&http(&receiver.url("/leads"))).await;
        receiver.answer_with(Answer::status(429).header("retry-after", asked));
        let id = rig.deliver("crm").await;
        let row = rig.tried(id, 1).await;
        let wait = row.wait_s.unwrap();
        assert!((expected - 5.0..=expected * 1.1).contains(&wait), "{asked}: {wait}");
        assert_eq!(rig.attempts(id).await[0].class, "throttled");
    }
}

#[tokio::test]
async fn terminal_answers_end_it_at_once() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&http(&receiver.url("/leads"))).await;
    for status in [400, 404, 413, 415, 422] {
        receiver.answer_with(Answer::status(status));
        let id = rig.deliver("crm").await;
        assert_eq!(rig.end(id).await, ("dead".to_owned(), Some("terminal".to_owned())), "{status}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let receiver = Receiver::start().await;
    receiver.answer_at("/leads", Answer::redirect("/elsewhere"));
    let rig = Rig::start(&http(&receiver.url("/leads"))).await;
    let id = rig.deliver("crm").await;
    assert_eq!(rig.end(id).await, ("dead".to_owned(), Some("terminal".to_owned())));
    assert_eq!(receiver.requests().len(), 1);
    assert!(rig.attempts(id).await[0].error.as_deref().unwrap().contains("redirect"));
}

#[tokio::test]
async fn a_private_address_is_refused_and_the_refusal_names_the_setting() {
    let receiver = Receiver::start().await;
    let by_name = receiver.url("/leads").replace("127.0.0.1", "localhost");
    for url in [receiver.url("/leads"), by_name] {
        let rig = Rig::start(&http(&url).replace("allow_private = true\n", "")).await;
        let id = rig.deliver("crm").await;
        assert_eq!(rig.end(id).await, ("dead".to_owned(), Some("terminal".to_owned())));
        let error = rig.attempts(id).await[0].error.clone().unwrap();
        assert!(error.contains("allow_private"), "{error}");
    }
    assert!(receiver.requests().is_empty());
}

#[tokio::test]
async fn a_body_without_end_costs_neither_memory_nor_the_outcome() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::endless(200));
    let rig = Rig::start(&http(&receiver.url("/leads"))).await;
    let id = rig.deliver("crm").await;
    assert_eq!(rig.end(id).await.0, "delivered");
    assert_eq!(rig.attempts(id).await[0].response.as_ref().unwrap().len(), 4096);
}

#[tokio::test]
async fn a_packed_body_is_not_unpacked() {
    let receiver = Receiver::start().await;
    let packed = b"\x1f\x8b\x08 not unpacked".to_vec();
    receiver.answer_with(Answer::status(200).header("content-encoding", "gzip").body(packed.clone()));
    let rig = Rig::start(&http(&receiver.url("/leads"))).await;
    let id = rig.deliver("crm").await;
    assert_eq!(rig.end(id).await.0, "delivered");
    assert_eq!(rig.attempts(id).await[0].response.as_ref(), Some(&packed));
    assert!(receiver.requests()[0].header("accept-encoding").is_none());
}

#[tokio::test]
async fn refused_credentials_pause_the_destination_until_it_is_resumed() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(401));
    let rig = Rig::start(&http(&receiver.url("/leads"))).await;
    let id = rig.deliver("crm").await;
    let row = rig.tried(id, 1).await;
    assert_eq!((row.state.as_str(), row.failures), ("pending", 0));
    let known = common::db::destination_state::list(&rig.database()).await.unwrap();
    assert_eq!((known[0].destination.as_str(), known[0].state.as_str()), ("crm", "paused"));
    assert!(known[0].reason.contains("401"), "{}", known[0].reason);

    let second = rig.deliver("crm").await;
    receiver.answer_with(Answer::status(200));
    assert!(common::db::destination_state::resume(&rig.database(), "crm").await.unwrap());
    assert_eq!(rig.end(id).await.0, "delivered");
    assert_eq!(rig.end(second).await.0, "delivered");
    assert_eq!(receiver.requests().len(), 3);
}

#[tokio::test]
async fn a_destination_that_is_gone_is_disabled() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(410));
    let rig = Rig::start(&http(&receiver.url("/leads"))).await;
    let id = rig.deliver("crm").await;
    let row = rig.tried(id, 1).await;
    assert_eq!((row.state.as_str(), row.failures), ("pending", 0));
    let known = common::db::destination_state::list(&rig.database()).await.unwrap();
    assert_eq!(known[0].state.as_str(), "disabled");
    assert!(rig.lanes.try_place("crm").is_none());
    assert_eq!(rig.queued(&QueueName::deliver("crm")).await.0, 1);
}

#[tokio::test]
async fn what_steps_captured_survives_a_retry() {
    let receiver = Receiver::start().await;
    receiver.answer_at("/people", Answer::status(200).body(r#"{"data":{"id":"p-7\u0000"}}"#));
    receiver.answer_at("/sequences", Answer::status(500));
    let rig = Rig::start(&format!(
        "[destinations.crm]\nkind = \"http\"\nallow_private = true\nretries = [\"60s\"]\n\
         [[destinations.crm.steps]]\nurl = \"{}\"\ncapture = {{ id = \"/data/id\" }}\n\
         [[destinations.crm.steps]]\nurl = \"{}\"\nbody = {{ person = \"{{{{ captured.id }}}}\" }}\n",
        receiver.url("/people"),
        receiver.url("/sequences")
    ))
    .await;
    let id = rig.deliver("crm").await;
    let row = rig.tried(id, 1).await;
    assert_eq!(row.captured.unwrap()["step"], 1);
    receiver.answer_at("/sequences", Answer::status(200));
    rig.hurry(id, "crm").await;
    assert_eq!(rig.end(id).await.0, "delivered");
    let requests = receiver.requests();
    let paths: Vec<_> = requests.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(paths, ["/people", "/sequences", "/sequences"]);
    assert_eq!(requests[2].json()["person"], "p-7\u{fffd}");
}

#[tokio::test]
async fn a_dead_letter_gives_its_cool_down_back() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(400));
    let rig = Rig::start(&http(&receiver.url("/leads"))).await;
    let id = rig.insert("crm").await;
    sqlx::query(
        "INSERT INTO claygate.cooldowns (destination, person, until, delivery_id)
         SELECT destination, person, now() + interval '1 day', id FROM claygate.deliveries WHERE id = $1",
    )
    .bind(id.0)
    .execute(rig.test.pool())
    .await
    .unwrap();
    rig.enqueue("crm", &[id]).await;
    assert_eq!(rig.end(id).await.0, "dead");
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM claygate.cooldowns").fetch_one(rig.test.pool()).await.unwrap();
    assert_eq!(left, 0);
    assert_eq!(rig.queued(&QueueName::released()).await.0, 1);
}

#[tokio::test]
async fn a_lead_that_was_removed_is_not_sent() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&http(&receiver.url("/leads"))).await;
    let id = rig.insert("crm").await;
    sqlx::query("DELETE FROM claygate.leads").execute(rig.test.pool()).await.unwrap();
    rig.enqueue("crm", &[id]).await;
    assert_eq!(rig.end(id).await, ("dead".to_owned(), Some("unsendable".to_owned())));
    assert!(receiver.requests().is_empty());
}

#[tokio::test]
async fn a_passing_trouble_heals_by_itself() {
    let receiver = Receiver::start().await;
    receiver.answer_in_turn([Answer::status(502)]);
    let rig = Rig::start(&http(&receiver.url("/leads")).replace("\"60s\"", "\"1s\"")).await;
    let id = rig.deliver("crm").await;
    assert_eq!(rig.end(id).await.0, "delivered");
    let classes: Vec<_> = rig.attempts(id).await.into_iter().map(|attempt| attempt.class).collect();
    assert_eq!(classes, ["transient", "delivered"]);
    assert_eq!(rig.row(id).await.failures, 1);
}

#[tokio::test]
async fn a_request_that_cannot_be_built_is_a_dead_letter_and_no_request() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&http("http://{{ lead.nothing }}/")).await;
    let id = rig.deliver("crm").await;
    assert_eq!(rig.end(id).await, ("dead".to_owned(), Some("unsendable".to_owned())));
    assert_eq!(rig.attempts(id).await[0].class, "poison");
    assert!(receiver.requests().is_empty());
}

#[tokio::test]
async fn a_signed_request_verifies_with_the_reference_implementation() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let receiver = Receiver::start().await;
    let rig = Rig::start(&(http(&receiver.url("/leads")) + &format!("signing_secret = \"{secret}\"\n"))).await;
    let id = rig.deliver("crm").await;
    assert_eq!(rig.end(id).await.0, "delivered");
    let request = &receiver.requests()[0];
    let mut headers = reqwest::header::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        headers.insert(name, request.header(name).unwrap().parse().unwrap());
    }
    standardwebhooks::Webhook::new(secret).unwrap().verify(&request.body, &headers).unwrap();
}

#[tokio::test]
async fn slack_gets_a_text_and_its_words_are_understood() {
    let receiver = Receiver::start().await;
    let slack = format!(
        "[destinations.alerts]\nkind = \"slack\"\nurl = \"{}\"\nallow_private = true\nrate = \"100/s\"\n",
        receiver.url("/services/T/B/X")
    );
    let rig = Rig::start(&slack).await;
    receiver.answer_with(Answer::status(200).body("ok"));
    let id = rig.deliver("alerts").await;
    assert_eq!(rig.end(id).await.0, "delivered");
    let text = receiver.requests()[0].json()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("Ada") && text.contains("85"), "{text}");
    receiver.answer_with(Answer::status(410).body("channel_is_archived"));
    let id = rig.deliver("alerts").await;
    assert_eq!(rig.end(id).await, ("dead".to_owned(), Some("terminal".to_owned())));
}
