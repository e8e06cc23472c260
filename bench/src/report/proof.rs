//! The tables of `bench load`: what was answered held against what destinations took, and memory over time.

use std::collections::{BTreeMap, BTreeSet};

use super::table::{by_process, grouped, markdown, quantiles};
use super::{Results, Spread};
use crate::scenarios::{Accounts, Measurement};

const HEAD: [&str; 10] = [
    "what",
    "owed",
    "taken",
    "lost",
    "again",
    "refused",
    "answered: p50 / p99 / p99.9 ms",
    "at its destination",
    "CPU µs",
    "of it",
];

/// What was owed, taken, lost and taken again, summed up over the rounds, and how long it took.
pub(super) fn accounts(results: &Results) -> String {
    let mut table = vec![HEAD.map(str::to_owned)];
    for scenario in &results.scenarios {
        let name = &scenario.name;
        let Some(total) = total(results, name) else { continue };
        let count = |number: u64| grouped(number as f64);
        let cpu = results.spread(name, |measured| Some(measured.cpu_us_total()));
        table.push([
            scenario.title.clone(),
            count(total.owed),
            count(total.taken),
            count(total.owed - total.taken),
            count(total.repeated),
            count(total.refused),
            quantiles(results, name, |measured| Some(measured.latency_ms)),
            quantiles(results, name, |measured| measured.end_to_end_ms.filter(|latency| latency.count > 0)),
            cpu.map(|cpu| format!("{:.0}", cpu.median)).unwrap_or_default(),
            by_process(results, name, |measured| &measured.cpu_us),
        ]);
    }
    markdown(&table)
}

fn total(results: &Results, name: &str) -> Option<Accounts> {
    let of_rounds = results.rounds.iter().filter_map(|round| round.get(name)?.accounts);
    of_rounds.reduce(|a, b| Accounts {
        owed: a.owed + b.owed,
        taken: a.taken + b.taken,
        repeated: a.repeated + b.repeated,
        refused: a.refused + b.refused,
    })
}

/// The memory of each process of claygate from the beginning of the load to its end, medians over the rounds.
pub(super) fn memory(results: &Results) -> String {
    let looks = results.rounds.iter().flat_map(BTreeMap::values).map(|measured| measured.pss_mib_over_time.len()).max();
    let mut table = vec![["what", "process", "PSS MiB, from the beginning of the load to its end"].map(str::to_owned)];
    for scenario in &results.scenarios {
        let rounds = || results.rounds.iter().filter_map(|round| round.get(&scenario.name));
        for process in products(rounds()) {
            let at = |look: usize| {
                let values = rounds().filter_map(|measured| measured.pss_mib_over_time.get(look)?.get(process));
                Spread::of(values.copied()).map(|spread| format!("{:.0}", spread.median))
            };
            let series: Vec<String> = (0..looks.unwrap_or(0)).filter_map(at).collect();
            table.push([scenario.title.clone(), process.to_owned(), series.join(", ")]);
        }
    }
    markdown(&table)
}

/// Those whose memory is claygate's own.
fn products<'a>(rounds: impl Iterator<Item = &'a Measurement>) -> BTreeSet<&'static str> {
    let seen: BTreeSet<&String> = rounds.flat_map(|measured| measured.pss_mib.keys()).collect();
    ["ingest", "worker", "up"].into_iter().filter(|name| seen.iter().any(|known| known == name)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::report::Header;
    use crate::scenarios::{Queue, loads};

    fn measured(owed: u64, pss: [f64; 2]) -> Measurement {
        let look = |mib| BTreeMap::from([("worker".to_owned(), mib), ("load".to_owned(), 1.0)]);
        Measurement {
            accounts: Some(Accounts { owed, taken: owed, repeated: 0, refused: 2 }),
            pss_mib: look(pss[1]),
            pss_mib_over_time: pss.map(look).into(),
            ..Measurement::default()
        }
    }

    #[test]
    fn rounds_are_summed_up_and_memory_is_shown_over_time() {
        let scenarios = vec![loads(Queue::Postgres, 10.0).remove(0)];
        let name = scenarios[0].name.clone();
        let round = |owed, pss| BTreeMap::from([(name.clone(), measured(owed, pss))]);
        let rounds = vec![round(600, [10.0, 12.0]), round(500, [11.0, 12.0])];
        let results = Results { header: Header::default(), scenarios, rounds, failures: Vec::new() };
        let table = accounts(&results);
        let cells: Vec<&str> = table.lines().nth(2).unwrap().split('|').map(str::trim).collect();
        assert_eq!(cells[2..7], ["1,100", "1,100", "0", "0", "4"], "{table}");
        let table = memory(&results);
        assert!(table.contains("| worker ") && table.contains("| 10, 12 ") && !table.contains("| load"), "{table}");
    }
}
