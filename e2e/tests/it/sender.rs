//! A sender of leads, as Clay is one: with the secret, and again until there is an answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::wait::{wait_for, wait_until};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::site::{LIMIT, Site, Up};

const AT_ONCE: usize = 8;
/// Brisk enough for something to be under way everywhere, and little enough for two processors.
const STREAM_EVERY: Duration = Duration::from_millis(15);

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

/// Sends to the source `clay`, whichever processes run there.
#[derive(Clone)]
pub(crate) struct Sender {
    client: reqwest::Client,
    secret: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Served in turn.
    ports: Mutex<Vec<u16>>,
    turn: AtomicUsize,
    numbers: AtomicUsize,
    answered: AtomicUsize,
    complaints: Mutex<Vec<String>>,
}

impl Sender {
    /// With the secret that `up` made.
    pub(crate) fn new(site: &Site, up: &Up) -> Self {
        Self::to([up.port], &site.secret("clay"))
    }

    /// To intakes on these ports, with this secret.
    pub(crate) fn to(ports: impl IntoIterator<Item = u16>, secret: &str) -> Self {
        let sender = Self { client: testkit::http::client(), secret: secret.to_owned(), state: Arc::default() };
        sender.follow(ports);
        sender
    }

    /// Sends to these from now on.
    pub(crate) fn follow(&self, ports: impl IntoIterator<Item = u16>) {
        *self.state.ports.lock().unwrap() = ports.into_iter().collect();
    }

    fn next_port(&self) -> u16 {
        let ports = self.state.ports.lock().unwrap();
        ports[self.state.turn.fetch_add(1, Ordering::SeqCst) % ports.len()]
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
        let url = format!("http://127.0.0.1:{}/api/clay/enriched", self.next_port());
        let request = self.client.post(url).timeout(LIMIT).header("content-type", "application/json").body(body);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let body = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
        Ok(Answer { status, body })
    }

    /// Sends the next lead under a key of its own until it is answered with 200.
    async fn send_until_taken(&self) -> Answer {
        let number = self.state.numbers.fetch_add(1, Ordering::SeqCst);
        let body = json!({ "email": format!("lead-{number}@example.com"), "icp_score": number % 101 }).to_string();
        let key = format!("lead-{number}");
        let headers = [("X-Clay-Signature", self.secret.as_str()), ("Idempotency-Key", key.as_str())];
        let answer = wait_for("an answer with 200", LIMIT, || {
            let sent = self.try_send(body.clone(), &headers);
            async move {
                let (answer, told) = match sent.await {
                    Ok(answer) => {
                        let told = format!("{} {}", answer.status, answer.body);
                        (Some(answer), told)
                    }
                    Err(error) => (None, format!("{error:?}")),
                };
                if !told.contains("\"accepted\"") {
                    self.state.complaints.lock().unwrap().push(told.clone());
                }
                answer.filter(|answer| answer.status == 200).ok_or(told)
            }
        })
        .await;
        self.state.answered.fetch_add(1, Ordering::SeqCst);
        answer
    }

    /// Sends `n` leads, a few at once, each until it is answered with 200. Gives the ids of the answers.
    pub(crate) fn spawn_load(&self, n: usize) -> JoinHandle<Vec<String>> {
        let sender = self.clone();
        tokio::spawn(async move {
            let (mut running, mut ids, mut left) = (JoinSet::new(), Vec::new(), n);
            loop {
                while running.len() < AT_ONCE && left > 0 {
                    left -= 1;
                    let sender = sender.clone();
                    running.spawn(async move { sender.send_until_taken().await.id() });
                }
                let Some(done) = running.join_next().await else { return ids };
                ids.push(done.unwrap());
            }
        })
    }

    /// Sends a lead every [`STREAM_EVERY`] until it is stopped.
    pub(crate) fn spawn_stream(&self) -> Stream {
        self.spawn_stream_every(STREAM_EVERY)
    }

    /// Sends a lead as often as this until it is stopped.
    pub(crate) fn spawn_stream_every(&self, every: Duration) -> Stream {
        let sender = self.clone();
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let (mut running, mut beat) = (JoinSet::new(), tokio::time::interval(every));
            loop {
                tokio::select! {
                    _ = &mut stopped => return running.join_all().await,
                    _ = beat.tick() => {
                        let sender = sender.clone();
                        running.spawn(async move { sender.send_until_taken().await.id() });
                    }
                }
            }
        });
        Stream { stop, task }
    }

    /// Leads that are answered so far.
    pub(crate) fn answered(&self) -> usize {
        self.state.answered.load(Ordering::SeqCst)
    }

    /// Waits until `n` leads are answered.
    pub(crate) async fn wait_for_answers(&self, n: usize) {
        wait_until(&format!("{n} answers"), LIMIT, async || self.answered() >= n).await;
    }

    /// Fails unless every lead was taken into Postgres at its first try.
    pub(crate) fn assert_undisturbed(&self) {
        let complaints = self.state.complaints.lock().unwrap();
        assert!(complaints.is_empty(), "{} leads were not simply accepted: {:?}", complaints.len(), complaints.first());
    }
}

/// Leads that keep coming.
pub(crate) struct Stream {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<String>>,
}

impl Stream {
    /// Ends it, and gives the ids of the answers.
    pub(crate) async fn stop(self) -> Vec<String> {
        // It ends on its own only by a panic, which the next line repeats.
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }
}
