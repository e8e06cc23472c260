//! The harness itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod proxy;
mod rabbitmq;

use testkit::postgres::TestDatabase;

#[tokio::test]
async fn databases_are_migrated_apart_and_dropped() {
    let first = TestDatabase::create().await;
    let second = TestDatabase::create().await;
    sqlx::query("INSERT INTO claygate.sweep_marks VALUES ('callbacks', now())").execute(first.pool()).await.unwrap();
    let count = "SELECT count(*) FROM claygate.sweep_marks";
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(first.pool()).await.unwrap(), 1);
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(second.pool()).await.unwrap(), 0);

    let name = first.settings().database;
    drop(first);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_database WHERE datname = $1")
        .bind(&name)
        .fetch_one(second.pool())
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn many_tests_at_once_share_one_template() {
    let databases = (0..8).map(|_| tokio::spawn(TestDatabase::create())).collect::<Vec<_>>();
    for database in databases {
        let database = database.await.unwrap();
        let version: i32 = sqlx::query_scalar("SELECT max(version) FROM claygate.schema_history")
            .fetch_one(database.pool())
            .await
            .unwrap();
        assert_eq!(version, common::db::binary_version());
    }
}

#[tokio::test]
async fn a_receiver_records_what_comes_and_answers_as_told() {
    use testkit::receiver::{Answer, Receiver};
    let receiver = Receiver::start().await;
    let client = testkit::http::client();
    receiver.answer_in_turn([Answer::status(503).header("retry-after", "7").body("later"), Answer::reset()]);
    receiver.answer_at("/moved", Answer::redirect("/elsewhere"));

    let first = client.post(receiver.url("/a?b=1")).header("x-test", "1").body("one").send().await.unwrap();
    assert_eq!((first.status().as_u16(), first.headers()["retry-after"].to_str().unwrap()), (503, "7"));
    assert_eq!(first.text().await.unwrap(), "later");
    let broken = client.post(receiver.url("/a")).send().await;
    assert!(broken.is_err(), "{broken:?}");
    assert_eq!(client.get(receiver.url("/a")).send().await.unwrap().status().as_u16(), 200);
    assert_eq!(client.get(receiver.url("/moved")).send().await.unwrap().status().as_u16(), 307);

    receiver.answer_with(Answer::endless(200));
    let mut endless = client.get(receiver.url("/a")).send().await.unwrap();
    assert!(endless.chunk().await.unwrap().is_some());
    receiver.answer_with(Answer::hang());
    let hung = client.get(receiver.url("/a")).timeout(std::time::Duration::from_millis(200)).send().await;
    assert!(hung.unwrap_err().is_timeout());

    let requests = receiver.wait_for_requests(6).await;
    assert_eq!((requests[0].method.as_str(), requests[0].path.as_str()), ("POST", "/a?b=1"));
    assert_eq!((requests[0].header("x-test"), requests[0].body.as_slice()), (Some("1"), b"one".as_slice()));
}
