//! The crash matrix: an installation of two intakes and two workers under load, everything of it real and its own, and
//! one fault after the other. After each of them, what ADR 23 promises is held against what is there.
//!
//! Here every fault happens once, and stops take three seconds. `cargo xtask crash --full` does the same in random order
//! with long stops, until its time is over.
#![allow(clippy::print_stdout, reason = "a run of minutes says where it is")]

mod afflict;
mod fault;
mod promise;
mod resources;
mod rig;
mod table;

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use self::fault::{Fault, NETWORK, PROCESSES, SURROUNDINGS};
use self::rig::Rig;
use self::table::Table;

/// How a fault comes.
struct Way {
    /// How long it lasts, where it lasts.
    hold: Duration,
    /// To which of the two processes of a kind.
    which: usize,
    /// After how many answers.
    before: usize,
    /// Between two leads.
    every: Duration,
}

/// The usual one: short.
const BRIEFLY: Way = Way { hold: Duration::from_secs(3), which: 0, before: 40, every: Duration::from_millis(15) };
/// Longer than a lease, a heartbeat and every time-out. So much waits meanwhile that it has to be sent more slowly.
const LONG: Way = Way { hold: Duration::from_secs(30), every: Duration::from_millis(50), ..BRIEFLY };
/// Answers after a fault, so that something was under way when it went.
const AFTER: usize = 20;

/// What `cargo xtask crash --full` asks for.
const SEED_VARIABLE: &str = "CLAYGATE_CRASH_SEED";
const MINUTES_VARIABLE: &str = "CLAYGATE_CRASH_MINUTES";
/// The file that `cargo xtask` prints at its end.
const SKIPPED_VARIABLE: &str = "CLAYGATE_TEST_SKIPPED";

/// Lets a fault happen under load, and looks whether everything was kept.
async fn go_through(rig: &mut Rig, table: &mut Table, fault: Fault, way: &Way) {
    if let Some(missing) = afflict::missing_for(fault) {
        skip(fault, missing);
        return;
    }
    let started = Instant::now();
    let load = rig.sender.spawn_stream_every(way.every);
    rig.go_on(way.before).await;
    rig.suffer(fault, way.which, way.hold).await;
    rig.go_on(AFTER).await;
    let answered = load.stop().await;
    let row = rig.assert_kept(&fault.to_string(), answered, fault.repeats_max(way.hold)).await;
    println!("{row}  {:>3} s  {}", started.elapsed().as_secs(), rig.usage());
    table.0.push(row);
}

/// Says that a fault is not tried here, also to `cargo xtask`: nextest shows nothing of a test that passes.
fn skip(fault: Fault, missing: &str) {
    println!("{fault:<34} skipped: {missing}");
    if let Some(path) = std::env::var_os(SKIPPED_VARIABLE) {
        let mut file = File::options().append(true).open(path).unwrap();
        writeln!(file, "{fault}: {missing}").unwrap();
    }
}

async fn go_through_all(faults: &[Fault]) {
    let mut table = Table::default();
    let mut rig = Rig::start().await;
    for fault in faults {
        go_through(&mut rig, &mut table, *fault, &BRIEFLY).await;
    }
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_die_or_stand_still_lose_nothing() {
    go_through_all(&PROCESSES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_fail_between_any_two_parts_lose_nothing() {
    go_through_all(&NETWORK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_clocks_alarms_and_destinations_that_fail_lose_nothing() {
    go_through_all(&SURROUNDINGS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as it is told; cargo xtask crash --full"]
async fn every_fault_in_random_order_loses_nothing() {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let seed = number(SEED_VARIABLE, 1);
    let end = Instant::now() + Duration::from_secs(60 * number(MINUTES_VARIABLE, 20));
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut table = Table::default();
    let mut rig = Rig::start().await;
    let mut faults = [&PROCESSES[..], &NETWORK, &SURROUNDINGS].concat();
    'rounds: loop {
        faults.shuffle(&mut random);
        for fault in &faults {
            if Instant::now() >= end {
                break 'rounds;
            }
            let (which, before) = (random.random_range(0..2), random.random_range(20..160));
            go_through(&mut rig, &mut table, *fault, &Way { which, before, ..LONG }).await;
        }
    }
    rig.end().await;
}
