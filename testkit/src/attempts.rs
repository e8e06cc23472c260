//! Attempts as deliveries make them, for tests of what is recorded.

use std::time::Duration;

use common::db::attempts::{Attempt, Verdict};
use common::ids::DeliveryId;
use common::states::Class;
use uuid::Uuid;

/// One that `crm` took, made under the lease `token`.
pub fn delivered(delivery: DeliveryId, token: Uuid) -> Attempt {
    Attempt {
        delivery,
        destination: "crm".to_owned(),
        token,
        verdict: Verdict::Delivered,
        class: Class::Delivered,
        status: Some(200),
        error: None,
        response: Vec::new(),
        step: 0,
        captured: None,
        duration: Duration::ZERO,
        age: Duration::ZERO,
        submission: None,
    }
}
