//! `claygate health`: asks a running process whether it is ready. For containers and scripts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use common::config::{Config, Role};

use crate::globals::Globals;
use crate::run_file::RunFile;

const LIMIT: Duration = Duration::from_secs(5);

/// Ask the running process whether it is ready; the exit code answers.
///
/// Reads `/readyz` on the admin port: of a running `claygate up`, else on `admin.listen`, where `ingest` and `worker`
/// answer too.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate health --json")]
pub(crate) struct Health {
    /// Print the whole report.
    #[arg(long)]
    json: bool,
}

impl Health {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let config = globals.load(Role::Tool)?;
        let url = format!("http://{}/readyz", admin_address(&config)?);
        let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build()?;
        let Ok(answer) = client.get(&url).send().await else {
            anyhow::bail!(
                "nothing answers on {url}; start `claygate up`, `ingest` or `worker` with this configuration"
            );
        };
        let ready = answer.status().is_success();
        let report: serde_json::Value = serde_json::from_slice(&answer.bytes().await?)?;
        if self.json {
            super::print_json(&report)?;
        } else {
            say!("{}", if ready { "ready" } else { "not ready" });
            for check in report.get("checks").and_then(|checks| checks.as_array()).into_iter().flatten() {
                print_check(check);
            }
        }
        Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn print_check(check: &serde_json::Value) {
    let text = |key: &str| check.get(key).and_then(|value| value.as_str()).unwrap_or_default();
    let state = if check.get("ready").and_then(serde_json::Value::as_bool) == Some(true) { "ok" } else { "FAILED" };
    say!("  {:<10} {state} {}", text("name"), text("detail"));
    for warning in check.get("warnings").and_then(|warnings| warnings.as_array()).into_iter().flatten() {
        say!("  {:<10} warning: {}", "", warning.as_str().unwrap_or_default());
    }
}

/// Where the admin port is reached from this machine.
pub(crate) fn admin_address(config: &Config) -> anyhow::Result<SocketAddr> {
    let listen = config.admin.listen;
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let port = RunFile::of_live(&config.data)?.map_or(listen.port(), |run| run.admin_port);
    Ok(SocketAddr::new(ip, port))
}
