//! Postgres goes away and comes back.

use sqlx::{Executor, Row};
use testkit::wait::{wait_for, wait_until};

use crate::books::assert_counts;
use crate::gateway::{Answer, CLAY, Gateway, LIMIT, Site};

async fn post_with_key(gateway: &Gateway, key: &str, body: &str) -> Answer {
    Answer::of(gateway.request().header("Idempotency-Key", key).body(body.to_owned())).await
}

#[tokio::test]
async fn callbacks_are_spooled_and_drained_under_the_ids_that_were_answered() {
    let (site, gateway) = Site::with(CLAY).await;
    let before = gateway.post(r#"{"n":"before"}"#).await;
    assert_eq!(before.status_word(), "accepted");
    // A sweeper that will have read past the time of their receipt.
    site.execute("INSERT INTO claygate.sweep_marks (queue, position) VALUES ('callbacks', 'infinity')").await;
    site.take_postgres_away().await;
    let mut answers = Vec::new();
    for n in 0..5 {
        let answer = gateway.post(format!(r#"{{"n":{n}}}"#)).await;
        assert_eq!((answer.status_word(), &answer.json["duplicate"]), ("spooled", &false.into()));
        answers.push(answer);
    }
    let malformed = gateway.post("{not json").await;
    assert_eq!((malformed.status, &malformed.json["quarantined"]), (400, &true.into()));
    let received_at = answers[0].text("timestamp").to_owned();
    let verdict = gateway.verdict();
    assert!(verdict.ready && verdict.warnings.iter().any(|w| w.contains("6 callbacks wait")), "{verdict:?}");

    site.bring_postgres_back().await;
    gateway.wait_until_drained().await;
    let mark =
        format!("SELECT position <= '{received_at}'::timestamptz FROM claygate.sweep_marks WHERE queue = 'callbacks'");
    assert!(site.value::<bool>(mark).await, "the sweeper would never find them");
    for answer in &answers {
        let sql = format!(
            "SELECT state, spooled, to_char(received_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US') \
             FROM claygate.callbacks WHERE id = '{}'",
            answer.id()
        );
        let row = &site.rows(sql).await[0];
        assert_eq!((row.get::<&str, _>(0), row.get::<bool, _>(1)), ("received", true));
        let (kept, answered) = (row.get::<String, _>(2), answer.text("timestamp").trim_end_matches('Z').to_owned());
        assert!(kept.starts_with(answered.trim_end_matches('0')), "{kept} and {answered}");
    }
    let kept = format!("SELECT problem FROM claygate.quarantine WHERE id = '{}'", malformed.id());
    assert_eq!(site.value::<String>(kept).await, "malformed");
    assert_counts(&site, [("new", 6), ("quarantined", 1)]).await;
    assert!(site.spool_files("segment").is_empty());
    assert_eq!(gateway.post(r#"{"n":0}"#).await.id(), answers[0].id(), "a repeat finds the drained callback");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn a_spooled_repeat_becomes_an_alias() {
    let (site, gateway) = Site::with(CLAY).await;
    let first = gateway.post(r#"{"n":1}"#).await;
    site.take_postgres_away().await;
    let spooled = gateway.post(r#"{"n":1}"#).await;
    assert_eq!(spooled.status_word(), "spooled");
    assert_ne!(spooled.id(), first.id());
    site.bring_postgres_back().await;
    gateway.wait_until_drained().await;
    let row = &site.rows("SELECT alias_id::text, callback_id::text FROM claygate.callback_aliases").await[0];
    assert_eq!((row.get::<&str, _>(0), row.get::<&str, _>(1)), (spooled.id(), first.id()));
    assert_counts(&site, [("duplicate", 1), ("new", 1)]).await;
    gateway.stop(&site).await;
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_not_a_duplicate_of_itself() {
    let limits = "[ingest]\nlisten = \"127.0.0.1:0\"\nthreads = 1\n[ingest.limits]\ncommit_timeout = \"100ms\"\n";
    let (site, gateway) = Site::with(&format!("{limits}{CLAY}")).await;
    let mut holder = site.connect().await;
    // The statement waits for the lock, the writer gives up, the statement is committed all the same.
    holder.execute("BEGIN; LOCK TABLE claygate.outbox IN EXCLUSIVE MODE").await.unwrap();
    let spooled = gateway.post(r#"{"n":1}"#).await;
    assert_eq!(spooled.status_word(), "spooled");
    holder.execute("COMMIT").await.unwrap();
    gateway.wait_until_drained().await;
    wait_until("no statement to be left", LIMIT, || async {
        let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
                    AND pid <> pg_backend_pid()";
        site.value::<i64>(left).await == 0
    })
    .await;
    let id: String = site.value("SELECT id::text FROM claygate.callbacks").await;
    assert_eq!(id, spooled.id());
    assert_eq!(site.count("callback_aliases").await, 0);
    assert_counts(&site, [("new", 1)]).await;
    gateway.stop(&site).await;
}

#[tokio::test]
async fn a_spooled_revision_older_than_the_latest_is_superseded() {
    let site = Site::new().await;
    let first = site.start(CLAY).await;
    site.take_postgres_away().await;
    let old = post_with_key(&first, "k", r#"{"v":"old"}"#).await;
    assert_eq!(old.status_word(), "spooled");
    first.halt().await;

    site.bring_postgres_back().await;
    let replica = site.replica();
    let second = replica.start(CLAY).await;
    let new = post_with_key(&second, "k", r#"{"v":"new"}"#).await;
    assert_eq!(new.status_word(), "accepted");
    second.halt().await;

    let first = site.start(CLAY).await;
    first.wait_until_drained().await;
    let row = &site.rows("SELECT id::text, revision, state, reason FROM claygate.callbacks ORDER BY revision").await[1];
    assert_eq!((row.get::<&str, _>(0), row.get::<i32, _>(1)), (old.id(), 1));
    assert_eq!((row.get::<&str, _>(2), row.get::<&str, _>(3)), ("skipped", "superseded"));
    first.stop(&site).await;
}

#[tokio::test]
async fn spooled_revisions_keep_their_order() {
    let (site, gateway) = Site::with(CLAY).await;
    site.take_postgres_away().await;
    let mut ids = Vec::new();
    for v in ["a", "b", "a"] {
        ids.push(post_with_key(&gateway, "k", &format!(r#"{{"v":"{v}"}}"#)).await.id().to_owned());
    }
    site.bring_postgres_back().await;
    gateway.wait_until_drained().await;
    let stored: Vec<String> = site.value("SELECT array_agg(id::text ORDER BY revision) FROM claygate.callbacks").await;
    assert_eq!(stored, ids);
    let states: i64 = site.value("SELECT count(*) FROM claygate.callbacks WHERE state = 'received'").await;
    assert_eq!(states, 3);
    gateway.stop(&site).await;
}

#[tokio::test]
async fn conflicts_and_refused_rows_leave_the_spool_by_quarantine() {
    let (site, gateway) = Site::with(&format!("{CLAY}idempotency = {{ changed = \"conflict\" }}\n")).await;
    assert_eq!(post_with_key(&gateway, "k", r#"{"v":"a"}"#).await.status_word(), "accepted");
    site.execute(
        "ALTER TABLE claygate.callback_bodies ADD CONSTRAINT test_refused CHECK (position('refuse' IN body) = 0)",
    )
    .await;
    site.take_postgres_away().await;
    let conflict = post_with_key(&gateway, "k", r#"{"v":"b"}"#).await;
    let refused = gateway.post(r#"{"word":"refuse"}"#).await;
    let neighbour = gateway.post(r#"{"word":"take"}"#).await;
    assert_eq!([&conflict, &refused, &neighbour].map(Answer::status_word), ["spooled"; 3]);
    site.bring_postgres_back().await;
    gateway.wait_until_drained().await;
    for (answer, problem) in [(&conflict, "conflict"), (&refused, "refused")] {
        let kept = format!("SELECT problem FROM claygate.quarantine WHERE id = '{}'", answer.id());
        assert_eq!(site.value::<String>(kept).await, problem);
    }
    let stored = format!("SELECT state FROM claygate.callbacks WHERE id = '{}'", neighbour.id());
    assert_eq!(site.value::<String>(stored).await, "received");
    assert_counts(&site, [("conflict", 1), ("new", 2), ("quarantined", 1)]).await;
    gateway.stop(&site).await;
}

#[tokio::test]
async fn what_postgres_takes_in_no_form_is_never_answered_as_taken_and_holds_nothing_up() {
    let (site, gateway) = Site::with(CLAY).await;
    for table in ["callback_bodies", "quarantine"] {
        let check = "CONSTRAINT test_refused CHECK (position('refuse' IN body) = 0)";
        site.execute(format!("ALTER TABLE claygate.{table} ADD {check}")).await;
    }
    assert_eq!(gateway.post(r#"{"word":"refuse"}"#).await.status, 503);
    assert_eq!(gateway.post(r#"{"word":"refuse"#).await.status, 503);
    assert_eq!(gateway.post(r#"{"word":"take"}"#).await.status_word(), "accepted");
    site.take_postgres_away().await;
    for word in ["refuse", "one", "two"] {
        assert_eq!(gateway.post(format!(r#"{{"word":"{word}"}}"#)).await.status_word(), "spooled");
    }
    site.bring_postgres_back().await;
    gateway.wait_until_drained().await;
    assert_eq!(site.count("callbacks").await, 3);
    assert_eq!(site.spool_files("damaged").len(), 1, "the file holds what the database does not");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn a_full_spool_is_unavailable_and_recovers() {
    let site = Site { spool_bytes: "1MiB", ..Site::new().await };
    let gateway = site.start(CLAY).await;
    site.take_postgres_away().await;
    let filler = "x".repeat(400_000);
    let mut spooled = 0;
    let unavailable = loop {
        let answer = gateway.post(format!(r#"{{"n":{spooled},"filler":"{filler}"}}"#)).await;
        if answer.status != 200 {
            break answer;
        }
        assert_eq!(answer.status_word(), "spooled");
        spooled += 1;
        assert!(spooled < 4, "the spool is bounded");
    };
    assert_eq!((unavailable.status, unavailable.text("type")), (503, "/problems/unavailable"));
    assert!(unavailable.header("retry-after").parse::<u32>().unwrap() >= 1);
    assert!(!gateway.verdict().ready, "it can neither commit nor spool");

    site.bring_postgres_back().await;
    gateway.wait_until_drained().await;
    assert_eq!(site.count("callbacks").await, spooled);
    assert_eq!(gateway.post(r#"{"n":"after"}"#).await.status_word(), "accepted");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn a_standby_is_no_database_to_commit_to() {
    let (site, gateway) = Site::with(CLAY).await;
    site.alter("SET default_transaction_read_only = on").await;
    site.cut_connections().await;
    let spooled = gateway.post(r#"{"n":1}"#).await;
    assert_eq!(spooled.status_word(), "spooled");
    assert!(gateway.verdict().ready);
    site.alter("RESET default_transaction_read_only").await;
    gateway.wait_until_drained().await;
    assert_eq!(site.count("callbacks").await, 1);
    gateway.stop(&site).await;
}

#[tokio::test]
async fn the_last_word_of_an_intake_says_what_its_spool_holds() {
    let (site, gateway) = Site::with(CLAY).await;
    let word = "SELECT concat_ws(' ', count(*), sum(entries), bool_or(stopped)) FROM claygate.spools";
    let heard = async |expected: &str| {
        wait_for("the intake's word", LIMIT, async || {
            let word: String = site.value(word).await;
            if word == expected { Ok(()) } else { Err(word) }
        })
        .await;
    };
    heard("1 0 f").await;
    gateway.halt().await;
    heard("1 0 t").await;

    // The same spool is the same one after a restart, also when there is something in it.
    let gateway = site.start(CLAY).await;
    heard("1 0 f").await;
    site.take_postgres_away().await;
    assert_eq!(gateway.post(r#"{"n":1}"#).await.status_word(), "spooled");
    gateway.halt().await;
    site.bring_postgres_back().await;
    heard("1 0 f").await;
    let gateway = site.start(CLAY).await;
    gateway.wait_until_drained().await;
    gateway.stop(&site).await;
    heard("1 0 t").await;
}
