//! What the broker says: whether it can be reached and lets this user in.

use common::config::Config;
use common::queue::broker_settings;
use common::queue::rabbitmq::try_connect;
use common::telemetry::logs::chain;

use super::Finding;

pub(super) async fn check(config: &Config) -> Option<Finding> {
    let settings = broker_settings(config)?;
    let host = settings.url.host_str().unwrap_or_default().to_owned();
    Some(match try_connect(&settings).await {
        Ok(()) => Finding::ok("broker", format!("RabbitMQ at {host}")),
        Err(error) => Finding::fail(
            "broker",
            chain(&error),
            "check queue.url, the password, and that the server runs; callbacks are taken meanwhile, and wait",
        ),
    })
}
