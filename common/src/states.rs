//! The states of a callback and of a delivery, and the only ways between them.
//!
//! ```text
//! callback   received ──▶ routed | skipped | dead          (an operator's replay: any end ──▶ received)
//! delivery   pending  ──▶ delivered | skipped | dead | cancelled   (ends; a replay is a new delivery)
//! ```
//!
//! The CHECK constraints of `migrations/` hold the same; the words are the ones in the tables.

use std::fmt;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word in tables, metrics and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value of a word, if it is one.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Where a callback is.
    CallbackState {
        /// Stored, not routed yet.
        Received = "received",
        /// Routed: at least one delivery was made of it.
        Routed = "routed",
        /// Deliberately not routed to anything; the reason says why.
        Skipped = "skipped",
        /// Given up; the reason says why; replayable.
        Dead = "dead",
    }
}

words! {
    /// Where a delivery is.
    DeliveryState {
        /// To be attempted at `next_attempt_at`, or being attempted under a lease.
        Pending = "pending",
        /// The destination took it.
        Delivered = "delivered",
        /// Deliberately not sent (cool-down, loop).
        Skipped = "skipped",
        /// Given up: a dead letter.
        Dead = "dead",
        /// Withdrawn by an operator.
        Cancelled = "cancelled",
    }
}

impl DeliveryState {
    /// Whether nothing will ever be sent for it again.
    pub const fn is_end(self) -> bool {
        !matches!(self, Self::Pending)
    }
}

words! {
    /// Whether a destination is sent to.
    DestinationState {
        /// It is.
        Running = "running",
        /// Not for now: an operator's wish, or its credentials were refused. What is for it waits.
        Paused = "paused",
        /// It said that it is gone (410). What is for it waits.
        Disabled = "disabled",
    }
}

words! {
    /// Whether a webhook URL of a table of Clay is sent to.
    WebhookState {
        /// It is, while its count has room.
        Active = "active",
        /// Its token was refused. An operator looks at it, and resumes its destination.
        Paused = "paused",
        /// Clay said that it takes no more, ever.
        Full = "full",
        /// Clay said that it is not there.
        Dead = "dead",
    }
}

words! {
    /// Why a callback or delivery was not sent, or was given up.
    Reason {
        /// No rule matched.
        NoRule = "no_rule",
        /// The source records changed bodies instead of delivering them (`changed = "record"`).
        Recorded = "recorded",
        /// A Clay routine's webhook: kept, not a lead.
        Routine = "routine",
        /// Clay's test event (`data: {}`).
        TestEvent = "test_event",
        /// An older revision that reached the database after a newer one.
        Superseded = "superseded",
        /// A rule failed with anything but a missing field.
        RuleError = "rule_error",
        /// Its body could not be read as a lead.
        Unreadable = "unreadable",
        /// Claimed too often without an end.
        Poison = "poison",
        /// The same person was sent there within `once_per`.
        CoolDown = "cool_down",
        /// It came back from a row of that very workspace.
        Loop = "loop",
        /// Every attempt of the schedule was used.
        AttemptsUsed = "attempts_used",
        /// The destination gave an answer that no retry can change.
        Terminal = "terminal",
        /// The request could not be built from the lead (template, size, URL).
        Unsendable = "unsendable",
        /// The row is larger than Clay takes.
        RowTooLarge = "row_too_large",
        /// A field that the destination's filter requires has no value.
        MissingField = "missing_field",
        /// Its mailbox is one that anybody can have, and the destination's filter holds those back.
        PersonalEmail = "personal_email",
        /// Its mailbox is a throw-away one, and the destination's filter holds those back.
        DisposableEmail = "disposable_email",
        /// A row of the same columns was sent there before, within the time that the destination's filter says.
        DuplicateRow = "duplicate_row",
        /// The destination is not in the configuration any more.
        UnknownDestination = "unknown_destination",
        /// The raw body was removed by retention.
        BodyExpired = "body_expired",
    }
}

words! {
    /// What one attempt's result means for its delivery; nothing else decides its fate.
    Class {
        /// The destination took it, or says that it already has it.
        Delivered = "delivered",
        /// Try again on the schedule.
        Transient = "transient",
        /// Try again on the schedule, not before the destination's Retry-After.
        Throttled = "throttled",
        /// No retry can help.
        Permanent = "permanent",
        /// Credentials refused: the destination is paused, no attempt is used up.
        Unauthorized = "unauthorized",
        /// 410: the destination is disabled, no attempt is used up.
        Gone = "gone",
        /// The attempt itself broke (panic, request that cannot be built).
        Poison = "poison",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back() {
        for state in DeliveryState::ALL {
            assert_eq!(DeliveryState::from_word(state.as_str()), Some(*state));
        }
        for reason in Reason::ALL {
            assert_eq!(Reason::from_word(reason.as_str()), Some(*reason));
        }
        assert_eq!(CallbackState::from_word("nonsense"), None);
    }
}
