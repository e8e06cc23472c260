//! Queue out: routes stored callbacks and delivers what came of them.

pub mod destinations;
pub mod health;
pub mod lanes;
