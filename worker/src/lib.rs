//! Queue out: routes stored callbacks and delivers what came of them.

pub mod health;
pub mod lanes;
