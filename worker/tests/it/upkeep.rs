//! Rescue, sweep, take-over, and the rules in use: each duty's single step.

use common::db::sweep::SweepLimits;
use common::ids::{CallbackId, DeliveryId};
use common::telemetry::Probe;
use serde_json::json;
use uuid::Uuid;
use worker::duties;
use worker::health::Health;
use worker::rescue::{CLAIMS_MAX, Rescuer, release_all_leases};
use worker::sweep::{SweepReport, Sweeper};

use crate::route_rig::{ALL_TO_LOG, ONCE_TO_LOG, RouteRig, compile, config};

/// A callback that was routed, with its one delivery, leased by the fast lane.
async fn leased(rig: &RouteRig) -> (CallbackId, DeliveryId) {
    let id = rig.callback(&json!({"email": "ada@example.com"})).await;
    assert_eq!(rig.router.route_batch(&[id]).await.unwrap().started, 1);
    (id, rig.deliveries(id).await[0].id)
}

async fn expire(rig: &RouteRig) {
    rig.execute("UPDATE claygate.deliveries SET lease_until = now() - interval '1 second' WHERE lease_until > now()")
        .await;
}

#[tokio::test]
async fn an_expired_lease_is_given_back_with_its_outbox_entry() {
    let rig = RouteRig::new(ALL_TO_LOG).await;
    let (callback, delivery) = leased(&rig).await;
    let rescuer = Rescuer::new(&rig.config, rig.database(), rig.doorbell.clone());
    assert!(rescuer.rescue_once().await.unwrap().requeued.is_empty(), "a live lease is left alone");
    assert!(rig.queued().await.is_empty());

    expire(&rig).await;
    assert_eq!(rescuer.rescue_once().await.unwrap().requeued, ["log"]);
    let rescued = &rig.deliveries(callback).await[0];
    assert_eq!((rescued.id, rescued.state.as_str(), rescued.leased), (delivery, "pending", false));
    assert_eq!(rig.queued().await.get("deliver.log"), Some(&1));
    assert!(rescuer.rescue_once().await.unwrap().requeued.is_empty(), "once");
    assert_eq!(rig.queued().await.get("deliver.log"), Some(&1));
}

#[tokio::test]
async fn leases_that_run_out_again_and_again_end_as_poison_and_free_the_person() {
    let rig = RouteRig::new(ONCE_TO_LOG).await;
    let (callback, delivery) = leased(&rig).await;
    let rescuer = Rescuer::new(&rig.config, rig.database(), rig.doorbell.clone());
    for round in 0..=CLAIMS_MAX {
        sqlx::query(
            "UPDATE claygate.deliveries SET lease_until = now() - interval '1 second', lease_token = $1 WHERE id = $2",
        )
        .bind(Uuid::new_v4())
        .bind(delivery.0)
        .execute(rig.test.pool())
        .await
        .unwrap();
        let rescued = rescuer.rescue_once().await.unwrap();
        assert_eq!(rescued.poisoned.is_empty(), round < CLAIMS_MAX, "{round}");
    }
    let dead = &rig.deliveries(callback).await[0];
    assert_eq!((dead.state.as_str(), dead.reason.as_deref()), ("dead", Some("poison")));
    assert_eq!(rig.queued().await.get("released"), Some(&1));
    let cooldowns: i64 =
        sqlx::query_scalar("SELECT count(*) FROM claygate.cooldowns").fetch_one(rig.test.pool()).await.unwrap();
    assert_eq!(cooldowns, 0);
}

#[tokio::test]
async fn a_process_that_is_alone_frees_what_its_predecessor_held() {
    let rig = RouteRig::new(ALL_TO_LOG).await;
    leased(&rig).await;
    let scheduled = Uuid::now_v7();
    sqlx::query(
        "INSERT INTO claygate.outbox (queue, refs, due_at, claims)
         VALUES ('callbacks', ARRAY[$1], now() + interval '30 seconds', 1),
                ('deliver.log', ARRAY[$1], now() + interval '1 hour', 0)",
    )
    .bind(scheduled)
    .execute(rig.test.pool())
    .await
    .unwrap();
    release_all_leases(&rig.database()).await.unwrap();
    let queued = rig.queued().await;
    assert_eq!((queued.get("callbacks"), queued.get("deliver.log")), (Some(&1), Some(&1)), "a retry keeps its time");
    let leases: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.deliveries WHERE lease_until IS NOT NULL")
        .fetch_one(rig.test.pool())
        .await
        .unwrap();
    assert_eq!(leases, 0);
}

fn sweeper(rig: &RouteRig) -> Sweeper {
    Sweeper::new(rig.config.clone(), rig.database(), rig.doorbell.clone(), SweepLimits::default())
}

/// Moves everything that was on its way an hour into the past.
async fn age(rig: &RouteRig) {
    for statement in [
        "UPDATE claygate.callback_bodies SET received_at = received_at - interval '1 hour'",
        "UPDATE claygate.callbacks SET received_at = received_at - interval '1 hour', \
         enqueued_at = enqueued_at - interval '1 hour'",
        "UPDATE claygate.deliveries SET next_attempt_at = next_attempt_at - interval '1 hour', \
         enqueued_at = enqueued_at - interval '1 hour'",
    ] {
        rig.execute(statement).await;
    }
}

#[tokio::test]
async fn a_lost_callback_is_enqueued_again_once() {
    let rig = RouteRig::new(ALL_TO_LOG).await;
    let lost = rig.callback(&json!({"email": "a@example.com"})).await;
    let mut sweeper = sweeper(&rig);
    assert_eq!(sweeper.sweep_once().await.unwrap(), SweepReport::default(), "a fresh one is not lost");
    age(&rig).await;
    assert_eq!(sweeper.sweep_once().await.unwrap().callbacks, 1);
    assert_eq!(rig.queued().await.get("callbacks"), Some(&1));
    rig.execute("UPDATE claygate.callbacks SET enqueued_at = now() - interval '1 day'").await;
    assert_eq!(sweeper.sweep_once().await.unwrap().callbacks, 0, "it waits in the outbox");

    rig.execute("DELETE FROM claygate.outbox").await;
    rig.execute("UPDATE claygate.callbacks SET enqueued_at = now() - interval '15 minutes'").await;
    assert_eq!(sweeper.sweep_once().await.unwrap().callbacks, 0, "the horizon has doubled");
    rig.execute("UPDATE claygate.callbacks SET enqueued_at = now() - interval '21 minutes'").await;
    assert_eq!(sweeper.sweep_once().await.unwrap().callbacks, 1);

    rig.router.route_batch(&[lost]).await.unwrap();
    rig.execute("DELETE FROM claygate.outbox").await;
    assert_eq!(sweeper.sweep_once().await.unwrap().callbacks, 0, "it has ended");
}

#[tokio::test]
async fn a_replay_behind_the_mark_is_still_watched() {
    let rig = RouteRig::new(ALL_TO_LOG).await;
    let old = rig.callback(&json!({"email": "a@example.com"})).await;
    age(&rig).await;
    let young = rig.callback(&json!({"email": "b@example.com"})).await;
    age(&rig).await;
    rig.router.route_batch(&[old, young]).await.unwrap();
    let mut sweeper = sweeper(&rig);
    sweeper.sweep_once().await.unwrap();
    let marked: bool = sqlx::query_scalar(
        "SELECT position = (SELECT max(received_at) FROM claygate.callbacks) FROM claygate.sweep_marks",
    )
    .fetch_one(rig.test.pool())
    .await
    .unwrap();
    assert!(marked, "everything up to the last has ended");
    common::db::replay::replay_callback(&rig.database(), old).await.unwrap();
    rig.execute("DELETE FROM claygate.outbox WHERE queue = 'callbacks'").await;
    assert_eq!(sweeper.sweep_once().await.unwrap().callbacks, 1);
}

#[tokio::test]
async fn a_lost_delivery_is_enqueued_again_once() {
    let rig = RouteRig::new(ALL_TO_LOG).await;
    leased(&rig).await;
    let mut sweeper = sweeper(&rig);
    age(&rig).await;
    assert_eq!(sweeper.sweep_once().await.unwrap().deliveries, 0, "somebody holds it");
    rig.free_leases().await;
    age(&rig).await;
    assert_eq!(sweeper.sweep_once().await.unwrap().deliveries, 0, "it waits in the outbox");
    rig.execute("DELETE FROM claygate.outbox").await;

    rig.execute("INSERT INTO claygate.destination_state (destination, state, reason) VALUES ('log', 'paused', 'test')")
        .await;
    assert_eq!(sweeper.sweep_once().await.unwrap().deliveries, 0, "a paused one waits");
    rig.execute("DELETE FROM claygate.destination_state").await;
    assert_eq!(sweeper.sweep_once().await.unwrap().deliveries, 1);
    assert_eq!(rig.queued().await.get("deliver.log"), Some(&1));
    age(&rig).await;
    assert_eq!(sweeper.sweep_once().await.unwrap().deliveries, 0);
}

#[tokio::test]
async fn what_waits_for_a_destination_that_nobody_knows_ends_as_dead() {
    let rig = RouteRig::new(ALL_TO_LOG).await;
    let (callback, _) = leased(&rig).await;
    rig.free_leases().await;
    let renamed = ALL_TO_LOG.replace("log]", "record]").replace("\"log\"]", "\"record\"]");
    let (_elder, rig) = rig.and(&renamed);
    let mut sweeper = sweeper(&rig);
    assert_eq!(sweeper.sweep_once().await.unwrap().unknown, 0, "another worker may know it");
    age(&rig).await;
    rig.execute("UPDATE claygate.outbox SET due_at = due_at - interval '1 hour'").await;
    assert_eq!(sweeper.sweep_once().await.unwrap().unknown, 1);
    let ended = &rig.deliveries(callback).await[0];
    assert_eq!((ended.state.as_str(), ended.reason.as_deref()), ("dead", Some("unknown_destination")));
    assert!(rig.queued().await.is_empty());
}

#[tokio::test]
async fn two_rule_sets_in_use_are_a_warning() {
    let rig = RouteRig::new(ALL_TO_LOG).await;
    let health = Health::default();
    let _beat = health.watch("test");
    duties::announce_once(&rig.database(), &rig.rules, &health).await.unwrap();
    assert!(health.check().warnings.is_empty());
    let other = compile(&config(&ALL_TO_LOG.replace("true", "lead.icp_score > 1")));
    duties::announce_once(&rig.database(), &other, &health).await.unwrap();
    let verdict = health.check();
    assert!(verdict.ready);
    assert!(verdict.warnings[0].contains(&other.version()[..12]), "{verdict:?}");
    rig.execute("UPDATE claygate.rule_sets SET last_seen_at = now() - interval '5 minutes'").await;
    duties::announce_once(&rig.database(), &rig.rules, &health).await.unwrap();
    assert!(health.check().warnings.is_empty());
}
