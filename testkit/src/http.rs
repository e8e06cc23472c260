//! An HTTP client for tests: loopback only in practice, no proxy, no redirects.

/// A client of its own, with rustls' provider installed once for the process.
pub fn client() -> reqwest::Client {
    // A second installation in one process is refused; the first stays.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client needs no more than the provider")
}
