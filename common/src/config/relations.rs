//! What has to hold between settings. Each message says what to change.

use std::collections::BTreeMap;
use std::time::Duration;

use super::read::Context;
use super::{Config, DestinationKind, Role, values};
use crate::retention::What;
use crate::rules::RuleSet;

pub(super) fn check(config: &Config, role: Role, context: &Context<'_>) {
    let report = |path: &str, what: String| context.problem(path, String::new(), what);
    check_database(config, role, &report);
    check_ingest(config, role, &report);
    check_paths(config, &report);
    super::clay::check_pools(&config.destinations, &report);
    check_retention(config, &report);
    check_rules(config, role, context, &report);
}

type Report<'a> = &'a dyn Fn(&str, String);

fn check_database(config: &Config, role: Role, report: Report<'_>) {
    if config.database.url.is_none() && matches!(role, Role::Ingest | Role::Worker) {
        report(
            "database.url",
            "is missing: only `claygate up` brings its own Postgres; set it here or as CLAYGATE_DATABASE__URL"
                .to_owned(),
        );
    }
    let (writers, connections) = (config.ingest.writers, config.database.max_connections as usize);
    // Each writer holds its connection; repeats, the sweepers and the console need some too.
    if matches!(role, Role::Up | Role::Ingest) && writers > 0 && connections > 0 && writers + 2 > connections {
        report(
            "database.max_connections",
            format!(
                "{connections} is too few for ingest.writers = {writers}: raise it to {} or lower writers",
                writers + 2
            ),
        );
    }
}

fn check_ingest(config: &Config, role: Role, report: Report<'_>) {
    let largest = config.sources.values().filter_map(|source| source.max_body_bytes);
    let largest = largest.chain([config.ingest.max_body_bytes]).max().unwrap_or_default();
    let in_flight = config.ingest.limits.in_flight_bytes;
    if in_flight > 0 && in_flight < largest {
        report(
            "ingest.limits.in_flight_bytes",
            format!(
                "{in_flight} bytes is below the largest max_body ({largest} bytes), which could then never be taken: raise it"
            ),
        );
    }
    let (ingest, admin) = (config.ingest.listen, config.admin.listen);
    if role == Role::Up && ingest.port() != 0 && ingest.port() == admin.port() && ingest.ip() == admin.ip() {
        report("admin.listen", format!("is the address of ingest.listen ({admin}): give it another port"));
    }
}

fn check_paths(config: &Config, report: Report<'_>) {
    let mut paths: BTreeMap<&str, &str> = BTreeMap::new();
    for source in config.sources.values().filter(|source| !source.path.is_empty()) {
        if let Some(other) = paths.insert(&source.path, &source.name) {
            report(
                &format!("sources.{}.path", source.name),
                format!("\"{}\" is the path of source `{other}` too: give each its own", source.path),
            );
        }
    }
}

/// Nothing outlives the keys: the callback that it belongs to would be gone.
fn check_retention(config: &Config, report: Report<'_>) {
    let Some(keys) = config.retention.keys else { return };
    let days = |time: Duration| values::format_duration(time);
    for what in What::ALL {
        if let Some(own) = config.retention.own(what).filter(|own| *own > keys) {
            report(
                &format!("retention.{}", what.as_str()),
                format!(
                    "{} is longer than retention.keys ({}), with which everything goes: shorten it or keep keys longer",
                    days(own),
                    days(keys)
                ),
            );
        }
    }
    for (name, destination) in &config.destinations {
        if let Some(once_per) = destination.once_per.filter(|once_per| *once_per > keys) {
            report(
                &format!("destinations.{name}.once_per"),
                format!(
                    "{} is longer than retention.keys ({}), after which nobody knows whom it was sent: keep keys longer",
                    days(once_per),
                    days(keys)
                ),
            );
        }
    }
}

fn check_rules(config: &Config, role: Role, context: &Context<'_>, report: Report<'_>) {
    // Rules that could not be read would only be reported a second time.
    let are_read = !context.problems.borrow().iter().any(|problem| problem.path.starts_with("rules"));
    if !are_read || !role.uses("rules") {
        return;
    }
    let names = |names: &mut dyn Iterator<Item = &String>| names.cloned().collect::<Vec<_>>();
    let (destinations, sources) = (names(&mut config.destinations.keys()), names(&mut config.sources.keys()));
    match RuleSet::compile(&config.rules, &destinations, &sources) {
        Ok(rules) => {
            let declared = config.sources.values().flat_map(|source| source.fields.keys()).map(String::as_str);
            rules.warn_undeclared_fields(declared).into_iter().for_each(|warning| context.warn(warning));
        }
        Err(problems) => {
            problems.into_iter().for_each(|problem| report(&format!("rules.{}", problem.rule), problem.what));
        }
    }
    if config.rules.is_empty() {
        context.warn("rules: there is none, so every lead is skipped".to_owned());
    }
    for (name, destination) in &config.destinations {
        // Rows are handed in, too.
        let needs_a_rule = !matches!(destination.kind, DestinationKind::Clay(_));
        if needs_a_rule && !config.rules.iter().any(|rule| rule.to.contains(name)) {
            context.warn(format!("destinations.{name}: no rule sends anything here"));
        }
    }
}
