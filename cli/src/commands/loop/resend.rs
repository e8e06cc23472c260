//! Sending again what never came back: a plan, a question, and new deliveries of the same rows.

use std::io::IsTerminal;
use std::process::ExitCode;

use common::db::missing_rows::{self, Plan};
use common::db::{Database, loop_report};
use indicatif::{ProgressBar, ProgressStyle};
use time::OffsetDateTime;

use super::{Table, missing, note_unexpected};
use crate::commands::counted::counted;
use crate::commands::plan::{self, Confirmation};

pub(super) async fn run(
    database: &Database,
    tables: &[Table],
    since: OffsetDateTime,
    confirmation: &Confirmation,
) -> anyhow::Result<ExitCode> {
    // Nobody sends to what is not configured.
    let tables: Vec<Table> = tables.iter().filter(|table| table.is_configured).cloned().collect();
    let missing = missing(&tables, since, loop_report::now(database).await?);
    let plans = missing_rows::plan(database, &missing).await?;
    let all: u64 = plans.iter().map(|(_, plan)| plan.again).sum();
    if all == 0 {
        say!("No overdue row can be sent again.");
        print_left_out(&plans);
        note_unexpected(&tables);
        return Ok(ExitCode::SUCCESS);
    }
    say!("Rows that are overdue are sent again to:");
    let counts: Vec<(String, i64)> = plans
        .iter()
        .filter(|(_, plan)| plan.again > 0)
        .map(|(name, plan)| (name.clone(), i64::try_from(plan.again).unwrap_or(i64::MAX)))
        .collect();
    plan::print(&counts);
    print_left_out(&plans);
    for (name, plan) in plans.iter().filter(|(_, plan)| plan.again > 0) {
        if let Some(price) = tables.iter().find(|table| table.name == *name).and_then(|table| table.price_per_row) {
            say!("Those to {name} cost {} at {price} each.", price.times(plan.again));
        }
    }
    if let Some(refused) = confirmation.ask()? {
        return Ok(refused);
    }
    let bar = progress(all);
    let mut queued = 0;
    for (name, due_until) in &missing.due_until {
        let once_per = tables.iter().find(|table| table.name == *name).and_then(|table| table.once_per);
        let at = (name.as_str(), *due_until);
        queued += missing_rows::resend(database, at, since, once_per, |n| bar.set_position(queued + n)).await?;
    }
    bar.finish_and_clear();
    say!("Queued {}. `claygate loop` counts each of them once, whichever sending comes back.", counted(queued, "row"));
    Ok(ExitCode::SUCCESS)
}

fn print_left_out(plans: &[(String, Plan)]) {
    for (name, plan) in plans {
        if plan.on_the_way > 0 {
            say!("  {name}: {} on the way again already.", plan.on_the_way);
        }
        if plan.expired > 0 {
            say!("  {name}: {} with data that is not stored any more, which cannot be sent again.", plan.expired);
        }
    }
}

/// A progress bar, if a person watches.
fn progress(all: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(all).with_style(style).with_message("queueing rows")
}
