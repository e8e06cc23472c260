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

/// One target.
#[derive(Clone, Copy)]
pub struct Target {
    /// What is compared.
    pub title: &'static str,
    /// Which way.
    pub direction: Direction,
    /// What has to be reached.
    pub bound: f64,
    /// What would be good.
    pub reach: f64,
    /// The number, in one round.
    value: fn(&Round) -> Option<f64>,
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

/// The targets, in the order of the table.
pub fn all() -> Vec<Target> {
    use Direction::{AtLeast, AtMost};
    let target = |title, direction, bound, reach, value| Target { title, direction, bound, reach, value };
    vec![
        target("accepted and durable (Postgres queue) / HTTP limit", AtLeast, 0.35, 0.5, |round| {
            rates(round, "intake-pg", "limit-http")
        }),
        target("accepted and durable (Postgres queue) / Express + pg", AtLeast, 7.0, 10.0, |round| {
            rates(round, "intake-pg", "express-pg")
        }),
        target("worst PSS of one ingest at 256 connections, MiB", AtMost, 40.0, 25.0, |round| {
            memory(round, "delivered-pg-c256", "ingest")
        }),
        target("worst PSS of one worker at 256 connections, MiB", AtMost, 40.0, 25.0, |round| {
            memory(round, "delivered-pg-c256", "worker")
        }),
        target("p99 to the other nine, one destination hung / none hung", AtMost, 1.1, 1.0, |round| {
            ratio(end_to_end_p99(round, "ten-hung-pg"), end_to_end_p99(round, "ten-healthy-pg"))
        }),
    ]
}

/// Those that can be judged by what was run.
pub(super) fn verdicts(results: &Results) -> Vec<Verdict> {
    let judge = |target: Target| {
        let reached = Spread::of(results.rounds.iter().filter_map(target.value))?;
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
    if rows.len() == 1 { String::new() } else { markdown(&rows) }
}

fn rates(round: &Round, ours: &str, theirs: &str) -> Option<f64> {
    let rate = |name: &str| round.get(name).map(|measured| measured.per_second);
    ratio(rate(ours), rate(theirs))
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    Some(ours? / theirs.filter(|theirs| *theirs > 0.0)?)
}

fn memory(round: &Round, name: &str, process: &str) -> Option<f64> {
    round.get(name)?.pss_mib.get(process).copied()
}

fn end_to_end_p99(round: &Round, name: &str) -> Option<f64> {
    let of = |measured: &Measurement| measured.end_to_end_ms.map(|latency| latency.p99);
    of(round.get(name)?)
}
