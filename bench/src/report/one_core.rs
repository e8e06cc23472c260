//! What one core carries: how many callbacks a second fill it, for each part of claygate that may need a second one.

use super::table::{grouped, markdown_rows};
use super::{Results, Spread};
use crate::scenarios::Measurement;

/// The rows that it is read from, with the column each becomes.
const COLUMNS: [(&str, &str); 4] = [
    ("intake-pg", "accepted, Postgres queue"),
    ("intake-amqp", "accepted, RabbitMQ"),
    ("delivered-pg", "accepted and delivered, Postgres queue"),
    ("delivered-amqp", "accepted and delivered, RabbitMQ"),
];
const PARTS: [&str; 4] = ["ingest", "worker", "postgres", "rabbitmq"];

/// The table, in Markdown, without the columns whose rows were not run; empty where none was.
pub(super) fn table(results: &Results) -> String {
    let columns: Vec<(&str, &str)> = COLUMNS
        .into_iter()
        .filter(|(name, _)| rate(results, name, |measured| Some(whole(measured))).is_some())
        .collect();
    if columns.is_empty() {
        return String::new();
    }
    let line = |first: &str, cell: &dyn Fn(&str) -> Option<f64>| {
        let cells = columns.iter().map(|(name, _)| cell(name).map_or_else(|| "–".to_owned(), grouped));
        std::iter::once(first.to_owned()).chain(cells).collect::<Vec<_>>()
    };
    let head = std::iter::once("a core of").chain(columns.iter().map(|(_, title)| *title));
    let mut rows = vec![head.map(str::to_owned).collect()];
    rows.extend(
        PARTS.map(|part| line(part, &|name| rate(results, name, |measured| measured.cpu_us.get(part).copied()))),
    );
    rows.push(line("all of them", &|name| rate(results, name, |measured| Some(whole(measured)))));
    format!("What one core carries, in callbacks a second with 64 at once:\n\n{}", markdown_rows(&rows))
}

fn whole(measured: &Measurement) -> f64 {
    measured.cpu_us_of_product()
}

/// Callbacks a second that fill a core at the median of `cpu_us` each, to the hundred.
fn rate(results: &Results, name: &str, cpu_us: impl Fn(&Measurement) -> Option<f64>) -> Option<f64> {
    let Spread { median, .. } = results.spread(name, cpu_us)?;
    (median > 0.0).then(|| (1e4 / median).round() * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Header;
    use crate::scenarios::Round;

    #[test]
    fn a_core_is_divided_by_what_a_callback_takes_of_it() {
        let cost = |parts: &[(&str, f64)]| Measurement {
            cpu_us: parts.iter().map(|(part, us)| ((*part).to_owned(), *us)).collect(),
            ..Measurement::default()
        };
        let round = Round::from([
            ("intake-pg".to_owned(), cost(&[("ingest", 20.0), ("postgres", 30.0), ("load", 10.0)])),
            ("delivered-amqp".to_owned(), cost(&[("ingest", 40.0), ("worker", 100.0), ("rabbitmq", 60.0)])),
        ]);
        let results =
            Results { header: Header::default(), scenarios: Vec::new(), rounds: vec![round], failures: Vec::new() };
        let rows: Vec<Vec<String>> = table(&results)
            .lines()
            .filter(|line| line.starts_with('|') && !line.starts_with("|-"))
            .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
            .collect();
        assert_eq!(
            rows,
            [
                ["a core of", "accepted, Postgres queue", "accepted and delivered, RabbitMQ"],
                ["ingest", "50,000", "25,000"],
                ["worker", "–", "10,000"],
                ["postgres", "33,300", "–"],
                ["rabbitmq", "–", "16,700"],
                ["all of them", "20,000", "5,000"],
            ]
        );
        assert_eq!(table(&Results { rounds: Vec::new(), ..results }), "");
    }
}
