//! `cargo xtask bench`: claygate beside the limits of its machine and beside what people use today.
//!
//! One orchestrator starts everything in processes of its own, on private ports and in a folder that goes with it:
//! Postgres (as durable as in production), RabbitMQ, claygate's release binaries, the Express baselines, and the load
//! and destinations of [`roles`]. So the cost of a callback can be added up over all of them ([`measure`]), the load's
//! included. [`scenarios`] says what is run, [`rig`] how, [`report`] what is printed.
//!
//! What keeps the numbers honest: scenarios take turns over several rounds, and ratios are taken within a round; a round
//! in which others used the machine is repeated, and marked if that does not help; a rate counts only when the backlog
//! is back at zero and what was answered, stored and delivered are the same callbacks; nothing of the product is
//! switched off.

pub mod growth;
pub mod measure;
pub mod profile;
pub mod report;
pub mod rig;
pub mod roles;
pub mod rows;
pub mod scenarios;
