//! What runs beside something else without either keeping the other waiting.

use std::pin::Pin;

/// A part of a test: an installation of its own, from its start to its books.
pub(crate) type Part = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs `parts` at once, each on a thread of its own; panics where one of them does. An installation that ends blocks its
/// thread until its books are read and its database is gone, and DROP DATABASE waits for every connection of the server
/// that is just being authenticated. Parts that shared a thread would so wait for each other until the server gives up
/// such a connection, after a minute.
pub(crate) fn at_once<const N: usize>(parts: [Part; N]) {
    std::thread::scope(|scope| {
        for part in parts {
            scope.spawn(|| run(part));
        }
    });
}

/// Runs something from where nothing can be awaited: the test's own runtime may be ending.
pub(crate) fn on_a_runtime_of_its_own<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| run(future)).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
