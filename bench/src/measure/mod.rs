//! Measuring: latencies, CPU time, memory, and who else was at work.

mod latency;
mod processes;

pub use latency::{Latencies, Quantiles};
pub(crate) use processes::peak_mb;
pub use processes::{Group, Sample, Usage, memory};

use rustix::time::{ClockId, clock_gettime};

/// The machine's monotonic clock, which every process reads alike.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
