//! What is printed: one table, the targets, and all of it as JSON.

mod header;
mod one_core;
mod page;
mod proof;
mod sizing;
mod table;
mod targets;

use serde_json::{Value, json};

pub use header::Header;
pub use page::{Page, write_into};
pub(crate) use table::{grouped, markdown_rows};
pub use targets::{Direction, Verdict};

#[cfg(test)]
pub(crate) use targets::compared;

use crate::scenarios::{Measurement, Round, Scenario};

/// Everything that was measured.
pub struct Results {
    /// Where, when, and on what.
    pub header: Header,
    /// What was run, in the order of the table.
    pub scenarios: Vec<Scenario>,
    /// What it gave, round by round.
    pub rounds: Vec<Round>,
    /// What failed, with its reason.
    pub failures: Vec<String>,
}

/// A number over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Spread {
    /// The middle one; of two middle ones their mean.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of `values`; `None` where there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values.get((values.len() - 1) / 2)?, values.get(values.len() / 2)?);
        Some(Self { median: f64::midpoint(*low, *high), min, max })
    }
}

impl Results {
    /// A number of one scenario over the rounds.
    pub(crate) fn spread(&self, name: &str, number: impl Fn(&Measurement) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| number(round.get(name)?)))
    }
}

/// The whole report as text, in Markdown.
pub fn to_text(results: &Results) -> String {
    let tables = [table::of(results), targets::table(results), one_core::table(results), sizing::table(results)];
    let tables: Vec<String> = tables.into_iter().filter(|table| !table.is_empty()).collect();
    let mut text = format!("{}\n{}", results.header, tables.join("\n"));
    for failure in &results.failures {
        text.push_str(&format!("\nFAILED: {failure}\n"));
    }
    text
}

/// The report of `bench load` as text, in Markdown. `again` is the command line that repeats it.
pub fn proof_to_text(results: &Results, again: &str) -> String {
    let tables = [proof::accounts(results), proof::memory(results)].join("\n");
    let mut text = format!("{}\nAgain by `{again}`.\n\n{tables}", results.header);
    for failure in &results.failures {
        text.push_str(&format!("\nFAILED: {failure}\n"));
    }
    text
}

/// The whole report as JSON, with every round.
pub fn to_json(results: &Results) -> Value {
    let scenarios: Vec<Value> = results
        .scenarios
        .iter()
        .map(|scenario| {
            let rounds: Vec<&Measurement> =
                results.rounds.iter().filter_map(|round| round.get(&scenario.name)).collect();
            json!({
                "name": scenario.name,
                "title": scenario.title,
                "per_second": results.spread(&scenario.name, |measured| Some(measured.per_second)),
                "p99_ms": results.spread(&scenario.name, |measured| Some(measured.latency_ms.p99)),
                "cpu_us": results.spread(&scenario.name, |measured| Some(measured.cpu_us_total())),
                "rounds": rounds,
            })
        })
        .collect();
    json!({
        "header": results.header,
        "scenarios": scenarios,
        "targets": targets::verdicts(results),
        "failures": results.failures,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
    }
}
