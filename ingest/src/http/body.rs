//! Reads a body: bounded in size and time, without a copy where it came in one piece.

use std::time::Duration;

use actix_web::web;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::admission::{Overloaded, Permit};

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyProblem {
    TooLarge,
    TooSlow,
    Overloaded,
    /// The client went away, or its framing is wrong.
    Broken,
}

/// Reads all of `payload`, at most `bytes_max` within `limit`.
pub(crate) async fn read(
    payload: &mut web::Payload,
    bytes_max: usize,
    limit: Duration,
    permit: &mut Permit,
) -> Result<Bytes, BodyProblem> {
    let reading = read_to_end(payload, bytes_max, permit);
    tokio::time::timeout(limit, reading).await.unwrap_or(Err(BodyProblem::TooSlow))
}

async fn read_to_end(payload: &mut web::Payload, bytes_max: usize, permit: &mut Permit) -> Result<Bytes, BodyProblem> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| BodyProblem::Broken)?;
        let length = first.len() + all.len() + chunk.len();
        if length > bytes_max {
            return Err(BodyProblem::TooLarge);
        }
        permit.grow_to(length).map_err(|Overloaded| BodyProblem::Overloaded)?;
        if first.is_empty() && all.is_empty() {
            first = chunk;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&chunk);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}
