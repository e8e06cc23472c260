//! What the disk can do to the spool, and who may use it.

use std::path::Path;

use ingest::{SpoolError, StartError};
use tokio_util::sync::CancellationToken;

use crate::gateway::{CLAY, Site};

/// A spool with five callbacks and a malformed body that nobody uses now; Postgres is back. Their ids, in order.
async fn left_behind(site: &Site) -> Vec<String> {
    let gateway = site.start(CLAY).await;
    site.take_postgres_away().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let answer = gateway.post(format!(r#"{{"n":{n},"mark":"entry-{n}"}}"#)).await;
        assert_eq!(answer.status_word(), "spooled");
        ids.push(answer.id().to_owned());
    }
    assert_eq!(gateway.post("{not json").await.status, 400);
    gateway.halt().await;
    site.bring_postgres_back().await;
    ids
}

async fn drained(site: &Site) -> Vec<String> {
    let gateway = site.start(CLAY).await;
    gateway.wait_until_drained().await;
    gateway.stop(site).await;
    site.value("SELECT COALESCE(array_agg(id::text ORDER BY received_at, id), '{}') FROM claygate.callbacks").await
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

fn position_of(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).position(|window| window == text.as_bytes()).expect("the text is there")
}

#[tokio::test]
async fn a_restart_drains_what_was_left() {
    let site = Site::new().await;
    let ids = left_behind(&site).await;
    assert_eq!(drained(&site).await, ids);
    assert!(site.spool_files("segment").is_empty());
}

#[tokio::test]
async fn a_torn_tail_is_cut_off() {
    let site = Site::new().await;
    let ids = left_behind(&site).await;
    change(site.spool_files("segment").last().unwrap(), |bytes| bytes.truncate(position_of(bytes, "entry-4")));
    assert_eq!(drained(&site).await, ids[..4]);
    assert!(site.spool_files("damaged").is_empty(), "an unfinished record was never answered");
}

#[tokio::test]
async fn a_damaged_record_is_passed_over_and_its_segment_kept() {
    let site = Site::new().await;
    let ids = left_behind(&site).await;
    change(&site.spool_files("segment")[0], |bytes| {
        let at = position_of(bytes, "entry-2");
        bytes[at] ^= 1;
    });
    let expected: Vec<String> = ids.iter().enumerate().filter(|(n, _)| *n != 2).map(|(_, id)| id.clone()).collect();
    assert_eq!(drained(&site).await, expected);
    assert_eq!(site.spool_files("damaged").len(), 1);
}

#[tokio::test]
async fn a_segment_that_is_drained_again_changes_nothing() {
    let site = Site::new().await;
    let ids = left_behind(&site).await;
    let path = site.spool_files("segment")[0].clone();
    let copy = std::fs::read(&path).unwrap();
    assert_eq!(drained(&site).await, ids);
    std::fs::write(path, copy).unwrap();
    assert_eq!(drained(&site).await, ids);
    crate::books::assert_counts(&site, [("new", 5), ("quarantined", 1)]).await;
}

#[tokio::test]
async fn one_folder_serves_one_process() {
    let (site, gateway) = Site::with(CLAY).await;
    let refused = site.build(CLAY, &CancellationToken::new()).await.err().expect("the folder is locked");
    assert!(matches!(refused, StartError::Spool(SpoolError::Locked(_))), "{refused:?}");
    gateway.stop(&site).await;
    site.start(CLAY).await.stop(&site).await;
}
