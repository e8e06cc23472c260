//! Queue out: routes stored callbacks and delivers what came of them.

pub mod deliver;
pub mod destinations;
pub mod health;
pub mod lanes;
pub mod released;
pub mod rescue;
pub mod route;
pub mod sweep;
pub mod telemetry;
