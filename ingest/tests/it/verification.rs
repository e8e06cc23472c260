//! Each way of proving a sender, over HTTP. The tables of every encoding are `common::signature`'s.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::ids::RowId;
use common::signature::sign_url;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use time::{Duration, OffsetDateTime};
use url::Url;

use crate::books::assert_counts;
use crate::gateway::{Answer, Gateway, SECRET, Site};

const BODY: &str = r#"{"email":"jane@example.com"}"#;
const MISSING: (u16, &str) = (401, "/problems/credential-missing");
const WRONG: (u16, &str) = (401, "/problems/credential-wrong");

fn source(verify: &str) -> String {
    format!("[sources.form]\npath = \"/form\"\nverify = {verify}\n")
}

fn hmac_of(secret: &[u8], message: &[u8]) -> Vec<u8> {
    Hmac::<Sha256>::new_from_slice(secret).unwrap().chain_update(message).finalize().into_bytes().to_vec()
}

async fn post(gateway: &Gateway, headers: &[(&str, &str)]) -> Answer {
    let mut request = gateway.request_to("/form").body(BODY);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request).await
}

fn problem(answer: &Answer) -> (u16, &str) {
    assert_eq!(answer.header("content-type"), "application/problem+json");
    (answer.status, answer.text("type"))
}

#[tokio::test]
async fn a_static_token() {
    let (site, gateway) =
        Site::with(&source(&format!(r#"{{ kind = "token", header = "X-Gate", secrets = ["{SECRET}"] }}"#))).await;
    assert_eq!(problem(&post(&gateway, &[]).await), MISSING);
    assert_eq!(problem(&post(&gateway, &[("X-Gate", "")]).await), MISSING);
    assert_eq!(problem(&post(&gateway, &[("X-Gate", "nearly")]).await), WRONG);
    let signature = format!("sha256={}", hex::encode(hmac_of(SECRET.as_bytes(), BODY.as_bytes())));
    let hint = post(&gateway, &[("X-Gate", &signature)]).await;
    assert_eq!(problem(&hint), (401, "/problems/static-secret-expected"));
    assert!(hint.text("detail").contains("this source expects the static secret"), "{hint:?}");
    assert_counts(&site, []).await;
    assert_eq!(post(&gateway, &[("X-Gate", SECRET)]).await.status_word(), "accepted");
    assert_eq!(post(&gateway, &[("Authorization", &format!("Bearer {SECRET}"))]).await.status_word(), "duplicate");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn an_hmac_of_the_raw_body() {
    let (site, gateway) =
        Site::with(&source(&format!(r#"{{ kind = "hmac-sha256", header = "X-Sign", secrets = ["{SECRET}"] }}"#))).await;
    assert_eq!(problem(&post(&gateway, &[]).await), MISSING);
    let respaced = hex::encode(hmac_of(SECRET.as_bytes(), br#"{"email": "jane@example.com"}"#));
    assert_eq!(problem(&post(&gateway, &[("X-Sign", &respaced)]).await), WRONG);
    assert_eq!(problem(&post(&gateway, &[("X-Sign", "sha256=short")]).await), WRONG);
    let right = hex::encode(hmac_of(SECRET.as_bytes(), BODY.as_bytes()));
    assert_eq!(post(&gateway, &[("X-Sign", &format!("sha256={right}"))]).await.status_word(), "accepted");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn standard_webhooks() {
    let key = b"a-signing-key-of-thirty-two-byte";
    let secret = format!("whsec_{}", STANDARD.encode(key));
    let (site, gateway) =
        Site::with(&source(&format!(r#"{{ kind = "standard-webhooks", secrets = ["{secret}"] }}"#))).await;
    let signed = async |id: &str, moment: OffsetDateTime| {
        let timestamp = moment.unix_timestamp().to_string();
        let signature = STANDARD.encode(hmac_of(key, format!("{id}.{timestamp}.{BODY}").as_bytes()));
        let signature = format!("v1,{signature}");
        post(&gateway, &[("webhook-id", id), ("webhook-timestamp", &timestamp), ("webhook-signature", &signature)])
            .await
    };
    let now = OffsetDateTime::now_utc();
    assert_eq!(problem(&post(&gateway, &[]).await), MISSING);
    let fake = [("webhook-id", "m"), ("webhook-timestamp", "1"), ("webhook-signature", "v1,AAAA")];
    assert_eq!(problem(&post(&gateway, &fake).await), WRONG);
    let late = signed("msg_1", now - Duration::minutes(6)).await;
    assert_eq!(problem(&late), (401, "/problems/credential-expired"));
    assert_eq!(signed("msg_1", now).await.status_word(), "accepted");
    assert_eq!(signed("msg_1", now).await.status_word(), "duplicate");
    let kind: String = site.value("SELECT key_kind FROM claygate.callbacks").await;
    assert_eq!(kind, "header", "webhook-id is the key");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn a_signed_url() {
    let (site, gateway) = Site::with(&source(&format!(r#"{{ kind = "signed-url", secrets = ["{SECRET}"] }}"#))).await;
    assert_eq!(problem(&post(&gateway, &[]).await), MISSING);
    let row = RowId::new();
    let base: Url = format!("http://127.0.0.1:{}/form", gateway.port).parse().unwrap();
    let to = async |secret: &str, valid_for: Duration| {
        let expires_at = OffsetDateTime::now_utc() + valid_for;
        let url = sign_url(&base, row, expires_at, &secret.to_owned().into());
        let target = format!("{}?{}", url.path(), url.query().unwrap());
        Answer::of(gateway.request_to(&target).body(BODY)).await
    };
    assert_eq!(problem(&to("another-secret-than-that", Duration::hours(1)).await), WRONG);
    assert_eq!(problem(&to(SECRET, Duration::hours(-1)).await), (401, "/problems/credential-expired"));
    assert_eq!(to(SECRET, Duration::hours(1)).await.status_word(), "accepted");
    let stored: String = site.value("SELECT row_id::text FROM claygate.callbacks").await;
    assert_eq!(stored, row.to_string());
    let kept: String = site.value("SELECT headers::text FROM claygate.callback_bodies").await;
    assert!(!kept.contains("cg_sig"), "{kept}");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn none_and_several() {
    let open = "[sources.open]\npath = \"/open\"\nverify = { kind = \"none\" }\n";
    let several = source(&format!(
        r#"[{{ kind = "token", header = "X-Gate", secrets = ["{SECRET}"] }}, {{ kind = "hmac-sha256", header = "X-Sign", secrets = ["{SECRET}"] }}]"#
    ));
    let (site, gateway) = Site::with(&format!("{several}{open}")).await;
    assert_eq!(Answer::of(gateway.request_to("/open").body(BODY)).await.status_word(), "accepted");
    assert_eq!(problem(&post(&gateway, &[]).await), MISSING);
    let right = hex::encode(hmac_of(SECRET.as_bytes(), BODY.as_bytes()));
    assert_eq!(post(&gateway, &[("X-Gate", "nearly"), ("X-Sign", &right)]).await.status_word(), "accepted");
    gateway.stop(&site).await;
}
