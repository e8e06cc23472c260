//! `[retention]`: how long each kind of what is stored is kept.

use std::time::Duration;

use super::read::Reader;
use super::schema::{Key, Kind, Preset, Section};
use crate::retention::Policy;

const DAY: u64 = 24 * 3_600;
const AGE: Kind = Kind::Duration { min: Duration::from_secs(7 * DAY), max: Duration::from_secs(36_500 * DAY) };
const FOR_EVER: Preset = Preset::Said("for ever");

pub(super) static RETENTION: Section = Section {
    title: "[retention]",
    doc: "How long what is stored is kept. Workers remove what is older, hourly; `claygate retention run` does it at once, and \
          `--dry-run` says what would go. What has not ended is kept whatever its age.",
    keys: &[
        Key::new(
            "bodies",
            AGE,
            FOR_EVER,
            "Raw bodies of callbacks and their headers, by whole weeks. Without its body a callback cannot be routed again \
             (`body_expired`).",
        ),
        Key::new("attempts", AGE, FOR_EVER, "Attempts with the beginnings of what was answered, by whole weeks."),
        Key::new(
            "leads",
            AGE,
            FOR_EVER,
            "Normalised leads. Without its lead nothing can be sent again, nor found by person.",
        ),
        Key::new(
            "decisions",
            AGE,
            FOR_EVER,
            "Decisions with what every rule said. Those that gave a callback up are kept as long as `keys`.",
        ),
        Key::new(
            "rows",
            AGE,
            FOR_EVER,
            "Objects of rows that were handed in for Clay. That a row was handed in, sent and came back stays known.",
        ),
        Key::new(
            "keys",
            AGE,
            FOR_EVER,
            "Everything of a callback or row, with its idempotency key: what comes again afterwards is new. No other time \
             here, and no `once_per`, may be longer.",
        ),
    ],
};

pub(super) fn read_retention(reader: &Reader<'_>) -> Policy {
    Policy {
        bodies: reader.duration("bodies"),
        attempts: reader.duration("attempts"),
        leads: reader.duration("leads"),
        decisions: reader.duration("decisions"),
        rows: reader.duration("rows"),
        keys: reader.duration("keys"),
    }
}
