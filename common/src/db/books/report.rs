//! What the books say: totals, hours, differences. Counts, names of sources and ids; nothing of any lead.

use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Spool;

/// One reading of the books.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether they balance.
    pub verdict: Verdict,
    /// The beginning of the first hour looked at.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// The moment of the snapshot.
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
    /// Over all sources and hours.
    pub totals: Totals,
    /// Everything that does not agree.
    pub differences: Vec<Difference>,
    /// Every intake's spool that is known.
    pub spools: Vec<Spool>,
    /// By source and hour.
    pub hours: Vec<Hour>,
}

/// Whether the books balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything that was counted is where it has to be.
    Balanced,
    /// What is in the database balances, but a spool that is known has not been heard of: it may hold callbacks that
    /// were answered and are not in the books yet.
    Incomplete,
    /// Something is missing, or there twice.
    Different,
}

/// One source's hour, by the time of receipt.
#[derive(Clone, Debug, Serialize)]
pub struct Hour {
    /// The source's name.
    pub source: String,
    /// Its beginning.
    #[serde(with = "time::serde::rfc3339")]
    pub hour: OffsetDateTime,
    /// What was counted and what is there.
    #[serde(flatten)]
    pub totals: Totals,
}

/// What was counted at the intake, and what the rows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Counted at the intake, whatever it was.
    pub received: i64,
    /// Counted at the intake as a callback that was not there before.
    pub new: i64,
    /// Counted at the intake as there already.
    pub duplicate: i64,
    /// Counted at the intake as changed data that the source refuses.
    pub conflict: i64,
    /// Counted at the intake as no usable JSON object.
    pub quarantined: i64,
    /// Callbacks that at least one delivery was made of.
    pub routed: i64,
    /// Callbacks deliberately not routed.
    pub skipped: i64,
    /// Callbacks given up.
    pub dead: i64,
    /// Callbacks that wait for their routing.
    pub in_progress: i64,
    /// The deliveries made of these callbacks.
    pub deliveries: Deliveries,
}

/// Deliveries by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Deliveries {
    /// All of them.
    pub all: i64,
    /// Taken by their destination.
    pub delivered: i64,
    /// Deliberately not sent.
    pub skipped: i64,
    /// Given up.
    pub dead: i64,
    /// Withdrawn.
    pub cancelled: i64,
    /// Not ended.
    pub in_progress: i64,
}

/// What was asked of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// As many callbacks as were counted.
    Callbacks,
    /// As much in quarantine as was counted.
    Quarantine,
    /// A callback's state is the outcome of its latest decision.
    Decisions,
    /// A callback has the deliveries that its decision meant.
    Deliveries,
    /// A delivery has as many attempts as it counted.
    Attempts,
    /// A delivery is delivered exactly if an attempt under its lease was taken.
    Outcomes,
    /// Every attempt belongs to a delivery.
    StrayAttempts,
    /// Every delivery belongs to a callback or a row.
    StrayDeliveries,
    /// A row into Clay has a delivery.
    Rows,
    /// A callback that waits for its routing has its body.
    Bodies,
    /// A callback that waits is in the outbox, or on its way for no longer than it takes to be looked for.
    StuckCallbacks,
    /// A delivery that waits is in the outbox, leased, or on its way for no longer than it takes to be looked for.
    StuckDeliveries,
}

/// Something that does not agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What was asked.
    pub check: Check,
    /// Of which source, where that is known.
    pub source: Option<String>,
    /// Of which hour, where that is known.
    #[serde(with = "time::serde::rfc3339::option")]
    pub hour: Option<OffsetDateTime>,
    /// How many there have to be.
    pub expected: i64,
    /// How many there are.
    pub found: i64,
    /// Rows that are wrong: as many as fit, by their ids.
    pub ids: Vec<Uuid>,
}

impl Report {
    pub(super) fn new(since: OffsetDateTime, until: OffsetDateTime) -> Self {
        Self {
            verdict: Verdict::Balanced,
            since,
            until,
            totals: Totals::default(),
            differences: Vec::new(),
            spools: Vec::new(),
            hours: Vec::new(),
        }
    }

    /// Adds the hours, in order.
    pub(super) fn add_hours(&mut self, hours: BTreeMap<(String, OffsetDateTime), Totals>) {
        for ((source, hour), totals) in hours {
            self.totals.add(&totals);
            self.hours.push(Hour { source, hour, totals });
        }
    }

    /// Notes rows that break `check`, if there are any: `wrong` of them, none of which should be.
    pub(super) fn note(&mut self, check: Check, wrong: i64, ids: Vec<Uuid>) {
        if wrong > 0 {
            self.differences.push(Difference { check, source: None, hour: None, expected: 0, found: wrong, ids });
        }
    }

    /// The verdict of everything that was noted.
    pub(super) fn conclude(&mut self) {
        self.verdict = if !self.differences.is_empty() {
            Verdict::Different
        } else if self.spools.iter().any(|spool| spool.silent) {
            Verdict::Incomplete
        } else {
            Verdict::Balanced
        };
    }
}

impl Totals {
    /// The rows that are there for what was counted as new.
    pub fn callbacks(&self) -> i64 {
        self.routed + self.skipped + self.dead + self.in_progress
    }

    /// Adds a number that the intake counted under `result`.
    pub(super) fn count(&mut self, result: &str, n: i64) {
        self.received += n;
        match result {
            "new" => self.new += n,
            "duplicate" => self.duplicate += n,
            "conflict" => self.conflict += n,
            _ => self.quarantined += n,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.new += other.new;
        self.duplicate += other.duplicate;
        self.conflict += other.conflict;
        self.quarantined += other.quarantined;
        self.routed += other.routed;
        self.skipped += other.skipped;
        self.dead += other.dead;
        self.in_progress += other.in_progress;
        self.deliveries.add(&other.deliveries);
    }
}

impl Deliveries {
    fn add(&mut self, other: &Self) {
        self.all += other.all;
        self.delivered += other.delivered;
        self.skipped += other.skipped;
        self.dead += other.dead;
        self.cancelled += other.cancelled;
        self.in_progress += other.in_progress;
    }
}
