//! The worker against a real PostgreSQL and real HTTP servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod application;
mod clay;
mod clay_rates;
mod dead_letters;
mod deliver_gates;
mod deliver_lanes;
mod deliver_line;
mod deliver_outcomes;
mod deliver_records;
mod deliver_rig;
mod requests;
mod route_rig;
mod routing;
mod row_loop;
mod upkeep;
