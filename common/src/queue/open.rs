//! Which back-end a process uses, and which queues there are.

use std::sync::Arc;

use super::postgres::{PostgresQueue, PostgresQueueSettings};
use super::rabbitmq::{RabbitQueue, RabbitSettings};
use super::{Doorbell, Queue, QueueName};
use crate::config::{Config, QueueConfig};
use crate::db::Database;

/// The queue that `config` names: RabbitMQ with a `[queue] url`, else Postgres itself. Nothing is dialled yet.
pub fn open(config: &Config, database: &Database, doorbell: &Doorbell) -> Arc<dyn Queue> {
    let (database, doorbell) = (database.clone(), doorbell.clone());
    match broker_settings(config) {
        None => Arc::new(PostgresQueue::new(database, doorbell, PostgresQueueSettings::default())),
        Some(settings) => Arc::new(RabbitQueue::new(settings, database, doorbell)),
    }
}

/// How to reach the broker that `config` names; `None`: Postgres is the queue.
pub fn broker_settings(config: &Config) -> Option<RabbitSettings> {
    let QueueConfig { url, password, prefix } = &config.queue;
    Some(RabbitSettings::new(url.clone()?, password.clone(), prefix))
}

/// Every queue that work is pushed to under `config`.
pub fn queues_of(config: &Config) -> Vec<QueueName> {
    let shared = [QueueName::callbacks(), QueueName::released()];
    shared.into_iter().chain(config.destinations.keys().map(|name| QueueName::deliver(name))).collect()
}
