//! Rounds: every scenario has its turn before the first has its second, so that what changes slowly on a machine (its
//! clock, its neighbours, its disk) meets them alike. The sides of a comparison are run together, in turns of seconds.

use std::collections::BTreeMap;
use std::time::Instant;

use futures_util::future::join_all;

use super::turns::Turn;
use super::{Measurement, Scenario, Timing};
use crate::rig::Rig;

/// What others may use of the machine without a run being repeated.
pub const FOREIGN_MAX: f64 = 0.05;
/// How often a disturbed run is repeated before the least disturbed one is taken.
const REPEATS_MAX: u32 = 2;

/// What one round gave, by scenario.
pub type Round = BTreeMap<String, Measurement>;

/// Runs all of it, and tells how far it is. A scenario that fails is named with its reason, and the others go on.
pub async fn run_rounds(rig: &Rig, scenarios: &[Scenario], timing: Timing, rounds: u32) -> (Vec<Round>, Vec<String>) {
    let started = Instant::now();
    let total = rounds as usize * scenarios.len();
    let (mut results, mut failures, mut done) = (Vec::new(), Vec::new(), 0);
    for round in 1..=rounds {
        let mut results_of_round = Round::new();
        for sides in scenarios.chunk_by(|one, next| one.side_of.is_some() && one.side_of == next.side_of) {
            let names: Vec<&str> = sides.iter().map(|side| side.name.as_str()).collect();
            let of_round = format!("round {round} of {rounds}");
            let measured = run_undisturbed(rig, sides, timing, &format!("{of_round}, {}", names.join(" and "))).await;
            for (name, measured) in names.into_iter().zip(measured) {
                done += 1;
                let label = format!("[{done:>2}/{total}] {of_round}, {name}");
                match measured {
                    Ok(measurement) => {
                        let left = started.elapsed().as_secs_f64() / done as f64 * (total - done) as f64;
                        eprintln!("{label}: {} ({} left)", in_short(&measurement), minutes(left));
                        results_of_round.insert(name.to_owned(), measurement);
                    }
                    Err(error) => {
                        eprintln!("{label}: FAILED: {error:#}");
                        failures.push(format!("round {round}, {name}: {error:#}"));
                    }
                }
            }
        }
        results.push(results_of_round);
    }
    (results, failures)
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
