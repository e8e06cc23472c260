//! Identities: UUIDv7, so that they sort roughly by time, each with a type of its own.
//!
//! An id says *which*, never *when*: order and age come from `timestamptz` columns on the database's clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh id.
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

id! {
    /// A stored callback; the `id` of the answer that Clay shows in its cell.
    CallbackId
}
id! {
    /// One lead (or row) on its way to one destination.
    DeliveryId
}
id! {
    /// A record sent into a Clay workspace; travels as `claygate_id`.
    RowId
}

/// The smallest id that can be made at `moment`: what bounds a reading of many ids by their time. Whoever made an id used
/// its own clock, so the database's time decides what belongs to the reading.
pub fn first_id_of(moment: OffsetDateTime) -> Uuid {
    let millis = u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    Uuid::from_u128(u128::from(millis) << 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_id_of_a_moment_comes_before_those_made_then_and_after_those_made_before() {
        let now = OffsetDateTime::now_utc();
        let made = Uuid::now_v7();
        assert!(first_id_of(now - time::Duration::SECOND) < made && made < first_id_of(now + time::Duration::MINUTE));
        assert_eq!(first_id_of(OffsetDateTime::UNIX_EPOCH - time::Duration::DAY), Uuid::nil());
    }
}
