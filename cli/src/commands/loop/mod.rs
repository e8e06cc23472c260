//! `claygate loop`: which rows came back from Clay, which did not, and sending those again.

mod report;
mod resend;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use common::config::{Config, Price, Role};
use common::db::missing_rows::{self, Missing, MissingRow};
use common::db::{Database, clay_webhooks, loop_report};
use time::OffsetDateTime;
use uuid::Uuid;

pub(crate) use self::report::{Report, Text};
use super::plan::Confirmation;
use super::since::{self, Since, parse_ago};
use crate::globals::{Globals, OpenDatabase};

/// Say which rows came back from Clay, how long it took, what they brought and cost; list those that did not.
///
/// A row counts once, however often it was sent. It is overdue when it was sent longer ago than its destination's
/// `expect_within` and has not come back.
#[derive(Args)]
#[command(after_help = "Examples:\n  claygate loop --since 7d --destination leads\n  \
                        claygate loop --missing --limit 20\n  claygate loop --resend --destination leads --older-than 2d",
          mut_arg("yes", |yes| yes.requires("resend").conflicts_with_all(["missing", "json"])))]
pub(crate) struct Loop {
    /// Only what was sent since then: 90m, 24h, 7d, or a moment like 2030-01-31T00:00:00Z.
    #[arg(long, value_name = "WHEN", default_value = "7d")]
    since: Since,
    /// Only this destination.
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Take for overdue what was sent longer ago than this, whatever the destination expects: 90m, 24h, 7d.
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    older_than: Option<Duration>,
    /// List the rows that are overdue, the latest first.
    #[arg(long)]
    missing: bool,
    /// With --missing: go on behind this one, as the page before printed it.
    #[arg(long, value_name = "MOMENT/ID", requires = "missing", value_parser = since::parse_position)]
    before: Option<(OffsetDateTime, Uuid)>,
    /// With --missing: lines of one page, at most 1000.
    #[arg(long, default_value_t = 50, requires = "missing", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Send the rows that are overdue again: shows how many, and asks. Each of them costs what a row costs.
    #[arg(long, conflicts_with_all = ["missing", "json"])]
    resend: bool,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn parse_age(text: &str) -> Result<Duration, String> {
    parse_ago(text).ok_or_else(|| "write 90m, 24h or 7d".to_owned())
}

/// A destination whose loop is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    name: String,
    is_configured: bool,
    expect_within: Option<Duration>,
    price_per_row: Option<Price>,
    once_per: Option<Duration>,
}

impl Table {
    /// The moment until which rows were sent that should be back.
    fn due_until(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        now.checked_sub(self.expect_within?.try_into().ok()?)
    }
}

impl Loop {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let open = OpenDatabase::reach(globals).await?;
        let done = self.run_on(open.database(), globals).await;
        open.close().await?;
        done
    }

    async fn run_on(&self, database: &Database, globals: &Globals) -> anyhow::Result<ExitCode> {
        let mut tables = find_tables(&globals.load(Role::Tool)?, database).await?;
        if let Some(wanted) = &self.destination {
            tables.retain(|table| table.name == *wanted);
            if tables.is_empty() {
                bail!("there is no destination \"{wanted}\" of kind clay, and none of that name has sent rows");
            }
        }
        if let Some(older_than) = self.older_than {
            tables.iter_mut().for_each(|table| table.expect_within = Some(older_than));
        }
        if self.resend {
            return resend::run(database, &tables, self.since.0, &self.confirmation).await;
        }
        if self.missing {
            return self.list(database, &tables).await;
        }
        let report = Report::read(database, &tables, self.since.0).await?;
        if self.json {
            super::print_json(&report.as_json())?;
        } else {
            crate::say::text(Text(&report));
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn list(&self, database: &Database, tables: &[Table]) -> anyhow::Result<ExitCode> {
        let missing = missing(tables, self.since.0, loop_report::now(database).await?);
        let page = missing_rows::list(database, &missing, self.before, self.limit).await?;
        if self.json {
            super::print_json(&page)?;
            return Ok(ExitCode::SUCCESS);
        }
        if page.is_empty() {
            say!("No row that was sent since {} is overdue.", since::shown(self.since.0));
            note_unexpected(tables);
        }
        page.iter().for_each(print_line);
        if let Some(last) = page.last().filter(|_| page.len() == self.limit as usize) {
            say!("\nMore: --before {}", since::written_position((last.sent_at, last.id)));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The tables that are configured, and those that are not any more and were sent to.
pub(crate) async fn find_tables(config: &Config, database: &Database) -> anyhow::Result<Vec<Table>> {
    let mut tables: Vec<Table> = config
        .destinations
        .values()
        .filter_map(|destination| {
            let clay = destination.clay()?;
            Some(Table {
                name: destination.name.clone(),
                is_configured: true,
                expect_within: clay.expect_within,
                price_per_row: clay.price_per_row,
                once_per: destination.once_per,
            })
        })
        .collect();
    let known: BTreeSet<String> =
        clay_webhooks::list(database).await?.into_iter().map(|webhook| webhook.destination).collect();
    for name in known {
        if tables.iter().all(|table| table.name != name) {
            let (expect_within, price_per_row, once_per) = (None, None, None);
            tables.push(Table { name, is_configured: false, expect_within, price_per_row, once_per });
        }
    }
    Ok(tables)
}

/// What is overdue in `tables`.
fn missing(tables: &[Table], since: OffsetDateTime, now: OffsetDateTime) -> Missing {
    let due_until = tables.iter().filter_map(|table| Some((table.name.clone(), table.due_until(now)?))).collect();
    Missing { due_until, since }
}

/// Says which tables cannot have anything overdue.
fn note_unexpected(tables: &[Table]) {
    let unexpected: Vec<&str> =
        tables.iter().filter(|table| table.expect_within.is_none()).map(|table| table.name.as_str()).collect();
    if !unexpected.is_empty() {
        say!(
            "Nothing is expected back from {}; --older-than 24h looks for rows of it all the same.",
            unexpected.join(", ")
        );
    }
}

fn print_line(row: &MissingRow) {
    let from = match (row.callback_id, &row.batch, row.line) {
        (Some(callback), ..) => format!("callback {callback}"),
        (None, Some(batch), Some(line)) => format!("{batch} line {line}"),
        (None, Some(batch), None) => batch.clone(),
        (None, None, _) => "-".to_owned(),
    };
    let key = row.key_kind.as_deref().unwrap_or("rule");
    let again = if row.delivery.as_deref() == Some("pending") { "  being sent again" } else { "" };
    say!(
        "{}  {}  {:<16} sent {}x  key {key:<8} {from}{again}",
        row.id,
        since::shown(row.sent_at),
        row.destination,
        row.times_sent
    );
}
