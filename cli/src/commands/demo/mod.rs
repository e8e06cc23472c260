//! `claygate demo`: sends sample leads through a running instance and tells what became of them.

mod circle;
mod report;
mod samples;

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use common::config::{Config, Role, Verification};
use common::db::outcomes::{self, Outcomes};
use common::ids::CallbackId;
use indicatif::{ProgressBar, ProgressStyle};
use secrecy::ExposeSecret;
use tokio::task::JoinSet;

use self::report::{Answer, Report};
use self::samples::{Kind, Sample};
use super::counted::counted;
use super::r#loop::Text;
use crate::globals::{Globals, OpenDatabase};
use crate::run_file::RunFile;

const AT_ONCE: usize = 16;
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
const POLL_EVERY: Duration = Duration::from_millis(200);

/// Send sample leads through a running claygate and show what became of them.
///
/// The samples cover every band of scores, junk values, duplicates, bad signatures and malformed bodies; all of them are
/// invented. They go wherever your rules send them.
#[derive(Args)]
#[command(after_help = "Examples:\n  claygate demo --count 300\n  claygate demo --loop")]
pub(crate) struct Demo {
    /// How many requests to send.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Another number gives other leads; the same leads are duplicates the second time.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The source to send as.
    #[arg(long, default_value = "clay")]
    source: String,
    /// How long to wait until everything has ended, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    wait: u64,
    /// Send rows into a Clay that runs in this process instead, and show which come back: needs no running claygate, and
    /// leaves nothing behind.
    #[arg(long = "loop", conflicts_with = "source")]
    round: bool,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

impl Demo {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        if self.round {
            return self.go_round().await;
        }
        let config = globals.load(Role::Sender)?;
        let sender = Sender::new(&config, &self.source)?;
        let samples = samples::generate(usize::try_from(self.count)?, self.seed);
        let started = Instant::now();
        let answers = send_all(&sender, samples).await?;
        let stored: Vec<CallbackId> = answers.iter().filter_map(Answer::stored).collect();

        let open = OpenDatabase::open(&config).await?;
        let settled = wait_until_settled(&open, &stored, Duration::from_secs(self.wait)).await;
        open.close().await?;
        let report = Report::new(&answers, &settled?, started.elapsed());
        if self.json {
            super::print_json(&report)?;
        } else {
            crate::say::text(&report);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Demo {
    async fn go_round(self) -> anyhow::Result<ExitCode> {
        let circle = circle::run(self.count, self.seed, Duration::from_secs(self.wait)).await?;
        let code = if circle.is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        if self.json {
            super::print_json(&serde_json::json!({
                "complete": circle.is_complete,
                "handed_in": circle.answer, "clay": circle.clay, "loop": circle.report.as_json(),
            }))?;
            return Ok(code);
        }
        let n = |name: &str| circle.answer[name].as_u64().unwrap_or_default();
        let calls = &circle.clay.calls;
        say!(
            "Handed in: {} accepted, {} left out, {} held back by the filter.",
            counted(n("accepted"), "row"),
            counted(n("duplicates"), "duplicate"),
            n("filtered")
        );
        say!(
            "Clay took {} and called back: {} ran twice ({} with other values), {} sent no JSON, {} never called.",
            counted(circle.clay.accepted, "row"),
            calls.reruns,
            calls.changed,
            calls.malformed,
            calls.silent
        );
        say!("The table, the database and everything in it are gone; this is what came of it:\n");
        crate::say::text(Text(&circle.report));
        if !circle.is_complete {
            say!(
                "\nIncomplete: after {} s rows were still on their way. `--wait` with more seconds lets them arrive.",
                self.wait
            );
        }
        Ok(code)
    }
}

/// Where the samples go, and with which secret.
#[derive(Clone)]
struct Sender {
    client: reqwest::Client,
    url: String,
    header: String,
    secret: String,
}

impl Sender {
    fn new(config: &Config, source: &str) -> anyhow::Result<Self> {
        let port = match RunFile::of_live(&config.data)? {
            Some(run) => run.port,
            None if config.database.url.is_some() => config.ingest.listen.port(),
            None => bail!(
                "no claygate runs on {}; start it with `claygate up` in another terminal, in the same folder",
                config.data.display()
            ),
        };
        let known = || config.sources.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let Some(found) = config.sources.get(source) else {
            bail!("there is no source `{source}`; the configuration has: {}", known());
        };
        let token = found.verify.iter().find_map(|verification| match verification {
            Verification::Token { header, secrets } => {
                Some((header.clone(), secrets.first()?.value.expose_secret().to_owned()))
            }
            _ => None,
        });
        let (header, secret) =
            token.with_context(|| format!("the demo needs a source with a static secret, and `{source}` has none"))?;
        let ip = match config.ingest.listen.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        let url = format!("http://{}{}", SocketAddr::new(ip, port), found.path);
        let client = reqwest::Client::builder().no_proxy().timeout(REQUEST_LIMIT).build()?;
        Ok(Self { client, url, header, secret })
    }

    async fn send(&self, sample: &Sample) -> anyhow::Result<Answer> {
        let request = self.client.post(&self.url).header("content-type", "application/json").body(sample.body.clone());
        let request = match sample.kind {
            Kind::NoSecret => request,
            Kind::WrongSecret => request.header(&self.header, "not-the-secret"),
            _ => request.header(&self.header, &self.secret),
        };
        let answer = request.send().await.with_context(|| format!("nothing answers on {}", self.url))?;
        let status = answer.status().as_u16();
        let body = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
        Ok(Answer { status, body })
    }
}

/// Sends what stands alone first, and then what repeats it: a repeat must find the first one stored.
async fn send_all(sender: &Sender, samples: Vec<Sample>) -> anyhow::Result<Vec<Answer>> {
    let bar = progress(samples.len() as u64, "sending");
    let (later, first): (Vec<_>, Vec<_>) =
        samples.into_iter().partition(|sample| matches!(sample.kind, Kind::Repeat | Kind::Again));
    let mut answers = Vec::new();
    for wave in [first, later] {
        let mut running: JoinSet<anyhow::Result<Answer>> = JoinSet::new();
        let mut waiting = wave.into_iter();
        loop {
            while running.len() < AT_ONCE
                && let Some(sample) = waiting.next()
            {
                let sender = sender.clone();
                running.spawn(async move { sender.send(&sample).await });
            }
            let Some(done) = running.join_next().await else { break };
            answers.push(done??);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(answers)
}

/// Waits until nothing of `stored` is in progress, at most `limit`.
async fn wait_until_settled(open: &OpenDatabase, stored: &[CallbackId], limit: Duration) -> anyhow::Result<Outcomes> {
    let bar = progress(stored.len() as u64, "routing and delivering");
    let deadline = Instant::now() + limit;
    loop {
        let found = outcomes::of_callbacks(open.database(), stored).await?;
        let left = u64::try_from(found.in_progress()).unwrap_or_default();
        if left == 0 || Instant::now() >= deadline {
            bar.finish_and_clear();
            return Ok(found);
        }
        bar.set_position((stored.len() as u64).saturating_sub(left));
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// A progress bar, if a person watches.
fn progress(length: u64, what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{msg} {bar:40} {pos}/{len}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style).with_message(what)
}
