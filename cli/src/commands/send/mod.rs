//! `claygate send`: the rows of a file for a table of Clay.
//!
//! A file is a batch, known by its content: groups of rows are committed with the line where the next one starts, so that
//! whatever ends this process, the same command goes on there and stores no row twice. The workers send what is stored.

mod input;
mod parquet;
mod records;
mod report;
mod rows;
mod table;

use std::fmt;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use common::config::{Destination, Role};
use common::db::Database;
use common::db::row_batches::{self, Counts, RowBatch};
use common::db::row_intake::{RowIntake, Step, Taken};
use common::rows::prepare::{KeySource, Preparer, RowProblem};
use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};
use tokio_util::sync::CancellationToken;
use worker::destinations::RowPreview;

use self::input::{Format, Input, Length, again};
use self::report::Report;
use self::rows::{Group, RowReader};
use self::table::Mapping;
use super::interrupt::stop_on_interrupt;
use crate::globals::{Globals, OpenDatabase};

/// Rows that a dry run shows.
const SAMPLES: usize = 5;
const POLL_EVERY: Duration = Duration::from_millis(500);

/// Send the rows of a file into a table of Clay.
///
/// The first record of CSV and TSV names the columns; cells are sent as text, empty ones are left out. Columns of Parquet have
/// their types: numbers keep their digits, times are sent as ISO 8601. Rows are stored and sent by the workers. After Ctrl-C or a crash the same command goes on where it was; a file that was sent as a whole is not sent
/// again without --again. Exits with 1 when a row was refused.
#[derive(Args)]
#[command(after_help = "Examples:\n  claygate send people.csv --to leads --map \"Work Email=email\" --dry-run\n  \
                        claygate send people.csv --to leads --map \"Work Email=email\"\n  \
                        claygate send people.parquet --to leads --wait")]
pub(crate) struct Send {
    /// The file: .csv, .tsv, .jsonl, .ndjson or .parquet; `-`: standard input.
    file: PathBuf,
    /// The destination, of kind `clay`.
    #[arg(long, value_name = "NAME")]
    to: String,
    /// How the file is read [default: by the end of its name]
    #[arg(long)]
    format: Option<Format>,
    /// Send a column under another name; may be given several times.
    #[arg(long, value_name = "COLUMN=NAME", value_parser = parse_pair)]
    map: Vec<(String, String)>,
    /// Send only the columns that are named by --map.
    #[arg(long, requires = "map")]
    only: bool,
    /// Show the first rows as they would be sent and what would be held back or refused, and store nothing.
    #[arg(long, conflicts_with_all = ["again", "wait"])]
    dry_run: bool,
    /// Send a file anew that was sent before.
    #[arg(long)]
    again: bool,
    /// Wait until every row has been sent or given up.
    #[arg(long)]
    wait: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('=') {
        Some((column, name)) if !column.is_empty() && !name.is_empty() => Ok((column.to_owned(), name.to_owned())),
        _ => Err("write it as COLUMN=NAME".to_owned()),
    }
}

impl Send {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let config = globals.load(Role::Tool)?;
        let destination = config.destinations.get(&self.to);
        let Some(destination) = destination.filter(|destination| destination.clay().is_some()) else {
            let tables = config.destinations.values().filter(|one| one.clay().is_some());
            let names: Vec<&str> = tables.map(|table| table.name.as_str()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            bail!("\"{}\" is no destination of kind clay; the configuration has: {names}", self.to);
        };
        let mapping = Mapping { renamed: self.map.iter().cloned().collect(), only: self.only };
        let input = Input::open(&self.file, self.format, &mapping).await?;
        let report = if self.dry_run {
            dry_run(input, destination, &mapping).await?
        } else {
            let open = OpenDatabase::reach(globals).await?;
            let sent = self.send(&open, input, destination, &mapping).await;
            open.close().await?;
            sent?
        };
        if self.json {
            super::print_json(&report)?;
        } else {
            crate::say::text(&report);
        }
        let is_good = report.finished && report.counts.refused == 0;
        Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn send(
        &self,
        open: &OpenDatabase,
        input: Input,
        destination: &Destination,
        mapping: &Mapping,
    ) -> anyhow::Result<Report> {
        if self.wait && open.is_own() {
            bail!("nobody sends rows while `claygate up` does not run: start it, or leave out --wait");
        }
        let (database, stop) = (open.database(), stop_on_interrupt()?);
        let (digest, repeat) = self.which(database, &input).await?;
        let mut intake = RowIntake::open(database.settings()).await?;
        let batch = intake.open_batch(&self.to, &input.name, digest.as_ref()).await?;
        // A stream that is sent anew has no digest; its batch is one of its own.
        let place = if digest.is_none() && self.again { Some(of_id(&batch)) } else { digest.filter(|_| repeat) };
        let keys = place.as_ref().map_or(KeySource::Row, KeySource::Place);
        let mut report = Report::of(&input, &self.to);
        report.batch = Some(batch.id);
        if batch.finished_at.is_some() {
            eprintln!("This file was sent before: nothing to do. --again sends it anew.");
            report.finished = true;
            report.next_line = batch.next_line;
            report.counts = batch.counts;
        } else {
            if batch.next_line > 0 {
                eprintln!("Going on at {} {}.", input.format.place(), batch.next_line);
            }
            let mut sending = Sending { intake, destination, batch, report };
            sending.run(input, mapping, keys, &stop).await?;
            report = sending.report;
        }
        if open.is_own() && report.counts.accepted > 0 {
            eprintln!("No `claygate up` runs on this data folder: the rows are sent when one does.");
        }
        for (reason, n) in row_batches::held_back(database, batch.id).await? {
            report.filtered_by.insert(reason, u64::try_from(n).unwrap_or_default());
        }
        if self.wait && report.finished {
            wait(database, &batch, &stop).await?;
            let states = row_batches::states(database, batch.id).await?;
            report.states =
                Some(states.into_iter().map(|(state, n)| (state, u64::try_from(n).unwrap_or_default())).collect());
        }
        Ok(report)
    }

    /// The digest of the batch that is meant, and whether it repeats an earlier one. A repetition that did not come to its
    /// end is gone on with.
    async fn which(&self, database: &Database, input: &Input) -> anyhow::Result<(Option<[u8; 32]>, bool)> {
        let Some(first) = input.digest else { return Ok((None, false)) };
        if !self.again {
            return Ok((Some(first), false));
        }
        for n in 0.. {
            let digest = again(&first, n);
            let found = row_batches::find(database, &self.to, &digest).await?;
            if found.is_none_or(|batch| batch.finished_at.is_none()) {
                return Ok((Some(digest), n > 0));
            }
        }
        bail!("this file was sent too often")
    }
}

/// What stands for the digest of a stream that is sent anew: its batch is one of its own.
fn of_id(batch: &RowBatch) -> [u8; 32] {
    let mut place = [0; 32];
    place.iter_mut().zip(batch.id.as_bytes()).for_each(|(place, byte)| *place = *byte);
    place
}

/// A batch on its way into the database.
struct Sending<'a> {
    intake: RowIntake,
    destination: &'a Destination,
    batch: RowBatch,
    report: Report,
}

impl Sending<'_> {
    async fn run(
        &mut self,
        mut input: Input,
        mapping: &Mapping,
        keys: KeySource<'_>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let from = self.batch.next_line;
        let mut reader = reader(&mut input, self.destination, mapping, keys, from)?;
        let bar = progress(&input, from);
        let mut rows = 0;
        loop {
            let part = tokio::select! {
                () = stop.cancelled() => None,
                part = input.next() => Some(part?),
            };
            let Some(part) = part else {
                self.report.next_line = self.batch.next_line;
                self.report.counts = self.batch.counts;
                break;
            };
            if part.is_empty() {
                let (group, next_line) = reader.finish()?;
                self.take(group, next_line.max(self.batch.next_line), true).await?;
                self.report.finished = true;
                break;
            }
            bar.inc(part.len());
            reader.feed(part)?;
            if reader.group.is_full() {
                let group = std::mem::take(&mut reader.group);
                rows += group.rows.len() as u64;
                self.take(group, reader.next_line(), false).await?;
                bar.set_message(format!("{} rows", HumanCount(rows)));
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    async fn take(&mut self, group: Group, next_line: u64, ends: bool) -> anyhow::Result<()> {
        let refused = group.problems.len() as u64;
        let step = Step { from_line: self.batch.next_line, next_line, refused, ends };
        let taken = self.intake.take(self.destination, self.batch.id, &step, &group.rows).await?;
        self.batch.next_line = next_line;
        self.batch.counts += Counts::of(&taken, refused);
        group.problems.iter().for_each(|(line, problem)| self.report.refuse(*line, problem));
        for (row, _) in group.rows.iter().zip(&taken).filter(|(_, taken)| matches!(taken, Taken::Conflict { .. })) {
            self.report
                .refuse(row.line.and_then(|line| line.try_into().ok()).unwrap_or_default(), &RowProblem::Conflict);
        }
        self.report.next_line = next_line;
        self.report.counts = self.batch.counts;
        Ok(())
    }
}

fn reader<'a>(
    input: &mut Input,
    destination: &'a Destination,
    mapping: &'a Mapping,
    keys: KeySource<'a>,
    from_line: u64,
) -> anyhow::Result<RowReader<'a>> {
    let preparer = Preparer::new(destination, keys, None).context("rows go to destinations of kind clay alone")?;
    let fields = destination.clay().into_iter().flat_map(|clay| clay.filter.fields());
    let needed: Vec<String> = fields.filter(|field| !field.starts_with('/')).map(str::to_owned).collect();
    input.begin(from_line, &needed)?;
    Ok(RowReader::new(input.format, mapping, preparer, from_line, needed))
}

/// Reads the whole file as a real run would, and stores nothing. Which rows are duplicates only the database knows.
async fn dry_run(mut input: Input, destination: &Destination, mapping: &Mapping) -> anyhow::Result<Report> {
    let clay = destination.clay().context("rows go to destinations of kind clay alone")?;
    let preview = RowPreview::prepare(&destination.name, clay)?;
    let mut report = Report::of(&input, &destination.name);
    let mut reader = reader(&mut input, destination, mapping, KeySource::Row, 0)?;
    let bar = progress(&input, 0);
    loop {
        let part = input.next().await?;
        if part.is_empty() {
            break;
        }
        bar.inc(part.len());
        reader.feed(part)?;
        judge(&mut report, &preview, std::mem::take(&mut reader.group))?;
    }
    let (group, next_line) = reader.finish()?;
    judge(&mut report, &preview, group)?;
    bar.finish_and_clear();
    report.next_line = next_line;
    report.finished = true;
    Ok(report)
}

fn judge(report: &mut Report, preview: &RowPreview, group: Group) -> anyhow::Result<()> {
    for row in &group.rows {
        match row.skip {
            Some(reason) => {
                report.counts.filtered += 1;
                *report.filtered_by.entry(reason.as_str().to_owned()).or_default() += 1;
            }
            None => {
                report.counts.accepted += 1;
                if report.samples.len() < SAMPLES {
                    report.samples.push(serde_json::from_slice(&preview.show(&row.body)?)?);
                }
            }
        }
    }
    report.counts.refused += group.problems.len() as u64;
    group.problems.iter().for_each(|(line, problem)| report.refuse(*line, problem));
    Ok(())
}

/// Waits until no row of the batch is to be sent any more, or until Ctrl-C.
async fn wait(database: &Database, batch: &RowBatch, stop: &CancellationToken) -> anyhow::Result<()> {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_message("waiting until every row was sent; Ctrl-C loses nothing");
    while row_batches::is_pending(database, batch.id).await? {
        bar.tick();
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(POLL_EVERY) => {}
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// A progress bar over bytes, or over the rows from `from` on, if a person watches.
fn progress(input: &Input, from: u64) -> ProgressBar {
    let Some(length) = input.length.filter(|_| std::io::stderr().is_terminal()) else { return ProgressBar::hidden() };
    let (length, rate) = match length {
        Length::Bytes(bytes) => (bytes, "{bytes_per_sec}"),
        Length::Rows(rows) => (rows.saturating_sub(from.saturating_sub(1)), "{rows_per_sec}"),
    };
    let template = format!("{{msg}} {{bar:40}} {{percent}}% {rate}, {{eta}} left");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = style.with_key("rows_per_sec", |state: &ProgressState, to: &mut dyn fmt::Write| {
        // A bar that cannot be written is seen by nobody.
        let _ = write!(to, "{:.0} rows/s", state.per_sec());
    });
    ProgressBar::new(length).with_style(style).with_message("reading")
}
