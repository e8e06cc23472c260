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

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use self::fault::{Fault, NETWORK, PROCESSES, SURROUNDINGS};
use self::rig::{LEASE, Rig};
use self::table::Table;

const STOP: Duration = Duration::from_secs(3);
/// Longer than a lease, a heartbeat and every time-out.
const LONG_STOP: Duration = Duration::from_secs(30);
/// Answers before and after a fault, so that something is under way when it comes, and when it goes.
const BEFORE: usize = 40;
const AFTER: usize = 20;

/// What `cargo xtask crash --full` asks for.
const SEED_VARIABLE: &str = "CLAYGATE_CRASH_SEED";
const MINUTES_VARIABLE: &str = "CLAYGATE_CRASH_MINUTES";

/// Lets a fault happen under load, and looks whether everything was kept.
async fn go_through(rig: &mut Rig, table: &mut Table, fault: Fault, which: usize, before: usize, hold: Duration) {
    if let Some(missing) = afflict::missing_for(fault) {
        println!("{fault:<34} skipped: {missing}");
        return;
    }
    let started = Instant::now();
    let load = rig.sender.spawn_stream();
    rig.go_on(before).await;
    rig.suffer(fault, which, hold).await;
    rig.go_on(AFTER).await;
    let answered = load.stop().await;
    let row = rig.assert_kept(&fault.to_string(), answered, fault.repeats_max(hold, LEASE)).await;
    println!("{row}  {:>3} s  {}", started.elapsed().as_secs(), rig.usage());
    table.0.push(row);
}

async fn go_through_all(faults: &[Fault]) {
    let mut table = Table::default();
    let mut rig = Rig::start().await;
    for fault in faults {
        go_through(&mut rig, &mut table, *fault, 0, BEFORE, STOP).await;
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
            let (which, before) = (random.random_range(0..2), random.random_range(BEFORE / 2..BEFORE * 4));
            go_through(&mut rig, &mut table, *fault, which, before, LONG_STOP).await;
        }
    }
    rig.end().await;
}
