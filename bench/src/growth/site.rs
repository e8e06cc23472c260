//! One filled site, and what it is asked in a turn.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use common::db::books::{self, Scope, Verdict};
use common::db::dead_letters::{self, DeadFilter};
use common::db::events::{self, EventFilter};
use common::db::retention::{self, Pace, Run};
use common::db::{ConnectSettings, Database};
use common::ids::CallbackId;
use common::person::Person;
use common::retention::{Policy, What};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::fill::{self, Span, execute};
use super::sizes::Size;
use crate::measure::{Group, Sample};
use crate::report::Spread;
use crate::rig::Rig;
use crate::rig::postgres::RunDatabase;
use crate::scenarios::{Timing, take_in};

/// Lines of a page, as the commands have it.
const PAGE: u32 = 50;
/// Places in time that are looked at, evenly spread.
const PLACES: u32 = 20;
/// Connections of a command that lists.
const CONNECTIONS: u32 = 2;
/// The longest that the books are read.
const VERIFY_LIMIT: Duration = Duration::from_secs(3600);
const DAY: time::Duration = time::Duration::DAY;
/// Longer than any site is old.
const NOTHING_IS_OLDER: Duration = Duration::from_secs(10 * 365 * 86_400);
const IDLE_RUNS: u32 = 5;

/// What a turn gave, by what was asked: rates, milliseconds, seconds.
pub(super) type Answers = BTreeMap<&'static str, f64>;

/// One turn of one site.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Turn {
    pub(super) answers: Answers,
    /// The part of the machine that others used, from 0 to 1.
    pub(super) foreign: f64,
}

/// A database in use for a while.
pub(super) struct Site {
    pub(super) size: Size,
    /// What it took to fill it.
    pub(super) filled_in: Duration,
    /// Its files.
    pub(super) bytes: u64,
    database: RunDatabase,
    span: Span,
}

impl Site {
    /// Fills a database, and holds the books of it against what was meant.
    pub(super) async fn make(rig: &Rig, size: Size) -> anyhow::Result<Self> {
        let mut database = rig.postgres.create().await?;
        let started = Instant::now();
        let span = fill::fill(database.settings(), size).await.with_context(|| format!("filling {size}"))?;
        rig.postgres.checkpoint().await?;
        let filled_in = started.elapsed();
        let bytes = database.grown_by().await?;
        eprintln!(
            "bench: filled {size} in {:.0} s: {:.2} GB, {} bytes each",
            filled_in.as_secs_f64(),
            bytes as f64 / 1e9,
            bytes / size.0
        );
        Ok(Self { size, filled_in, bytes, database, span })
    }

    /// Asks everything once. What the intake stored is taken out again: every turn begins alike. In the last one, retention
    /// removes for good.
    pub(super) async fn ask(
        &mut self,
        rig: &Rig,
        folder: &Path,
        timing: Timing,
        is_last: bool,
    ) -> anyhow::Result<Turn> {
        let before = Sample::take()?;
        rig.postgres.checkpoint().await?;
        let mut answers = Answers::new();
        let settings = ConnectSettings { max_connections: CONNECTIONS, ..self.database.settings().clone() };
        let database = Database::open(settings.clone());
        self.ask_lists(&database, &mut answers).await?;
        database.close().await;
        self.ask_books(&settings, &mut answers).await?;
        self.ask_intake(rig, folder, timing, &mut answers).await?;
        self.ask_idle_retention(&mut answers).await?;
        if is_last {
            self.ask_retention(&mut answers).await?;
        }
        let foreign = before.until(&Sample::take()?, &[Group::tree("bench", std::process::id())]).foreign;
        Ok(Turn { answers, foreign: foreign.min(1.0) })
    }

    /// Whose statements are those of `claygate events` and `claygate dead`.
    async fn ask_lists(&self, database: &Database, answers: &mut Answers) -> anyhow::Result<()> {
        let mut connection = database.settings().connect_directly().await?;
        let (mut before_event, mut before_dead, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        let mut of_person = Vec::new();
        for moment in self.places() {
            let id = callback_before(&mut connection, moment).await?;
            before_event.push(EventFilter { before: Some(id), ..EventFilter::default() });
            let person = Some(person_before(&mut connection, moment).await?);
            of_person.push(EventFilter { person, ..EventFilter::default() });
            before_dead.push(DeadFilter { before: Some((moment, Uuid::nil())), ..DeadFilter::default() });
            ids.push(id);
        }
        connection.close().await?;
        let words = |source: Option<&str>, state: Option<&str>| {
            let word = |text: Option<&str>| text.map(str::to_owned);
            vec![EventFilter { source: word(source), state: word(state), ..EventFilter::default() }; 3]
        };
        let pages = [
            ("events-first", vec![EventFilter::default(); PLACES as usize]),
            ("events-deep", before_event),
            ("events-of-source", words(Some("token"), None)),
            ("events-of-nobody", words(Some("nobody"), None)),
            ("events-dead", words(None, Some("dead"))),
            ("events-waiting", words(None, Some("received"))),
            ("events-of-person", of_person),
        ];
        for (name, filters) in pages {
            let mut took = Vec::new();
            for filter in &filters {
                let (page, ms) = timed(events::list(database, filter, PAGE)).await?;
                let page = page.with_context(|| format!("{name}: there is no such page"))?;
                ensure!(filter.person.is_none() || !page.lines.is_empty(), "{name}: somebody has no callback");
                took.push(ms);
            }
            answers.insert(name, median(took));
        }
        let nowhere = DeadFilter { destination: Some("nowhere".to_owned()), ..DeadFilter::default() };
        let for_no_reason = DeadFilter { reason: Some("unsendable".to_owned()), ..DeadFilter::default() };
        let pages = [
            ("dead-first", vec![DeadFilter::default(); PLACES as usize]),
            ("dead-deep", before_dead),
            ("dead-of-destination", vec![nowhere; 3]),
            ("dead-for-reason", vec![for_no_reason; 3]),
        ];
        for (name, filters) in pages {
            let mut took = Vec::new();
            for filter in &filters {
                took.push(timed(dead_letters::list(database, filter, PAGE)).await?.1);
            }
            answers.insert(name, median(took));
        }
        let mut took = Vec::new();
        for id in ids {
            let (story, ms) = timed(events::story(database, id)).await?;
            ensure!(story.is_some(), "{id} has no story");
            took.push(ms);
        }
        answers.insert("event", median(took));
        Ok(())
    }

    /// The books of a day, and of everything; both have to balance.
    async fn ask_books(&self, settings: &ConnectSettings, answers: &mut Answers) -> anyhow::Result<()> {
        for (name, since) in [("verify-day", self.span.end - DAY), ("verify", self.span.start)] {
            let scope = Scope { since, limit: VERIFY_LIMIT, named_max: 20 };
            let started = Instant::now();
            let report = books::verify(settings, scope, |_, _| {}).await?;
            answers.insert(name, started.elapsed().as_secs_f64());
            let is_balanced = report.verdict == Verdict::Balanced;
            ensure!(is_balanced, "the books of {} do not balance: {:?}", self.size, report.differences);
            let found = report.totals.callbacks().unsigned_abs();
            ensure!(name != "verify" || found == self.size.0, "{found} callbacks are there instead of {}", self.size.0);
        }
        Ok(())
    }

    async fn ask_intake(
        &mut self,
        rig: &Rig,
        folder: &Path,
        timing: Timing,
        answers: &mut Answers,
    ) -> anyhow::Result<()> {
        let mut connection = self.database.settings().connect_directly().await?;
        rig.postgres.checkpoint().await?;
        let (answered, measured) = take_in(rig, folder, timing, self.database.url()).await?;
        answers.insert("intake", measured.per_second);
        answers.insert("intake-p99", measured.latency_ms.p99);
        answers.insert("metrics", measured.scrapes_per_second.unwrap_or_default());
        let from = self.span.end;
        let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.callbacks WHERE received_at >= $1")
            .bind(from)
            .fetch_one(&mut connection)
            .await?;
        ensure!(stored.unsigned_abs() == answered, "{stored} callbacks were stored, {answered} were answered");
        take_out(&mut connection, from).await?;
        Ok(connection.close().await?)
    }

    /// A run that finds nothing to remove, as nearly all of the hourly ones do.
    async fn ask_idle_retention(&self, answers: &mut Answers) -> anyhow::Result<()> {
        let time = Some(NOTHING_IS_OLDER);
        let policy = Policy { attempts: time, bodies: time, leads: time, decisions: time, rows: time, keys: time };
        let mut took = Vec::new();
        for _ in 0..IDLE_RUNS {
            let (removed, ms) = timed(self.run_retention(&policy)).await?;
            ensure!(removed.values().all(|n| *n == 0), "there was something to remove: {removed:?}");
            took.push(ms);
        }
        answers.insert("retention-idle", median(took));
        Ok(())
    }

    /// Whole weeks of bodies and attempts, then the oldest day with all that is left of it. The books balance afterwards.
    async fn ask_retention(&self, answers: &mut Answers) -> anyhow::Result<()> {
        let days = |n: u64| Some(Duration::from_secs(n * 86_400));
        let weekly = Policy { attempts: days(14), bodies: days(14), ..Policy::default() };
        let (weeks, ms) = timed(self.run_retention(&weekly)).await?;
        let weeks: u64 = weeks.values().sum();
        ensure!(weeks > 0, "there was no whole week to remove");
        answers.insert("retention-week", ms / weeks as f64);
        let (removed, ms) = timed(self.run_retention(&Policy { keys: days(27), ..Policy::default() })).await?;
        let callbacks = removed.get(&What::Keys).copied().unwrap_or_default();
        ensure!(callbacks >= self.size.0 / 30, "{callbacks} callbacks were removed of a day");
        answers.insert("retention", callbacks as f64 / (ms / 1e3));
        let scope = Scope { since: self.span.start, limit: VERIFY_LIMIT, named_max: 20 };
        let report = books::verify(self.database.settings(), scope, |_, _| {}).await?;
        let is_balanced = report.verdict == Verdict::Balanced;
        ensure!(is_balanced, "the books of {} do not balance after retention: {:?}", self.size, report.differences);
        Ok(())
    }

    /// What one run of retention removed.
    async fn run_retention(&self, policy: &Policy) -> anyhow::Result<BTreeMap<What, u64>> {
        let never = CancellationToken::new();
        match retention::run(self.database.settings(), policy, Pace::AtOnce, &never, |_| {}).await? {
            Run::Ended(all) => {
                ensure!(all.iter().all(|done| done.held == 0), "something was held back: {all:?}");
                Ok(all.into_iter().map(|done| (done.what, done.removed)).collect())
            }
            other => anyhow::bail!("retention did not come to its end: {other:?}"),
        }
    }

    /// Moments between the beginning and the end.
    fn places(&self) -> impl Iterator<Item = OffsetDateTime> + use<> {
        let Span { start, end } = self.span;
        (1..=PLACES).map(move |place| start + (end - start) * place / (PLACES + 1))
    }

    /// Removes it.
    pub(super) async fn remove(self, rig: &Rig) -> anyhow::Result<()> {
        rig.postgres.remove(self.database).await
    }
}

/// Removes what the intake stored from `moment` on, and the room that it took.
async fn take_out(connection: &mut PgConnection, moment: OffsetDateTime) -> anyhow::Result<()> {
    let from = format!("to_timestamp({})", moment.unix_timestamp());
    for statement in [
        "TRUNCATE claygate.outbox, claygate.spools".to_owned(),
        format!("DELETE FROM claygate.callback_bodies WHERE received_at >= {from}"),
        format!("DELETE FROM claygate.callbacks WHERE received_at >= {from}"),
        format!("DELETE FROM claygate.intake_counts WHERE hour >= {from}"),
        "VACUUM (ANALYZE) claygate.callbacks, claygate.callback_bodies, claygate.intake_counts".to_owned(),
    ] {
        execute(connection, &statement).await?;
    }
    Ok(())
}

async fn callback_before(connection: &mut PgConnection, moment: OffsetDateTime) -> anyhow::Result<CallbackId> {
    let id: Uuid = sqlx::query_scalar(
        "SELECT id FROM claygate.callbacks WHERE received_at < $1 ORDER BY received_at DESC, id DESC LIMIT 1",
    )
    .bind(moment)
    .fetch_one(connection)
    .await
    .context("looking for a callback")?;
    Ok(CallbackId(id))
}

/// Whose lead is the last one before `moment`.
async fn person_before(connection: &mut PgConnection, moment: OffsetDateTime) -> anyhow::Result<Person> {
    let person: Vec<u8> = sqlx::query_scalar(
        "SELECT l.person FROM claygate.callbacks AS c JOIN claygate.leads AS l ON l.callback_id = c.id
         WHERE c.received_at < $1 AND l.person IS NOT NULL ORDER BY c.received_at DESC, c.id DESC LIMIT 1",
    )
    .bind(moment)
    .fetch_one(connection)
    .await
    .context("looking for a person")?;
    Ok(Person(person.as_slice().try_into().context("a person is no SHA-256")?))
}

/// What `asking` gives, and how many milliseconds it took.
async fn timed<T, E: Into<anyhow::Error>>(asking: impl Future<Output = Result<T, E>>) -> anyhow::Result<(T, f64)> {
    let started = Instant::now();
    let answer = asking.await.map_err(Into::into)?;
    Ok((answer, started.elapsed().as_secs_f64() * 1e3))
}

fn median(values: Vec<f64>) -> f64 {
    Spread::of(values).map_or(0.0, |spread| spread.median)
}
