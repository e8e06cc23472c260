//! Real processes, real crashes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod books;
mod broker;
mod broker_backlog;
mod broker_outages;
mod broker_poison;
mod broker_queues;
mod clay;
mod clay_circle;
mod clay_loop;
mod clay_rows;
mod compose;
mod crash;
mod crash_points;
mod demo;
mod first_lead;
mod help;
mod lifecycle;
mod logs;
mod marker;
mod matrix;
mod metrics;
mod pages;
mod parts;
mod printing;
mod repair;
mod retention;
mod send;
mod send_parquet;
mod sender;
mod separate;
mod service;
mod services;
mod site;
mod upgrade;
mod verify;
