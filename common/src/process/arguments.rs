//! The options of every command, and the configuration that they lead to.

use std::path::PathBuf;

use crate::config::{Config, ConfigError, Environment, Locations, Role};

/// Where a process finds its configuration and its data.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Arguments {
    /// The configuration file [default: $CLAYGATE_CONFIG, else ./claygate.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data folder [default: $CLAYGATE_DATA, else claygate-data beside the file]
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Relative paths lead nowhere.
    #[error("the working folder cannot be read")]
    WorkingFolder(#[from] std::io::Error),
    /// What has to be changed.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Arguments {
    /// File and data folder, by these options, `environment` and the working folder.
    ///
    /// # Errors
    /// [`LoadError::WorkingFolder`].
    pub fn locations(&self, environment: &Environment) -> Result<Locations, LoadError> {
        Ok(Locations::of_process(self.config.as_deref(), self.data.as_deref(), environment)?)
    }

    /// The configuration for a process of `role`, under the process's own environment.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(&self, role: Role) -> Result<Config, LoadError> {
        let environment = Environment::from_process();
        Ok(Config::load(role, &self.locations(&environment)?, &environment)?)
    }
}
