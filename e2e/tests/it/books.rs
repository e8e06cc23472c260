//! What was answered, what is stored and what was sent, held against each other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use common::db::books::{self, Report, Scope, Verdict};
use common::db::{ConnectSettings, Database};
use testkit::receiver::Receiver;
use testkit::wait::wait_for;

use crate::parts;
use crate::site::LIMIT;

/// The books of everything that is in this database, as `claygate verify` reads them.
pub(crate) async fn read(settings: &ConnectSettings) -> Report {
    let since = (std::time::SystemTime::now() - Duration::from_secs(24 * 60 * 60)).into();
    let scope = Scope { since, limit: LIMIT, named_max: 20 };
    books::verify(settings, scope, |_, _| {}).await.unwrap()
}

/// Fails unless the books balance and are complete. Blocks, for the end of a test.
pub(crate) fn assert_balanced(settings: &ConnectSettings) {
    let report = parts::on_a_runtime_of_its_own(read(settings));
    assert_eq!(report.verdict, Verdict::Balanced, "{:?}\n{:?}", report.differences, report.spools);
}

/// How many callbacks there are, by their state and that of their delivery.
pub(crate) async fn states(database: &Database) -> Vec<(String, String, i64)> {
    sqlx::query_as(
        "SELECT c.state, coalesce(d.state, '-'), count(*) FROM claygate.callbacks c
         LEFT JOIN claygate.deliveries d ON d.callback_id = c.id GROUP BY 1, 2 ORDER BY 1, 2",
    )
    .fetch_all(database.pool())
    .await
    .unwrap()
}

/// Waits until every callback has ended as routed and its one delivery as delivered, and looks whether all that was
/// answered with 200 is among them.
pub(crate) async fn assert_all_delivered(database: &Database, answered: &[String]) {
    let all = [("routed".to_owned(), "delivered".to_owned(), i64::try_from(answered.len()).unwrap())];
    wait_for("every delivery to end", LIMIT, || async {
        let states = states(database).await;
        if states == all { Ok(()) } else { Err(states) }
    })
    .await;
    let stored: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT id FROM claygate.callbacks UNION SELECT alias_id FROM claygate.callback_aliases")
            .fetch_all(database.pool())
            .await
            .unwrap();
    let stored: HashSet<String> = stored.iter().map(ToString::to_string).collect();
    let lost: Vec<&String> = answered.iter().filter(|id| !stored.contains(*id)).collect();
    assert!(lost.is_empty(), "answered with 200 and not there: {lost:?}");
}

/// Each lead came under one key, and no key more often than once and once more for each of `again`.
pub(crate) fn assert_sent(receiver: &Receiver, leads: usize, again: usize) {
    let mut keys: HashMap<String, HashSet<String>> = HashMap::new();
    for request in receiver.requests() {
        let key = request.header("idempotency-key").expect("a key on every request").to_owned();
        let email = request.json()["email"].as_str().expect("the lead").to_owned();
        keys.entry(email).or_default().insert(key);
    }
    let times = times_sent(receiver);
    assert_eq!(times.len(), leads, "one delivery for each lead");
    assert_eq!(keys.len(), leads);
    let too_often: Vec<_> = times.iter().filter(|(_, n)| **n > 1 + again).collect();
    assert!(too_often.is_empty(), "sent more often than something was cut short: {too_often:?}");
}

/// How often each key was sent.
fn times_sent(receiver: &Receiver) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for request in receiver.requests() {
        *times.entry(request.header("idempotency-key").unwrap_or_default().to_owned()).or_default() += 1;
    }
    times
}
