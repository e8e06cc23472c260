//! Structured logs: one JSON object per line on stderr, or plain lines where a person watches.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// What is too chatty at `info` in the libraries below us; a filter of the operator's own wins. lapin tells every error
/// that it also returns.
const QUIET: &str =
    "info,actix_server=warn,actix_http=warn,hyper=warn,lapin=off,reqwest=warn,refinery_core=warn,sqlx=warn";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("telemetry.log is not a valid filter; write for example \"info\" or \"info,worker=debug\"")]
pub struct LogFilterProblem(#[source] tracing_subscriber::filter::ParseError);

/// Starts logging with `filter` (see [`crate::config::TelemetryConfig::log`]). Later calls in one process change nothing.
///
/// # Errors
/// [`LogFilterProblem`] when the filter cannot be read.
pub fn init(filter: &str) -> Result<(), LogFilterProblem> {
    let directives = if filter == "info" { QUIET } else { filter };
    let filter = EnvFilter::try_new(directives).map_err(LogFilterProblem)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber in one process (tests host several applications) is refused by `tracing`; the first stays.
    let _already_started = if std::io::stderr().is_terminal() {
        builder.with_target(false).finish().try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(false).finish().try_init()
    };
    Ok(())
}

/// An error and its causes, for one line of a log; a cause that its effect already tells is left out.
///
/// Not for [`crate::db::DbError::Refused`], whose causes may quote a row.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::chain;
    use crate::db::DbError;

    #[test]
    fn a_line_tells_every_cause_once() {
        let inner = std::io::Error::other("connection refused");
        let error = DbError::from(sqlx::Error::Io(inner));
        let told = chain(&error);
        assert!(told.starts_with("the database is not available: "), "{told}");
        assert_eq!(told.matches("connection refused").count(), 1, "{told}");
    }
}
