//! The way out of quarantine.

use common::db::quarantine;
use common::ids::CallbackId;
use ingest::release::{ReleaseError, Released, release};
use sqlx::Row;

use crate::books::assert_counts;
use crate::gateway::{Answer, CLAY, PATH, SECRET, Site};

#[tokio::test]
async fn a_repaired_body_is_taken_in_as_it_should_have_been() {
    let (site, gateway) = Site::with(CLAY).await;
    let request = gateway.request_to(&format!("{PATH}?run=2")).header("X-Clay-Signature", SECRET);
    let broken = Answer::of(request.header("Idempotency-Key", "k").body(r#"{"quote":"say "hi""}"#)).await;
    let id: CallbackId = broken.id().parse().unwrap();
    let (config, database) = (site.config(CLAY), site.database.database());

    let still_broken = release(&config, &database, id, "{".into()).await;
    assert!(matches!(still_broken, Err(ReleaseError::Malformed(_))), "{still_broken:?}");
    let repaired = br#"{"quote":"say \"hi\""}"#;
    let released = release(&config, &database, id, repaired.as_slice().into()).await.unwrap();
    assert!(matches!(released, Released::Accepted(_)), "{released:?}");
    let again = release(&config, &database, id, repaired.as_slice().into()).await.unwrap();
    assert_eq!(again, Released::Duplicate(released.callback_id()));

    let kept = quarantine::load(&database, id).await.unwrap().unwrap();
    assert_eq!(kept.callback_id, Some(released.callback_id()));
    assert_eq!(kept.body, br#"{"quote":"say "hi""}"#);
    let row = &site.rows("SELECT key_kind, state FROM claygate.callbacks").await[0];
    assert_eq!((row.get::<&str, _>(0), row.get::<&str, _>(1)), ("header", "received"));
    let body: Vec<u8> = site.value("SELECT body FROM claygate.callback_bodies").await;
    assert_eq!(body, repaired);
    let request = gateway.request_to(&format!("{PATH}?run=2")).header("X-Clay-Signature", SECRET);
    let resent = Answer::of(request.header("Idempotency-Key", "k").body(repaired.as_slice())).await;
    assert_eq!((resent.status_word(), resent.id()), ("duplicate", &*released.callback_id().to_string()));
    assert_counts(&site, [("duplicate", 2), ("new", 1), ("quarantined", 1)]).await;
    gateway.stop(&site).await;
}

#[tokio::test]
async fn a_conflict_is_released_as_the_next_revision() {
    let toml = format!("{CLAY}idempotency = {{ changed = \"conflict\" }}\n");
    let (site, gateway) = Site::with(&toml).await;
    let post = async |body: &'static str| Answer::of(gateway.request().header("Idempotency-Key", "k").body(body)).await;
    post(r#"{"v":"a"}"#).await;
    let conflict = post(r#"{"v":"b"}"#).await;
    assert_eq!(conflict.status, 409);
    let (config, database) = (site.config(&toml), site.database.database());
    let id = conflict.id().parse().unwrap();
    let released = release(&config, &database, id, r#"{"v":"b"}"#.into()).await.unwrap();
    let stored = format!("SELECT revision FROM claygate.callbacks WHERE id = '{}'", released.callback_id());
    assert_eq!(site.value::<i32>(stored).await, 1);
    gateway.stop(&site).await;
}

#[tokio::test]
async fn what_is_not_in_quarantine_cannot_be_released() {
    let site = Site::new().await;
    let (config, database, id) = (site.config(CLAY), site.database.database(), CallbackId::new());
    let unknown = release(&config, &database, id, "{}".into()).await;
    assert!(matches!(unknown, Err(ReleaseError::Unknown(named)) if named == id), "{unknown:?}");
}
