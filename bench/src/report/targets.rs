//! The targets: ratios taken within a round, so that a slow machine or hour touches both sides alike.

use serde::Serialize;

use super::table::markdown;
use super::{Results, Spread};
use crate::scenarios::{Measurement, Round};

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// More is better.
    AtLeast,
    /// Less is better.
    AtMost,
}

/// A number of one measurement.
type Number = fn(&Measurement) -> Option<f64>;

/// One target: a number of one scenario, or how often it holds the number of another.
struct Target {
    title: &'static str,
    direction: Direction,
    bound: f64,
    reach: f64,
    ours: (&'static str, Number),
    theirs: Option<(&'static str, Number)>,
}

/// What became of a target.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What was compared.
    pub title: &'static str,
    /// Which way.
    pub direction: Direction,
    /// What had to be reached.
    pub bound: f64,
    /// What would have been good.
    pub reach: f64,
    /// What was reached.
    pub reached: Spread,
    /// Whether the median is on the right side of the bound.
    pub met: bool,
}

fn rate(measured: &Measurement) -> Option<f64> {
    Some(measured.per_second)
}

fn answer_p99(measured: &Measurement) -> Option<f64> {
    Some(measured.latency_ms.p99)
}

fn arrival_p99(measured: &Measurement) -> Option<f64> {
    measured.end_to_end_ms.map(|latency| latency.p99)
}

fn cpu(measured: &Measurement) -> Option<f64> {
    Some(measured.cpu_us_total())
}

fn scrapes(measured: &Measurement) -> Option<f64> {
    measured.scrapes_per_second
}

fn ingest_memory(measured: &Measurement) -> Option<f64> {
    measured.pss_mib.get("ingest").copied()
}

fn worker_memory(measured: &Measurement) -> Option<f64> {
    measured.pss_mib.get("worker").copied()
}

/// The targets, in the order of the table.
#[rustfmt::skip]
fn all() -> Vec<Target> {
    use Direction::{AtLeast, AtMost};
    let ratio = |title, direction, bound, reach, number: Number, ours, theirs| Target {
        title, direction, bound, reach, ours: (ours, number), theirs: Some((theirs, number)),
    };
    let amount = |title, bound, reach, number: Number, ours| Target {
        title, direction: AtMost, bound, reach, ours: (ours, number), theirs: None,
    };
    const TODAY: &str = "express-pg-amqp";
    const TODAY_AT_A_PACE: &str = "open-express-pg-amqp-1500";
    let arrival = |title, ours| Target {
        title, direction: AtMost, bound: 1.0, reach: 0.5, ours: (ours, arrival_p99 as Number),
        theirs: Some((TODAY_AT_A_PACE, answer_p99 as Number)),
    };
    vec![
        ratio("accepted and durable, Postgres queue / HTTP limit", AtLeast, 0.35, 0.5, rate, "intake-pg", "limit-http"),
        ratio("accepted and durable, Postgres queue / Express + pg", AtLeast, 7.0, 10.0, rate, "intake-pg", "express-pg"),
        ratio("accepted, durable and published, RabbitMQ / Express + pg + confirm", AtLeast, 7.0, 9.0, rate, "intake-amqp", TODAY),
        ratio("delivered, Postgres queue / what Express + pg + confirm accepts", AtLeast, 2.5, 4.0, rate, "delivered-pg", TODAY),
        ratio("delivered, RabbitMQ / what Express + pg + confirm accepts", AtLeast, 2.5, 4.0, rate, "delivered-amqp", TODAY),
        ratio("answer's p99 at 1,500/s, Postgres queue / Express + pg + confirm", AtMost, 0.33, 0.2, answer_p99, "open-pg-1500", TODAY_AT_A_PACE),
        ratio("answer's p99 at 1,500/s, RabbitMQ / Express + pg + confirm", AtMost, 0.33, 0.2, answer_p99, "open-amqp-1500", TODAY_AT_A_PACE),
        arrival("arrival's p99 at 1,500/s, Postgres queue / Express's answer's p99", "open-pg-1500"),
        arrival("arrival's p99 at 1,500/s, RabbitMQ / Express's answer's p99", "open-amqp-1500"),
        ratio("CPU from callback to recorded outcome, Postgres queue / Express's accepting", AtMost, 0.5, 0.3, cpu, "delivered-pg", TODAY),
        ratio("CPU from callback to recorded outcome, RabbitMQ / Express's accepting", AtMost, 0.5, 0.3, cpu, "delivered-amqp", TODAY),
        amount("PSS of ingest at 256 connections, Postgres queue, MiB", 40.0, 25.0, ingest_memory, "delivered-c256-pg"),
        amount("PSS of worker at 256 connections, Postgres queue, MiB", 40.0, 25.0, worker_memory, "delivered-c256-pg"),
        amount("PSS of ingest at 256 connections, RabbitMQ, MiB", 40.0, 25.0, ingest_memory, "delivered-c256-amqp"),
        amount("PSS of worker at 256 connections, RabbitMQ, MiB", 40.0, 25.0, worker_memory, "delivered-c256-amqp"),
        ratio("intake with ten million stored / with ten thousand", AtLeast, 0.9, 1.0, rate, "stored-10m", "stored-10k"),
        ratio("scrapes with ten million stored / with ten thousand", AtLeast, 0.9, 1.0, scrapes, "stored-10m", "stored-10k"),
        ratio("arrival's p99 at nine, the tenth hung / none hung, Postgres queue", AtMost, 1.1, 1.0, arrival_p99, "ten-hung-pg", "ten-healthy-pg"),
        ratio("arrival's p99 at nine, the tenth hung / none hung, RabbitMQ", AtMost, 1.1, 1.0, arrival_p99, "ten-hung-amqp", "ten-healthy-amqp"),
    ]
}

/// The names of all scenarios that targets compare.
#[cfg(test)]
pub(crate) fn compared() -> Vec<&'static str> {
    all().iter().flat_map(|target| [Some(target.ours.0), target.theirs.map(|theirs| theirs.0)]).flatten().collect()
}

impl Target {
    /// What one round says; `None` where it has not run what is compared.
    fn value(&self, round: &Round) -> Option<f64> {
        let number = |(name, number): (&str, Number)| number(round.get(name)?);
        let ours = number(self.ours)?;
        match self.theirs {
            None => Some(ours),
            Some(theirs) => Some(ours / number(theirs).filter(|theirs| *theirs > 0.0)?),
        }
    }
}

/// Those that can be judged by what was run.
pub(super) fn verdicts(results: &Results) -> Vec<Verdict> {
    let judge = |target: Target| {
        let reached = Spread::of(results.rounds.iter().filter_map(|round| target.value(round)))?;
        let Target { title, direction, bound, reach, .. } = target;
        let met = match direction {
            Direction::AtLeast => reached.median >= bound,
            Direction::AtMost => reached.median <= bound,
        };
        Some(Verdict { title, direction, bound, reach, reached, met })
    };
    all().into_iter().filter_map(judge).collect()
}

/// The table, in Markdown; empty where nothing can be judged.
pub(super) fn table(results: &Results) -> String {
    let mut rows = vec![["target", "bound", "reach for", "reached", ""].map(str::to_owned)];
    for verdict in verdicts(results) {
        let sign = if verdict.direction == Direction::AtLeast { "≥" } else { "≤" };
        let Spread { median, min, max } = verdict.reached;
        rows.push([
            verdict.title.to_owned(),
            format!("{sign} {}", verdict.bound),
            verdict.reach.to_string(),
            format!("{median:.2} ({min:.2}–{max:.2})"),
            if verdict.met { "met" } else { "MISSED" }.to_owned(),
        ]);
    }
    if rows.len() == 1 { String::new() } else { format!("Targets:\n\n{}", markdown(&rows)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let target = Target {
            title: "",
            direction: Direction::AtLeast,
            bound: 2.0,
            reach: 3.0,
            ours: ("ours", rate),
            theirs: Some(("theirs", rate)),
        };
        let at = |per_second| Measurement { per_second, ..Measurement::default() };
        let mut round = Round::from([("ours".to_owned(), at(30.0))]);
        assert_eq!(target.value(&round), None);
        round.insert("theirs".to_owned(), at(10.0));
        assert_eq!(target.value(&round), Some(3.0));
    }
}
