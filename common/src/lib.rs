//! What `ingest`, `worker` and the `claygate` command share.
//!
//! The modules stand in the order of the data's way: a callback is verified ([`signature`]), gets its key
//! ([`idempotency`], over [`canonical`] JSON), is stored ([`db`]) and queued ([`queue`]), becomes a [`lead`] with a
//! [`score`] and a [`person`], is routed by [`rules`], and is sent and [`retry`]ed until it reaches one of its
//! end [`states`]. Rows for Clay are cut out and checked by [`rows`], and held back by a destination's [`filter`].
//!
//! Pure modules (`signature`, `canonical`, `idempotency`, `lead`, `score`, `person`, `rules`, `filter`, `retry`, `quota`,
//! `retention`, `states`) have no I/O, clock or randomness: what they need of these is an argument ([`rules::RuleThreads`] alone runs
//! threads, with a deadline); `rows` has none but for the ids it gives. sqlx and refinery appear in [`db`] and
//! [`queue`] alone.

pub mod canonical;
pub mod config;
pub mod crash;
pub mod db;
pub mod filter;
pub mod idempotency;
pub mod ids;
pub mod lead;
pub mod person;
pub mod process;
pub mod queue;
pub mod quota;
pub mod retention;
pub mod retry;
pub mod rows;
pub mod rules;
pub mod score;
pub mod signature;
pub mod spacing;
pub mod states;
pub mod telemetry;
