//! The listener and its pages.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{ALLOW, ContentType};
use actix_web::{App, HttpResponse, HttpServer, Resource, Route, web};
use common::config::Config;
use common::telemetry::metrics::MetricsHandle;
use common::telemetry::{Probe, Verdict};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::openapi;

/// The admin listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the admin listener cannot use {listen}; choose another address with admin.listen")]
pub struct BindError {
    listen: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// The bound admin listener.
pub struct AdminServer {
    listener: TcpListener,
    port: u16,
    parts: Arc<Parts>,
}

struct Parts {
    probes: Vec<Arc<dyn Probe>>,
    metrics: MetricsHandle,
    /// The OpenAPI document, as it is sent.
    document: String,
}

/// What `/readyz` answers.
#[derive(Serialize)]
struct Report<'a> {
    ready: bool,
    checks: Vec<Check<'a>>,
}

#[derive(Serialize)]
struct Check<'a> {
    name: &'a str,
    #[serde(flatten)]
    verdict: Verdict,
}

impl AdminServer {
    /// Opens the listener of `config`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`BindError`] when the address is taken or not this machine's.
    pub fn bind(config: &Config, probes: Vec<Arc<dyn Probe>>, metrics: MetricsHandle) -> Result<Self, BindError> {
        let listen = config.admin.listen;
        let listener = TcpListener::bind(listen).map_err(|source| BindError { listen, source })?;
        let port = listener.local_addr().map_err(|source| BindError { listen, source })?.port();
        let document = openapi::document(config).to_string();
        Ok(Self { listener, port, parts: Arc::new(Parts { probes, metrics, document }) })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers until `shutdown`.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn run_until(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let parts = web::Data::from(self.parts);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(parts.clone())
                .service(page("/livez", web::get().to(livez)))
                .service(page("/readyz", web::get().to(readyz)))
                .service(page("/metrics", web::get().to(metrics)))
                .service(page("/openapi.json", web::get().to(document)))
        })
        .workers(1)
        .shutdown_timeout(1)
        .keep_alive(Duration::from_secs(75))
        .shutdown_signal(shutdown.cancelled_owned())
        .listen(self.listener)?
        .run();
        server.await
    }
}

/// A page that is only to be got; whoever tries something else is told so.
fn page(path: &str, get: Route) -> Resource {
    web::resource(path)
        .route(get)
        .default_service(web::to(async || HttpResponse::MethodNotAllowed().insert_header((ALLOW, "GET")).finish()))
}

async fn livez() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::plaintext()).body("ok\n")
}

async fn readyz(parts: web::Data<Parts>) -> HttpResponse {
    let checks: Vec<Check<'_>> =
        parts.probes.iter().map(|probe| Check { name: probe.name(), verdict: probe.check() }).collect();
    let ready = checks.iter().all(|check| check.verdict.ready);
    let mut answer = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    answer.json(Report { ready, checks })
}

async fn metrics(parts: web::Data<Parts>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(parts.metrics.render())
}

async fn document(parts: web::Data<Parts>) -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::json()).body(parts.document.clone())
}
