//! What a sender is told when something is wrong, and the limits that hold against anyone.

use tokio::io::AsyncWriteExt;

use crate::books::assert_counts;
use crate::gateway::{Answer, CLAY, LIMIT, PATH, SECRET, Site, read_to_end};

fn with_limits(limits: &str) -> String {
    format!("[ingest]\nlisten = \"127.0.0.1:0\"\nthreads = 1\n[ingest.limits]\n{limits}\n{CLAY}")
}

/// Status, `type`, and that the document says the same as the status line.
fn problem(answer: &Answer) -> (u16, &str) {
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.json["status"], answer.status);
    assert!(!answer.text("title").is_empty());
    (answer.status, answer.text("type"))
}

fn head(extra: &str) -> String {
    format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\nX-Clay-Signature: {SECRET}\r\n{extra}\r\n\r\n")
}

#[tokio::test]
async fn malformed_bodies_are_kept_once_and_answered_with_the_position() {
    let (site, gateway) = Site::with(CLAY).await;
    let first = gateway.post("{\n  \"quote\": \"say \"hi\"\"\n}").await;
    assert_eq!(problem(&first), (400, "/problems/malformed"));
    assert_eq!((&first.json["line"], &first.json["quarantined"]), (&2.into(), &true.into()));
    assert!(first.json["column"].as_u64().unwrap() > 10, "{first:?}");
    let again = gateway.post("{\n  \"quote\": \"say \"hi\"\"\n}").await;
    assert_eq!(again.id(), first.id());
    let kept = format!("SELECT seen FROM claygate.quarantine WHERE id = '{}'", first.id());
    assert_eq!(site.value::<i64>(kept).await, 2);
    for body in ["", "[]", "\"text\"", r#"{"a":1}{"b":2}"#, r#"{"lone":"\ud800"}"#, r#"{"n":1e999}"#] {
        assert_eq!(problem(&gateway.post(body).await), (400, "/problems/malformed"), "{body}");
    }
    let not_utf8 = gateway.post(b"{\"name\":\"Jos\xe9\"}".to_vec()).await;
    assert_eq!(problem(&not_utf8), (400, "/problems/malformed"));
    assert_counts(&site, [("quarantined", 9)]).await;
    gateway.stop(&site).await;
}

#[tokio::test]
async fn unauthenticated_bodies_are_never_kept() {
    let (site, gateway) = Site::with(CLAY).await;
    let answer = Answer::of(gateway.request_to(PATH).body("not even JSON")).await;
    assert_eq!(problem(&answer), (401, "/problems/credential-missing"));
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    assert_eq!(site.count("quarantine").await, 0);
    let stranger = format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n");
    let answer = read_to_end(gateway.connect(stranger).await).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "a stranger's body is not waited for: {answer}");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn paths_methods_and_content_types() {
    let (site, gateway) = Site::with(CLAY).await;
    assert_eq!(
        problem(&Answer::of(gateway.request_to("/elsewhere").body("{}")).await),
        (404, "/problems/unknown-path")
    );
    let get = testkit::http::client().get(format!("http://127.0.0.1:{}{PATH}", gateway.port));
    let get = Answer::of(get).await;
    assert_eq!((problem(&get), get.header("allow")), ((405, "/problems/method-not-allowed"), "POST"));
    let url = format!("http://127.0.0.1:{}{PATH}", gateway.port);
    for (content_type, status) in [
        (None, 200),
        (Some("application/json; charset=utf-8"), 200),
        (Some("application/cloudevents+json"), 200),
        (Some("text/plain"), 415),
        (Some("application/x-www-form-urlencoded"), 415),
    ] {
        let mut request = testkit::http::client().post(&url).header("X-Clay-Signature", SECRET).body("{}");
        if let Some(content_type) = content_type {
            request = request.header("Content-Type", content_type);
        }
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, status, "{content_type:?}");
        if status == 415 {
            assert_eq!(problem(&answer), (415, "/problems/not-json"));
        }
    }
    let zipped = Answer::of(gateway.request().header("Content-Encoding", "gzip").body("{}")).await;
    assert_eq!(problem(&zipped), (415, "/problems/content-encoding"));
    gateway.stop(&site).await;
}

#[tokio::test]
async fn large_bodies_are_refused_by_length_and_by_chunks() {
    let (site, gateway) = Site::with(&format!("{CLAY}max_body = \"2KB\"\n")).await;
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(100_000));
    let answer = gateway.post(large.clone()).await;
    assert_eq!(problem(&answer), (413, "/problems/body-too-large"));
    assert!(answer.text("detail").contains("2000"), "{answer:?}");

    let stream = gateway.connect(head("Content-Length: 5000\r\nConnection: close")).await;
    assert!(read_to_end(stream).await.starts_with("HTTP/1.1 413"), "before the body came");
    let mut stream = gateway.connect(head("Transfer-Encoding: chunked\r\nConnection: close")).await;
    stream.write_all(format!("bb8\r\n{}\r\n", "x".repeat(3_000)).as_bytes()).await.unwrap();
    assert!(read_to_end(stream).await.starts_with("HTTP/1.1 413"), "although more chunks could come");
    let small = gateway.post(r#"{"a":"small enough"}"#).await;
    assert_eq!(small.status_word(), "accepted");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn too_much_at_once_is_told_to_come_again() {
    for limits in ["in_flight = 1", "in_flight_bytes = \"1MiB\""] {
        let (site, gateway) = Site::with(&with_limits(limits)).await;
        let body = format!(r#"{{"a":"{}"}}"#, "x".repeat(700_000));
        let mut held = gateway.connect(head(&format!("Content-Length: {}\r\nConnection: close", body.len()))).await;
        let throttled = testkit::wait::wait_for("the limit to be reached", LIMIT, async || {
            let answer = gateway.post(body.clone()).await;
            if answer.status == 429 { Ok(answer) } else { Err(answer) }
        });
        let throttled = throttled.await;
        assert_eq!(problem(&throttled), (429, "/problems/overloaded"));
        assert!(throttled.header("retry-after").parse::<u32>().unwrap() >= 1);
        held.write_all(body.as_bytes()).await.unwrap();
        assert!(read_to_end(held).await.starts_with("HTTP/1.1 200"), "what was taken in is answered");
        let free_again = gateway.post(body).await;
        assert_eq!(free_again.status, 200);
        gateway.stop(&site).await;
    }
}

#[tokio::test]
async fn many_headers_are_refused() {
    let (site, gateway) = Site::with(&with_limits("headers = 16")).await;
    let many: String = (0..40).map(|n| format!("X-{n}: 1\r\n")).collect();
    let answer =
        read_to_end(gateway.connect(head(&format!("{many}Connection: close\r\nContent-Length: 0"))).await).await;
    assert!(answer.starts_with("HTTP/1.1 431") && answer.contains("/problems/too-many-headers"), "{answer}");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn slow_senders_are_cut_off() {
    let (site, gateway) = Site::with(&with_limits("header_timeout = \"1s\"\nbody_timeout = \"1s\"")).await;
    let slow_head = gateway.connect(format!("POST {PATH} HTTP/1.1\r\nHost: loc")).await;
    let slow_body = gateway.connect(head("Content-Length: 10")).await;
    let (slow_head, slow_body) = tokio::join!(read_to_end(slow_head), read_to_end(slow_body));
    assert!(slow_head.is_empty() || slow_head.starts_with("HTTP/1.1 408"), "{slow_head}");
    assert!(slow_body.starts_with("HTTP/1.1 408") && slow_body.contains("/problems/body-timeout"), "{slow_body}");
    assert_eq!(gateway.post(r#"{"a":1}"#).await.status_word(), "accepted", "its slot is free");
    gateway.stop(&site).await;
}
