//! Tests of `common` against a real Postgres.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod books;
mod books_plans;
mod callback_states;
mod delivery_plans;
mod delivery_races;
mod delivery_states;
mod durability;
mod first_sightings;
mod hostile;
mod intake_plans;
mod migrations;
mod operator;
mod pages;
mod queue_conformance;
mod queue_postgres;
mod queue_rabbitmq;
mod retention;
mod row_loop;
mod rows;
mod sweep_plans;
