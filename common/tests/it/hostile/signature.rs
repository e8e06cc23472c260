//! A signature passes exactly where the secret made it.
//!
//! The input is a request: the path with its query, header lines, an empty line, the body. In it `{token}`, `{hex}`,
//! `{base64}`, `{standard}`, `{url}` and `{now}` stand for credentials that are right, which no fuzzer would come upon.
//! What is accepted is worked out here a second time, from the words of the specification.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::config::{ActiveSecret, Verification};
use common::ids::RowId;
use common::signature::{Refusal, RequestParts, sign_url, verify};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::SecretString;
use sha2::Sha256;
use time::OffsetDateTime;
use time::macros::datetime;
use url::Url;

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);
const SECRET: &str = "a-secret-of-example.com";
/// The same in the form of Standard Webhooks.
const WHSEC: &str = "whsec_YS1zZWNyZXQtb2YtZXhhbXBsZS5jb20=";
const HEADER: &str = "x-clay-signature";

struct Request {
    path_and_query: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl RequestParts for Request {
    fn header(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.headers.iter().filter(|(own, _)| own == name);
        let value = values.next()?;
        values.next().is_none().then_some(&value.1)
    }

    fn path_and_query(&self) -> &str {
        &self.path_and_query
    }
}

pub(crate) fn check(input: &[u8]) {
    let request = read(input);
    let (token, mac, standard, url) = (token(&request), mac(&request), standard(&request), url(&request));
    for (kind, expected) in kinds(SECRET, WHSEC, None).into_iter().zip([token, mac, standard, url.is_some()]) {
        let verified = verify(std::slice::from_ref(&kind), &request, &request.body, NOW);
        assert_eq!(verified.is_ok(), expected, "{kind:?}: {verified:?}");
    }
    let all = verify(&kinds(SECRET, WHSEC, None), &request, &request.body, NOW);
    assert_eq!(all.is_ok(), token || mac || standard || url.is_some(), "of several any one suffices");
    assert_eq!(all.ok().and_then(|proof| proof.row), url, "a row is proven by its URL alone");

    for (what, verifications) in [
        ("no verification", Vec::new()),
        ("another secret", kinds("another-secret", "whsec_YW5vdGhlci1zZWNyZXQ=", None)),
        ("an empty secret", kinds("", "whsec_", None)),
        ("an expired secret", kinds(SECRET, WHSEC, Some(NOW))),
    ] {
        assert!(verify(&verifications, &request, &request.body, NOW).is_err(), "accepted under {what}");
    }
    let bare = Request { path_and_query: String::new(), headers: Vec::new(), body: request.body };
    assert_eq!(verify(&kinds(SECRET, WHSEC, None), &bare, &bare.body, NOW), Err(Refusal::Missing));
}

fn kinds(secret: &str, whsec: &str, expires_at: Option<OffsetDateTime>) -> Vec<Verification> {
    let secrets = |value: &str| vec![ActiveSecret { value: SecretString::from(value), expires_at }];
    vec![
        Verification::Token { header: HEADER.to_owned(), secrets: secrets(secret) },
        Verification::HmacSha256 { header: HEADER.to_owned(), secrets: secrets(secret) },
        Verification::StandardWebhooks { secrets: secrets(whsec) },
        Verification::SignedUrl { secrets: secrets(secret) },
    ]
}

fn read(input: &[u8]) -> Request {
    let mut rest = input;
    let mut line = || match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            line
        }
        None => std::mem::take(&mut rest),
    };
    let path_and_query = String::from_utf8_lossy(line()).replace("{url}", &signed_path());
    let mut headers = Vec::new();
    loop {
        let header = line();
        let Some(colon) = header.iter().position(|byte| *byte == b':') else { break };
        let name = String::from_utf8_lossy(&header[..colon]).to_ascii_lowercase();
        headers.push((name, header[colon + 1..].to_vec()));
    }
    let mut request = Request { path_and_query, headers, body: rest.to_vec() };
    fill(&mut request, "{now}", &NOW.unix_timestamp().to_string());
    fill(&mut request, "{token}", SECRET);
    let signed = hmac_of(&[&request.body]);
    fill(&mut request, "{hex}", &hex::encode(signed));
    fill(&mut request, "{base64}", &STANDARD.encode(signed));
    let standard = standard_mac(&request).map(|mac| STANDARD.encode(mac)).unwrap_or_default();
    fill(&mut request, "{standard}", &format!("v1,{standard}"));
    request
}

/// Puts `value` where a header says `name`. Headers need not be text.
fn fill(request: &mut Request, name: &str, value: &str) {
    for (_, header) in &mut request.headers {
        if let Some(at) = header.windows(name.len()).position(|window| window == name.as_bytes()) {
            header.splice(at..at + name.len(), value.bytes());
        }
    }
}

fn signed_path() -> String {
    let base = Url::parse("https://leads.example.com/api/clay/enriched").unwrap();
    let row: RowId = "0198c5a7-0000-7000-8000-000000000000".parse().unwrap();
    let url = sign_url(&base, row, NOW + time::Duration::HOUR, &SecretString::from(SECRET));
    format!("{}?{}", url.path(), url.query().unwrap())
}

fn hmac_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// A header that says something, without the white space around it.
fn said<'a>(request: &'a Request, name: &str) -> Option<&'a [u8]> {
    request.header(name).map(<[u8]>::trim_ascii).filter(|value| !value.is_empty())
}

fn token(request: &Request) -> bool {
    let bearer = said(request, "authorization").filter(|value| value.len() > 7);
    let bearer =
        bearer.filter(|value| value[..7].eq_ignore_ascii_case(b"bearer ")).map(|value| value[7..].trim_ascii());
    said(request, HEADER) == Some(SECRET.as_bytes()) || bearer == Some(SECRET.as_bytes())
}

fn mac(request: &Request) -> bool {
    let Some(value) = said(request, HEADER) else { return false };
    let mac = hmac_of(&[&request.body]);
    let (lower, base64) = (hex::encode(mac), STANDARD.encode(mac));
    value.eq_ignore_ascii_case(lower.as_bytes())
        || value.eq_ignore_ascii_case(format!("sha256={lower}").as_bytes())
        || value == base64.as_bytes()
}

fn standard_mac(request: &Request) -> Option<[u8; 32]> {
    let (id, at) = (said(request, "webhook-id")?, said(request, "webhook-timestamp")?);
    Some(hmac_of(&[id, b".", at, b".", &request.body]))
}

fn standard(request: &Request) -> bool {
    let (Some(mac), Some(at)) = (standard_mac(request), said(request, "webhook-timestamp")) else { return false };
    let at = std::str::from_utf8(at).ok().filter(|at| at.bytes().all(|byte| byte.is_ascii_digit()));
    let Some(at) = at.and_then(|at| at.parse::<i64>().ok()) else { return false };
    let wanted = format!("v1,{}", STANDARD.encode(mac));
    let signatures = said(request, "webhook-signature").unwrap_or_default();
    (NOW.unix_timestamp() - 300..=NOW.unix_timestamp() + 300).contains(&at)
        && signatures.split(|byte| *byte == b' ').any(|signature| signature == wanted.as_bytes())
}

/// The row whose URL it is.
fn url(request: &Request) -> Option<RowId> {
    let (path, query) = request.path_and_query.split_once('?')?;
    let only = |name: &str| {
        let values: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix(name)).collect();
        if values.len() == 1 { values.first().copied() } else { None }
    };
    let (expires, row, signature) = (only("cg_exp=")?, only("cg_row=")?, only("cg_sig=")?);
    let wanted = hex::encode(hmac_of(&[path.as_bytes(), b"\n", expires.as_bytes(), b"\n", row.as_bytes()]));
    let later = expires.parse::<i64>().is_ok_and(|at| at > NOW.unix_timestamp());
    if signature.eq_ignore_ascii_case(&wanted) && later { row.parse().ok() } else { None }
}
