//! How much memory a server may have for its pages.

use std::fs::read_to_string;

const MIB: u64 = 1 << 20;
/// What Postgres takes unasked.
const LEAST_MIB: u64 = 128;
/// More makes a stop slow: all that is changed has to be written first.
const MOST_MIB: u64 = 2048;
/// Its part of the memory; the operating system keeps pages, too, and others live here.
const PART: u64 = 8;

/// Memory in bytes that this process may use: the machine's, or less by the limit of its container. `None` where the
/// system does not say it as Linux does.
pub(crate) fn total() -> Option<u64> {
    let machine = machine_total(&read_to_string("/proc/meminfo").ok()?)?;
    let limit = read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some(machine.min(limit.unwrap_or(u64::MAX)))
}

/// `shared_buffers` in MiB for a machine with `memory` bytes.
pub(crate) fn shared_buffers_mib(memory: Option<u64>) -> u64 {
    memory.map_or(LEAST_MIB, |bytes| (bytes / PART / MIB).clamp(LEAST_MIB, MOST_MIB))
}

fn machine_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_of_the_memory_within_bounds() {
        let gib = |n: u64| Some(n << 30);
        assert_eq!(shared_buffers_mib(None), 128);
        assert_eq!(shared_buffers_mib(Some(0)), 128);
        assert_eq!(shared_buffers_mib(gib(2)), 256);
        assert_eq!(shared_buffers_mib(gib(8)), 1024);
        assert_eq!(shared_buffers_mib(gib(16)), 2048);
        assert_eq!(shared_buffers_mib(gib(256)), 2048);
    }

    #[test]
    fn the_total_is_read_in_kib() {
        assert_eq!(machine_total("Buffers: 1 kB\nMemTotal:       24617000 kB\n"), Some(24_617_000 << 10));
        assert_eq!(machine_total("MemTotal: much"), None);
        assert_eq!(machine_total(""), None);
    }
}
