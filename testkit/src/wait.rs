//! Waiting on conditions, never on the clock alone.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

const POLL_EVERY: Duration = Duration::from_millis(10);

/// Polls `condition` until it answers `Ok`, and gives its value. After `limit` it panics with `what` and the last
/// status that the condition reported.
///
/// ```ignore
/// wait_for("the delivery to end", Duration::from_secs(5), async || {
///     let state = state_of(id).await;
///     if state == "delivered" { Ok(()) } else { Err(state) }
/// }).await;
/// ```
///
/// # Panics
/// When the condition has not come true within `limit`.
#[allow(clippy::panic)]
pub async fn wait_for<T, S, C, F>(what: &str, limit: Duration, mut condition: C) -> T
where
    S: Debug,
    C: FnMut() -> F,
    F: Future<Output = Result<T, S>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(status) if Instant::now() >= deadline => {
                panic!("waited {limit:?} for {what}; the last status was {status:?}")
            }
            Err(_) => tokio::time::sleep(POLL_EVERY).await,
        }
    }
}

/// [`wait_for`] for conditions that are a plain yes or no.
///
/// # Panics
/// When the condition has not come true within `limit`.
pub async fn wait_until<C, F>(what: &str, limit: Duration, mut condition: C)
where
    C: FnMut() -> F,
    F: Future<Output = bool>,
{
    wait_for(what, limit, || {
        let check = condition();
        async move { if check.await { Ok(()) } else { Err("not yet") } }
    })
    .await;
}
