//! From the bytes of one row to what is stored of it: checked, tidied, judged by the filter, and with its key.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::ROW_BYTES_MAX;
use super::split::Piece;
use super::written;
use crate::canonical::{self, Malformed};
use crate::config::Destination;
use crate::db::rows::{NewRow, RowKey, RowKeyKind, RowOnce};
use crate::filter::Filter;
use crate::idempotency::{self, KeyInput, KeyKind};
use crate::ids::RowId;
use crate::lead::Lead;
use crate::states::Reason;

/// Why a row is refused. Never holds anything of the row's own text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowProblem {
    /// No JSON object.
    #[error("{0}")]
    Malformed(Malformed),
    /// An object without members.
    #[error("the object is empty")]
    Empty,
    /// Larger than Clay takes.
    #[error("the row is larger than Clay takes: at most {bytes_max} bytes, beside what claygate adds")]
    TooLarge {
        /// What is left for it.
        bytes_max: usize,
    },
    /// Anything that a reader of files says.
    #[error("{0}")]
    Unreadable(String),
    /// Its key was used with other data.
    #[error("this key was used with other data")]
    Conflict,
}

/// Where keys come from.
#[derive(Clone, Copy, Debug)]
pub enum KeySource<'a> {
    /// The destination's pointers, else the content.
    Row,
    /// The header of a request; of one of several rows, each place in it is a key.
    Header(&'a str),
    /// The place in a batch of this digest.
    Place(&'a [u8; 32]),
}

/// Prepares the rows of one destination.
#[derive(Clone, Copy, Debug)]
pub struct Preparer<'a> {
    filter: &'a Filter,
    row_key: &'a [String],
    once_per: Option<Duration>,
    blocked_as: Reason,
    bytes_max: usize,
    keys: KeySource<'a>,
    run: Option<&'a str>,
}

impl<'a> Preparer<'a> {
    /// For rows of `destination`, with the keys of `keys`; `run` is the deliberate repetition that a sender asked for.
    /// `None` where the destination is no Clay table.
    pub fn new(destination: &'a Destination, keys: KeySource<'a>, run: Option<&'a str>) -> Option<Self> {
        let clay = destination.clay()?;
        Some(Self {
            filter: &clay.filter,
            row_key: &clay.row_key,
            once_per: destination.once_per,
            blocked_as: destination.blocked_as(),
            bytes_max: ROW_BYTES_MAX.saturating_sub(clay.added_bytes()),
            keys,
            run,
        })
    }

    /// The longest row that it takes, in bytes.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Prepares one row.
    ///
    /// # Errors
    /// [`RowProblem`].
    pub fn prepare(&self, piece: Piece<'_>) -> Result<NewRow, RowProblem> {
        let Piece { line, raw, alone } = piece;
        let too_large = RowProblem::TooLarge { bytes_max: self.bytes_max };
        let raw = raw.ok_or_else(|| too_large.clone())?;
        let checked = canonical::check_body(raw).map_err(RowProblem::Malformed)?;
        let mut object = checked.object;
        if object.is_empty() {
            return Err(RowProblem::Empty);
        }
        let key = self.key((!alone).then_some(line), &object, &checked.digest);
        let tidied = self.filter.tidy(&mut object);
        let body = match tidied.is_empty() {
            true => raw.to_vec(),
            false => written::replace(raw, &tidied).unwrap_or_else(|| to_bytes(&object)),
        };
        if body.len() > self.bytes_max {
            return Err(too_large);
        }
        Ok(NewRow {
            id: RowId::new(),
            body,
            key,
            line: i64::try_from(line).ok(),
            skip: self.filter.judge(&object),
            once: self.once(&object),
        })
    }

    /// The key of a row at a place, or of one that is alone.
    fn key(&self, place: Option<u64>, object: &Map<String, Value>, digest: &[u8; 32]) -> RowKey {
        let with_place;
        let header = match (self.keys, place) {
            (KeySource::Row, _) => None,
            (KeySource::Header(header), None) => Some(header),
            // A header holds no line's end: no key of one request is one of another's.
            (KeySource::Header(header), Some(place)) => {
                with_place = format!("{header}\n{place}");
                Some(with_place.as_str())
            }
            (KeySource::Place(batch), place) => {
                let hash = hash_place(batch, place.unwrap_or_default());
                return RowKey { kind: RowKeyKind::Line, hash };
            }
        };
        let derived =
            idempotency::derive_key(&KeyInput { header, pointers: self.row_key, object, digest, run: self.run });
        let kind = match derived.key.kind {
            KeyKind::Header => RowKeyKind::Header,
            KeyKind::Pointer => RowKeyKind::Pointer,
            KeyKind::Content => RowKeyKind::Content,
        };
        RowKey { kind, hash: derived.key.hash }
    }

    /// What must not be sent again for a while: the filter's columns, else the person.
    fn once(&self, object: &Map<String, Value>) -> Option<RowOnce> {
        let within = self.once_per?;
        let columns = match self.blocked_as {
            Reason::DuplicateRow => self.filter.identity(object),
            _ => Lead::normalise(object, &BTreeMap::new()).person(),
        };
        Some(RowOnce { columns: columns?, within, reason: self.blocked_as })
    }
}

fn hash_place(batch: &[u8; 32], line: u64) -> [u8; 32] {
    let line = line.to_be_bytes();
    Sha256::new().chain_update(b"claygate row by place 1").chain_update(batch).chain_update(line).finalize().into()
}

fn to_bytes(object: &Map<String, Value>) -> Vec<u8> {
    // A map of strings to values always serialises.
    serde_json::to_vec(object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::config::{Config, Environment, Role};

    fn destination(more: &str) -> Destination {
        let toml = format!(
            "[database]\nurl = \"postgres://me@db/x\"\n[destinations.leads]\nkind = \"clay\"\n\
             webhooks = [{{ url = \"https://clay.example.com/1\" }}]\n{more}"
        );
        Config::from_toml(Role::Worker, &toml, &Environment::default()).unwrap().destinations.remove("leads").unwrap()
    }

    fn prepare(destination: &Destination, keys: KeySource<'_>, line: u64, raw: &str) -> Result<NewRow, RowProblem> {
        let preparer = Preparer::new(destination, keys, None).unwrap();
        preparer.prepare(Piece { line, raw: Some(raw.as_bytes()), alone: false })
    }

    #[test]
    fn the_same_row_has_the_same_key_and_another_has_not() {
        let by_id = destination("row_key = [\"/id\"]");
        let plain = destination("");
        let key = |destination, keys, line, raw| prepare(destination, keys, line, raw).unwrap().key;
        for (one, other, same, kind) in [
            (
                key(&plain, KeySource::Row, 1, r#"{"a":1,"b":2}"#),
                key(&plain, KeySource::Row, 9, r#"{"b":2, "a":1}"#),
                true,
                RowKeyKind::Content,
            ),
            (
                key(&plain, KeySource::Row, 1, r#"{"a":1}"#),
                key(&plain, KeySource::Row, 1, r#"{"a":"1"}"#),
                false,
                RowKeyKind::Content,
            ),
            (
                key(&by_id, KeySource::Row, 1, r#"{"id":7,"a":1}"#),
                key(&by_id, KeySource::Row, 2, r#"{"id":7,"a":2}"#),
                true,
                RowKeyKind::Pointer,
            ),
            (
                key(&by_id, KeySource::Row, 1, r#"{"id":null,"a":1}"#),
                key(&by_id, KeySource::Row, 1, r#"{"id":"","a":1}"#),
                false,
                RowKeyKind::Content,
            ),
            (
                key(&by_id, KeySource::Header("h"), 1, r#"{"id":7}"#),
                key(&by_id, KeySource::Header("h"), 2, r#"{"id":7}"#),
                false,
                RowKeyKind::Header,
            ),
            (
                key(&by_id, KeySource::Header("h"), 1, r#"{"id":7}"#),
                key(&by_id, KeySource::Header("h"), 1, r#"{"id":8}"#),
                true,
                RowKeyKind::Header,
            ),
            (
                key(&plain, KeySource::Place(&[1; 32]), 1, r#"{"a":1}"#),
                key(&plain, KeySource::Place(&[1; 32]), 2, r#"{"a":1}"#),
                false,
                RowKeyKind::Line,
            ),
            (
                key(&plain, KeySource::Place(&[1; 32]), 1, r#"{"a":1}"#),
                key(&plain, KeySource::Place(&[2; 32]), 1, r#"{"a":1}"#),
                false,
                RowKeyKind::Line,
            ),
        ] {
            assert_eq!((one.kind, one == other), (kind, same), "{one:?} {other:?}");
        }
    }

    #[test]
    fn what_clay_would_not_take_is_refused_with_its_reason() {
        let leads = destination("");
        let said = |raw: &str| prepare(&leads, KeySource::Row, 1, raw).unwrap_err().to_string();
        assert_eq!(said("{}"), "the object is empty");
        assert_eq!(said("[{\"a\":1}]"), "expected a JSON object at line 1, column 1");
        assert!(said("{\"a\":").starts_with("EOF"), "{}", said("{\"a\":"));
        let preparer = Preparer::new(&leads, KeySource::Row, None).unwrap();
        let of = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
        assert!(prepare(&leads, KeySource::Row, 1, &of(preparer.bytes_max())).is_ok());
        assert!(said(&of(preparer.bytes_max() + 1)).contains("at most 99947 bytes"));
        let endless = preparer.prepare(Piece { line: 1, raw: None, alone: false });
        assert!(matches!(endless, Err(RowProblem::TooLarge { .. })));
    }

    #[test]
    fn rows_are_kept_as_they_came_unless_they_are_tidied() {
        let leads = destination(
            "[destinations.leads.filter]\nskip_personal = true\nunique_by = [\"email\"]\ndomain_fields = [\"site\"]",
        );
        let row =
            prepare(&leads, KeySource::Row, 3, r#"{"n": 12345678901234567890123, "email":"a@acme.example"}"#).unwrap();
        assert_eq!(row.body, br#"{"n": 12345678901234567890123, "email":"a@acme.example"}"#);
        assert_eq!((row.line, row.skip), (Some(3), None));
        assert_eq!(row.once.map(|once| once.reason), Some(Reason::DuplicateRow));
        let row = prepare(&leads, KeySource::Row, 1, r#"{"site":"https://www.Acme.example/", "email":"a@gmail.com"}"#)
            .unwrap();
        assert_eq!(row.body, br#"{"email":"a@gmail.com","site":"acme.example"}"#);
        assert_eq!(row.skip, Some(Reason::PersonalEmail));
        let by_person = destination("once_per = \"1d\"");
        let row = prepare(&by_person, KeySource::Row, 1, r#"{"email":"a@acme.example"}"#).unwrap();
        assert_eq!(row.once.map(|once| once.reason), Some(Reason::CoolDown));
    }
}
