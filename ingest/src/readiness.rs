//! Whether the intake can take callbacks. Red only when it can neither commit nor spool: the 503 of a load balancer
//! would lose what the spool is for.

use std::sync::Arc;

use common::telemetry::{Probe, Verdict};

use crate::commit::writer::Shared;

/// The intake's answer to `/readyz`.
pub(crate) struct IntakeProbe(pub(crate) Arc<Shared>);

impl Probe for IntakeProbe {
    fn name(&self) -> &str {
        "intake"
    }

    fn check(&self) -> Verdict {
        let Self(shared) = self;
        let (commits, spools) = (shared.health.is_up(), shared.spool.is_usable());
        if !commits && !spools {
            return Verdict::not_ready("Postgres takes no commits, and the spool is full or cannot be written");
        }
        let waiting = shared.spool.entries();
        let mut verdict = Verdict::ready();
        if !commits {
            verdict = verdict.with_warning("Postgres takes no commits; callbacks go to the spool");
        }
        if !spools {
            verdict = verdict.with_warning("the spool is full or cannot be written");
        }
        if waiting > 0 {
            verdict = verdict.with_warning(format!("{waiting} callbacks wait in the spool"));
        }
        verdict
    }
}
