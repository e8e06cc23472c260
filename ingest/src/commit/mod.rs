//! Group commit: requests that arrive while a commit is in flight share the next one.
//!
//! [`queue`] holds what waits, each entry with its in-flight permit, so that admission bounds the queue and a client
//! that disconnects cancels nothing. [`writer`]s take everything that waits and hand it to [`settle`], which decides
//! what is new, a repeat, a revision or a conflict, over a [`session`] (one connection with a time limit). What cannot
//! be committed goes to the spool. Answers go home by way of a [`mailbox`] per HTTP thread. A request that is alone waits for
//! nothing but its commit; no lock is held over an await, and no SQL runs per request.

pub(crate) mod clock;
#[cfg(test)]
pub(crate) mod fixtures;
pub(crate) mod health;
pub(crate) mod mailbox;
pub(crate) mod partitions;
pub(crate) mod queue;
pub(crate) mod session;
pub(crate) mod settle;
pub(crate) mod writer;

use common::db::intake::Incoming;
use common::db::quarantine::{Problem, Unusable};
use common::ids::CallbackId;
use time::OffsetDateTime;

/// Something that was taken from a sender and has to become durable.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A callback.
    Callback(Incoming),
    /// An authenticated body that is not one.
    Unusable(Unusable),
}

impl Entry {
    /// The id that the sender is answered with, unless it turns out to be a repeat.
    pub(crate) fn id(&self) -> CallbackId {
        match self {
            Self::Callback(incoming) => incoming.id,
            Self::Unusable(unusable) => unusable.id,
        }
    }

    /// Gives it its time of receipt, for the spool.
    pub(crate) fn set_received_at(&mut self, moment: OffsetDateTime) {
        match self {
            Self::Callback(incoming) => incoming.received_at = Some(moment),
            Self::Unusable(unusable) => unusable.received_at = Some(moment),
        }
    }

    /// About how much memory it holds, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Callback(incoming) => incoming.body.len() + incoming.headers.len(),
            Self::Unusable(unusable) => unusable.body.len() + unusable.headers.len(),
        }
    }
}

/// What became of an [`Entry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Committed as a new callback, to be routed.
    Accepted {
        /// Its id.
        id: CallbackId,
        /// Its receipt.
        at: OffsetDateTime,
    },
    /// Committed as a new callback that will not be routed.
    Recorded {
        /// Its id.
        id: CallbackId,
        /// Its receipt.
        at: OffsetDateTime,
    },
    /// The same key and data as a callback that was there already.
    Duplicate {
        /// That callback's id: the one that holds this data.
        id: CallbackId,
        /// Its receipt.
        first_received_at: OffsetDateTime,
        /// The receipt of this one.
        at: OffsetDateTime,
    },
    /// This very entry was there already (a commit whose answer was lost). Only the spool's drain sees it.
    Present,
    /// In quarantine.
    Quarantined {
        /// Under which id.
        id: CallbackId,
        /// Why.
        problem: Problem,
    },
    /// On disk, to be committed when Postgres is back.
    Spooled {
        /// Its id.
        id: CallbackId,
        /// Its receipt.
        at: OffsetDateTime,
    },
    /// Neither committed nor spooled: the sender has to come again.
    Unavailable,
}
