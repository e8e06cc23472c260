//! The headers as they are kept: JSON, in the order of arrival, with every secret replaced.

use actix_web::http::header::HeaderMap;
use serde_json::value::RawValue;

/// The name under which the path is kept.
pub(crate) const PATH: &str = ":path";
const REDACTED: &str = "[redacted]";

/// Headers that are secret wherever they come from.
const SECRET_NAMES: [&str; 5] = ["authorization", "proxy-authorization", "cookie", "set-cookie", "webhook-signature"];
/// Parts of names that say the same.
const SECRET_PARTS: [&str; 6] = ["secret", "token", "signature", "password", "api-key", "apikey"];

/// The request's headers as `[[name, value], …]`, preceded by the pair `[":path", path]` with the `run` parameter as
/// its only query: any other may be a secret.
pub(crate) fn to_json(headers: &HeaderMap, secret_headers: &[String], path: &str, run: Option<&str>) -> String {
    let mut json = Vec::with_capacity(64 + headers.len() * 48);
    json.push(b'[');
    let with_run = run.map(|run| format!("{path}?run={run}"));
    push_pair(&mut json, PATH, with_run.as_deref().unwrap_or(path));
    for (name, value) in headers {
        json.push(b',');
        if is_secret(name.as_str(), secret_headers) {
            push_pair(&mut json, name.as_str(), REDACTED);
        } else {
            push_pair(&mut json, name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
        }
    }
    json.push(b']');
    // What JSON is written of is text, and so is JSON.
    String::from_utf8(json).unwrap_or_default()
}

/// The value of `name` in what [`to_json`] made; `None` where it is absent.
pub(crate) fn kept(json: &str, name: &str) -> Option<String> {
    let pairs: Vec<(String, &RawValue)> = serde_json::from_str(json).ok()?;
    let (_, value) = pairs.into_iter().find(|(known, _)| known == name)?;
    serde_json::from_str(value.get()).ok()
}

fn is_secret(name: &str, secret_headers: &[String]) -> bool {
    SECRET_NAMES.contains(&name) || says_secret(name) || secret_headers.iter().any(|secret| secret == name)
}

/// Whether one of [`SECRET_PARTS`] is in `name`. In one walk, since a search for each is several times as dear.
fn says_secret(name: &str) -> bool {
    let name = name.as_bytes();
    (0..name.len()).filter_map(|start| name.get(start..)).any(|rest| {
        matches!(rest.first(), Some(b'a' | b'p' | b's' | b't'))
            && SECRET_PARTS.iter().any(|part| rest.starts_with(part.as_bytes()))
    })
}

fn push_pair(json: &mut Vec<u8>, name: &str, value: &str) {
    json.push(b'[');
    push_string(json, name);
    json.push(b',');
    push_string(json, value);
    json.push(b']');
}

fn push_string(json: &mut Vec<u8>, text: &str) {
    // Neither text nor memory refuses to be written.
    let _infallible = serde_json::to_writer(json, text);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn secrets_are_replaced_and_the_rest_is_kept() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer hidden"),
            ("x-gate", "hidden"),
            ("x-clay-signature", "sha256=hidden"),
            ("cookie", "hidden"),
            ("webhook-signature", "v1,hidden"),
            ("x-my-api-key", "hidden"),
            ("apikey", "hidden"),
            ("x-passwords", "hidden"),
            ("clay-secret-2", "hidden"),
            ("x-csrf-token", "hidden"),
            ("x-assign-to", "kept"),
            ("content-type", "application/json"),
            ("x-quote", "say \"hi\"\\"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.append(HeaderName::from_static("x-latin"), HeaderValue::from_bytes(b"caf\xe9").unwrap());
        let json = to_json(&headers, &["x-gate".to_owned()], "/api/clay/enriched", Some("2"));
        assert!(!json.contains("hidden"), "{json}");
        assert_eq!(kept(&json, "content-type").as_deref(), Some("application/json"));
        assert_eq!(kept(&json, "x-quote").as_deref(), Some("say \"hi\"\\"));
        assert_eq!(kept(&json, "x-latin").as_deref(), Some("caf\u{fffd}"));
        assert_eq!(kept(&json, ":path").as_deref(), Some("/api/clay/enriched?run=2"));
        assert_eq!(kept(&json, "x-gate").as_deref(), Some("[redacted]"));
        assert_eq!(kept(&json, "x-assign-to").as_deref(), Some("kept"));
        assert_eq!(kept(&json, "absent"), None);
    }

    #[test]
    fn every_name_and_part_is_found_wherever_it_stands() {
        for name in SECRET_NAMES {
            assert!(is_secret(name, &[]), "{name}");
        }
        for part in SECRET_PARTS {
            for name in [part.to_owned(), format!("x-{part}"), format!("{part}-2"), format!("x-{part}-2")] {
                assert!(is_secret(&name, &[]), "{name}");
            }
        }
        for name in ["", "s", "x-toke", "x-pass-word", "x-api-ke", "accept", "content-type"] {
            assert!(!is_secret(name, &[]), "{name}");
        }
    }
}
