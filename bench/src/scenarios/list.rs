//! The list.

use std::time::Duration;

use anyhow::ensure;

use super::{Claygate, Queue, Scenario, Trouble, Work};
use crate::rig::baseline::Store;
use crate::rig::services::Shape;
use crate::roles::load::{Pace, Proof};

/// Lengths of a body.
const SMALL: usize = 600;
const LARGE: usize = 20_000;
/// As many as are kept open for an open loop; none of its requests waits for one.
const OPEN_CONNECTIONS: usize = 128;
/// What a flush takes on a network disk, more than on a local one.
const SLOW_FLUSH: Duration = Duration::from_millis(2);
/// What a slow destination takes for an answer.
const SLOW_ANSWER: Duration = Duration::from_millis(100);
/// How many times as many come in a burst.
const BURST: f64 = 10.0;

const INTAKE: Claygate = Claygate {
    shape: Shape::Ingest { ingests: 1 },
    queue: Queue::Postgres,
    destinations: 0,
    pace: closed(64),
    body_bytes: SMALL,
    half_repeats: false,
    proof: Proof::Hmac,
    trouble: None,
    writers: None,
};

const DELIVERED: Claygate = Claygate { shape: Shape::Pair { ingests: 1, workers: 1 }, destinations: 1, ..INTAKE };

const fn closed(connections: usize) -> Pace {
    Pace::Closed { connections }
}

const fn open(per_second: f64) -> Pace {
    Pace::Open { per_second, burst: 1.0, connections: OPEN_CONNECTIONS }
}

fn row(name: impl Into<String>, title: impl Into<String>, work: Work) -> Scenario {
    Scenario { name: name.into(), title: title.into(), work, side_of: None }
}

/// Every scenario, in the order of the table. `each`: the intake at every combination of connections, length, repeats
/// and proof, and not only at each of them in turn.
pub fn all(each: bool) -> Vec<Scenario> {
    let queues = [(Queue::Postgres, "pg", "Postgres queue"), (Queue::RabbitMq, "amqp", "RabbitMQ")];
    let mut rows = limits();
    rows.extend(today());
    for (queue, key, label) in queues {
        rows.extend(if each { every_intake(queue, key, label) } else { intakes(queue, key, label) });
    }
    rows.extend(slow_disks());
    rows.extend(stored());
    for (queue, key, label) in queues {
        rows.extend(deliveries(queue, key, label));
    }
    rows.extend(express_at_a_pace());
    for (queue, key, label) in queues {
        rows.extend(paces(queue, key, label));
    }
    rows
}

fn limits() -> Vec<Scenario> {
    let mut rows = vec![row("limit-http", "limit: HTTP and HMAC alone (actix-web)", Work::HttpLimit)];
    for clients in [1, 2] {
        let title = format!("limit: Postgres, the intake's statement, 50 rows, {clients} at once");
        rows.push(row(format!("limit-postgres-{clients}"), title, Work::PostgresAlone { clients, rows: 50 }));
    }
    for window in [1, 100, 1_000] {
        let title = format!("limit: RabbitMQ, publish, confirm, consume; window {window}");
        rows.push(row(format!("limit-rabbitmq-{window}"), title, Work::BrokerAlone { window }));
    }
    rows
}

fn today() -> Vec<Scenario> {
    let express = |name, title, store| row(name, title, Work::Express { store, pace: closed(64) });
    vec![
        express("express-memory", "today: Express, memory only", Store::Memory),
        express("express-pg", "today: Express + pg INSERT … ON CONFLICT", Store::Postgres),
        express("express-pg-amqp", "today: Express + pg + amqplib confirm", Store::PostgresRabbitMq),
    ]
}

/// The intake, with one thing at a time unlike the first row.
fn intakes(queue: Queue, key: &str, label: &str) -> Vec<Scenario> {
    let base = Claygate { queue, ..INTAKE };
    let intake = |suffix: &str, what: &str, claygate| {
        row(format!("intake-{key}{suffix}"), format!("intake, {label}: {what}"), Work::Claygate(claygate))
    };
    vec![
        intake("", "64 connections, 600 B, HMAC", base.clone()),
        intake("-c1", "1 connection", Claygate { pace: closed(1), ..base.clone() }),
        intake("-c256", "256 connections", Claygate { pace: closed(256), ..base.clone() }),
        intake("-20k", "bodies of 20 kB", Claygate { body_bytes: LARGE, ..base.clone() }),
        intake("-repeats", "half of them repeats", Claygate { half_repeats: true, ..base.clone() }),
        intake("-token", "static token", Claygate { proof: Proof::Token, ..base }),
    ]
}

/// The intake at every combination. The first one has the short name that the targets know.
fn every_intake(queue: Queue, key: &str, label: &str) -> Vec<Scenario> {
    let base = Claygate { queue, ..INTAKE };
    let mut rows = vec![row(
        format!("intake-{key}"),
        format!("intake, {label}: 64 connections, 600 B, HMAC"),
        Work::Claygate(base.clone()),
    )];
    for connections in [1, 64, 256] {
        for (body_bytes, length) in [(SMALL, "600 B"), (LARGE, "20 kB")] {
            for (half_repeats, kind) in [(false, "all new"), (true, "half repeats")] {
                for (proof, word) in [(Proof::Hmac, "HMAC"), (Proof::Token, "token")] {
                    let words = [connections.to_string(), length.to_owned(), kind.to_owned(), word.to_owned()];
                    let name = format!("intake-{key}-each-{}", words.join("-").to_lowercase().replace(' ', ""));
                    let title = format!("intake, {label}: {connections} connections, {length}, {kind}, {word}");
                    let pace = closed(connections);
                    let claygate = Claygate { pace, body_bytes, half_repeats, proof, ..base.clone() };
                    rows.push(row(name, title, Work::Claygate(claygate)));
                }
            }
        }
    }
    rows
}

fn slow_disks() -> Vec<Scenario> {
    let slow = Claygate { trouble: Some(Trouble::SlowDisk(SLOW_FLUSH)), ..INTAKE };
    let more = Claygate { writers: Some(8), ..slow.clone() };
    vec![
        row("slow-disk", "intake, flushes 2 ms slower: 2 writers", Work::Claygate(slow)),
        row("slow-disk-8", "intake, flushes 2 ms slower: 8 writers", Work::Claygate(more)),
    ]
}

fn stored() -> Vec<Scenario> {
    let amounts = [(10_000, "10k", "ten thousand"), (10_000_000, "10m", "ten million")];
    let row = |(callbacks, key, words)| {
        let claygate = Claygate { trouble: Some(Trouble::Stored(callbacks)), ..INTAKE };
        let row = row(format!("stored-{key}"), format!("intake, {words} stored before"), Work::Claygate(claygate));
        Scenario { side_of: Some("stored".to_owned()), ..row }
    };
    amounts.map(row).into()
}

fn deliveries(queue: Queue, key: &str, label: &str) -> Vec<Scenario> {
    let base = Claygate { queue, ..DELIVERED };
    let delivered = |name: &str, what: &str, claygate| {
        row(format!("{name}-{key}"), format!("end to end, {label}: {what}"), Work::Claygate(claygate))
    };
    let two = Shape::Pair { ingests: 2, workers: 2 };
    let snapshot = Some(Trouble::HeldSnapshot);
    vec![
        delivered("delivered", "1 destination", base.clone()),
        delivered("delivered-up", "`claygate up`", Claygate { shape: Shape::Up, ..base.clone() }),
        delivered("delivered-c256", "256 connections", Claygate { pace: closed(256), ..base.clone() }),
        delivered("delivered-to-10", "10 destinations", Claygate { destinations: 10, ..base.clone() }),
        delivered("two-two", "2 intakes, 2 workers", Claygate { shape: two, ..base.clone() }),
        delivered("snapshot", "a snapshot held open", Claygate { trouble: snapshot, ..base }),
    ]
}

fn express_at_a_pace() -> Vec<Scenario> {
    let stores =
        [(Store::Postgres, "pg", "Express + pg"), (Store::PostgresRabbitMq, "pg-amqp", "Express + pg + amqplib")];
    let row = |(store, key, label)| {
        let work = Work::Express { store, pace: open(1_500.0) };
        row(format!("open-express-{key}-1500"), format!("open loop, {label}: 1,500/s"), work)
    };
    stores.map(row).into()
}

fn paces(queue: Queue, key: &str, label: &str) -> Vec<Scenario> {
    let base = Claygate { queue, ..DELIVERED };
    let mut rows = Vec::new();
    for (per_second, rate) in [(200.0, "200"), (1_500.0, "1,500"), (4_000.0, "4,000")] {
        let work = Work::Claygate(Claygate { pace: open(per_second), ..base.clone() });
        rows.push(row(format!("open-{key}-{per_second}"), format!("open loop, {label}: {rate}/s"), work));
    }
    let ten = Claygate { destinations: 10, pace: open(100.0), ..base };
    let hung = Claygate { trouble: Some(Trouble::HungDestination), ..ten.clone() };
    let title = |what: &str| format!("open loop, {label}: 100/s, 10 destinations, {what}");
    for (name, what, claygate) in [("ten-healthy", "all well", ten), ("ten-hung", "one of them hung", hung)] {
        let row = row(format!("{name}-{key}"), title(what), Work::Claygate(claygate));
        rows.push(Scenario { side_of: Some(format!("ten-{key}")), ..row });
    }
    rows
}

/// The scenarios of `bench load`, at `per_second` callbacks a second.
pub fn loads(queue: Queue, per_second: f64) -> Vec<Scenario> {
    let (key, label) = match queue {
        Queue::Postgres => ("pg", "Postgres queue"),
        Queue::RabbitMq => ("amqp", "RabbitMQ"),
    };
    let base = Claygate { queue, pace: open(per_second), ..DELIVERED };
    let load = |name: &str, what: &str, claygate| {
        row(format!("load-{name}-{key}"), format!("{label}: {what}"), Work::Claygate(claygate))
    };
    let burst = Pace::Open { per_second, burst: BURST, connections: OPEN_CONNECTIONS };
    let trouble = |trouble| Claygate { trouble: Some(trouble), ..base.clone() };
    vec![
        load("steady", "steady", base.clone()),
        load("burst", "ten times as many in the middle third", Claygate { pace: burst, ..base.clone() }),
        load("storm", "everything given up is replayed meanwhile", trouble(Trouble::ReplayStorm)),
        load("slow", "a destination that takes 100 ms", trouble(Trouble::SlowDestination(SLOW_ANSWER))),
        load("failing", "a destination that fails for a third of the time", trouble(Trouble::FailingDestination)),
        load(
            "hung",
            "one of ten destinations hung",
            Claygate { destinations: 10, ..trouble(Trouble::HungDestination) },
        ),
    ]
}

/// Those whose name is, or begins with, one of `wanted`; all where nothing is wanted.
///
/// # Errors
/// When a wanted name fits none; it says which there are.
pub fn select(wanted: &[String], each: bool) -> anyhow::Result<Vec<Scenario>> {
    let all = all(each);
    for name in wanted {
        let names: Vec<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
        let known = all.iter().any(|scenario| fits(scenario, name, &all));
        ensure!(known, "no scenario is called {name}; there are: {}", names.join(", "));
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

    fn names(wanted: &[&str]) -> Vec<String> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        select(&wanted, false).unwrap().into_iter().map(|scenario| scenario.name).collect()
    }

    #[test]
    fn names_are_unique() {
        for each in [false, true] {
            let rows = all(each);
            let names: std::collections::BTreeSet<&String> = rows.iter().map(|scenario| &scenario.name).collect();
            assert_eq!(names.len(), rows.len());
        }
    }

    #[test]
    fn scenarios_are_chosen_by_their_whole_name_or_its_beginning() {
        assert_eq!(names(&["intake-pg"]), ["intake-pg"]);
        assert_eq!(names(&["slow"]), ["slow-disk", "slow-disk-8"]);
        assert_eq!(names(&[]).len(), all(false).len());
        let problem = select(&["nothing".to_owned()], false).unwrap_err().to_string();
        assert!(problem.contains("limit-http"), "{problem}");
    }

    #[test]
    fn every_name_that_a_target_compares_is_a_scenario() {
        let all = names(&[]);
        for name in crate::report::compared() {
            assert!(all.iter().any(|known| known == name), "no scenario is called {name}");
        }
    }
}
