//! The weekly partitions, while the intake runs.

use testkit::wait::wait_until;

use crate::gateway::{CLAY, LIMIT, Site};

const DROP_ALL: &str = "DO $$ DECLARE part regclass; BEGIN \
    FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'claygate.callback_bodies'::regclass \
    LOOP EXECUTE format('DROP TABLE %s', part); END LOOP; END $$";

async fn wait_for_all(site: &Site) {
    wait_until("the weeks to come", LIMIT, || async {
        let made = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'claygate.callback_bodies'::regclass";
        site.value::<i64>(made).await == 10
    })
    .await;
}

#[tokio::test]
async fn the_weeks_to_come_are_made_at_the_start_and_where_a_commit_misses_one() {
    let site = Site::new().await;
    site.execute(DROP_ALL).await;
    let gateway = site.start(CLAY).await;
    wait_for_all(&site).await;
    site.execute(DROP_ALL).await;
    assert_eq!(gateway.post(r#"{"n":1}"#).await.status_word(), "spooled");
    wait_for_all(&site).await;
    gateway.wait_until_drained().await;
    assert_eq!(gateway.post(r#"{"n":2}"#).await.status_word(), "accepted");
    assert_eq!(site.count("callback_bodies").await, 2);
    gateway.stop(&site).await;
}
