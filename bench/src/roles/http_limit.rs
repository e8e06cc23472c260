//! The limit of HTTP: an actix-web handler that reads the body, checks its HMAC as claygate does, and answers.

use std::net::SocketAddr;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use common::config::{ActiveSecret, Verification};
use common::signature::{RequestParts, verify};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::wire;

/// As long as an answer of claygate's.
const ANSWER: &str = r#"{"received":true,"id":"0198c5a7-0000-7000-8000-000000000000","status":"accepted","duplicate":false,"timestamp":"2026-01-01T00:00:00.000000000Z"}"#;

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The secret.
    pub secret: String,
}

/// Said when it listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listening {
    /// The address.
    pub address: SocketAddr,
}

struct Parts<'a>(&'a HttpRequest);

impl RequestParts for Parts<'_> {
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.0.headers().get(name).map(|value| value.as_bytes())
    }

    fn path_and_query(&self) -> &str {
        self.0.uri().path_and_query().map_or("/", |path| path.as_str())
    }
}

/// Serves until the parent ends it.
///
/// # Errors
/// When there is no port.
pub(super) fn run(plan: Plan) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let secret = ActiveSecret { value: plan.secret.into(), expires_at: None };
        let verification = Verification::HmacSha256 { header: "x-clay-signature".to_owned(), secrets: vec![secret] };
        let verifications = web::Data::new(vec![verification]);
        let server = HttpServer::new(move || App::new().app_data(verifications.clone()).default_service(web::to(take)))
            .disable_signals()
            .bind("127.0.0.1:0")?;
        let address = server.addrs().first().copied().ok_or_else(|| anyhow::anyhow!("no address"))?;
        wire::say(&Listening { address })?;
        tokio::select! {
            ended = wire::wait_for_end() => ended,
            broken = server.run() => Ok(broken?),
        }
    })
}

async fn take(request: HttpRequest, body: web::Bytes, verifications: web::Data<Vec<Verification>>) -> HttpResponse {
    match verify(&verifications, &Parts(&request), &body, OffsetDateTime::now_utc()) {
        Ok(_) => HttpResponse::Ok().content_type("application/json").body(ANSWER),
        Err(_) => HttpResponse::Unauthorized().finish(),
    }
}
