//! How a role talks to its parent.

use std::io::Write;

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use tokio::sync::oneshot;

/// What the parent says when a role may go on.
pub(crate) const GO: &str = "go";

/// Says one thing.
///
/// # Errors
/// When the parent is gone.
pub(super) fn say<T: Serialize>(thing: &T) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(thing)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line).and_then(|()| out.flush()).context("telling the parent")
}

/// Waits for `go`.
///
/// # Errors
/// When the parent is gone, or says something else.
pub(super) async fn hear_go() -> anyhow::Result<()> {
    ensure!(hear_go_or_end().await?, "the parent is gone");
    Ok(())
}

/// Waits for `go`, or for the parent to end the role; whether it is to go on.
///
/// # Errors
/// When the parent says something else.
pub(super) async fn hear_go_or_end() -> anyhow::Result<bool> {
    match hear().await?.as_deref() {
        Some(GO) => Ok(true),
        Some(other) => bail!("the parent said {other:?} instead of {GO:?}"),
        None => Ok(false),
    }
}

/// Waits until the parent ends the role, by closing its stdin.
///
/// # Errors
/// When stdin cannot be read.
pub(super) async fn wait_for_end() -> anyhow::Result<()> {
    while hear().await?.is_some() {}
    Ok(())
}

/// A line from the parent; `None`: it has closed the pipe. Read on a thread of its own, which a runtime that ends does
/// not wait for.
pub(super) async fn hear() -> anyhow::Result<Option<String>> {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line).map(|bytes| (bytes > 0).then(|| line.trim().to_owned()));
        // Nobody is left to tell when the role has ended in the meantime.
        let _ = tell.send(read);
    });
    told.await.context("the thread that listens to the parent ended")?.context("listening to the parent")
}
