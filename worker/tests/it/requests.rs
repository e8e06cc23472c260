//! One attempt at a real destination: what is sent, what is refused, and what every kind of answer means.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::config::{Body, BreakerConfig, Destination, DestinationKind, HttpDestination, StatusSet, Step};
use common::ids::{CallbackId, DeliveryId};
use common::states::{Class, Reason};
use serde_json::{Value, json};
use testkit::receiver::{Answer, Receiver};
use testkit::wait::wait_until;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;
use worker::destinations::guard::{Guard, Lookup};
use worker::destinations::{Outcome, RESPONSE_KEPT_BYTES, Target};
use worker::lanes::LeasedDelivery;

const PATIENCE: Duration = Duration::from_secs(10);
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

fn step(url: &str) -> Step {
    Step {
        method: "POST".to_owned(),
        url: url.to_owned().into(),
        headers: BTreeMap::new(),
        body: Body::Lead,
        capture: BTreeMap::new(),
    }
}

fn destination(steps: Vec<Step>) -> Destination {
    Destination {
        name: "outreach".to_owned(),
        kind: DestinationKind::Http(Box::new(HttpDestination {
            steps,
            auth: None,
            success: StatusSet::default(),
            terminal: StatusSet::default(),
            signing_secret: Some(SECRET.to_owned().into()),
        })),
        concurrency: 4,
        rate: None,
        timeout: Duration::from_millis(800),
        connect_timeout: Duration::from_millis(400),
        retries: Vec::new(),
        once_per: None,
        allow_private: true,
        workspace: None,
        allow_loop: false,
        breaker: BreakerConfig { failures: 0, open: Duration::from_secs(1), open_max: Duration::from_secs(1) },
    }
}

fn delivery() -> LeasedDelivery {
    let lead = json!({"email": "ada@example.com", "icp_score": 92});
    LeasedDelivery {
        id: DeliveryId::new(),
        callback_id: Some(CallbackId::new()),
        row_id: None,
        destination: "outreach".to_owned(),
        rule: Some("hot".to_owned()),
        replay: 0,
        attempts: 1,
        failures: 1,
        lease_token: Uuid::now_v7(),
        lease_deadline: Instant::now() + Duration::from_secs(60),
        captured: Value::Null,
        lead: Arc::new(lead.as_object().unwrap().clone()),
        row: None,
        source: "clay".into(),
        received_at: OffsetDateTime::UNIX_EPOCH,
        person: None,
    }
}

async fn send(destination: &Destination, delivery: &LeasedDelivery) -> Outcome {
    Target::prepare(destination).unwrap().send(delivery, &|| true).await
}

#[tokio::test]
async fn a_request_carries_the_lead_and_a_signature_that_verifies() {
    let receiver = Receiver::start().await;
    let delivery = delivery();
    let outcome = send(&destination(vec![step(&receiver.url("/leads"))]), &delivery).await;
    assert_eq!((outcome.class, outcome.status), (Class::Delivered, Some(200)));

    let request = receiver.requests().remove(0);
    let id = delivery.id.to_string();
    assert_eq!(request.header("idempotency-key"), Some(id.as_str()));
    assert_eq!(request.header("webhook-id"), Some(id.as_str()));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert!(request.header("user-agent").unwrap().starts_with("claygate/"));
    assert_eq!(request.header("accept-encoding"), None);
    let mut headers = standardwebhooks_headers(&request);
    let oracle = standardwebhooks::Webhook::new(SECRET).unwrap();
    assert!(oracle.verify(&request.body, &headers).is_ok());
    headers.insert("webhook-id", "another".parse().unwrap());
    assert!(oracle.verify(&request.body, &headers).is_err());
    let body = request.json();
    assert_eq!(body["email"], "ada@example.com");
    assert_eq!(body["claygate"]["delivery_id"], id);
    assert_eq!(body["claygate"]["attempt"], 2);
}

fn standardwebhooks_headers(request: &testkit::receiver::ReceivedRequest) -> reqwest::header::HeaderMap {
    ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .into_iter()
        .map(|name| (reqwest::header::HeaderName::from_static(name), request.header(name).unwrap().parse().unwrap()))
        .collect()
}

#[tokio::test]
async fn answers_that_are_none_are_transient_and_do_not_show_the_url() {
    let receiver = Receiver::start().await;
    let url = receiver.url("/leads?key=hush");
    let destination = destination(vec![step(&url)]);
    for answer in [Answer::hang(), Answer::reset()] {
        receiver.answer_with(answer.clone());
        let outcome = send(&destination, &delivery()).await;
        assert_eq!((outcome.class, outcome.status), (Class::Transient, None), "{answer:?}: {outcome:?}");
        let error = outcome.error.unwrap();
        assert!(!error.contains("hush") && !error.contains("127.0.0.1"), "{error}");
    }
    // Nobody listens on this port any more.
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/leads?key=hush", listener.local_addr().unwrap())
    };
    let outcome = send(&self::destination(vec![step(&closed)]), &delivery()).await;
    assert_eq!(outcome.class, Class::Transient);
    assert_eq!(outcome.error.as_deref(), Some("connecting failed: connection refused"));
}

/// The destination answers within the time, and this thread, which would read that, stands still until after it.
#[tokio::test]
async fn an_answer_that_came_during_a_standstill_is_read() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(200).body(r#"{"id": 7}"#).after(Duration::from_millis(200)));
    let mut captures = step(&receiver.url("/"));
    captures.capture = BTreeMap::from([("id".to_owned(), "/id".to_owned())]);
    let destination = destination(vec![captures, step(&receiver.url("/"))]);
    let standstill = async {
        wait_until("the request to be under way", PATIENCE, async || receiver.in_flight() == 1).await;
        std::thread::sleep(destination.timeout + Duration::from_millis(300));
    };
    let delivery = delivery();
    let (outcome, ()) = tokio::join!(send(&destination, &delivery), standstill);
    assert_eq!((outcome.class, outcome.status), (Class::Delivered, Some(200)), "{outcome:?}");
    assert_eq!(receiver.requests().len(), 2);
}

#[tokio::test]
async fn a_body_without_end_is_cut_and_the_status_counts() {
    let receiver = Receiver::start().await;
    let destination = destination(vec![step(&receiver.url("/"))]);
    for (status, class) in [(200, Class::Delivered), (503, Class::Transient)] {
        receiver.answer_with(Answer::endless(status));
        let outcome = send(&destination, &delivery()).await;
        assert_eq!((outcome.class, outcome.response.len()), (class, RESPONSE_KEPT_BYTES));
    }
}

#[tokio::test]
async fn a_compressed_answer_is_not_unpacked() {
    let receiver = Receiver::start().await;
    let packed = b"\x1f\x8b\x08\x00not really gzip".to_vec();
    receiver.answer_with(Answer::status(200).header("content-encoding", "gzip").body(packed.clone()));
    let outcome = send(&destination(vec![step(&receiver.url("/"))]), &delivery()).await;
    assert_eq!((outcome.class, outcome.response), (Class::Delivered, packed));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let receiver = Receiver::start().await;
    let elsewhere = Receiver::start().await;
    receiver.answer_with(Answer::redirect(&elsewhere.url("/")));
    let outcome = send(&destination(vec![step(&receiver.url("/"))]), &delivery()).await;
    assert_eq!((outcome.class, outcome.status), (Class::Permanent, Some(307)));
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn retry_after_is_read() {
    let receiver = Receiver::start().await;
    let destination = destination(vec![step(&receiver.url("/"))]);
    receiver.answer_with(Answer::status(429).header("retry-after", "7"));
    let outcome = send(&destination, &delivery()).await;
    assert_eq!((outcome.class, outcome.retry_after), (Class::Throttled, Some(Duration::from_secs(7))));
}

#[tokio::test]
async fn private_addresses_are_refused_before_anything_is_sent() {
    let receiver = Receiver::start().await;
    let mut closed = destination(vec![step(&receiver.url("/"))]);
    closed.allow_private = false;
    let outcome = send(&closed, &delivery()).await;
    assert_eq!((outcome.class, outcome.status), (Class::Permanent, None));
    assert!(outcome.error.unwrap().contains("allow_private = true"));

    // By name: the real client, whose resolver finds a public and a private address.
    let port = url::Url::parse(&receiver.url("/")).unwrap().port().unwrap();
    let named = destination(vec![step(&format!("http://leads.example.com:{port}/"))]);
    let lookup = |answers: Vec<&'static str>| -> Lookup {
        Arc::new(move |_| {
            let answers = answers.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect();
            Box::pin(async move { Ok(answers) })
        })
    };
    for answers in [vec!["127.0.0.1"], vec!["8.8.8.8", "127.0.0.1"], vec!["127.0.0.1", "8.8.8.8"]] {
        let guard = Guard::with_lookup(false, lookup(answers.clone()));
        let outcome = Target::prepare_with(&named, guard).unwrap().send(&delivery(), &|| true).await;
        assert_eq!((outcome.class, outcome.status), (Class::Permanent, None), "{answers:?}: {outcome:?}");
        assert!(outcome.error.unwrap().contains("allow_private = true"));
    }
    assert_eq!(receiver.requests().len(), 0);

    let guard = Guard::with_lookup(true, lookup(vec!["127.0.0.1"]));
    let outcome = Target::prepare_with(&named, guard).unwrap().send(&delivery(), &|| true).await;
    assert_eq!((outcome.class, receiver.requests().len()), (Class::Delivered, 1));
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_tried_again() {
    let lookup: Lookup = Arc::new(|_| Box::pin(async { Err(std::io::Error::other("no such name")) }));
    let named = destination(vec![step("http://leads.example.com/?key=hush")]);
    let target = Target::prepare_with(&named, Guard::with_lookup(false, lookup)).unwrap();
    let outcome = target.send(&delivery(), &|| true).await;
    assert_eq!(outcome.class, Class::Transient);
    assert_eq!(outcome.error.as_deref(), Some("the destination's name could not be resolved"));
}

fn two_steps(receiver: &Receiver) -> Destination {
    let mut first = step(&receiver.url("/prospects"));
    first.capture = BTreeMap::from([("prospect".to_owned(), "/data/id".to_owned())]);
    let mut second = step(&receiver.url("/sequences/{{ captured.prospect }}"));
    second.body = Body::Json(json!({"prospect": "{{ captured.prospect }}", "email": "{{ lead.email }}"}));
    destination(vec![first, second])
}

#[tokio::test]
async fn a_step_that_is_done_is_not_sent_again() {
    let receiver = Receiver::start().await;
    receiver.answer_at("/prospects", Answer::status(201).body(r#"{"data": {"id": 41}}"#));
    receiver.answer_at("/sequences", Answer::status(503));
    let destination = two_steps(&receiver);
    let mut delivery = delivery();
    let outcome = send(&destination, &delivery).await;
    assert_eq!((outcome.class, outcome.step), (Class::Transient, 1));
    assert_eq!(outcome.captured, Some(json!({"step": 1, "values": {"prospect": 41}})));

    delivery.captured = outcome.captured.unwrap();
    receiver.answer_at("/sequences", Answer::status(200));
    let outcome = send(&destination, &delivery).await;
    assert_eq!(outcome.class, Class::Delivered);
    let requests = receiver.requests();
    let paths: Vec<&str> = requests.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(paths, ["/prospects", "/sequences/41", "/sequences/41"]);
    assert_eq!(requests[2].json(), json!({"prospect": 41, "email": "ada@example.com"}));
    assert_ne!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
    assert_eq!(requests[1].header("webhook-id"), requests[2].header("webhook-id"));
}

#[tokio::test]
async fn a_value_to_capture_that_is_not_there_ends_it() {
    let receiver = Receiver::start().await;
    for body in ["{}", "ok", r#"{"data": {"id": null}}"#] {
        receiver.answer_with(Answer::status(200).body(body));
        let outcome = send(&two_steps(&receiver), &delivery()).await;
        assert_eq!((outcome.class, outcome.step), (Class::Permanent, 0), "{body}");
    }
    assert!(receiver.requests().iter().all(|request| request.path == "/prospects"));
}

#[tokio::test]
async fn no_request_is_made_without_time_for_it() {
    let receiver = Receiver::start().await;
    let target = Target::prepare(&destination(vec![step(&receiver.url("/"))])).unwrap();
    let outcome = target.send(&delivery(), &|| false).await;
    assert_eq!((outcome.class, outcome.counts), (Class::Transient, false));
    assert_eq!(receiver.requests().len(), 0);
}

#[tokio::test]
async fn a_lead_that_makes_no_request_is_unsendable() {
    let receiver = Receiver::start().await;
    let mut bad = step(&receiver.url("/"));
    bad.headers.insert("x-name".to_owned(), "{{ 'a\\nb' }}".to_owned().into());
    let outcome = send(&destination(vec![bad]), &delivery()).await;
    assert_eq!((outcome.class, outcome.unsendable), (Class::Poison, Some(Reason::Unsendable)));
    let outcome = send(&destination(vec![step("{{ lead.nothing }}")]), &delivery()).await;
    assert_eq!((outcome.class, outcome.unsendable), (Class::Poison, Some(Reason::Unsendable)));
    assert_eq!(receiver.requests().len(), 0);
}
