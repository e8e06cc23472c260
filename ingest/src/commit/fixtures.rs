//! What the tests of the commit's parts take in.

use common::db::intake::Incoming;
use common::idempotency::{IdempotencyKey, KeyKind};
use common::ids::CallbackId;

/// A callback with these bytes as its key and its digest.
pub(crate) fn callback(key: u8, digest: u8) -> Incoming {
    Incoming {
        id: CallbackId::new(),
        source: "clay".into(),
        key: IdempotencyKey { hash: [key; 32], kind: KeyKind::Header },
        digest: [digest; 32],
        row_id: None,
        skip: None,
        body: "{}".into(),
        headers: "[]".to_owned(),
        received_at: None,
    }
}
