//! What an answer means. Pure: status, body and the destination's own sets in, a class out.
//!
//! The table is the one of Clay's neighbours ("Destinations" in the documentation): other destinations' dialects
//! (partial success of batch endpoints) do not belong here.

use common::config::StatusSet;
use common::states::Class;

/// How a destination says what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// By the status alone.
    Status,
    /// Slack's incoming webhooks: a word in the body decides, whatever the status.
    Slack,
}

/// Slack's words for "never again with this request". They stand in the body, with a status that varies.
const SLACK_TERMINAL: [&str; 6] =
    ["invalid_payload", "no_service", "channel_not_found", "channel_is_archived", "action_prohibited", "invalid_token"];

/// One answer, as far as it decides anything.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// The beginning of the body.
    pub body: &'a [u8],
    /// It named a time before which it does not want to be asked again.
    pub has_retry_after: bool,
}

/// The class of `answer`. The destination's own `success` and `terminal` sets come first, in this order: a status in
/// both counts as success.
///
/// What no table names: another 3xx or 4xx is permanent (redirects are never followed, and the same request gets the
/// same answer), another 5xx is worth a retry (one more try costs little, a lead given up costs much).
pub fn classify(answer: Answer<'_>, dialect: Dialect, success: &StatusSet, terminal: &StatusSet) -> Class {
    if success.contains(answer.status) {
        return Class::Delivered;
    }
    if terminal.contains(answer.status) || dialect == Dialect::Slack && is_slack_terminal(answer.body) {
        return Class::Permanent;
    }
    match answer.status {
        200..=299 => Class::Delivered,
        401 | 403 => Class::Unauthorized,
        410 => Class::Gone,
        429 => Class::Throttled,
        503 if answer.has_retry_after => Class::Throttled,
        408 | 425 | 500..=599 => Class::Transient,
        300..=499 => Class::Permanent,
        // 1xx as a final answer, or above 599: not HTTP as anybody means it.
        _ => Class::Transient,
    }
}

fn is_slack_terminal(body: &[u8]) -> bool {
    let word = body.trim_ascii();
    SLACK_TERMINAL.iter().any(|terminal| terminal.as_bytes() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16) -> Class {
        classify(
            Answer { status, body: b"", has_retry_after: false },
            Dialect::Status,
            &StatusSet::default(),
            &StatusSet::default(),
        )
    }

    #[test]
    fn every_status_has_its_class() {
        let table: [(Class, &[u16]); 6] = [
            (Class::Delivered, &[200, 201, 202, 204, 207, 299]),
            (Class::Transient, &[100, 408, 425, 500, 502, 503, 504, 520, 599, 600]),
            (Class::Throttled, &[429]),
            (Class::Permanent, &[300, 301, 302, 303, 304, 307, 308, 400, 402, 404, 405, 406, 409, 413, 415, 422, 451]),
            (Class::Unauthorized, &[401, 403]),
            (Class::Gone, &[410]),
        ];
        for (expected, statuses) in table {
            for status in statuses {
                assert_eq!(class(*status), expected, "{status}");
            }
        }
    }

    #[test]
    fn the_destinations_own_sets_come_first() {
        let success = StatusSet(vec![409..=409, 500..=500]);
        let terminal = StatusSet(vec![500..=599, 403..=403, 202..=202]);
        let table = [
            (409, Class::Delivered),
            (500, Class::Delivered),
            (502, Class::Permanent),
            (403, Class::Permanent),
            (202, Class::Permanent),
            (401, Class::Unauthorized),
            (200, Class::Delivered),
        ];
        for (status, expected) in table {
            let answer = Answer { status, body: b"", has_retry_after: true };
            assert_eq!(classify(answer, Dialect::Status, &success, &terminal), expected, "{status}");
        }
    }

    #[test]
    fn an_unavailable_destination_that_names_a_time_is_throttling() {
        for (status, expected) in [(503, Class::Throttled), (502, Class::Transient), (429, Class::Throttled)] {
            let answer = Answer { status, body: b"", has_retry_after: true };
            let none = StatusSet::default();
            assert_eq!(classify(answer, Dialect::Status, &none, &none), expected, "{status}");
        }
    }

    #[test]
    fn slacks_words_decide_only_for_slack() {
        let none = StatusSet::default();
        let table: [(u16, &[u8], Class); 8] = [
            (200, b"ok", Class::Delivered),
            (400, b"invalid_payload", Class::Permanent),
            (404, b"no_service\n", Class::Permanent),
            (404, b"channel_not_found", Class::Permanent),
            (410, b"channel_is_archived", Class::Permanent),
            (403, b"action_prohibited", Class::Permanent),
            (403, b"invalid_token", Class::Permanent),
            (500, b"rollup_error", Class::Transient),
        ];
        for (status, body, expected) in table {
            let answer = Answer { status, body, has_retry_after: false };
            assert_eq!(classify(answer, Dialect::Slack, &none, &none), expected, "{status}");
        }
        let answer = Answer { status: 410, body: b"channel_is_archived", has_retry_after: false };
        assert_eq!(classify(answer, Dialect::Status, &none, &none), Class::Gone);
        let answer = Answer { status: 403, body: b"", has_retry_after: false };
        assert_eq!(classify(answer, Dialect::Slack, &none, &none), Class::Unauthorized);
    }
}
