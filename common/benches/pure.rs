//! Micro-benchmarks of the pure parts that every callback passes: `cargo bench -p common --bench pure`.
//!
//! They say what a change to one part costs, to the nanosecond and on an otherwise idle machine; what it means for the
//! whole is said by `cargo xtask bench`. Where the machine has other work to do, `--bench instructions` counts instead.
#![allow(clippy::unwrap_used, missing_docs)]

mod parts;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn pure(c: &mut Criterion) {
    for part in parts::all() {
        let mut group = c.benchmark_group(part.group);
        group.throughput(part.bytes.map_or(Throughput::Elements(1), |bytes| Throughput::Bytes(bytes as u64)));
        group.bench_function(&part.name, |b| b.iter(&part.run));
        group.finish();
    }
}

criterion_group!(all, pure);
criterion_main!(all);
