//! Postgres itself as the queue: consumers claim due outbox entries.
