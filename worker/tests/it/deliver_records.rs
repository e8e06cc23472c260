//! What the records of attempts promise when commits are in doubt or come late.

use std::time::Duration;

use common::db::attempts;
use common::db::deliveries;
use common::db::destination_state::{self, Hold};
use common::states::DestinationState;
use testkit::attempts::delivered;
use testkit::postgres::TestDatabase;
use uuid::Uuid;

use crate::deliver_rig::Rig;

#[tokio::test]
async fn a_commit_in_doubt_is_not_recorded_twice() {
    let rig = Rig::start("[destinations.crm]\nkind = \"log\"").await;
    let (committed, lost) = (rig.insert("crm").await, rig.insert("crm").await);
    let token = Uuid::now_v7();
    let lease = Duration::from_secs(30);
    let leased = deliveries::lease(&rig.database(), "crm", &[committed, lost], token, lease).await.unwrap();
    assert_eq!(leased.len(), 2);
    let attempt = |delivery| delivered(delivery, token);
    let mut connection = rig.test.pool().acquire().await.unwrap();
    let first = attempts::record(&mut connection, &[attempt(committed)]).await.unwrap();

    let both = [attempt(committed), attempt(lost)];
    let mut again = attempts::record_again(&mut connection, &both).await.unwrap();
    again.sort_by_key(|one| one.delivery);
    assert_eq!((again[0].delivery, again[0].number, again[0].owned), (committed, 1, first[0].owned));
    assert_eq!((again[1].delivery, again[1].number, again[1].owned), (lost, 1, true));
    for id in [committed, lost] {
        let row = rig.row(id).await;
        assert_eq!((row.state.as_str(), row.attempts, rig.attempts(id).await.len()), ("delivered", 1, 1));
    }
}

#[tokio::test]
async fn a_late_refusal_does_not_undo_a_resume_and_gone_wins_over_paused() {
    let test = TestDatabase::create().await;
    let database = test.database();
    let mut connection = test.pool().acquire().await.unwrap();
    let refused = |seconds| Hold {
        destination: "crm",
        state: DestinationState::Paused,
        reason: "answered 401",
        age: Duration::from_secs(seconds),
    };
    let gone = Hold { state: DestinationState::Disabled, reason: "answered 410", ..refused(0) };
    assert_eq!(destination_state::hold(&mut connection, &[refused(60)]).await.unwrap(), ["crm"]);
    assert!(destination_state::resume(&database, "crm").await.unwrap());
    assert!(!destination_state::resume(&database, "crm").await.unwrap());
    assert!(destination_state::hold(&mut connection, &[refused(60)]).await.unwrap().is_empty());
    assert_eq!(destination_state::hold(&mut connection, &[refused(0)]).await.unwrap(), ["crm"]);

    assert_eq!(destination_state::hold(&mut connection, &[refused(0), gone]).await.unwrap(), ["crm"]);
    assert!(destination_state::hold(&mut connection, &[gone, refused(0)]).await.unwrap().is_empty());
    let known = destination_state::list(&database).await.unwrap();
    assert_eq!((known[0].state, known[0].reason.as_str()), (DestinationState::Disabled, "answered 410"));
}
