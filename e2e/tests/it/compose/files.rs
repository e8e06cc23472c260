//! docker-compose.yml against the program's own configuration, and against itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::config::{Config, Inspection, Locations, Role};

use super::document::{Condition, Document, Service, bytes, duration};
use super::machine::{Container, Machine};
use super::repository;

/// Ports of the servers' images.
const SERVERS: [(&str, &[u16]); 2] = [("postgres", &[5432]), ("rabbitmq", &[5672, 15672])];

/// The role of a service of ours by its command; `None`: it ends by itself.
fn role(service: &Service) -> Option<Role> {
    match &*service.command[0] {
        "ingest" => Some(Role::Ingest),
        "worker" => Some(Role::Worker),
        _ => None,
    }
}

/// What the program makes of a service's variables and files.
fn inspect(container: &Container, role: Role) -> Inspection {
    let environment = container.environment();
    let locations = Locations::resolve(None, None, &environment, Path::new("/"));
    Inspection::of(role, &locations, &environment)
}

/// The services that run, each with its configuration, after `init` has made the secrets.
pub(super) async fn configured() -> (Machine, Vec<(Container, Config)>) {
    let machine = Machine::new();
    let output = machine.container("init", 1).run_to_end().await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut configured = Vec::new();
    for (name, service) in machine.document.own() {
        let Some(role) = role(service) else { continue };
        let container = machine.container(name, 1);
        let inspection = inspect(&container, role);
        assert_eq!(inspection.warnings, [] as [&str; 0], "{name}");
        let config = inspection.config.unwrap_or_else(|error| panic!("{name}: {error}"));
        configured.push((container, config));
    }
    assert_eq!(configured.len(), 3);
    (machine, configured)
}

#[tokio::test]
async fn every_variable_is_a_setting_and_every_secret_is_one_that_init_makes() {
    let (machine, configured) = configured().await;
    for (container, config) in &configured {
        let name = &container.name;
        // Whoever is missing a password would have been told; these are the ones that the servers get.
        let text = |volume: &str, file: &str| std::fs::read_to_string(machine.volume(volume).join(file)).unwrap();
        let secret = |secret: &Option<secrecy::SecretString>| {
            secrecy::ExposeSecret::expose_secret(secret.as_ref().unwrap()).to_owned()
        };
        assert_eq!(secret(&config.database.password), text("postgres-password", "password").trim_end(), "{name}");
        let broker = text("rabbitmq-password", "90-claygate.conf");
        assert!(broker.ends_with(&format!("default_pass = {}\n", secret(&config.queue.password))), "{name}");
        assert!(broker.contains(&format!("default_user = {}\n", config.queue.url.as_ref().unwrap().username())));
        // Its own environment and nothing more: no variable in vain either.
        for variable in container.service.environment.keys() {
            assert!(variable.starts_with("CLAYGATE_"), "{name}: {variable}");
        }
    }
}

#[tokio::test]
async fn what_may_be_left_unset_is_a_setting_too() {
    let (machine, _) = configured().await;
    machine.write("ingest.env", "CLAYGATE_INGEST__PUBLIC_URL=https://leads.example.com\n");
    let container = machine.container("ingest", 2);
    let unset: Vec<&String> =
        container.service.environment.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
    assert_eq!(unset, ["CLAYGATE_INGEST__PUBLIC_URL"]);
    let config = inspect(&container, Role::Ingest).config.unwrap();
    assert_eq!(config.ingest.public_url.unwrap().as_str(), "https://leads.example.com/");
}

#[tokio::test]
async fn addresses_ports_and_paths_are_those_of_the_containers() {
    let (machine, configured) = configured().await;
    let document = &machine.document;
    for (container, config) in &configured {
        let service = &container.service;
        let url = config.database.url.as_ref().unwrap();
        let postgres = &document.services["postgres"];
        let of_postgres = |name: &str| postgres.environment[name].clone().unwrap();
        assert_eq!(url.username(), of_postgres("POSTGRES_USER"));
        assert_eq!(url.path(), format!("/{}", of_postgres("POSTGRES_DB")));
        for (url, port) in [(url, 5432), (config.queue.url.as_ref().unwrap(), 5672)] {
            assert_eq!(url.port(), Some(port), "{url}");
            let server = &document.services[url.host_str().unwrap()];
            assert!(!server.networks().is_disjoint(&service.networks()), "{}: {url} is out of reach", container.name);
        }
        // Only ports that somebody listens on are published.
        for port in &service.ports {
            assert_eq!(port.rsplit(':').next().unwrap(), config.ingest.listen.port().to_string());
        }
        assert_eq!(config.admin.listen.port(), 8081);
        assert_eq!(config.admin.listen.ip(), container.address, "the health check asks on every address");
        if role(service) == Some(Role::Ingest) {
            assert_eq!(config.ingest.listen.ip(), container.address);
            let spool = service.volumes.iter().find(|mount| container.path(&mount.target) == config.spool.dir).unwrap();
            assert!(!spool.read_only && spool.file().is_none());
        }
    }
    for (name, ports) in SERVERS {
        for port in &document.services[name].ports {
            let port: u16 = port.rsplit(':').next().unwrap().parse().unwrap();
            assert!(ports.contains(&port), "{name}: {port}");
        }
    }
}

#[tokio::test]
async fn times_and_sizes_fit_the_settings() {
    let (machine, configured) = configured().await;
    let mut connections = 0;
    for (container, config) in &configured {
        let service = &container.service;
        let grace = duration(service.stop_grace_period.as_deref().unwrap());
        let needed = if role(service) == Some(Role::Worker) {
            config.worker.drain
        } else {
            config.ingest.limits.body_timeout + config.ingest.limits.commit_timeout
        };
        assert!(grace > needed, "{}: {needed:?} would be cut off by {grace:?}", container.name);
        let memory = bytes(&service.deploy.resources.limits.memory);
        assert!(memory >= 4 * config.ingest.limits.in_flight_bytes as u64, "{}", container.name);
        // Beside the pool: writers, the doorbell, and what migrates.
        let replicas = if role(service) == Some(Role::Worker) { 4 } else { 1 };
        connections += replicas * (config.database.max_connections as usize + config.ingest.writers + 2);
    }
    let postgres = &machine.document.services["postgres"].command;
    let limit = postgres.iter().find_map(|word| word.strip_prefix("max_connections=")).unwrap();
    let limit: usize = limit.parse().unwrap();
    assert!(connections + 20 <= limit, "{connections} connections of claygate, {limit} of Postgres");
}

#[test]
fn services_wait_for_what_they_need_and_health_checks_exist() {
    let document = Document::read();
    for (name, service) in &document.services {
        for (other, dependency) in &service.depends_on {
            let other = &document.services[other];
            match dependency.condition {
                Condition::Healthy => assert!(other.healthcheck.is_some(), "{name}"),
                Condition::Completed => assert_eq!(other.restart, "no", "{name}"),
                Condition::Started => {}
            }
            let extra: Vec<&String> =
                other.profiles.iter().filter(|profile| !service.profiles.contains(profile)).collect();
            assert!(extra.is_empty(), "{name} needs a service of the profiles {extra:?}");
        }
        if name == "init" {
            assert_eq!((&*service.restart, service.network_mode.as_deref()), ("no", Some("none")));
            continue;
        }
        assert_eq!(service.restart, "unless-stopped", "{name}");
        if name != "caddy" {
            let init = service.depends_on.get("init").map(|found| found.condition);
            assert_eq!(init, Some(Condition::Completed), "{name} needs the secrets");
            let check = service.healthcheck.as_ref().unwrap();
            assert!(duration(&check.timeout) < duration(&check.interval), "{name}");
            assert!(duration(&check.start_interval) < duration(&check.start_period), "{name}");
        }
    }
    let on = |name: &str, other: &str| document.services[name].depends_on[other].condition;
    for server in ["postgres", "rabbitmq"] {
        assert_eq!(on("worker", server), Condition::Healthy);
        // The intake takes callbacks while Postgres is away, so it must not wait for it.
        assert_eq!(on("ingest", server), Condition::Started);
    }
    let postgres = document.services["postgres"].healthcheck.as_ref().unwrap();
    let variable = |name: &str| document.services["postgres"].environment[name].clone().unwrap();
    for word in [format!("--username={}", variable("POSTGRES_USER")), format!("--dbname={}", variable("POSTGRES_DB"))] {
        assert!(postgres.test.contains(&word), "{word}");
    }
    for (_, service) in document.own().filter(|(name, _)| *name != "init") {
        let check = service.healthcheck.as_ref().unwrap();
        assert_eq!(check.test, ["CMD", "claygate", "health"]);
    }
}

#[test]
fn only_ingest_is_public() {
    let document = Document::read();
    let public: BTreeSet<&str> = document
        .services
        .iter()
        .filter(|(_, service)| service.ports.iter().any(|port| !port.starts_with("127.0.0.1:")))
        .map(|(name, _)| &**name)
        .collect();
    assert_eq!(public, ["caddy", "ingest"].into());
    assert_eq!(document.services["caddy"].profiles, ["https"]);
    assert_eq!(document.services["ingest"].ports, ["8080:8080"]);
    // What must not be published stays in a network that the public side is not in.
    let caddy = document.services["caddy"].networks();
    for server in ["postgres", "rabbitmq", "worker"] {
        assert!(document.services[server].networks().is_disjoint(&caddy), "{server}");
    }
}

#[test]
fn whatever_is_named_exists_and_is_used() {
    let document = Document::read();
    let mounts = || document.services.iter().flat_map(|(name, service)| service.volumes.iter().map(move |m| (name, m)));
    let used: BTreeSet<&str> =
        mounts().filter(|(_, mount)| mount.file().is_none()).map(|(_, mount)| &*mount.source).collect();
    assert_eq!(used, document.volumes.keys().map(String::as_str).collect());
    let joined: BTreeSet<&str> = document.services.values().flat_map(Service::networks).collect();
    assert_eq!(joined, document.networks.keys().map(String::as_str).collect());
    for (name, mount) in mounts() {
        if let Some(file) = mount.file() {
            assert!(repository().join(file).is_file(), "{name}: {file} is not there");
            assert!(mount.read_only, "{name}: {file} could be changed");
        }
    }
    for (name, service) in &document.services {
        let targets: Vec<&str> = service.volumes.iter().map(|mount| &*mount.target).collect();
        let values = service.environment.values().flatten().chain(&service.command);
        for path in
            values.filter(|value| value.starts_with('/') && *value != "/services" && *value != "/var/lib/claygate")
        {
            assert!(
                targets.iter().any(|target| Path::new(path).starts_with(target)),
                "{name}: nothing is mounted where {path} is"
            );
        }
        let is_optional = |file: &super::document::EnvFile| !file.required && file.path.ends_with(".env");
        assert!(service.env_file.iter().all(is_optional), "{name}: `docker compose up` needs nothing prepared");
    }
}

#[test]
fn each_volume_belongs_to_whom_it_is_for() {
    let document = Document::read();
    let mut users: BTreeMap<&str, Vec<(&str, bool)>> = BTreeMap::new();
    for (name, service) in &document.services {
        for mount in service.volumes.iter().filter(|mount| mount.file().is_none()) {
            users.entry(&mount.source).or_default().push((name, mount.read_only));
        }
    }
    let readers = ["ingest", "ingest-2", "init", "worker"];
    assert_eq!(users["secrets"], readers.map(|name| (name, name != "init")));
    assert_eq!(users["postgres-password"], [("init", false), ("postgres", true)]);
    assert_eq!(users["rabbitmq-password"], [("init", false), ("rabbitmq", true)]);
    // A spool is locked by its process.
    assert_eq!(users["spool"], [("ingest", false)]);
    assert_eq!(users["spool-2"], [("ingest-2", false)]);

    let rabbitmq = &document.services["rabbitmq"];
    let of_conf = rabbitmq.volumes.iter().find(|mount| mount.target == "/etc/rabbitmq/conf.d").unwrap();
    assert!(of_conf.nocopy, "the image has files there, which would be copied into the volume before init writes it");
    assert_eq!(rabbitmq.hostname.as_deref(), Some("rabbitmq"), "its data lies in a folder named after the host");
}

#[test]
fn the_second_intake_is_the_first_with_a_spool_of_its_own() {
    let document = Document::read();
    let (first, second) = (&document.services["ingest"], &document.services["ingest-2"]);
    assert_eq!(second.profiles, ["ingest-2"]);
    assert_eq!(second.aliases("front"), ["ingest"], "Caddy reaches both by one name");
    assert_eq!((&first.command, &first.environment), (&second.command, &second.environment));
    assert_eq!(first.networks(), second.networks());
    let differ = first.volumes.iter().zip(&second.volumes).filter(|(one, other)| one != other);
    let differ: Vec<_> = differ.map(|(one, other)| (&*one.source, &*other.source)).collect();
    assert_eq!(differ, [("spool", "spool-2")]);
    // Scaling gives every replica the same ports and volumes: possible where there are none of its own.
    let worker = &document.services["worker"];
    assert!(worker.ports.is_empty() && worker.volumes.iter().all(|mount| mount.read_only));
}

#[test]
fn images_have_versions_and_containers_are_confined() {
    let document = Document::read();
    for (name, service) in &document.services {
        let (image, version) = service.image.split_once(':').unwrap_or_else(|| panic!("{name}: {}", service.image));
        assert!(version.starts_with(|digit: char| digit.is_ascii_digit()), "{name}: {version}");
        assert_eq!(image == "claygate", service.build.is_some(), "{name}");
        assert!(service.read_only, "{name}");
        assert_eq!(service.security_opt, ["no-new-privileges:true"], "{name}");
        assert_eq!(service.logging.driver, "local", "{name}: the default driver fills the disk");
        let limits = &service.deploy.resources.limits;
        assert!(bytes(&limits.memory) >= 128 << 20 && limits.pids >= 128, "{name}");
    }
    for (name, service) in document.own() {
        assert_eq!(service.image, format!("claygate:{}", env!("CARGO_PKG_VERSION")), "{name}");
        assert_eq!(service.build.as_deref(), Some("."), "{name}");
        assert!(service.tmpfs.is_empty(), "{name}");
        assert_eq!(service.cap_drop, ["ALL"], "{name}");
    }
    // What the servers write beside their volumes.
    for (name, folder) in [("postgres", "/var/run/postgresql"), ("rabbitmq", "/var/log/rabbitmq")] {
        assert!(document.services[name].tmpfs.iter().any(|tmpfs| tmpfs == folder), "{name}");
    }
}
