//! Rounds: every scenario has its turn before the first has its second, so that what changes slowly on a machine (its
//! clock, its neighbours, its disk) meets them alike.

use std::collections::BTreeMap;
use std::time::Instant;

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
        for scenario in scenarios {
            let label = format!("[{:>2}/{total}] round {round} of {rounds}, {}", done + 1, scenario.name);
            match run_undisturbed(rig, scenario, timing, &label).await {
                Ok(measurement) => {
                    done += 1;
                    let left = started.elapsed().as_secs_f64() / done as f64 * (total - done) as f64;
                    eprintln!("{label}: {} ({} left)", in_short(&measurement), minutes(left));
                    results_of_round.insert(scenario.name.clone(), measurement);
                }
                Err(error) => {
                    done += 1;
                    eprintln!("{label}: FAILED: {error:#}");
                    failures.push(format!("round {round}, {}: {error:#}", scenario.name));
                }
            }
        }
        results.push(results_of_round);
    }
    (results, failures)
}

/// The first run that others left alone, or the one that they disturbed least.
async fn run_undisturbed(rig: &Rig, scenario: &Scenario, timing: Timing, label: &str) -> anyhow::Result<Measurement> {
    let mut best = scenario.run(rig, timing).await?;
    for _ in 0..REPEATS_MAX {
        if best.foreign <= FOREIGN_MAX {
            break;
        }
        eprintln!("{label}: others used {:.0} % of the machine; once more", best.foreign * 100.0);
        let again = scenario.run(rig, timing).await?;
        if again.foreign < best.foreign {
            best = again;
        }
    }
    Ok(best)
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
