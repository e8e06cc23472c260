//! Where the configuration and the data folder are, and the environment as a value. The only place that asks the process.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The environment variables a configuration may use: a plain map, so that tests need not touch the process's own.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's environment. Variables that are not UTF-8 are left out.
    pub fn from_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// A variable's value, where it is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables by name, empty ones too.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(variables: T) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Environment {
    /// Names only: values are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The configuration file and the data folder, both absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locations {
    /// Where the file is, or would be.
    pub file: PathBuf,
    /// It was asked for by name: not finding it is an error.
    pub file_is_explicit: bool,
    /// The data folder; it may not exist yet.
    pub data: PathBuf,
}

impl Locations {
    /// The file: `config` (`--config`), else `CLAYGATE_CONFIG`, else `claygate.toml` in `working_folder`. The data
    /// folder: `data` (`--data`), else `CLAYGATE_DATA`, else `claygate-data` beside the file.
    pub fn resolve(
        config: Option<&Path>,
        data: Option<&Path>,
        environment: &Environment,
        working_folder: &Path,
    ) -> Self {
        let asked = config.or_else(|| environment.get("CLAYGATE_CONFIG").map(Path::new));
        let file = working_folder.join(asked.unwrap_or(Path::new("claygate.toml")));
        let data = match data.or_else(|| environment.get("CLAYGATE_DATA").map(Path::new)) {
            Some(folder) => working_folder.join(folder),
            None => file.parent().unwrap_or(working_folder).join("claygate-data"),
        };
        Self { file, file_is_explicit: asked.is_some(), data }
    }

    /// [`Locations::resolve`] with the process's own working folder.
    ///
    /// # Errors
    /// When the working folder does not exist or may not be read.
    pub fn of_process(config: Option<&Path>, data: Option<&Path>, environment: &Environment) -> std::io::Result<Self> {
        Ok(Self::resolve(config, data, environment, &std::env::current_dir()?))
    }

    /// The folder that relative paths in the configuration start from.
    pub fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(&self.data)
    }

    /// Where the secrets lie that claygate makes itself.
    pub fn secret_file(&self, name: &str) -> PathBuf {
        self.data.join("secrets").join(name)
    }
}
