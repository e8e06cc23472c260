//! What a message looks like in the broker: `{"queue": "callbacks", "ids": ["…", …]}`.
//!
//! JSON, so that an operator can read it in the broker's own page; the queue's name is in it, so that a dead letter
//! still says where it belongs.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::queue::{BATCH_MAX, QueueName};

#[derive(Serialize, Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    queue: std::borrow::Cow<'a, str>,
    ids: Vec<Uuid>,
}

/// The body of a message for `queue`.
pub(super) fn encode(queue: &QueueName, ids: &[Uuid]) -> Vec<u8> {
    let body = Body { queue: queue.as_str().into(), ids: ids.to_vec() };
    // A string and ids: there is nothing in it that could fail.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// Reads a body back. `None`: it is none of ours.
pub(super) fn decode(body: &[u8]) -> Option<(QueueName, Vec<Uuid>)> {
    let Body { queue, ids } = serde_json::from_slice(body).ok()?;
    (1..=BATCH_MAX).contains(&ids.len()).then(|| (QueueName(queue.into_owned()), ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_not_ours_is_refused() {
        let ids: Vec<Uuid> = (0..BATCH_MAX).map(|_| Uuid::now_v7()).collect();
        let queue = QueueName::deliver("alerts");
        assert_eq!(decode(&encode(&queue, &ids)), Some((queue.clone(), ids.clone())));

        let too_many: Vec<Uuid> = ids.iter().copied().chain([Uuid::now_v7()]).collect();
        assert_eq!(decode(&encode(&queue, &too_many)), None);
        assert_eq!(decode(&encode(&queue, &[])), None);
        for foreign in [&b""[..], b"[]", b"\xff", br#"{"ids":["x"],"queue":"callbacks"}"#, br#"{"queue":"callbacks"}"#]
        {
            assert_eq!(decode(foreign), None);
        }
    }
}
