//! What the database says: reachable, new enough, writable, its clock, its schema, its backlog.

use std::time::Duration;

use common::config::Config;
use common::db::diagnosis::{self, Diagnosis};
use common::db::{Database, binary_version, outbox};
use common::telemetry::logs::chain;
use embedded::Home;
use time::OffsetDateTime;

use super::Finding;
use crate::globals::OpenDatabase;
use crate::run_file::RunFile;

const OLDEST_SERVER: i32 = 130_000;
const CLOCK_WARN: time::Duration = time::Duration::seconds(2);
const CLOCK_FAIL: time::Duration = time::Duration::seconds(120);
const OUTBOX_WARN: Duration = Duration::from_secs(60);

pub(super) async fn check(config: &Config, running: Option<&RunFile>) -> Vec<Finding> {
    if config.database.url.is_none() && running.is_none() {
        match Home::has_cluster(&config.data) {
            Ok(true) => {}
            Ok(false) => return vec![Finding::ok("database", "embedded; made at the first start")],
            Err(error) => return vec![Finding::fail("database", error.to_string(), "see above")],
        }
    }
    let open = match OpenDatabase::open(config).await {
        Ok(open) => open,
        Err(error) => return vec![Finding::fail("database", format!("{error:#}"), "read the server's log")],
    };
    let mut findings = match diagnosis::examine(open.database()).await {
        Ok(found) => judge(&found, OffsetDateTime::now_utc()),
        Err(error) => {
            let remedy = "check database.url, the password, and that the server runs; ingest spools meanwhile";
            vec![Finding::fail("database", chain(&error), remedy)]
        }
    };
    if findings.iter().all(|finding| finding.level != super::Level::Fail) {
        findings.push(backlog(open.database()).await);
    }
    if let Err(error) = open.close().await {
        findings.push(Finding::fail("database", format!("{error:#}"), "read the server's log"));
    }
    findings
}

/// Judges what a database said of itself, by this machine's clock `now`.
fn judge(found: &Diagnosis, now: OffsetDateTime) -> Vec<Finding> {
    let version = format!("PostgreSQL {}", found.server_version / 10_000);
    let server = match found {
        Diagnosis { server_version: ..OLDEST_SERVER, .. } => {
            Finding::fail("database", version, "claygate needs PostgreSQL 13 or later")
        }
        Diagnosis { read_only: true, .. } => {
            Finding::fail("database", format!("{version}, a standby"), "point database.url at the primary")
        }
        _ => Finding::ok("database", version),
    };
    let apart = (found.clock - now).abs();
    let shown = format!("{:.1} s from the database's", apart.as_seconds_f64());
    let remedy = "start a time service (chrony, systemd-timesyncd): signatures with timestamps depend on the clock";
    let clock = match apart {
        _ if apart > CLOCK_FAIL => Finding::fail("clock", shown, remedy),
        _ if apart > CLOCK_WARN => Finding::warn("clock", shown, remedy),
        _ => Finding::ok("clock", shown),
    };
    let known = binary_version();
    let schema = match found.schema_version {
        Some(version) if version == known => Finding::ok("schema", format!("version {version}")),
        Some(version) if version > known => {
            let detail = format!("version {version}, and this binary knows {known}");
            Finding::warn("schema", detail, "update this binary when the roll-out is done")
        }
        Some(version) => {
            let detail = format!("version {version}, and this binary needs {known}");
            Finding::warn("schema", detail, "`claygate migrate`, or start claygate: it migrates")
        }
        None => Finding::warn("schema", "none yet", "`claygate migrate`, or start claygate: it migrates"),
    };
    vec![server, clock, schema]
}

async fn backlog(database: &Database) -> Finding {
    match outbox::backlog(database).await {
        Ok(found) => {
            let age = found.oldest_age;
            let detail = format!("{} entries, the oldest due for {} s", found.entries, age.as_secs());
            if age > OUTBOX_WARN {
                Finding::warn("outbox", detail, "is a worker running? `claygate health` tells what it is doing")
            } else {
                Finding::ok("outbox", detail)
            }
        }
        Err(error) => Finding::warn("outbox", chain(&error), "`claygate migrate`, if the schema is not there yet"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_database_is_judged_by_what_it_says() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let good =
            Diagnosis { server_version: 150_018, clock: now, read_only: false, schema_version: Some(binary_version()) };
        let cases = [
            (good.clone(), [Level::Ok, Level::Ok, Level::Ok]),
            (Diagnosis { server_version: 120_001, ..good.clone() }, [Level::Fail, Level::Ok, Level::Ok]),
            (Diagnosis { read_only: true, ..good.clone() }, [Level::Fail, Level::Ok, Level::Ok]),
            (
                Diagnosis { clock: now - time::Duration::seconds(5), ..good.clone() },
                [Level::Ok, Level::Warn, Level::Ok],
            ),
            (Diagnosis { clock: now + time::Duration::hours(1), ..good.clone() }, [Level::Ok, Level::Fail, Level::Ok]),
            (Diagnosis { schema_version: None, ..good.clone() }, [Level::Ok, Level::Ok, Level::Warn]),
            (Diagnosis { schema_version: Some(9999), ..good }, [Level::Ok, Level::Ok, Level::Warn]),
        ];
        for (found, levels) in cases {
            let judged: Vec<Level> = judge(&found, now).iter().map(|finding| finding.level).collect();
            assert_eq!(judged, levels, "{found:?}");
        }
    }
}
