//! What an authenticated request says: a callback with its key, or something that is none. Pure, but for the fresh id.

use bytes::Bytes;
use common::canonical::{self, Malformed};
use common::db::intake::Incoming;
use common::db::quarantine::{Problem, Unusable};
use common::idempotency::{self, KeyInput};
use common::ids::{CallbackId, RowId};
use common::states::Reason;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::commit::Entry;
use crate::sources::Source;

/// The member in which a body names the row that it came back from.
const ROW_MEMBER: &str = "claygate_id";
/// Members of Clay's routine webhooks.
const ROUTINE_MEMBERS: [&str; 3] = ["webhookId", "createdAt", "data"];

/// The members of a body that [`read`] looks at, for a source with these pointers.
pub(crate) fn members_read(pointers: &[String]) -> Vec<String> {
    let mut names = idempotency::members_read(pointers);
    names.push(ROW_MEMBER.to_owned());
    names.extend(ROUTINE_MEMBERS.map(str::to_owned));
    names
}

/// An authenticated request.
pub(crate) struct Request<'a> {
    pub(crate) source: &'a Source,
    pub(crate) body: Bytes,
    /// As they are kept: JSON, secrets redacted.
    pub(crate) headers: String,
    /// `Idempotency-Key`, else `webhook-id`.
    pub(crate) key_header: Option<&'a str>,
    /// The query as it came.
    pub(crate) query: &'a str,
    /// The row whose signed URL it came to.
    pub(crate) proven_row: Option<RowId>,
}

/// What was read.
pub(crate) struct Read {
    pub(crate) entry: Entry,
    /// Why it is none, where the entry is [`Entry::Unusable`].
    pub(crate) malformed: Option<Malformed>,
    /// The source's pointers gave no key.
    pub(crate) pointers_missed: bool,
}

/// Reads `request`.
pub(crate) fn read(request: Request<'_>) -> Read {
    let checked = match canonical::check_body_for(&request.body, &request.source.members_read) {
        Ok(checked) => checked,
        Err(malformed) => return unusable(request, malformed),
    };
    let derived = idempotency::derive_key(&KeyInput {
        header: request.key_header,
        pointers: &request.source.config.idempotency.pointers,
        object: &checked.object,
        digest: &checked.digest,
        run: run_parameter(request.query),
    });
    let incoming = Incoming {
        id: CallbackId::new(),
        source: request.source.name.clone(),
        key: derived.key,
        digest: checked.digest,
        row_id: request.proven_row.or_else(|| named_row(&checked.object)),
        skip: skip_reason(&checked.object, checked.has_others),
        body: request.body,
        headers: request.headers,
        received_at: None,
    };
    Read { entry: Entry::Callback(incoming), malformed: None, pointers_missed: derived.pointers_missed }
}

/// The `run` parameter: a deliberate re-run. As written, and absent where it is empty.
pub(crate) fn run_parameter(query: &str) -> Option<&str> {
    let run = query.split('&').find_map(|pair| pair.strip_prefix("run="));
    run.filter(|run| !run.is_empty())
}

fn unusable(request: Request<'_>, malformed: Malformed) -> Read {
    let entry = Entry::Unusable(Unusable {
        id: CallbackId::new(),
        source: request.source.name.clone(),
        problem: Problem::Malformed,
        detail: malformed.to_string(),
        digest: Sha256::digest(&request.body).into(),
        body: request.body,
        headers: request.headers,
        received_at: None,
    });
    Read { entry, malformed: Some(malformed), pointers_missed: false }
}

/// The row that the body says it came back from, by its member [`ROW_MEMBER`]. A row that the URL proves comes first.
fn named_row(object: &Map<String, Value>) -> Option<RowId> {
    object.get(ROW_MEMBER)?.as_str()?.trim().parse().ok()
}

/// Clay's routine webhooks and their test event are no leads. A lead that happens to have an empty `data` is one.
/// `has_others`: it has members that are not in `object`.
fn skip_reason(object: &Map<String, Value>, has_others: bool) -> Option<Reason> {
    let data = object.get("data")?.as_object()?;
    if data.get("routine_run_id").is_some_and(|id| !id.is_null()) {
        return Some(Reason::Routine);
    }
    let is_routine = !has_others && object.keys().all(|name| ROUTINE_MEMBERS.contains(&name.as_str()));
    (data.is_empty() && is_routine).then_some(Reason::TestEvent)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use common::config::{Config, Environment, Role};
    use serde_json::json;

    use super::*;

    #[test]
    fn routine_webhooks_are_told_from_leads() {
        for (body, reason) in [
            (json!({"webhookId": "w", "createdAt": "now", "data": {"routine_run_id": "r"}}), Some(Reason::Routine)),
            (json!({"webhookId": "w", "createdAt": "now", "data": {}}), Some(Reason::TestEvent)),
            (json!({"data": {}}), Some(Reason::TestEvent)),
            (json!({"data": {}, "email": "jane@example.com"}), None),
            (json!({"data": {"email": "jane@example.com"}}), None),
            (json!({"data": {"routine_run_id": null}}), None),
            (json!({"data": "routine_run_id"}), None),
            (json!({}), None),
        ] {
            let raw = body.to_string();
            let checked = canonical::check_body_for(raw.as_bytes(), &members_read(&[])).unwrap();
            assert_eq!(skip_reason(&checked.object, checked.has_others), reason, "{body}");
        }
    }

    #[test]
    fn the_run_parameter_is_taken_as_written() {
        for (query, run) in
            [("", None), ("run=", None), ("run=2", Some("2")), ("a=1&run=x%20y", Some("x%20y")), ("rerun=2", None)]
        {
            assert_eq!(run_parameter(query), run, "{query}");
        }
    }

    #[test]
    fn a_proven_row_comes_before_the_one_that_the_body_names() {
        let (named, proven) = (RowId::new(), RowId::new());
        let toml = "[database]\nurl = \"postgres://localhost/x\"\n[sources.clay]\npath = \"/in\"\n\
                    verify = { kind = \"token\", header = \"X-Gate\", secrets = [\"a-static-secret\"] }\n";
        let config = Config::from_toml(Role::Ingest, toml, &Environment::default()).unwrap();
        let source = Source::new(&config.sources["clay"], &config);
        let row_of = |body: Value, proven_row| {
            let (body, headers) = (body.to_string().into(), "[]".to_owned());
            let query = "cg_row=0192f0a4-0000-7000-8000-000000000000";
            match read(Request { source: &source, body, headers, key_header: None, query, proven_row }).entry {
                Entry::Callback(incoming) => incoming.row_id,
                Entry::Unusable(_) => None,
            }
        };
        let body = json!({"claygate_id": named.to_string()});
        assert_eq!(row_of(body.clone(), Some(proven)), Some(proven));
        assert_eq!(row_of(body, None), Some(named));
        assert_eq!(row_of(json!({"claygate_id": 7}), None), None, "an unproven cg_row is nothing");
    }
}
