//! The admin port as an operator's tools see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::config::{Config, Role};
use common::telemetry::{Probe, Verdict, metrics};
use console::AdminServer;
use tokio_util::sync::CancellationToken;

/// A part whose health the test turns on and off.
struct Part(AtomicBool);

impl Probe for Part {
    fn name(&self) -> &str {
        "part"
    }

    fn check(&self) -> Verdict {
        if self.0.load(Ordering::SeqCst) {
            Verdict::ready().with_warning("it works, but")
        } else {
            Verdict::not_ready("the part is broken")
        }
    }
}

fn listening(on: SocketAddr) -> Config {
    let toml = format!("[admin]\nlisten = \"{on}\"\n");
    let environment = [("CLAY_WEBHOOK_SECRET", "webhook-secret-0123456789")].into_iter().collect();
    Config::from_toml(Role::Up, &toml, &environment).unwrap()
}

fn anywhere() -> Config {
    listening(SocketAddr::from(([127, 0, 0, 1], 0)))
}

async fn get(port: u16, path: &str) -> (u16, String) {
    let answer = testkit::http::client().get(format!("http://127.0.0.1:{port}{path}")).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[actix_web::test]
async fn health_and_metrics() {
    let part = Arc::new(Part(AtomicBool::new(true)));
    let server = AdminServer::bind(&anywhere(), vec![part.clone()], metrics::install().unwrap()).unwrap();
    let (port, shutdown) = (server.port(), CancellationToken::new());
    let running = tokio::spawn(server.run_until(shutdown.clone()));

    assert_eq!(get(port, "/livez").await, (200, "ok\n".to_owned()));
    let (status, body) = get(port, "/readyz").await;
    assert_eq!(status, 200);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        body,
        serde_json::json!({"ready": true, "checks": [{"name": "part", "ready": true, "warnings": ["it works, but"]}]})
    );

    part.0.store(false, Ordering::SeqCst);
    let (status, body) = get(port, "/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("the part is broken"), "{body}");

    ::metrics::counter!("claygate_callbacks_total", "source" => "clay", "result" => "accepted").increment(0);
    let (status, body) = get(port, "/metrics").await;
    assert_eq!(status, 200);
    assert!(body.contains("claygate_callbacks_total{source=\"clay\",result=\"accepted\"} 0"), "{body}");
    assert_eq!(get(port, "/v1/anything").await.0, 404);

    // The document has exactly what is answered here, beside the public port's paths.
    let (status, body) = get(port, "/openapi.json").await;
    assert_eq!(status, 200);
    let document: serde_json::Value = serde_json::from_str(&body).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.contains_key("/api/clay/enriched"), "{body}");
    for (path, item) in paths.iter().filter(|(_, item)| item.get("get").is_some()) {
        let (status, _) = get(port, path).await;
        assert!(item["get"]["responses"].get(status.to_string()).is_some(), "{path} answers {status}");
        let posted = testkit::http::client().post(format!("http://127.0.0.1:{port}{path}")).send().await.unwrap();
        assert_eq!((posted.status().as_u16(), posted.headers()["allow"].to_str().unwrap()), (405, "GET"), "{path}");
    }
    assert_eq!(paths.values().filter(|item| item.get("get").is_some()).count(), 4);

    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[actix_web::test]
async fn a_taken_address_names_the_setting() {
    let first = AdminServer::bind(&anywhere(), Vec::new(), metrics::install().unwrap()).unwrap();
    let taken = SocketAddr::from(([127, 0, 0, 1], first.port()));
    let Err(error) = AdminServer::bind(&listening(taken), Vec::new(), metrics::install().unwrap()) else {
        panic!("two listeners on one address")
    };
    assert!(error.to_string().contains("admin.listen"), "{error}");
}
