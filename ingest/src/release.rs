//! The way out of quarantine: a repaired body goes through the same intake as any callback.
//!
//! The key comes from the body, the kept headers and the kept `run` parameter, as it would have at the first receipt;
//! changed data under a known key is taken as the next revision whatever the source says, since an operator asked for
//! it. Releasing the same bytes twice gives the same callback.

use bytes::Bytes;
use common::canonical::Malformed;
use common::config::{Changed, Config};
use common::db::intake::Books;
use common::db::{Database, DbError, quarantine};
use common::ids::CallbackId;

use crate::callback::{self, Read, Request};
use crate::commit::session::Session;
use crate::commit::settle::{Policy, settle};
use crate::commit::{Entry, Outcome};
use crate::http::headers::{PATH, kept};
use crate::http::receive::KEY_HEADERS;
use crate::sources::Source;

/// Who counts released callbacks in the books. They all share one row: releases are rare.
const INSTANCE: &str = "release";

/// What became of a released body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// A new callback, which a worker will route.
    Accepted(CallbackId),
    /// A new callback that is not routed (a routine's webhook, a test event).
    Recorded(CallbackId),
    /// This data was there already, as this callback; nothing is sent again.
    Duplicate(CallbackId),
}

impl Released {
    /// The callback that now holds the data.
    pub fn callback_id(self) -> CallbackId {
        match self {
            Self::Accepted(id) | Self::Recorded(id) | Self::Duplicate(id) => id,
        }
    }
}

/// Why a body could not be released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// No such id.
    #[error("nothing is in quarantine under the id {0}")]
    Unknown(CallbackId),
    /// Its source was removed.
    #[error("the source `{0}` is not configured any more")]
    SourceGone(String),
    /// The body is still no usable JSON object.
    #[error("the body is not a usable JSON object: {0}")]
    Malformed(Malformed),
    /// Postgres refuses the row.
    #[error("the database refuses the callback; it stays in quarantine")]
    Refused,
    /// The database failed; the call can be repeated.
    #[error("the body could not be released")]
    Database(#[from] DbError),
}

/// Takes `body` in as what quarantined `id` should have been, and remembers as which callback. Workers find it at
/// their next poll.
///
/// # Errors
/// [`ReleaseError`]; the call can be repeated.
///
/// # Cancel safety
/// A cancelled call may have taken the callback in; repeating it answers [`Released::Duplicate`].
pub async fn release(
    config: &Config,
    database: &Database,
    id: CallbackId,
    body: Bytes,
) -> Result<Released, ReleaseError> {
    let Some(quarantined) = quarantine::load(database, id).await? else { return Err(ReleaseError::Unknown(id)) };
    let Some(source) = config.sources.get(&quarantined.source) else {
        return Err(ReleaseError::SourceGone(quarantined.source));
    };
    let source = Source::new(source, config);
    let key_header = KEY_HEADERS.iter().find_map(|name| kept(&quarantined.headers, name));
    let path = kept(&quarantined.headers, PATH).unwrap_or_default();
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let headers = quarantined.headers.clone();
    let key_header = key_header.as_deref();
    let read = callback::read(Request { source: &source, body, headers, key_header, query, proven_row: None });
    let entry = match read {
        Read { malformed: Some(malformed), .. } => return Err(ReleaseError::Malformed(malformed)),
        Read { entry, .. } => entry,
    };
    let released = commit(config, database, entry).await?;
    quarantine::mark_released(database, id, released.callback_id()).await?;
    Ok(released)
}

async fn commit(config: &Config, database: &Database, entry: Entry) -> Result<Released, ReleaseError> {
    let books = Books { instance: INSTANCE.into(), writer: 0 };
    let mut session = Session::open(database.settings(), config.ingest.limits.commit_timeout, books).await?;
    let mut outcomes = [None];
    settle(&mut session, &[entry], &AlwaysAccept, &mut outcomes).await?;
    session.close().await;
    match outcomes {
        [Some(Outcome::Accepted { id, .. })] => Ok(Released::Accepted(id)),
        [Some(Outcome::Recorded { id, .. })] => Ok(Released::Recorded(id)),
        [Some(Outcome::Duplicate { id, .. })] => Ok(Released::Duplicate(id)),
        _ => Err(ReleaseError::Refused),
    }
}

struct AlwaysAccept;

impl Policy for AlwaysAccept {
    fn changed(&self, _source: &str) -> Changed {
        Changed::Accept
    }
}
