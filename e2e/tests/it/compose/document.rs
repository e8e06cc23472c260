//! docker-compose.yml as Compose reads it: merged, with its variables filled in. A key that nobody here knows is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_norway::Value;

use super::repository;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(rename = "name")]
    _name: String,
    pub(super) services: BTreeMap<String, Service>,
    pub(super) networks: BTreeMap<String, Value>,
    pub(super) volumes: BTreeMap<String, Value>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub(super) image: String,
    pub(super) build: Option<String>,
    pub(super) user: Option<String>,
    #[serde(default)]
    pub(super) command: Vec<String>,
    #[serde(default)]
    pub(super) environment: BTreeMap<String, Option<String>>,
    #[serde(default)]
    pub(super) env_file: Vec<EnvFile>,
    #[serde(default)]
    pub(super) volumes: Vec<Mount>,
    #[serde(default)]
    pub(super) tmpfs: Vec<String>,
    #[serde(default)]
    pub(super) ports: Vec<String>,
    #[serde(default)]
    networks: Networks,
    pub(super) network_mode: Option<String>,
    pub(super) hostname: Option<String>,
    #[serde(default)]
    pub(super) profiles: Vec<String>,
    #[serde(default)]
    pub(super) depends_on: BTreeMap<String, Dependency>,
    pub(super) healthcheck: Option<HealthCheck>,
    pub(super) restart: String,
    pub(super) stop_grace_period: Option<String>,
    #[serde(default)]
    pub(super) read_only: bool,
    #[serde(default)]
    pub(super) cap_drop: Vec<String>,
    #[serde(default)]
    pub(super) security_opt: Vec<String>,
    pub(super) logging: Logging,
    pub(super) deploy: Deploy,
    #[serde(rename = "shm_size")]
    _shm_size: Option<String>,
    #[serde(default, rename = "ulimits")]
    _ulimits: BTreeMap<String, u32>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvFile {
    pub(super) path: String,
    pub(super) required: bool,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dependency {
    pub(super) condition: Condition,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(super) enum Condition {
    #[serde(rename = "service_started")]
    Started,
    #[serde(rename = "service_healthy")]
    Healthy,
    #[serde(rename = "service_completed_successfully")]
    Completed,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthCheck {
    pub(super) test: Vec<String>,
    pub(super) interval: String,
    pub(super) timeout: String,
    #[serde(rename = "retries")]
    _retries: u32,
    pub(super) start_period: String,
    pub(super) start_interval: String,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Logging {
    pub(super) driver: String,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deploy {
    pub(super) resources: Resources,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resources {
    pub(super) limits: Limits,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) memory: String,
    pub(super) pids: u32,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Networks {
    Plain(BTreeSet<String>),
    WithAliases(BTreeMap<String, Attachment>),
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attachment {
    #[serde(default)]
    aliases: Vec<String>,
}

impl Default for Networks {
    fn default() -> Self {
        Self::Plain(BTreeSet::new())
    }
}

/// One entry of `volumes`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(from = "WrittenMount")]
pub(super) struct Mount {
    /// A volume's name, or a file of the repository as `./path`.
    pub(super) source: String,
    pub(super) target: String,
    pub(super) read_only: bool,
    /// What the image has at `target` stays out of a fresh volume.
    pub(super) nocopy: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenMount {
    Short(String),
    Long(LongMount),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LongMount {
    #[serde(rename = "type")]
    kind: String,
    source: String,
    target: String,
    read_only: bool,
    volume: VolumeOptions,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeOptions {
    nocopy: bool,
}

impl From<WrittenMount> for Mount {
    fn from(written: WrittenMount) -> Self {
        match written {
            WrittenMount::Short(text) => {
                let parts: Vec<&str> = text.split(':').collect();
                let (source, target, mode) = match parts[..] {
                    [source, target] => (source, target, None),
                    [source, target, mode] => (source, target, Some(mode)),
                    _ => panic!("{text} is no volume"),
                };
                assert!(matches!(mode, None | Some("ro")), "{text}");
                Self { source: source.to_owned(), target: target.to_owned(), read_only: mode.is_some(), nocopy: false }
            }
            WrittenMount::Long(LongMount { kind, source, target, read_only, volume }) => {
                assert_eq!(kind, "volume");
                Self { source, target, read_only, nocopy: volume.nocopy }
            }
        }
    }
}

impl Mount {
    /// The file of the repository that is mounted; `None`: a volume.
    pub(super) fn file(&self) -> Option<&str> {
        self.source.strip_prefix("./")
    }
}

impl Document {
    /// The repository's file, with nothing in the environment.
    pub(super) fn read() -> Self {
        let text = std::fs::read_to_string(repository().join("docker-compose.yml")).unwrap();
        let mut value: Value = serde_norway::from_str(&interpolate(&text)).unwrap();
        while has_merge(&value) {
            value.apply_merge().unwrap();
        }
        let Value::Mapping(mapping) = &mut value else { panic!("no mapping") };
        mapping.retain(|key, _| !key.as_str().is_some_and(|key| key.starts_with("x-")));
        serde_norway::from_value(value).unwrap()
    }

    /// The services that run our own programs.
    pub(super) fn own(&self) -> impl Iterator<Item = (&str, &Service)> {
        self.services.iter().filter(|(_, service)| service.build.is_some()).map(|(name, service)| (&**name, service))
    }
}

impl Service {
    /// Names of its networks.
    pub(super) fn networks(&self) -> BTreeSet<&str> {
        match &self.networks {
            Networks::Plain(names) => names.iter().map(String::as_str).collect(),
            Networks::WithAliases(attachments) => attachments.keys().map(String::as_str).collect(),
        }
    }

    /// Names under which others in `network` reach it, beside its own.
    pub(super) fn aliases(&self, network: &str) -> &[String] {
        match &self.networks {
            Networks::WithAliases(attachments) => attachments.get(network).map_or(&[], |found| &found.aliases),
            Networks::Plain(_) => &[],
        }
    }

    /// Its variables that have a value, with those of its files in `folder`, which the file's own override.
    pub(super) fn variables(&self, folder: &std::path::Path) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::new();
        for file in &self.env_file {
            let text = std::fs::read_to_string(folder.join(&file.path)).unwrap_or_default();
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            variables.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        let own = self.environment.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        variables.extend(own);
        variables
    }
}

/// A duration such as `45s` or `2m`.
pub(super) fn duration(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        _ => panic!("{text} is no duration"),
    };
    Duration::from_secs(number.parse::<u64>().unwrap() * seconds)
}

/// A size such as `512M` in bytes.
pub(super) fn bytes(text: &str) -> u64 {
    let (number, unit) = text.split_at(text.len() - 1);
    let unit = match unit {
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => panic!("{text} is no size"),
    };
    number.parse::<u64>().unwrap() * unit
}

/// Fills in `${NAME:-default}` with the default. Comments have variables too; they do not count.
fn interpolate(text: &str) -> String {
    let mut filled = String::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("${") {
            let (variable, behind) = after.split_once('}').unwrap_or_else(|| panic!("{line}"));
            let (_, default) = variable.split_once(":-").unwrap_or_else(|| panic!("{line}: without a default"));
            filled.push_str(before);
            filled.push_str(default);
            rest = behind;
        }
        filled.push_str(rest);
        filled.push('\n');
    }
    filled
}

fn has_merge(value: &Value) -> bool {
    match value {
        Value::Mapping(mapping) => mapping.iter().any(|(key, value)| key.as_str() == Some("<<") || has_merge(value)),
        Value::Sequence(values) => values.iter().any(has_merge),
        _ => false,
    }
}
