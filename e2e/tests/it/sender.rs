//! A sender of leads, as Clay is one: with the secret, and again until there is an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use serde_json::{Value, json};
use testkit::wait::{wait_for, wait_until};
use tokio::task::JoinSet;

use crate::site::{LIMIT, Site, Up};

const AT_ONCE: usize = 8;

/// What was answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// The id in the answer.
    pub(crate) fn id(&self) -> String {
        self.body["id"].as_str().unwrap_or_else(|| panic!("no id in {}", self.body)).to_owned()
    }
}

/// Sends to the source `clay` of a site, whichever process runs there.
#[derive(Clone)]
pub(crate) struct Sender {
    client: reqwest::Client,
    port: Arc<AtomicU16>,
    secret: String,
    answered: Arc<AtomicUsize>,
}

impl Sender {
    /// With the secret that `up` made.
    pub(crate) fn new(site: &Site, up: &Up) -> Self {
        Self::to(up, &site.secret("clay"))
    }

    /// With this secret.
    pub(crate) fn to(up: &Up, secret: &str) -> Self {
        Self {
            client: testkit::http::client(),
            port: Arc::new(AtomicU16::new(up.port)),
            secret: secret.to_owned(),
            answered: Arc::default(),
        }
    }

    /// Sends to another process from now on.
    pub(crate) fn follow(&self, up: &Up) {
        self.port.store(up.port, Ordering::SeqCst);
    }

    /// One request with the secret.
    pub(crate) async fn send(&self, body: impl Into<String>) -> Answer {
        self.send_with(body, &[("X-Clay-Signature", &self.secret)]).await
    }

    /// One request with these headers alone.
    pub(crate) async fn send_with(&self, body: impl Into<String>, headers: &[(&str, &str)]) -> Answer {
        self.try_send(body.into(), headers).await.unwrap()
    }

    async fn try_send(&self, body: String, headers: &[(&str, &str)]) -> reqwest::Result<Answer> {
        let url = format!("http://127.0.0.1:{}/api/clay/enriched", self.port.load(Ordering::SeqCst));
        let request = self.client.post(url).timeout(LIMIT).header("content-type", "application/json").body(body);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let body = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
        Ok(Answer { status, body })
    }

    /// Sends lead `number` under a key of its own until it is answered with 200.
    async fn send_until_taken(&self, number: usize) -> Answer {
        let body = json!({ "email": format!("lead-{number}@example.com"), "icp_score": number % 101 }).to_string();
        let key = format!("lead-{number}");
        let headers = [("X-Clay-Signature", self.secret.as_str()), ("Idempotency-Key", key.as_str())];
        let answer = wait_for("an answer with 200", LIMIT, || {
            let sent = self.try_send(body.clone(), &headers);
            async move {
                match sent.await {
                    Ok(answer) if answer.status == 200 => Ok(answer),
                    Ok(answer) => Err(answer.status.to_string()),
                    Err(error) => Err(error.to_string()),
                }
            }
        })
        .await;
        self.answered.fetch_add(1, Ordering::SeqCst);
        answer
    }

    /// Sends `n` leads, a few at once, each until it is answered with 200. Gives the ids of the answers.
    pub(crate) fn spawn_load(&self, n: usize) -> tokio::task::JoinHandle<Vec<String>> {
        let sender = self.clone();
        tokio::spawn(async move {
            let (mut running, mut ids, mut numbers) = (JoinSet::new(), Vec::new(), 0..n);
            loop {
                while running.len() < AT_ONCE
                    && let Some(number) = numbers.next()
                {
                    let sender = sender.clone();
                    running.spawn(async move { sender.send_until_taken(number).await.id() });
                }
                let Some(done) = running.join_next().await else { return ids };
                ids.push(done.unwrap());
            }
        })
    }

    /// Waits until `n` leads of the load are answered.
    pub(crate) async fn wait_for_answers(&self, n: usize) {
        wait_until(&format!("{n} answers"), LIMIT, || {
            let enough = self.answered.load(Ordering::SeqCst) >= n;
            async move { enough }
        })
        .await;
    }
}
