//! docker-compose.yml and Dockerfile, without a Docker engine.
//!
//! `files`, `beside` and `image` hold every port, variable, path, command, dependency and health check against the
//! program's own configuration and against each other. `services` runs what the file describes as Compose would, in order and under its
//! conditions, on a [`machine`] without containers: each service has a root folder of its own with its volumes in it, and
//! an address of its own.

mod beside;
mod document;
mod files;
mod image;
mod machine;
mod recipe;
mod services;

use std::path::{Path, PathBuf};

/// The repository's folder.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
