//! An HTTP client for tests: loopback only in practice, no proxy, no redirects.

use std::time::Duration;

/// A client of its own, with rustls' provider installed once for the process.
pub fn client() -> reqwest::Client {
    // A second installation in one process is refused; the first stays.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        // What a server holds for its clients shows soon after the last of them had something to say.
        .pool_idle_timeout(Duration::from_secs(2))
        .redirect(reqwest::redirect::Policy::none())
        // Nobody is met who needs them, and reading a machine's certificates takes most of the time of making a client.
        .tls_certs_only([])
        .build()
        .expect("a client needs no more than the provider")
}
