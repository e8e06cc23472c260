//! The parts of one process, and the order in which they stop.

use std::sync::Arc;

use common::config::Config;
use common::db::ConnectSettings;
use common::telemetry::Probe;
use common::telemetry::metrics::MetricsHandle;
use console::AdminServer;
use tokio_util::sync::CancellationToken;

/// Built parts, listening but not yet answering.
pub(super) struct Parts {
    admin: AdminServer,
}

impl Parts {
    /// Builds every part.
    pub(super) async fn build(
        config: &Config,
        _settings: &ConnectSettings,
        metrics: MetricsHandle,
    ) -> anyhow::Result<Self> {
        let probes: Vec<Arc<dyn Probe>> = vec![];
        let admin = AdminServer::bind(config.admin.listen, probes, metrics)?;
        Ok(Self { admin })
    }

    /// The public port.
    pub(super) fn port(&self) -> u16 {
        8080
    }

    /// The admin port.
    pub(super) fn admin_port(&self) -> u16 {
        self.admin.port()
    }

    /// Runs until `shutdown`, or until a part ends before that.
    pub(super) async fn run_until(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        Ok(self.admin.run_until(shutdown).await?)
    }
}
