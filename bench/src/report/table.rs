//! The table of scenarios.

use std::collections::BTreeMap;

use super::{Results, Spread};
use crate::measure::Quantiles;
use crate::scenarios::{FOREIGN_MAX, Measurement};

/// The table, in Markdown.
pub(super) fn of(results: &Results) -> String {
    let mut rows = vec![
        ["what", "rate/s", "p50 / p99 / p99.9 ms", "to destination", "CPU µs", "of it", "PSS MiB"].map(str::to_owned),
    ];
    for scenario in &results.scenarios {
        let name = &scenario.name;
        let Some(rate) = results.spread(name, |measured| Some(measured.per_second)) else { continue };
        let cpu = results.spread(name, |measured| Some(measured.cpu_us_total()));
        let disturbed = results.spread(name, |measured| Some(measured.foreign)).map_or(0.0, |foreign| foreign.max);
        let mark =
            if disturbed > FOREIGN_MAX { format!(" (disturbed: {:.0} %)", disturbed * 100.0) } else { String::new() };
        rows.push([
            format!("{}{mark}", scenario.title),
            format!("{} ({}–{})", grouped(rate.median), grouped(rate.min), grouped(rate.max)),
            quantiles(results, name, |measured| Some(measured.latency_ms)),
            quantiles(results, name, |measured| measured.end_to_end_ms.filter(|latency| latency.count > 0)),
            cpu.map(|cpu| format!("{:.0}", cpu.median)).unwrap_or_default(),
            by_process(results, name, |measured| &measured.cpu_us),
            by_process(results, name, |measured| &measured.pss_mib),
        ]);
    }
    markdown(&rows)
}

/// Cells under each other, the first row as the head.
pub(super) fn markdown<const N: usize>(rows: &[[String; N]]) -> String {
    markdown_rows(&rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>())
}

/// The same where the columns are counted only at run time.
pub(crate) fn markdown_rows(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let padding = width(column) - cell.chars().count();
            text.push_str(&format!("| {cell}{} ", " ".repeat(padding)));
        }
        text.push_str("|\n");
        if number == 0 {
            for column in 0..row.len() {
                text.push_str(&format!("|{}", "-".repeat(width(column) + 2)));
            }
            text.push_str("|\n");
        }
    }
    text
}

pub(super) fn quantiles(results: &Results, name: &str, of: impl Fn(&Measurement) -> Option<Quantiles>) -> String {
    let median = |which: fn(&Quantiles) -> f64| {
        results.spread(name, |measured| of(measured).as_ref().map(which)).map(|Spread { median, .. }| median)
    };
    match (median(|q| q.p50), median(|q| q.p99), median(|q| q.p999)) {
        (Some(p50), Some(p99), Some(p999)) => format!("{} / {} / {}", short(p50), short(p99), short(p999)),
        _ => "–".to_owned(),
    }
}

/// The medians of each process, the most first.
pub(super) fn by_process(results: &Results, name: &str, of: impl Fn(&Measurement) -> &BTreeMap<String, f64>) -> String {
    let rounds = || results.rounds.iter().filter_map(|round| round.get(name));
    let names: std::collections::BTreeSet<&String> = rounds().flat_map(|measured| of(measured).keys()).collect();
    let median = |process: &String| Spread::of(rounds().filter_map(|measured| of(measured).get(process).copied()));
    let mut parts: Vec<(f64, &String)> =
        names.into_iter().filter_map(|process| Some((median(process)?.median, process))).collect();
    parts.sort_by(|a, b| b.0.total_cmp(&a.0));
    let parts: Vec<String> = parts
        .iter()
        .filter(|(value, _)| *value >= 0.5)
        .map(|(value, process)| format!("{process} {value:.0}"))
        .collect();
    parts.join(", ")
}

/// 31415 as 31,415.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Two digits that say something.
fn short(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{ms:.2}"),
        ms if ms < 10.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([grouped(999.4), grouped(31_415.0), grouped(1_234_567.0)], ["999", "31,415", "1,234,567"]);
        assert_eq!([short(0.234), short(2.34), short(23.4)], ["0.23", "2.3", "23"]);
    }

    #[test]
    fn cells_stand_under_each_other() {
        let rows = [["a".to_owned(), "µµ".to_owned()], ["long".to_owned(), "b".to_owned()]];
        assert_eq!(markdown(&rows), "| a    | µµ |\n|------|----|\n| long | b  |\n");
    }
}
