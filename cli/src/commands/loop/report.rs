//! The report of the loop, as text and as JSON.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use common::config::Price;
use common::db::loop_report::{self, BUCKETS, LEADS_MAX, Loop};
use common::db::{Database, DbError};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::Table;
use crate::commands::counted::counted;
use crate::commands::since::{shown, shown_seconds};

/// The longest bar of the histogram.
const BAR: u64 = 30;

/// What became of the rows of several tables since a moment.
pub(crate) struct Report {
    since: OffsetDateTime,
    tables: Vec<(Table, Loop)>,
}

impl Report {
    /// Reads it, as of now.
    ///
    /// # Errors
    /// [`DbError`].
    pub(crate) async fn read(database: &Database, tables: &[Table], since: OffsetDateTime) -> Result<Self, DbError> {
        let now = loop_report::now(database).await?;
        let mut read = Vec::with_capacity(tables.len());
        for table in tables {
            read.push((table.clone(), loop_report::read(database, &table.name, since, table.due_until(now)).await?));
        }
        Ok(Self { since, tables: read })
    }

    /// As JSON. Prices are strings, since they are exact.
    pub(crate) fn as_json(&self) -> Value {
        let destinations: Vec<Value> = self.tables.iter().map(|(table, found)| table_as_json(table, found)).collect();
        json!({ "since": shown(self.since), "destinations": destinations })
    }
}

fn table_as_json(table: &Table, found: &Loop) -> Value {
    let ends = BUCKETS.iter().map(|end| json!(end)).chain([Value::Null]);
    let histogram: Vec<Value> =
        ends.zip(&found.histogram).map(|(end, n)| json!({ "up_to_seconds": end, "rows": n })).collect();
    let fields: Vec<Value> = found
        .fields
        .filled
        .iter()
        .map(|(field, n)| json!({ "field": field, "leads": n, "share": share(*n, found.fields.leads) }))
        .collect();
    let cost = Cost::of(table, found);
    json!({
        "destination": table.name,
        "configured": table.is_configured,
        "sent": found.sent,
        "submissions": found.submissions,
        "returned": found.returned,
        "outstanding": outstanding(found),
        "overdue": found.overdue,
        "expect_within_seconds": table.expect_within.map(|within| within.as_secs()),
        "seconds_to_return": found.seconds.map(|seconds| {
            json!({ "p50": seconds.p50, "p90": seconds.p90, "max": seconds.max })
        }),
        "histogram": histogram,
        "leads": found.fields.leads,
        "fields": fields,
        "price_per_row": table.price_per_row.map(|price| price.to_string()),
        "cost": cost.as_ref().map(|cost| cost.all.to_string()),
        "cost_per_returned_row": cost.and_then(|cost| cost.per_returned).map(|price| price.to_string()),
    })
}

/// What the rows cost.
struct Cost {
    all: Price,
    per_returned: Option<Price>,
}

impl Cost {
    fn of(table: &Table, found: &Loop) -> Option<Self> {
        let all = table.price_per_row?.times(found.submissions);
        Some(Self { all, per_returned: all.shared_by(found.returned) })
    }
}

fn outstanding(found: &Loop) -> u64 {
    found.sent.saturating_sub(found.returned)
}

/// Far below 2^52, so exact enough.
fn share(n: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { n as f64 / of as f64 }
}

/// What a person reads.
pub(crate) struct Text<'a>(pub(crate) &'a Report);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.tables.is_empty() {
            return writeln!(f, "No destination of kind clay is configured, and none has sent rows.");
        }
        for (place, (table, found)) in self.0.tables.iter().enumerate() {
            if place > 0 {
                writeln!(f)?;
            }
            let gone = if table.is_configured { "" } else { " (not configured any more)" };
            write!(f, "{}{gone}: ", table.name)?;
            if found.sent == 0 {
                writeln!(f, "no row was sent since {}.", shown(self.0.since))?;
            } else {
                writeln!(f, "rows sent since {}", shown(self.0.since))?;
                write_table(f, table, found)?;
            }
        }
        Ok(())
    }
}

fn write_table(f: &mut Formatter<'_>, table: &Table, found: &Loop) -> fmt::Result {
    let again = found.submissions.saturating_sub(found.sent);
    let more = if again > 0 { format!("  and {} again", counted(again, "time")) } else { String::new() };
    writeln!(f, "  {:<14}{:>9}{more}", "sent", found.sent)?;
    write_part(f, "returned", found.returned, found.sent, "")?;
    write_part(f, "outstanding", outstanding(found), found.sent, "")?;
    if let Some(overdue) = found.overdue {
        let within = shown_seconds(table.expect_within.unwrap_or(Duration::ZERO).as_secs_f64());
        write_part(f, "overdue", overdue, found.sent, &format!("  sent more than {within} ago"))?;
    }
    if let Some(cost) = Cost::of(table, found) {
        let price = table.price_per_row.map(|price| price.to_string()).unwrap_or_default();
        let each = match cost.per_returned {
            Some(each) => format!(", {each} per returned row"),
            None => String::new(),
        };
        writeln!(f, "  {:<14}{:>9}  at {price} per row{each}", "cost", cost.all.to_string())?;
    }
    if let Some(seconds) = found.seconds {
        let [p50, p90, max] = [seconds.p50, seconds.p90, seconds.max].map(shown_seconds);
        writeln!(f, "\n  time to return: half within {p50}, nine of ten within {p90}, all within {max}")?;
        write_histogram(f, found)?;
    }
    if found.fields.leads > 0 {
        let leads = found.fields.leads;
        let which = if i64::try_from(leads).is_ok_and(|n| n >= LEADS_MAX) { "the latest " } else { "" };
        let returned = counted(leads, "returned lead");
        writeln!(f, "\n  fields that have a value in {which}{returned}:")?;
        let width = found.fields.filled.iter().map(|(field, _)| field.chars().count()).max().unwrap_or(0).clamp(20, 40);
        for (field, n) in &found.fields.filled {
            writeln!(f, "    {:<width$} {n:>9} {:>7.1} %", printable(field), share(*n, leads) * 100.0)?;
        }
    }
    Ok(())
}

fn write_part(f: &mut Formatter<'_>, name: &str, n: u64, of: u64, more: &str) -> fmt::Result {
    writeln!(f, "  {name:<14}{n:>9} {:>7.1} %{more}", share(n, of) * 100.0)
}

fn write_histogram(f: &mut Formatter<'_>, found: &Loop) -> fmt::Result {
    let ends = BUCKETS.iter().map(|end| format!("up to {}", shown_seconds(*end))).chain(["longer".to_owned()]);
    let most = found.histogram.iter().copied().max().unwrap_or(0).max(1);
    for (end, n) in ends.zip(&found.histogram) {
        let length = usize::try_from((n * BAR).div_ceil(most)).unwrap_or_default();
        let line = format!("    {end:<12} {n:>9} {:>7.1} % {}", share(*n, found.returned) * 100.0, "#".repeat(length));
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A field's name comes from outside: nothing of it drives a terminal, and none is longer than its column.
fn printable(field: &str) -> String {
    field.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(40).collect()
}
