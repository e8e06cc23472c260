//! Rounds: every scenario has its turn before the first has its second, so that what changes slowly on a machine (its
//! clock, its neighbours, its disk) meets them alike. The sides of a comparison are run together, in turns of seconds.
//!
//! These take minutes, and are compared with nothing else, so that they have their rounds behind those of all others: a round
//! of the others is short then, and has one kind of hour.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::turns::Turn;
use super::{Measurement, Scenario, Timing};
use crate::rig::Rig;

/// What others may use of the machine without a run being repeated.
pub const FOREIGN_MAX: f64 = 0.05;
/// How often a disturbed run is repeated before the least disturbed one is taken.
const REPEATS_MAX: u32 = 2;
/// Seconds that starting, working off and stopping take, about.
const AROUND: f64 = 3.0;

/// What one round gave, by scenario.
pub type Round = BTreeMap<String, Measurement>;

/// Runs all of it, and tells how far it is. A scenario that fails is named with its reason, and the others go on.
pub async fn run_rounds(rig: &Rig, scenarios: &[Scenario], timing: Timing, rounds: u32) -> (Vec<Round>, Vec<String>) {
    let total = rounds as usize * scenarios.len();
    let mut left = f64::from(rounds) * scenarios.iter().map(|scenario| about(scenario, timing)).sum::<f64>();
    let mut results = vec![Round::new(); rounds as usize];
    let (mut failures, mut done) = (Vec::new(), 0);
    for (round, sides) in plan(scenarios, rounds) {
        let names: Vec<&str> = sides.iter().map(|side| side.name.as_str()).collect();
        let of_round = format!("round {} of {rounds}", round + 1);
        let measured = run_undisturbed(rig, sides, timing, &format!("{of_round}, {}", names.join(" and "))).await;
        for (scenario, measured) in sides.iter().zip(measured) {
            done += 1;
            left -= about(scenario, timing);
            let name = &scenario.name;
            let label = format!("[{done:>2}/{total}] {of_round}, {name}");
            match measured {
                Ok(measurement) => {
                    eprintln!("{label}: {} (about {} left)", in_short(&measurement), minutes(left.max(0.0)));
                    results[round].insert(name.clone(), measurement);
                }
                Err(error) => {
                    eprintln!("{label}: FAILED: {error:#}");
                    failures.push(format!("{of_round}, {name}: {error:#}"));
                }
            }
        }
    }
    (results, failures)
}

/// What is run, one after the other: sides that belong together, and in which round, from 0.
fn plan(scenarios: &[Scenario], rounds: u32) -> Vec<(usize, &[Scenario])> {
    let (compared, others): (Vec<_>, Vec<_>) = scenarios
        .chunk_by(|one, next| one.side_of.is_some() && one.side_of == next.side_of)
        .partition(|sides| sides.iter().any(|side| side.side_of.is_some()));
    let in_rounds = |part: Vec<_>| {
        (0..rounds as usize).flat_map(move |round| part.clone().into_iter().map(move |sides| (round, sides)))
    };
    in_rounds(others).chain(in_rounds(compared)).collect()
}

/// Seconds that a run takes, about: its load, and what is around it. Only for what is said about the time that is left.
fn about(scenario: &Scenario, timing: Timing) -> f64 {
    scenario.load_time(timing).as_secs_f64() + AROUND
}

/// What running the sides of a comparison gave, in their order; a scenario that is compared with nothing is the only side.
type Sides = Vec<anyhow::Result<Measurement>>;

/// The first run that others left alone, or the one that they disturbed least.
async fn run_undisturbed(rig: &Rig, sides: &[Scenario], timing: Timing, label: &str) -> Sides {
    let mut best = run_in_turns(rig, sides, timing).await;
    for _ in 0..REPEATS_MAX {
        // One that failed fails again.
        let foreign = foreign(&best).filter(|foreign| *foreign > FOREIGN_MAX);
        let Some(disturbed) = foreign else { break };
        eprintln!("{label}: others used {:.0} % of the machine; once more", disturbed * 100.0);
        let again = run_in_turns(rig, sides, timing).await;
        if self::foreign(&again).is_some_and(|foreign| foreign < disturbed) {
            best = again;
        }
    }
    best
}

async fn run_in_turns(rig: &Rig, sides: &[Scenario], timing: Timing) -> Sides {
    join_all(sides.iter().zip(Turn::among(sides.len())).map(|(side, turn)| side.run(rig, timing, turn))).await
}

/// What others used of the machine at the most; `None` where something failed.
fn foreign(measured: &Sides) -> Option<f64> {
    let of_each: Option<Vec<f64>> = measured.iter().map(|side| Some(side.as_ref().ok()?.foreign)).collect();
    of_each?.into_iter().reduce(f64::max)
}

fn in_short(measurement: &Measurement) -> String {
    let disturbed = if measurement.foreign > FOREIGN_MAX { ", disturbed" } else { "" };
    format!(
        "{:.0}/s, p99 {:.1} ms, {:.0} CPU µs each{disturbed}",
        measurement.per_second,
        measurement.latency_ms.p99,
        measurement.cpu_us_total()
    )
}

fn minutes(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::scenarios::all;

    #[test]
    fn comparisons_have_their_rounds_behind_all_others() {
        let scenarios = all(false);
        let plan = plan(&scenarios, 3);
        let first = plan.iter().position(|(_, sides)| sides.len() > 1).unwrap();
        let (others, compared) = plan.split_at(first);
        assert!(others.iter().all(|(_, sides)| sides.len() == 1 && sides[0].side_of.is_none()));
        assert!(compared.iter().all(|(_, sides)| sides.len() == 2 && sides[0].side_of == sides[1].side_of));
        for part in [others, compared] {
            assert!(part.is_sorted_by_key(|(round, _)| *round));
        }
        let mut runs: Vec<_> =
            plan.iter().flat_map(|(round, sides)| sides.iter().map(move |side| (round, &side.name))).collect();
        runs.sort();
        runs.dedup();
        assert_eq!(runs.len(), 3 * scenarios.len(), "each scenario once in each round");
    }
}
