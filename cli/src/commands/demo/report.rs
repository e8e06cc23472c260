//! The demo's table: what was answered, and what became of what was stored.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use common::db::outcomes::Outcomes;
use common::ids::CallbackId;
use serde::Serialize;
use serde_json::Value;

use crate::commands::counted::counted;

/// What the running instance answered to one request.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Answer {
    /// The id of a callback that this request made.
    pub(super) fn stored(&self) -> Option<CallbackId> {
        let made = matches!(self.body.get("status")?.as_str()?, "accepted" | "recorded" | "spooled");
        self.body.get("id")?.as_str()?.parse().ok().filter(|_| made)
    }

    /// The word that the table counts it under.
    fn word(&self) -> String {
        match self.status {
            200 => self.body.get("status").and_then(Value::as_str).unwrap_or("accepted").to_owned(),
            400 if self.body.get("quarantined") == Some(&Value::Bool(true)) => {
                "malformed, kept in quarantine".to_owned()
            }
            400 => "malformed".to_owned(),
            401 => "rejected: no valid secret".to_owned(),
            other => format!("refused with {other}"),
        }
    }
}

/// What became of the samples.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    sent: usize,
    seconds: f64,
    answers: BTreeMap<String, u64>,
    callbacks: BTreeMap<String, i64>,
    deliveries: BTreeMap<String, BTreeMap<String, i64>>,
    in_progress: i64,
}

impl Report {
    pub(super) fn new(answers: &[Answer], outcomes: &Outcomes, took: Duration) -> Self {
        let mut counted = BTreeMap::new();
        for answer in answers {
            *counted.entry(answer.word()).or_default() += 1;
        }
        let mut deliveries: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
        for row in &outcomes.deliveries {
            let outcome = with_reason(&row.state, row.reason.as_deref());
            deliveries.entry(row.destination.clone()).or_default().insert(outcome, row.n);
        }
        let callbacks = outcomes.callbacks.iter().map(|row| (with_reason(&row.state, row.reason.as_deref()), row.n));
        Self {
            sent: answers.len(),
            seconds: (took.as_secs_f64() * 100.0).round() / 100.0,
            answers: counted,
            callbacks: callbacks.collect(),
            deliveries,
            in_progress: outcomes.in_progress(),
        }
    }
}

fn with_reason(state: &str, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{state}: {reason}"),
        None => state.to_owned(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} in {} s", counted(self.sent as u64, "request"), self.seconds)?;
        writeln!(f, "\nAnswered")?;
        for (word, n) in &self.answers {
            writeln!(f, "  {word:<40} {n:>7}")?;
        }
        writeln!(f, "\nOf the leads that were stored")?;
        for (outcome, n) in &self.callbacks {
            writeln!(f, "  {outcome:<40} {n:>7}")?;
        }
        for (destination, outcomes) in &self.deliveries {
            writeln!(f, "\nDestination {destination}")?;
            for (outcome, n) in outcomes {
                writeln!(f, "  {outcome:<40} {n:>7}")?;
            }
        }
        if self.in_progress > 0 {
            writeln!(f, "\nStill in progress: {}; `claygate events list` shows them.", self.in_progress)?;
        }
        if self.answers.keys().all(|word| word != "accepted") {
            writeln!(f, "\nNothing was new: these leads were here before. `--seed` with another number makes others.")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use common::db::outcomes::{CallbackOutcome, DeliveryOutcome};
    use serde_json::json;

    use super::*;

    #[test]
    fn the_report_counts_every_answer_and_outcome() {
        let id = "01920000-0000-7000-8000-000000000001";
        let answers = [
            Answer { status: 200, body: json!({"id": id, "status": "accepted"}) },
            Answer { status: 200, body: json!({"id": id, "status": "duplicate"}) },
            Answer { status: 401, body: json!({}) },
            Answer { status: 400, body: json!({"quarantined": true}) },
            Answer { status: 503, body: Value::Null },
        ];
        assert_eq!(answers.iter().filter(|answer| answer.stored().is_some()).count(), 1);
        let outcomes = Outcomes {
            callbacks: vec![CallbackOutcome { state: "routed".into(), reason: None, n: 1 }],
            deliveries: vec![DeliveryOutcome {
                destination: "alerts".into(),
                state: "skipped".into(),
                reason: Some("cool_down".into()),
                n: 2,
            }],
        };
        let report = Report::new(&answers, &outcomes, Duration::from_millis(1500));
        assert_eq!(report.answers.values().sum::<u64>(), 5);
        let text = report.to_string();
        for part in ["5 requests in 1.5 s", "rejected: no valid secret", "refused with 503", "skipped: cool_down"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert!(!text.contains("Still in progress"));
    }
}
