#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use secrecy::SecretString;
use time::Duration;
use time::macros::datetime;
use url::Url;

use super::*;
use crate::ids::RowId;

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);
const BODY: &[u8] = br#"{"email":"jane@example.com"}"#;
const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[derive(Default)]
struct Request {
    headers: Vec<(String, Vec<u8>)>,
    path_and_query: String,
}

impl Request {
    fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }
}

impl RequestParts for Request {
    fn header(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.headers.iter().filter(|header| header.0 == name);
        let value = values.next()?;
        values.next().is_none().then_some(&value.1)
    }

    fn path_and_query(&self) -> &str {
        &self.path_and_query
    }
}

fn headers(list: &[(&str, &str)]) -> Request {
    list.iter().fold(Request::default(), |request, (name, value)| request.with(name, value))
}

fn get(path_and_query: &str) -> Request {
    Request { path_and_query: path_and_query.to_owned(), ..Request::default() }
}

fn secrets(values: &[&str]) -> Vec<ActiveSecret> {
    values.iter().map(|value| ActiveSecret { value: SecretString::from(*value), expires_at: None }).collect()
}

fn expiring(value: &str, expires_at: OffsetDateTime) -> ActiveSecret {
    ActiveSecret { value: SecretString::from(value), expires_at: Some(expires_at) }
}

fn token(values: &[&str]) -> Verification {
    Verification::Token { header: "x-clay-signature".to_owned(), secrets: secrets(values) }
}

fn hmac(values: &[&str]) -> Verification {
    Verification::HmacSha256 { header: "x-clay-signature".to_owned(), secrets: secrets(values) }
}

fn standard(values: &[&str]) -> Verification {
    Verification::StandardWebhooks { secrets: secrets(values) }
}

fn signed(values: &[&str]) -> Verification {
    Verification::SignedUrl { secrets: secrets(values) }
}

fn check(verifications: &[Verification], request: &Request) -> Result<(), Refusal> {
    verify(verifications, request, BODY, NOW).map(|_| ())
}

fn mac_of(secret: &str, body: &[u8]) -> [u8; 32] {
    super::hmac::hmac_sha256(secret.as_bytes(), &[body])
}

#[test]
fn nothing_configured_accepts_nothing_and_none_everything() {
    assert_eq!(check(&[], &headers(&[("x-clay-signature", "s3cret")])), Err(Refusal::Missing));
    assert_eq!(check(&[Verification::None], &Request::default()), Ok(()));
    assert_eq!(check(&[token(&["s3cret"]), Verification::None], &Request::default()), Ok(()));
}

#[test]
fn tokens() {
    use Refusal::{Missing, SignatureSentToToken, Wrong};
    let name = "x-clay-signature";
    let long = "x".repeat(10_000);
    for (request, expected) in [
        (headers(&[(name, "s3cret")]), Ok(())),
        (headers(&[(name, "second")]), Ok(())),
        (headers(&[("authorization", "Bearer s3cret")]), Ok(())),
        (headers(&[("authorization", "bearer  s3cret")]), Ok(())),
        (headers(&[(name, "wrong"), ("authorization", "Bearer s3cret")]), Ok(())),
        (headers(&[]), Err(Missing)),
        (headers(&[(name, "")]), Err(Missing)),
        (headers(&[(name, "  ")]), Err(Missing)),
        (headers(&[(name, "s3cret"), (name, "s3cret")]), Err(Missing)),
        (headers(&[(name, "s3cret"), (name, "wrong")]), Err(Missing)),
        (headers(&[("x-other", "s3cret")]), Err(Missing)),
        (headers(&[("authorization", "s3cret")]), Err(Missing)),
        (headers(&[("authorization", "Basic s3cret")]), Err(Missing)),
        (headers(&[("authorization", "Bearer ")]), Err(Missing)),
        (headers(&[(name, "s3cre")]), Err(Wrong)),
        (headers(&[(name, "s3cret2")]), Err(Wrong)),
        (headers(&[(name, "S3cret")]), Err(Wrong)),
        (headers(&[(name, "Bearer s3cret")]), Err(Wrong)),
        (headers(&[(name, &long)]), Err(Wrong)),
        (headers(&[("authorization", "Bearer wrong")]), Err(Wrong)),
        (headers(&[]).with(name, b"\xff\xfe"), Err(Wrong)),
        (headers(&[(name, &format!("sha256={}", "ab".repeat(32)))]), Err(SignatureSentToToken)),
        (headers(&[(name, "SHA256=x")]), Err(SignatureSentToToken)),
    ] {
        assert_eq!(check(&[token(&["s3cret", "second"])], &request), expected, "{:?}", request.headers);
    }
    assert_eq!(check(&[token(&["sha256=literal"])], &headers(&[(name, "sha256=literal")])), Ok(()));
}

#[test]
fn an_authorization_header_may_itself_hold_the_token() {
    let verification =
        [Verification::Token { header: "authorization".to_owned(), secrets: secrets(&["s3cret", "Token abc"]) }];
    for (value, expected) in
        [("s3cret", Ok(())), ("Bearer s3cret", Ok(())), ("Token abc", Ok(())), ("Token s3cret", Err(Refusal::Wrong))]
    {
        assert_eq!(check(&verification, &headers(&[("authorization", value)])), expected, "{value}");
    }
}

#[test]
fn a_secret_that_is_empty_or_absent_matches_nothing() {
    let empty_mac = hex::encode(mac_of("", BODY));
    for request in [
        headers(&[("x-clay-signature", "")]),
        headers(&[("x-clay-signature", "x")]),
        headers(&[("x-clay-signature", &empty_mac)]),
        get(&format!("/p?cg_exp=9999999999&cg_row=r&cg_sig={empty_mac}")),
    ] {
        for values in [&[][..], &[""]] {
            for verification in [token(values), hmac(values), standard(values), signed(values)] {
                assert!(check(&[verification], &request).is_err());
            }
        }
    }
    // `whsec_` alone, and a signature that anyone can compute under an empty key.
    let request = standard_request("msg_1", &NOW.unix_timestamp().to_string(), b"");
    for secret in ["whsec_", "whsec_not base64!", "whsec_===="] {
        assert_eq!(check(&[standard(&[secret])], &request), Err(Refusal::Wrong), "{secret}");
    }
}

#[test]
fn an_expired_secret_no_longer_counts() {
    let name = "x-clay-signature".to_owned();
    let old = |secret: &str, at| vec![expiring(secret, at), ActiveSecret { value: "new".into(), expires_at: None }];
    let mac = hex::encode(mac_of("old", BODY));
    for (at, expected) in [
        (NOW + Duration::seconds(1), Ok(())),
        (NOW, Err(Refusal::Wrong)),
        (NOW - Duration::seconds(1), Err(Refusal::Wrong)),
    ] {
        let tokens = [Verification::Token { header: name.clone(), secrets: old("old", at) }];
        assert_eq!(check(&tokens, &headers(&[(&name, "old")])), expected);
        assert_eq!(check(&tokens, &headers(&[(&name, "new")])), Ok(()));
        let macs = [Verification::HmacSha256 { header: name.clone(), secrets: old("old", at) }];
        assert_eq!(check(&macs, &headers(&[(&name, &mac)])), expected);
        let standard = [Verification::StandardWebhooks { secrets: old(WHSEC, at) }];
        let key = STANDARD.decode(&WHSEC[6..]).unwrap();
        assert_eq!(check(&standard, &standard_request("msg_1", &NOW.unix_timestamp().to_string(), &key)), expected);
        let urls = [Verification::SignedUrl { secrets: old("old", at) }];
        assert_eq!(check(&urls, &get(&signed_path("old", NOW + Duration::hours(1)))), expected);
    }
}

#[test]
fn hmac_follows_rfc_4231() {
    let cases = [
        (vec![0x0b; 20], b"Hi There".to_vec(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe".to_vec(),
            b"what do ya want for nothing?".to_vec(),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (vec![0xaa; 20], vec![0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        ((1..=25).collect(), vec![0xcd; 50], "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
        (
            vec![0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First".to_vec(),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ];
    for (key, data, expected) in cases {
        assert_eq!(hex::encode(super::hmac::hmac_sha256(&key, &[&data])), expected);
        let (head, tail) = data.split_at(3);
        assert_eq!(hex::encode(super::hmac::hmac_sha256(&key, &[head, tail])), expected);
    }
}

#[test]
fn hmacs() {
    use Refusal::{Missing, Wrong};
    let (name, mac) = ("x-clay-signature", mac_of("s3cret", BODY));
    let (lower, upper, base64) = (hex::encode(mac), hex::encode_upper(mac), STANDARD.encode(mac));
    let other_body = hex::encode(mac_of("s3cret", br#"{"email": "jane@example.com"}"#));
    for (value, expected) in [
        (lower.clone(), Ok(())),
        (upper.clone(), Ok(())),
        (format!("sha256={lower}"), Ok(())),
        (format!("SHA256={upper}"), Ok(())),
        (base64.clone(), Ok(())),
        (hex::encode(mac_of("second", BODY)), Ok(())),
        (String::new(), Err(Missing)),
        ("s3cret".to_owned(), Err(Wrong)),
        ("sha256=".to_owned(), Err(Wrong)),
        (format!("sha256={base64}"), Err(Wrong)),
        (format!("sha1={lower}"), Err(Wrong)),
        (format!("sha256=sha256={lower}"), Err(Wrong)),
        (lower[..62].to_owned(), Err(Wrong)),
        (format!("{lower}00"), Err(Wrong)),
        (format!("{lower},{lower}"), Err(Wrong)),
        (base64[..40].to_owned(), Err(Wrong)),
        (STANDARD.encode(&mac[..31]), Err(Wrong)),
        (other_body, Err(Wrong)),
        (hex::encode(mac_of("third", BODY)), Err(Wrong)),
        ("0".repeat(64), Err(Wrong)),
    ] {
        assert_eq!(check(&[hmac(&["s3cret", "second"])], &headers(&[(name, &value)])), expected, "{value}");
    }
    assert_eq!(check(&[hmac(&["s3cret"])], &headers(&[(name, &lower), (name, &lower)])), Err(Missing));
    assert_eq!(check(&[hmac(&["s3cret"])], &headers(&[("authorization", &format!("Bearer {lower}"))])), Err(Missing));
}

fn standard_request(id: &str, timestamp: &str, key: &[u8]) -> Request {
    let mac = super::hmac::hmac_sha256(key, &[id.as_bytes(), b".", timestamp.as_bytes(), b".", BODY]);
    headers(&[
        ("webhook-id", id),
        ("webhook-timestamp", timestamp),
        ("webhook-signature", &format!("v1,{}", STANDARD.encode(mac))),
    ])
}

/// A request signed by the reference implementation.
fn reference_request(id: &str, at: i64, body: &[u8]) -> Request {
    let signature = standardwebhooks::Webhook::new(WHSEC).unwrap().sign(id, at, body).unwrap();
    headers(&[("webhook-id", id), ("webhook-timestamp", &at.to_string()), ("webhook-signature", &signature)])
}

#[test]
fn standard_webhooks_tolerate_five_minutes_both_ways() {
    for (offset, expected) in [
        (0, Ok(())),
        (-300, Ok(())),
        (300, Ok(())),
        (-301, Err(Refusal::Expired)),
        (301, Err(Refusal::Expired)),
        (-86_400, Err(Refusal::Expired)),
    ] {
        let request = reference_request("msg_1", NOW.unix_timestamp() + offset, BODY);
        assert_eq!(check(&[standard(&[WHSEC])], &request), expected, "{offset}");
    }
}

#[test]
fn standard_webhooks_refuse_what_is_missing_or_wrong() {
    use Refusal::{Missing, Wrong};
    let now = NOW.unix_timestamp().to_string();
    let key = STANDARD.decode(&WHSEC[6..]).unwrap();
    let good = standard_request("msg_1", &now, &key);
    let signature = String::from_utf8(good.headers[2].1.clone()).unwrap();
    let set = |id: &str, timestamp: &str, signature: &str| {
        headers(&[("webhook-id", id), ("webhook-timestamp", timestamp), ("webhook-signature", signature)])
    };
    for (request, expected) in [
        (set("msg_1", &now, &signature), Ok(())),
        (set("msg_1", &now, &format!("v1,AAAA {signature}")), Ok(())),
        (set("msg_1", &now, &format!("v1a,xyz v2,abc {signature}  v1,")), Ok(())),
        (set("msg_1", &now, ""), Err(Missing)),
        (set("", &now, &signature), Err(Missing)),
        (set("msg_1", "", &signature), Err(Missing)),
        (headers(&[("webhook-id", "msg_1"), ("webhook-timestamp", &now)]), Err(Missing)),
        (headers(&[("webhook-id", "msg_1"), ("webhook-signature", &signature)]), Err(Missing)),
        (headers(&[("webhook-timestamp", &now), ("webhook-signature", &signature)]), Err(Missing)),
        (set("msg_1", &now, &signature).with("webhook-id", "msg_1"), Err(Missing)),
        (set("msg_1", &now, &signature).with("webhook-signature", &signature), Err(Missing)),
        (set("msg_2", &now, &signature), Err(Wrong)),
        (set("msg_1", &(NOW.unix_timestamp() + 1).to_string(), &signature), Err(Wrong)),
        (set("msg_1", &now, &signature.replace("v1,", "v2,")), Err(Wrong)),
        (set("msg_1", &now, &signature.replace("v1,", "")), Err(Wrong)),
        (set("msg_1", &now, &signature.replace("v1,", "v1=")), Err(Wrong)),
        (set("msg_1", &now, "v1,"), Err(Wrong)),
        (standard_request("msg_1", "soon", &key), Err(Wrong)),
        (standard_request("msg_1", &format!("+{now}"), &key), Err(Wrong)),
        (standard_request("msg_1", &format!("-{now}"), &key), Err(Wrong)),
        (standard_request("msg_1", "99999999999999999999999", &key), Err(Wrong)),
        (standard_request("msg_1", "9223372036854775807", &key), Err(Refusal::Expired)),
        (standard_request("msg_1", &now, b"another key"), Err(Wrong)),
    ] {
        assert_eq!(check(&[standard(&[WHSEC])], &request), expected, "{:?}", request.headers);
    }
    assert_eq!(verify(&[standard(&[WHSEC])], &good, b"{}", NOW), Err(Wrong));
    assert_eq!(check(&[standard(&["whsec_c2Vjb25k", WHSEC])], &good), Ok(()));
}

fn signed_path(secret: &str, expires_at: OffsetDateTime) -> String {
    let base = Url::parse("https://leads.example.com/api/clay/enriched").unwrap();
    let url = sign_url(&base, RowId::new(), expires_at, &SecretString::from(secret));
    format!("{}?{}", url.path(), url.query().unwrap())
}

#[test]
fn signed_urls() {
    use Refusal::{Expired, Missing, Wrong};
    let good = signed_path("s3cret", NOW + Duration::hours(1));
    let (path, query) = good.split_once('?').unwrap();
    let part = |name: &str| query.split('&').find(|pair| pair.starts_with(name)).unwrap();
    let (exp, row, sig) = (part("cg_exp"), part("cg_row"), part("cg_sig"));
    for (path_and_query, expected) in [
        (good.clone(), Ok(())),
        (format!("{good}&run=2"), Ok(())),
        (format!("{path}?run=2&{sig}&{row}&{exp}"), Ok(())),
        (good.replace(sig, &sig.to_uppercase().replace("CG_SIG", "cg_sig")), Ok(())),
        (signed_path("s3cret", NOW + Duration::seconds(1)), Ok(())),
        (signed_path("s3cret", NOW), Err(Expired)),
        (signed_path("s3cret", NOW - Duration::hours(1)), Err(Expired)),
        (signed_path("other", NOW + Duration::hours(1)), Err(Wrong)),
        (signed_path("other", NOW - Duration::hours(1)), Err(Wrong)),
        (path.to_owned(), Err(Missing)),
        (format!("{path}?{exp}&{row}"), Err(Missing)),
        (format!("{path}?{exp}&{sig}"), Err(Missing)),
        (format!("{path}?{row}&{sig}"), Err(Missing)),
        (format!("{path}?{exp}&{row}&cg_sig="), Err(Missing)),
        (format!("{good}&{sig}"), Err(Missing)),
        (format!("{good}&cg_exp=9999999999"), Err(Missing)),
        (good.replace(path, "/api/clay/other"), Err(Wrong)),
        (good.replace(exp, "cg_exp=9999999999"), Err(Wrong)),
        (good.replace(row, "cg_row=00000000-0000-0000-0000-000000000000"), Err(Wrong)),
        (format!("{good}00"), Err(Wrong)),
        (good.replace(sig, "cg_sig=zz"), Err(Wrong)),
    ] {
        assert_eq!(check(&[signed(&["s3cret"])], &get(&path_and_query)), expected, "{path_and_query}");
    }
    assert_eq!(check(&[signed(&["new", "s3cret"])], &get(&good)), Ok(()));
}

#[test]
fn signing_keeps_the_query_that_is_there() {
    let base = Url::parse("https://leads.example.com/api/clay/enriched?run=2").unwrap();
    let url = sign_url(&base, RowId::new(), NOW + Duration::hours(1), &SecretString::from("s3cret"));
    assert!(url.as_str().starts_with("https://leads.example.com/api/clay/enriched?run=2&cg_exp="), "{url}");
    let path_and_query = format!("{}?{}", url.path(), url.query().unwrap());
    assert_eq!(check(&[signed(&["s3cret"])], &get(&path_and_query)), Ok(()));
}

#[test]
fn of_several_verifications_any_suffices_and_the_most_telling_refusal_is_given() {
    let all = [token(&["s3cret"]), hmac(&["s3cret"]), standard(&[WHSEC]), signed(&["s3cret"])];
    let name = "x-clay-signature";
    let mac = format!("sha256={}", hex::encode(mac_of("s3cret", BODY)));
    let now = NOW.unix_timestamp();
    for (request, expected) in [
        (headers(&[(name, "s3cret")]), Ok(())),
        (headers(&[(name, &mac)]), Ok(())),
        (reference_request("msg_1", now, BODY), Ok(())),
        (get(&signed_path("s3cret", NOW + Duration::hours(1))), Ok(())),
        (headers(&[]), Err(Refusal::Missing)),
        (headers(&[(name, "wrong")]), Err(Refusal::Wrong)),
        (headers(&[(name, "sha256=00")]), Err(Refusal::Wrong)),
        (reference_request("msg_1", now - 900, BODY), Err(Refusal::Expired)),
    ] {
        assert_eq!(check(&all, &request), expected, "{:?}", request.headers);
    }
    let tokens = [token(&["s3cret"]), standard(&[WHSEC])];
    assert_eq!(check(&tokens, &headers(&[(name, &mac)])), Err(Refusal::SignatureSentToToken));
}

#[test]
fn refusals_repeat_nothing_of_the_request() {
    for refusal in [Refusal::Missing, Refusal::SignatureSentToToken, Refusal::Wrong, Refusal::Expired] {
        assert!(refusal.to_string().is_ascii());
    }
}

#[test]
fn a_signed_url_proves_its_row_beside_other_credentials() {
    let row = RowId::new();
    let base = Url::parse("https://gate.example.com/in").unwrap();
    let url = sign_url(&base, row, NOW + Duration::hours(1), &SecretString::from("s3cret"));
    let path = format!("{}?{}", url.path(), url.query().unwrap());
    let request = get(&path).with("x-clay-signature", "token");
    let row_of = |verifications: &[Verification]| verify(verifications, &request, BODY, NOW).unwrap().row;
    assert_eq!(row_of(&[signed(&["s3cret"])]), Some(row));
    assert_eq!(row_of(&[token(&["token"]), signed(&["s3cret"])]), Some(row));
    assert_eq!(row_of(&[token(&["token"]), signed(&["other"])]), None, "signed with another secret");
    assert_eq!(row_of(&[token(&["token"])]), None, "the source takes no signed URLs");
    assert_eq!(row_of(&[Verification::None]), None);
}

proptest! {
    #[test]
    fn what_the_reference_signs_is_accepted(id in "[!-~]{1,40}", offset in -300i64..=300, body in any::<String>()) {
        let request = reference_request(&id, NOW.unix_timestamp() + offset, body.as_bytes());
        prop_assert_eq!(verify(&[standard(&[WHSEC])], &request, body.as_bytes(), NOW), Ok(Proof::default()));
        let changed = format!("{body} ");
        prop_assert_eq!(verify(&[standard(&[WHSEC])], &request, changed.as_bytes(), NOW), Err(Refusal::Wrong));
    }

    #[test]
    fn one_changed_bit_is_enough(secret in "[!-~]{1,64}", body in prop::collection::vec(any::<u8>(), 1..100), bit in any::<prop::sample::Index>()) {
        let request = headers(&[("x-clay-signature", &hex::encode(mac_of(&secret, &body)))]);
        let verification = [hmac(&[&secret])];
        prop_assert_eq!(verify(&verification, &request, &body, NOW), Ok(Proof::default()));
        let mut changed = body.clone();
        let bit = bit.index(changed.len() * 8);
        changed[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(verify(&verification, &request, &changed, NOW), Err(Refusal::Wrong));
    }

    #[test]
    fn no_header_makes_it_panic(value in prop::collection::vec(any::<u8>(), 0..120), query in "[ -~]{0,80}") {
        let mut request = get(&query);
        for name in ["x-clay-signature", "authorization", "webhook-id", "webhook-timestamp", "webhook-signature"] {
            request = request.with(name, &value);
        }
        let all = [token(&["s3cret"]), hmac(&["s3cret"]), standard(&[WHSEC]), signed(&["s3cret"])];
        prop_assert!(check(&all, &request).is_err());
    }
}
