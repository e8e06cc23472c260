//! The list.

use std::time::Duration;

use anyhow::ensure;

use super::{Claygate, Scenario, Trouble, Work};
use crate::rig::baseline::Store;
use crate::rig::services::Shape;
use crate::roles::load::{Pace, Proof};

/// Lengths of a body.
const SMALL: usize = 600;
const LARGE: usize = 20_000;
/// As many as are kept open for an open loop; none of its requests waits for one.
const OPEN_CONNECTIONS: usize = 128;
/// What a flush takes on a network disk.
const SLOW_FLUSH: Duration = Duration::from_millis(2);

const INTAKE: Claygate = Claygate {
    shape: Shape::Ingest { ingests: 1 },
    destinations: 0,
    pace: Pace::Closed { connections: 64 },
    body_bytes: SMALL,
    half_repeats: false,
    proof: Proof::Hmac,
    trouble: None,
    writers: None,
};

const DELIVERED: Claygate = Claygate { shape: Shape::Pair { ingests: 1, workers: 1 }, destinations: 1, ..INTAKE };

const fn row(name: &'static str, title: &'static str, work: Work) -> Scenario {
    Scenario { name, title, work }
}

const fn closed(connections: usize) -> Pace {
    Pace::Closed { connections }
}

const fn open(per_second: f64) -> Pace {
    Pace::Open { per_second, connections: OPEN_CONNECTIONS }
}

/// Every scenario, in the order of the table.
pub fn all() -> Vec<Scenario> {
    use Work::Claygate as Gate;
    vec![
        row("limit-http", "limit: HTTP and HMAC alone (actix-web)", Work::HttpLimit),
        row(
            "limit-postgres-1x50",
            "limit: Postgres, the intake's statement, 50 rows, 1 client",
            Work::PostgresAlone { clients: 1, rows: 50 },
        ),
        row("limit-postgres-2x50", "limit: the same, 2 clients", Work::PostgresAlone { clients: 2, rows: 50 }),
        row("express-memory", "today: Express, memory only", Work::Express { store: Store::Memory, pace: closed(64) }),
        row(
            "express-pg",
            "today: Express + pg INSERT … ON CONFLICT",
            Work::Express { store: Store::Postgres, pace: closed(64) },
        ),
        row("intake-pg", "intake: Postgres queue, 64 connections, 600 B, HMAC", Gate(INTAKE)),
        row("intake-pg-c1", "intake: the same, 1 connection", Gate(Claygate { pace: closed(1), ..INTAKE })),
        row("intake-pg-c256", "intake: the same, 256 connections", Gate(Claygate { pace: closed(256), ..INTAKE })),
        row("intake-pg-20k", "intake: the same, bodies of 20 kB", Gate(Claygate { body_bytes: LARGE, ..INTAKE })),
        row(
            "intake-pg-repeats",
            "intake: the same, half of them repeats",
            Gate(Claygate { half_repeats: true, ..INTAKE }),
        ),
        row("intake-pg-token", "intake: the same, token", Gate(Claygate { proof: Proof::Token, ..INTAKE })),
        row("delivered-pg-1", "end to end: Postgres queue, 1 destination", Gate(DELIVERED)),
        row(
            "delivered-pg-1-up",
            "end to end: the same, `claygate up`",
            Gate(Claygate { shape: Shape::Up, ..DELIVERED }),
        ),
        row(
            "delivered-pg-c256",
            "end to end: the pair, 256 connections",
            Gate(Claygate { pace: closed(256), ..DELIVERED }),
        ),
        row(
            "delivered-pg-10",
            "end to end: Postgres queue, 10 destinations",
            Gate(Claygate { destinations: 10, ..DELIVERED }),
        ),
        row(
            "open-express-pg-1500",
            "open loop, 1,500/s: Express + pg",
            Work::Express { store: Store::Postgres, pace: open(1500.0) },
        ),
        row(
            "open-pg-200",
            "open loop, 200/s: Postgres queue, 1 destination",
            Gate(Claygate { pace: open(200.0), ..DELIVERED }),
        ),
        row("open-pg-1500", "open loop, 1,500/s: the same", Gate(Claygate { pace: open(1500.0), ..DELIVERED })),
        row("open-pg-4000", "open loop, 4,000/s: the same", Gate(Claygate { pace: open(4000.0), ..DELIVERED })),
        row(
            "ten-healthy-pg",
            "open loop, 100/s: Postgres queue, 10 destinations, all well",
            Gate(Claygate { destinations: 10, pace: open(100.0), ..DELIVERED }),
        ),
        row(
            "ten-hung-pg",
            "open loop, 100/s: the same, one of them hung",
            Gate(Claygate {
                destinations: 10,
                pace: open(100.0),
                trouble: Some(Trouble::HungDestination),
                ..DELIVERED
            }),
        ),
        row(
            "slow-disk-pg",
            "intake on a slow disk (+2 ms a flush): 2 writers",
            Gate(Claygate { trouble: Some(Trouble::SlowDisk(SLOW_FLUSH)), ..INTAKE }),
        ),
        row(
            "slow-disk-pg-8",
            "intake on a slow disk: 8 writers",
            Gate(Claygate { trouble: Some(Trouble::SlowDisk(SLOW_FLUSH)), writers: Some(8), ..INTAKE }),
        ),
        row(
            "two-two-pg",
            "end to end: Postgres queue, 2 intakes, 2 workers",
            Gate(Claygate { shape: Shape::Pair { ingests: 2, workers: 2 }, ..DELIVERED }),
        ),
        row(
            "snapshot-pg",
            "end to end: Postgres queue, a snapshot held open",
            Gate(Claygate { trouble: Some(Trouble::HeldSnapshot), ..DELIVERED }),
        ),
    ]
}

/// Those whose name is, or begins with, one of `wanted`; all where nothing is wanted.
///
/// # Errors
/// When a wanted name fits none; it says which there are.
pub fn select(wanted: &[String]) -> anyhow::Result<Vec<Scenario>> {
    let all = all();
    for name in wanted {
        let names: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
        ensure!(
            all.iter().any(|scenario| fits(scenario, name, &all)),
            "no scenario is called {name}; there are: {}",
            names.join(", ")
        );
    }
    let chosen = |scenario: &Scenario| wanted.is_empty() || wanted.iter().any(|name| fits(scenario, name, &all));
    Ok(all.iter().filter(|scenario| chosen(scenario)).cloned().collect())
}

/// A whole name means that scenario alone.
fn fits(scenario: &Scenario, wanted: &str, all: &[Scenario]) -> bool {
    if all.iter().any(|other| other.name == wanted) {
        scenario.name == wanted
    } else {
        scenario.name.starts_with(wanted)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(wanted: &[&str]) -> Vec<&'static str> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        select(&wanted).unwrap().iter().map(|scenario| scenario.name).collect()
    }

    #[test]
    fn names_are_unique_and_chosen_whole_or_by_their_beginning() {
        let all: std::collections::BTreeSet<&str> = names(&[]).into_iter().collect();
        assert_eq!(all.len(), super::all().len());
        assert_eq!(names(&["intake-pg"]), ["intake-pg"]);
        assert_eq!(names(&["slow-disk"]).len(), 2);
        let problem = select(&["nothing".to_owned()]).unwrap_err().to_string();
        assert!(problem.contains("limit-http"), "{problem}");
    }
}
