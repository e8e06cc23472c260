//! `CLAYGATE_<SECTION>__<KEY>` variables, put over the file's tree.
//!
//! A variable's name is the setting's path in upper case, with `__` between its parts and `_` for `-`. Sources and
//! destinations have to exist (in the file or among the built-in ones): a misspelt name would otherwise make a new one.

use std::collections::BTreeMap;

use super::schema::{Key, Kind, Section, nearest};
use super::tree::{Node, Origin, Table, Value};
use super::{Environment, Problem};

/// Variables that are no settings.
pub(super) const RESERVED: [&str; 3] = ["CLAYGATE_CONFIG", "CLAYGATE_DATA", "CLAYGATE_PG_BIN"];

const PREFIX: &str = "CLAYGATE_";

/// For the test kit; never settings.
const TEST_PREFIX: &str = "CLAYGATE_TEST_";

/// Puts the variables of `environment` over `tree`; answers what is wrong with them.
pub(super) fn apply(tree: &mut Table, root: &'static Section, environment: &Environment) -> Vec<Problem> {
    let mut targets = BTreeMap::new();
    collect(root, Some(tree), &mut Vec::new(), &mut targets);
    let mut problems = Vec::new();
    for (variable, value) in environment.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        if RESERVED.contains(&variable) || variable.starts_with(TEST_PREFIX) || is_service_link(variable, value) {
            continue;
        }
        let problem =
            |path: &[String], what: String| Problem { path: path.join("."), place: variable.to_owned(), what };
        match targets.get(variable).map(Vec::as_slice) {
            None => problems.push(problem(&[], unknown(variable, &targets))),
            Some([target, other, ..]) => problems.push(problem(
                &[],
                format!("could mean {} or {}: rename one of them", target.path.join("."), other.path.join(".")),
            )),
            Some([]) => {}
            Some([target]) if !target.is_settable() => problems.push(problem(
                &target.path,
                format!(
                    "{} cannot be set by a variable: write it into the file, where a string may be \"${{VARIABLE}}\"",
                    target.key.kind.describe()
                ),
            )),
            Some([target]) if value.trim().is_empty() => {
                problems.push(problem(&target.path, "is set but empty: give it a value or unset it".to_owned()));
            }
            Some([target]) => put(tree, target, variable, value),
        }
    }
    problems
}

/// Kubernetes describes every service of a namespace to every pod: one named `claygate-ingest` by
/// `CLAYGATE_INGEST_SERVICE_HOST`, `CLAYGATE_INGEST_PORT=tcp://…`, `CLAYGATE_INGEST_PORT_8080_TCP_ADDR` and the like.
fn is_service_link(variable: &str, value: &str) -> bool {
    let is_address = value.starts_with("tcp://") || value.starts_with("udp://") || value.starts_with("sctp://");
    let describes_port = variable.rsplit_once("_PORT_").is_some_and(|(_, port)| {
        let mut parts = port.split('_');
        parts.next().is_some_and(|number| number.parse::<u16>().is_ok())
            && parts.next().is_some_and(|protocol| matches!(protocol, "TCP" | "UDP" | "SCTP"))
    });
    let names_service = variable.ends_with("_SERVICE_HOST") || variable.contains("_SERVICE_PORT");
    !variable.contains("__") && (names_service || describes_port || variable.ends_with("_PORT") && is_address)
}

/// A setting that a variable can stand for.
struct Target {
    path: Vec<String>,
    key: &'static Key,
    /// The variable names the file of a secret.
    is_file: bool,
}

impl Target {
    /// Whether a variable can hold it. What is not supported yet is refused where it is read.
    fn is_settable(&self) -> bool {
        self.is_file || self.key.kind.is_scalar() || matches!(self.key.kind, Kind::NotYet(_))
    }
}

type Targets = BTreeMap<String, Vec<Target>>;

fn collect(section: &'static Section, table: Option<&Table>, path: &mut Vec<String>, targets: &mut Targets) {
    for key in section.keys {
        let node = table.and_then(|table| table.get(key.name)).map(|node| &node.value);
        let inner = match node {
            Some(Value::Table(table)) => Some(table),
            _ => None,
        };
        path.push(key.name.to_owned());
        match key.kind {
            Kind::Table(section) => collect(section, inner, path, targets),
            Kind::Named(section) => {
                for (name, node) in inner.into_iter().flatten() {
                    let Value::Table(table) = &node.value else { continue };
                    path.push(name.clone());
                    collect(section, Some(table), path, targets);
                    path.pop();
                }
            }
            _ => {
                insert(targets, path, key, false);
                if key.takes_file()
                    && let Some(last) = path.last_mut()
                {
                    last.push_str("_file");
                    insert(targets, path, key, true);
                }
            }
        }
        path.pop();
    }
}

fn insert(targets: &mut Targets, path: &[String], key: &'static Key, is_file: bool) {
    let name = format!("{PREFIX}{}", path.join("__").replace('-', "_").to_ascii_uppercase());
    targets.entry(name).or_default().push(Target { path: path.to_vec(), key, is_file });
}

fn unknown(variable: &str, targets: &Targets) -> String {
    // Compared without the prefix, which every name shares and which would make anything look alike.
    let known = targets.keys().map(String::as_str).chain(RESERVED).map(without_prefix);
    if let Some(name) = nearest(without_prefix(variable), known) {
        return format!("unknown variable; did you mean {PREFIX}{name}?");
    }
    // The key alone, its section forgotten.
    let ending = format!("__{}", without_prefix(variable));
    let meant: Vec<&str> = targets.keys().map(String::as_str).filter(|name| name.ends_with(&ending)).collect();
    if meant.is_empty() {
        return "unknown variable (a setting is CLAYGATE_<SECTION>__<KEY>; docs/configuration.md lists them)"
            .to_owned();
    }
    format!("unknown variable; did you mean {}?", meant.join(" or "))
}

fn without_prefix(variable: &str) -> &str {
    variable.strip_prefix(PREFIX).unwrap_or(variable)
}

fn put(tree: &mut Table, target: &Target, variable: &str, value: &str) {
    let origin = Origin::Variable(variable.to_owned());
    let Some((last, parents)) = target.path.split_last() else { return };
    let mut table = tree;
    for parent in parents {
        let node = table
            .entry(parent.clone())
            .or_insert_with(|| Node { value: Value::Table(Table::new()), origin: origin.clone() });
        // Something else in a table's place is reported when the tree is read.
        let Value::Table(inner) = &mut node.value else { return };
        table = inner;
    }
    // A secret given by a variable replaces one in a file, and the other way round.
    if target.key.takes_file() {
        table.remove(target.key.name);
        table.remove(&format!("{}_file", target.key.name));
    }
    table.insert(last.clone(), Node { value: Value::Text(value.to_owned()), origin });
}
