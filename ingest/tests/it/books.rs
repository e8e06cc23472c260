//! What has to hold whatever came in: every stored callback was counted, has its body, and is queued if it is to be
//! routed; every row was counted by its batch, has its delivery, and is queued if it is to be sent.

use std::collections::BTreeMap;
use std::time::Duration;

use common::db::books::{self, Scope};
use sqlx::Row;
use time::OffsetDateTime;

use crate::gateway::Site;

/// What the intake counted, by result, over all writers.
pub(crate) async fn counts(site: &Site) -> BTreeMap<String, i64> {
    let rows = site.rows("SELECT result, sum(n)::bigint FROM claygate.intake_counts GROUP BY result").await;
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The counts have to be exactly these.
pub(crate) async fn assert_counts<const N: usize>(site: &Site, expected: [(&str, i64); N]) {
    let expected = expected.into_iter().map(|(result, n)| (result.to_owned(), n)).collect();
    assert_eq!(counts(site).await, expected);
}

pub(crate) async fn assert_balanced(site: &Site) {
    let counted = counts(site).await;
    let of = |result: &str| counted.get(result).copied().unwrap_or_default();
    assert_eq!(of("new"), site.count("callbacks").await, "new callbacks as counted and as stored");
    assert_eq!(site.count("callback_bodies").await, site.count("callbacks").await, "a body for every callback");
    let wrong: i64 = site
        .value(
            "SELECT count(*) FROM claygate.callbacks AS c \
             LEFT JOIN (SELECT unnest(refs) AS id FROM claygate.outbox WHERE queue = 'callbacks') AS o USING (id) \
             WHERE (c.state = 'received') <> (o.id IS NOT NULL)",
        )
        .await;
    assert_eq!(wrong, 0, "callbacks to be routed that are not queued, or the other way round");
    let queued = async |queues: &str| -> i64 {
        let sql = "SELECT COALESCE(sum(cardinality(refs)), 0)::bigint FROM claygate.outbox WHERE queue LIKE ";
        site.value(&format!("{sql} '{queues}'")).await
    };
    let received: i64 = site.value("SELECT count(*) FROM claygate.callbacks WHERE state = 'received'").await;
    assert_eq!(queued("callbacks").await, received, "each callback is queued once");
    let pending: i64 = site.value("SELECT count(*) FROM claygate.deliveries WHERE state = 'pending'").await;
    assert_eq!(queued("deliver.%").await, pending, "each row that is to be sent is queued once");
    assert_eq!(site.count("deliveries").await, site.count("rows").await, "a delivery for every row");
    let booked: i64 =
        site.value("SELECT COALESCE(sum(accepted + filtered), 0)::bigint FROM claygate.row_batches").await;
    assert_eq!(booked, site.count("rows").await, "rows as their batches counted them and as they are stored");
    let seen: i64 = site.value("SELECT COALESCE(sum(seen), 0)::bigint FROM claygate.quarantine").await;
    assert_eq!(of("conflict") + of("quarantined"), seen, "what went to quarantine");
    let scope = Scope { since: OffsetDateTime::UNIX_EPOCH, limit: Duration::from_secs(60), named_max: 10 };
    let report = books::verify(&site.database.settings(), scope, |_, _| {}).await.unwrap();
    assert_eq!(report.differences, [], "{:?}", report.totals);
}
