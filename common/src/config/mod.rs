//! The configuration: one file, overridden by `CLAYGATE_<SECTION>__<KEY>` variables.
//!
//! The structs of this module hold what is valid and nothing else; each setting is documented where it is declared: in
//! the tables ([`schema`]) that stand beside the structs they fill. Reading goes: the file's [`tree`], what is built
//! in ([`defaults`]), the variables ([`overrides`]), section by section ([`read`]), and last what has to hold between
//! settings ([`relations`]). Every problem is reported at once, and none of them shows a secret.

mod callback_url;
mod clay;
mod defaults;
mod destination_keys;
mod destinations;
mod filter;
mod http;
mod interpolation;
mod locations;
mod made_secrets;
mod operations;
mod overrides;
mod price;
#[cfg(test)]
mod problem_tests;
mod problems;
mod queue;
mod read;
mod read_lists;
mod read_secrets;
mod reference;
mod relations;
mod retention;
mod rules;
mod schema;
#[cfg(test)]
mod secret_tests;
mod show;
mod sources;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;
mod tree;
mod values;

pub use callback_url::{CallbackUrl, UrlSigner};
pub use clay::{ClayDestination, ClayWebhook, WebhookName};
pub use destinations::{
    Auth, Body, BreakerConfig, Destination, DestinationKind, HttpDestination, Rate, SlackDestination, StatusSet, Step,
};
pub use locations::{Environment, Locations};
pub use made_secrets::{Readers, make_secret, missing_secrets, write_once};
pub use operations::{
    AdminConfig, DatabaseConfig, IngestConfig, IngestLimits, SpoolConfig, TelemetryConfig, WorkerConfig,
};
pub use price::Price;
pub use problems::{ConfigError, Problem};
pub use queue::QueueConfig;
pub use reference::page as reference_page;
pub use rules::RuleConfig;
pub use show::to_toml;
pub use sources::{ActiveSecret, Changed, IdempotencyConfig, Source, Verification};
pub use tree::Origin;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use self::read::{Context, Reader};
use self::schema::{Key, Kind, Preset, Section};
use self::tree::Table;

/// Everything a process needs to know, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where Postgres is.
    pub database: DatabaseConfig,
    /// Where RabbitMQ is, if there is one.
    pub queue: QueueConfig,
    /// The public listener.
    pub ingest: IngestConfig,
    /// The local spool.
    pub spool: SpoolConfig,
    /// The worker.
    pub worker: WorkerConfig,
    /// The admin listener.
    pub admin: AdminConfig,
    /// Who may send callbacks, by name. In a process that receives none they have no verification.
    pub sources: BTreeMap<String, Source>,
    /// Where leads go, by name. In a process that sends nothing their URLs, tokens and headers are empty.
    pub destinations: BTreeMap<String, Destination>,
    /// The routing rules, in order.
    pub rules: Vec<RuleConfig>,
    /// How long what is stored is kept.
    pub retention: crate::retention::Policy,
    /// Logs.
    pub telemetry: TelemetryConfig,
    /// The data folder (`--data`), absolute.
    pub data: PathBuf,
    /// What a careful operator should know of this configuration (shown by `config check`, logged at start).
    pub warnings: Vec<String>,
}

/// What a process does, which decides about the sections whose variables and secret files it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything in one process.
    Up,
    /// Receives callbacks: needs no outbound tokens.
    Ingest,
    /// Routes and delivers: of the sources' secrets needs only those that sign callback URLs of rows.
    Worker,
    /// Looks and repairs: needs the database alone.
    Tool,
    /// Shows or plays a sender: needs the database and the sources' secrets.
    Sender,
}

/// One value in effect, for `config show`.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The section's path, for example `ingest.limits` or `rules[0]`.
    pub section: String,
    /// The key.
    pub key: String,
    /// The value as written, secrets as `"***"`; null: none, and `words` says what holds.
    pub shown: serde_json::Value,
    /// What holds where there is no value, for example `one per processor, at most 8`; else empty.
    pub words: &'static str,
    /// Where it comes from.
    pub origin: Origin,
}

/// A configuration with everything that can be said about it.
#[derive(Debug)]
pub struct Inspection {
    /// The configuration, or everything that has to be changed.
    pub config: Result<Config, ConfigError>,
    /// Every value in effect, in the order of the sections.
    pub settings: Vec<Setting>,
    /// As in [`Config::warnings`], also where there is no configuration.
    pub warnings: Vec<String>,
}

static ROOT: Section = Section {
    title: "",
    doc: "",
    keys: &[
        Key::new("database", Kind::Table(&operations::DATABASE), Preset::Said(""), ""),
        Key::new("queue", Kind::Table(&queue::QUEUE), Preset::Said(""), ""),
        Key::new("ingest", Kind::Table(&operations::INGEST), Preset::Said(""), ""),
        Key::new("spool", Kind::Table(&operations::SPOOL), Preset::Said(""), ""),
        Key::new("worker", Kind::Table(&operations::WORKER), Preset::Said(""), ""),
        Key::new("admin", Kind::Table(&operations::ADMIN), Preset::Said(""), ""),
        Key::new("sources", Kind::Named(&sources::SOURCE), Preset::Said(""), ""),
        Key::new("destinations", Kind::Named(&destination_keys::DESTINATION), Preset::Said(""), ""),
        Key::new("rules", Kind::Tables(&rules::RULE), Preset::Said(""), ""),
        Key::new("retention", Kind::Table(&retention::RETENTION), Preset::Said(""), ""),
        Key::new("telemetry", Kind::Table(&operations::TELEMETRY), Preset::Said(""), ""),
    ],
};

/// The largest configuration file.
const FILE_BYTES_MAX: u64 = 4 << 20;

impl Role {
    /// Whether a process of this role needs the variables and secret files of a section.
    fn uses(self, section: &str) -> bool {
        match self {
            Self::Up => true,
            Self::Ingest => !matches!(section, "worker" | "destinations" | "rules"),
            Self::Worker => !matches!(section, "ingest" | "spool" | "sources"),
            Self::Tool => matches!(section, "database" | "telemetry" | "retention"),
            Self::Sender => matches!(section, "database" | "telemetry" | "ingest" | "sources"),
        }
    }
}

impl Config {
    /// Reads the file at `locations` (none: what is built in) under the variables of `environment`.
    ///
    /// # Errors
    /// Everything that has to be changed, at once.
    pub fn load(role: Role, locations: &Locations, environment: &Environment) -> Result<Self, ConfigError> {
        Inspection::of(role, locations, environment).config
    }

    /// Reads a configuration that is in memory. The data folder is `CLAYGATE_DATA` of `environment`, else
    /// `claygate-data` in the working folder.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_toml(role: Role, text: &str, environment: &Environment) -> Result<Self, ConfigError> {
        let locations = Locations::of_process(None, None, environment).map_err(|error| {
            ConfigError::whole(String::new(), format!("the working folder cannot be read: {error}"))
        })?;
        interpret(role, Some(text), &locations, environment, false).config
    }
}

impl Inspection {
    /// Reads as [`Config::load`] and keeps what there is to say.
    pub fn of(role: Role, locations: &Locations, environment: &Environment) -> Self {
        Self::with(role, locations, environment, false)
    }

    /// As [`Inspection::of`], of a configuration whose missing secrets `claygate up` is yet to make.
    pub fn before_first_start(role: Role, locations: &Locations, environment: &Environment) -> Self {
        Self::with(role, locations, environment, role == Role::Up)
    }

    fn with(role: Role, locations: &Locations, environment: &Environment, secrets_are_made: bool) -> Self {
        match read_file(locations) {
            Ok(text) => interpret(role, text.as_deref(), locations, environment, secrets_are_made),
            Err(error) => Self { config: Err(error), settings: Vec::new(), warnings: Vec::new() },
        }
    }
}

/// The file's text; `None` where there is none and none was asked for.
fn read_file(locations: &Locations) -> Result<Option<String>, ConfigError> {
    let shown = locations.file.display();
    let refused = |what: String| Err(ConfigError::whole(String::new(), what));
    match std::fs::metadata(&locations.file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !locations.file_is_explicit => return Ok(None),
        Err(error) => return refused(format!("the configuration file {shown} cannot be read: {error}")),
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return refused(format!("the configuration file {shown} is larger than 4 MiB"));
        }
        Ok(_) => {}
    }
    match std::fs::read_to_string(&locations.file) {
        Ok(text) => Ok(Some(text)),
        Err(error) => refused(format!("the configuration file {shown} cannot be read: {error}")),
    }
}

/// The tree of `text` with what is built in; `None`: no file.
fn build_tree(text: Option<&str>, environment: &Environment) -> Result<Table, ConfigError> {
    let mut tree = tree::parse(text.unwrap_or_default())?;
    defaults::complete(&mut tree, text.is_some(), environment);
    Ok(tree)
}

fn interpret(
    role: Role,
    text: Option<&str>,
    locations: &Locations,
    environment: &Environment,
    secrets_are_made: bool,
) -> Inspection {
    let mut tree = match build_tree(text, environment) {
        Ok(tree) => tree,
        Err(error) => return Inspection { config: Err(error), settings: Vec::new(), warnings: Vec::new() },
    };
    let misplaced = overrides::apply(&mut tree, &ROOT, environment);
    let context = Context::new(environment, locations.folder(), secrets_are_made);
    context.problems.borrow_mut().extend(misplaced);
    let mut config = read_config(role, &tree, &locations.data, &context);
    callback_url::resolve(&mut config, role, &context);
    relations::check(&config, role, &context);
    let problems = context.problems.into_inner();
    let warnings = context.warnings.into_inner();
    config.warnings.clone_from(&warnings);
    Inspection {
        config: if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) },
        settings: in_order(context.settings.into_inner()),
        warnings,
    }
}

/// Sections in the order in which they were read, keys in the order of their tables.
fn in_order(noted: Vec<(usize, Setting)>) -> Vec<Setting> {
    let mut sections: Vec<Vec<(usize, Setting)>> = Vec::new();
    for (position, setting) in noted {
        let same =
            |section: &&mut Vec<(usize, Setting)>| section.iter().any(|(_, other)| other.section == setting.section);
        match sections.iter_mut().find(same) {
            Some(section) => section.push((position, setting)),
            None => sections.push(vec![(position, setting)]),
        }
    }
    sections.iter_mut().for_each(|section| section.sort_by_key(|(position, _)| *position));
    sections.into_iter().flatten().map(|(_, setting)| setting).collect()
}

fn read_config(role: Role, tree: &Table, data: &Path, context: &Context<'_>) -> Config {
    let root = Reader::new(context, &ROOT, Some(tree), "", true);
    root.check_keys(None);
    let section = |name: &'static str| root.clone().with_strict(role.uses(name)).table(name);
    let named = |name: &'static str| root.clone().with_strict(role.uses(name)).named(name);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let made_token = data.join("secrets").join("admin");
    let database = operations::read_database(&section("database"));
    let queue = queue::read_queue(&section("queue"));
    let ingest = operations::read_ingest(&section("ingest"), processors);
    let spool = operations::read_spool(&section("spool"), data);
    let worker = operations::read_worker(&section("worker"));
    let admin = operations::read_admin(&section("admin"), (role == Role::Up).then_some(&*made_token));
    let signing = if role.uses("destinations") { callback_url::signing_sources(tree) } else { BTreeSet::new() };
    let sources: BTreeMap<_, _> = named("sources")
        .into_iter()
        .map(|(name, reader)| (name.clone(), sources::read_source(&name, &reader, data, signing.contains(&name))))
        .collect();
    let destinations: BTreeMap<_, _> = named("destinations")
        .into_iter()
        .map(|(name, reader)| (name.clone(), destinations::read_destination(&name, &reader)))
        .collect();
    let rules = if root.has("rules") {
        let mut names = Vec::new();
        let tables = root.clone().with_strict(role.uses("rules")).tables("rules");
        tables.iter().map(|reader| rules::read_rule(reader, &mut names)).collect()
    } else {
        let rules = defaults::rules(|name| destinations.contains_key(name));
        rules::note_built_in(&rules, context);
        rules
    };
    let retention = retention::read_retention(&section("retention"));
    let telemetry = operations::read_telemetry(&section("telemetry"));
    Config {
        database,
        queue,
        ingest,
        spool,
        worker,
        admin,
        sources,
        destinations,
        rules,
        retention,
        telemetry,
        data: data.to_owned(),
        warnings: Vec::new(),
    }
}
