//! What an HTTP API column of a table does: for each row one request to a URL, after a while.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Where a column calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallTo {
    /// One URL for every row.
    Url(String),
    /// The URL that stands in this cell of the row.
    Cell(String),
}

/// When a column tries a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often, at once each time.
    pub times: u32,
    /// After answers with these statuses.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// After connections that were refused, reset or timed out.
    pub unanswered: bool,
}

impl Default for Retries {
    /// Once, and not after 5xx.
    fn default() -> Self {
        Self { times: 1, statuses: vec![408..=408, 413..=413, 429..=429], unanswered: true }
    }
}

/// How often something happens, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// Rows that are never called for: a required cell stayed empty.
    pub silent: f64,
    /// Rows whose body is no JSON: an unescaped quote in a body typed by hand.
    pub malformed: f64,
    /// Rows that the column runs for twice.
    pub reruns: f64,
    /// Of them, those whose values have changed by then.
    pub changed: f64,
    /// Cells that the enrichment found nothing for: null, left out, or empty.
    pub missing: f64,
    /// Numbers in quotes.
    pub numbers_as_text: f64,
}

impl Shares {
    /// Every row is called for once, whole.
    pub const NONE: Self =
        Self { silent: 0.0, malformed: 0.0, reruns: 0.0, changed: 0.0, missing: 0.0, numbers_as_text: 0.0 };
    /// What a table does on an ordinary day.
    pub const USUAL: Self =
        Self { silent: 0.03, malformed: 0.02, reruns: 0.1, changed: 0.5, missing: 0.12, numbers_as_text: 0.6 };
}

/// An HTTP API column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Where it calls.
    pub to: CallTo,
    /// Headers that never change, such as a static secret.
    pub headers: Vec<(String, String)>,
    /// Whether the body carries the row's id.
    pub names_row: bool,
    /// How long a row's enrichment takes.
    pub delay: RangeInclusive<Duration>,
    /// Requests per second; `None`: as fast as they are answered.
    pub per_second: Option<f64>,
    /// How long it waits for an answer.
    pub timeout: Duration,
    /// When it tries a second time.
    pub retries: Retries,
    /// What goes wrong.
    pub shares: Shares,
    /// Calls that may wait at once; the rows of further ones are not called for.
    pub waiting_max: usize,
}

impl Column {
    /// A column that calls `to` as Clay does by default: up to 100 requests a second, one retry, nothing that goes wrong.
    pub fn calling(to: CallTo) -> Self {
        Self {
            to,
            headers: Vec::new(),
            names_row: true,
            delay: Duration::from_millis(20)..=Duration::from_millis(200),
            per_second: Some(100.0),
            timeout: Duration::from_secs(30),
            retries: Retries::default(),
            shares: Shares::NONE,
            waiting_max: 100_000,
        }
    }

    /// The same with a header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with these shares.
    #[must_use]
    pub fn shares(mut self, shares: Shares) -> Self {
        self.shares = shares;
        self
    }
}
