//! One spooled entry as bytes: a frame with marker, length and checksum around a small JSON head and the raw body.
//!
//! ```text
//! marker u32 | length u32 | crc32 u32 | head length u32 | head (JSON) | body (to the end)      all little-endian
//!                                      └────────────── length bytes, checksummed ──────┘
//! ```

use std::sync::Arc;

use bytes::Bytes;
use common::db::intake::Incoming;
use common::db::quarantine::{Problem, Unusable};
use common::idempotency::{IdempotencyKey, KeyKind};
use common::ids::{CallbackId, RowId};
use common::states::Reason;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::commit::Entry;

pub(super) const MARKER: u32 = 0x6C61_7943;
pub(super) const FRAME_BYTES: usize = 12;
/// Far above any body limit: a length beyond it is damage.
const PAYLOAD_BYTES_MAX: usize = 256 << 20;

#[derive(Serialize, Deserialize)]
struct Head {
    id: CallbackId,
    source: Arc<str>,
    /// Microseconds since 1970, UTC.
    received_at_us: i64,
    headers: String,
    digest: [u8; 32],
    #[serde(flatten)]
    kind: Kind,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Kind {
    Callback {
        key: [u8; 32],
        key_kind: String,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        row_id: Option<RowId>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        skip: Option<String>,
    },
    Unusable {
        problem: String,
        detail: String,
    },
}

/// The frame and everything in it.
pub(super) fn encode(entry: &Entry) -> Vec<u8> {
    let (head, body) = head_of(entry);
    // Nothing in a head can fail to be JSON.
    let head = serde_json::to_vec(&head).unwrap_or_default();
    let length = 4 + head.len() + body.len();
    let mut frame = Vec::with_capacity(FRAME_BYTES + length);
    frame.extend(MARKER.to_le_bytes());
    frame.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend([0; 4]);
    frame.extend(u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend(&head);
    frame.extend(body);
    let checksum = crc32fast::hash(&frame[FRAME_BYTES..]);
    frame[8..FRAME_BYTES].copy_from_slice(&checksum.to_le_bytes());
    frame
}

/// The payload of the record at the start of `bytes`; `None` when there is no whole and sound one.
pub(super) fn payload(bytes: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let length = usize::try_from(word(4)?).ok().filter(|length| *length <= PAYLOAD_BYTES_MAX)?;
    let payload = bytes.get(FRAME_BYTES..FRAME_BYTES + length)?;
    (word(0)? == MARKER && crc32fast::hash(payload) == word(8)?).then_some(payload)
}

/// Whether `bytes` are the beginning of a record whose end was never written.
pub(super) fn is_incomplete(bytes: &[u8]) -> bool {
    let marker = MARKER.to_le_bytes();
    let begins = bytes.iter().zip(&marker).all(|(byte, expected)| byte == expected);
    let length = bytes.get(4..8).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
    // A length that is not there yet can be any.
    let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(PAYLOAD_BYTES_MAX);
    begins && length <= PAYLOAD_BYTES_MAX && bytes.len() < FRAME_BYTES + length
}

/// Reads an entry out of a sound payload; `None` when a newer version wrote it in a way that this one cannot read.
pub(super) fn decode(payload: &[u8]) -> Option<Entry> {
    let (length, rest) = payload.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (head, body) = (rest.get(..length)?, rest.get(length..)?);
    let head: Head = serde_json::from_slice(head).ok()?;
    let body = Bytes::copy_from_slice(body);
    let received_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(head.received_at_us) * 1_000).ok()?;
    let Head { id, source, headers, digest, .. } = head;
    Some(match head.kind {
        Kind::Callback { key, key_kind, row_id, skip } => Entry::Callback(Incoming {
            id,
            source,
            key: IdempotencyKey { hash: key, kind: KeyKind::from_word(&key_kind)? },
            digest,
            row_id,
            skip: match skip {
                Some(word) => Some(Reason::from_word(&word)?),
                None => None,
            },
            body,
            headers,
            received_at: Some(received_at),
        }),
        Kind::Unusable { problem, detail } => Entry::Unusable(Unusable {
            id,
            source,
            problem: Problem::from_word(&problem)?,
            detail,
            digest,
            body,
            headers,
            received_at: Some(received_at),
        }),
    })
}

fn head_of(entry: &Entry) -> (Head, &[u8]) {
    let micros = |moment: Option<OffsetDateTime>| {
        let nanos = moment.unwrap_or(OffsetDateTime::UNIX_EPOCH).unix_timestamp_nanos();
        i64::try_from(nanos / 1_000).unwrap_or(i64::MAX)
    };
    match entry {
        Entry::Callback(incoming) => {
            let kind = Kind::Callback {
                key: incoming.key.hash,
                key_kind: incoming.key.kind.as_str().to_owned(),
                row_id: incoming.row_id,
                skip: incoming.skip.map(|reason| reason.as_str().to_owned()),
            };
            let head = Head {
                id: incoming.id,
                source: incoming.source.clone(),
                received_at_us: micros(incoming.received_at),
                headers: incoming.headers.clone(),
                digest: incoming.digest,
                kind,
            };
            (head, &incoming.body)
        }
        Entry::Unusable(unusable) => {
            let kind =
                Kind::Unusable { problem: unusable.problem.as_str().to_owned(), detail: unusable.detail.clone() };
            let head = Head {
                id: unusable.id,
                source: unusable.source.clone(),
                received_at_us: micros(unusable.received_at),
                headers: unusable.headers.clone(),
                digest: unusable.digest,
                kind,
            };
            (head, &unusable.body)
        }
    }
}
