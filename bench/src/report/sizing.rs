//! What a deployment needs, out of the measured cost of a callback and not out of hope.
//!
//! A callback costs the less the more of them come at once, since they share commits. So the cost at a rate is read
//! between the rates that were measured; beyond the highest it stays what it was there.

use super::table::{grouped, markdown};
use super::{Results, Spread};
use crate::scenarios::Measurement;

const PER_DAY: [f64; 6] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8];
const SECONDS_PER_DAY: f64 = 86_400.0;
/// A day's busiest minutes, against its mean.
const PEAK: f64 = 10.0;
/// The rows that say what a callback costs, from the lowest rate to the highest.
const MEASURED: [&str; 3] = ["open-pg-200", "open-pg-1500", "delivered-pg"];
const GIB: f64 = 1_073_741_824.0;

/// The table, in Markdown; empty where the rows that it needs were not run.
pub(super) fn table(results: &Results) -> String {
    let median = |name: &str, number: fn(&Measurement) -> Option<f64>| {
        results.spread(name, number).map(|Spread { median, .. }| median)
    };
    let point = |name| {
        Some((
            median(name, |measured| Some(measured.per_second))?,
            median(name, |measured| Some(measured.cpu_us_of_product()))?,
        ))
    };
    let Some(points) = MEASURED.iter().map(|name| point(name)).collect::<Option<Vec<_>>>() else {
        return String::new();
    };
    let Some(stored) = median("delivered-pg", |measured| measured.stored_bytes) else { return String::new() };
    let mut rows =
        vec![["callbacks a day", "mean/s", "peak/s", "cores at the peak", "GiB stored a day"].map(str::to_owned)];
    for per_day in PER_DAY {
        let mean = per_day / SECONDS_PER_DAY;
        let peak = mean * PEAK;
        rows.push([
            grouped(per_day),
            format!("{mean:.2}"),
            format!("{peak:.1}"),
            cores(&points, peak),
            format!("{:.3}", per_day * stored / GIB),
        ]);
    }
    format!(
        "What that means for a day, with one destination and its busiest minutes at {PEAK:.0} times the mean:\n\n{}",
        markdown(&rows)
    )
}

/// Cores that are busy at `rate`, by measured rates with the CPU µs of one callback.
fn cores(points: &[(f64, f64)], rate: f64) -> String {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
    if rate <= first.0 {
        // What runs at rest, too, is most of it there.
        return format!("below {:.1}", first.0 * first.1 / 1e6);
    }
    let between = points.windows(2).find_map(|pair| match pair {
        [(low, at_low), (high, at_high)] if rate <= *high => {
            Some(at_low + (at_high - at_low) * (rate - low) / (high - low))
        }
        _ => None,
    });
    format!("{:.1}", rate * between.unwrap_or(last.1) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_read_between_what_was_measured() {
        let points = [(200.0, 1000.0), (1_000.0, 600.0), (5_000.0, 200.0)];
        assert_eq!(cores(&points, 1.0), "below 0.2");
        assert_eq!(cores(&points, 600.0), "0.5");
        assert_eq!(cores(&points, 3_000.0), "1.2");
        assert_eq!(cores(&points, 50_000.0), "10.0");
    }
}
