//! The services as Compose would start them: from `init` to a callback that reaches its destination, over a private
//! Postgres and a private RabbitMQ, which take their passwords from the volumes as the images do at their first start.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::path::Path;

use embedded::{Cluster, Home, Lock, Settings};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;
use testkit::rabbitmq::OwnBroker;
use testkit::receiver::Receiver;
use testkit::wait::wait_for;

use super::document::{Condition, duration};
use super::machine::{Container, Machine, Process};
use crate::site::LIMIT;

/// What `docker compose --profile ingest-2 up --scale worker=3` runs.
const REPLICAS: [(&str, usize); 3] = [("ingest", 1), ("ingest-2", 1), ("worker", 3)];

/// The servers that our services reach by the names `postgres` and `rabbitmq`.
struct Servers {
    cluster: Cluster,
    broker: OwnBroker,
    _lock: Lock,
    _folder: TempDir,
}

impl Servers {
    async fn start() -> Self {
        let postgres = tokio::task::spawn_blocking(|| {
            let folder = tempfile::Builder::new().prefix("claygate-test-").tempdir().unwrap();
            let lock = Lock::take(folder.path(), "a test").unwrap();
            let cluster = Cluster::start(&Settings::throw_away(Home::temporary(folder.path()).unwrap())).unwrap();
            (cluster, lock, folder)
        });
        let (postgres, broker) = tokio::join!(postgres, OwnBroker::start());
        let (cluster, lock, folder) = postgres.unwrap();
        Self { cluster, broker, _lock: lock, _folder: folder }
    }

    fn hosts(&self) -> BTreeMap<String, String> {
        let place = |port: u16| format!("127.0.0.1:{port}");
        [("postgres:5432", self.cluster.port()), ("rabbitmq:5672", self.broker.port())]
            .map(|(name, port)| (name.to_owned(), place(port)))
            .into()
    }

    /// Sets the password that the image would set.
    async fn prepare_postgres(&self, container: &Container) {
        let variables = container.variables();
        assert_eq!((&*variables["POSTGRES_USER"], &*variables["POSTGRES_DB"]), (embedded::USER, embedded::DATABASE));
        let password = read(Path::new(&variables["POSTGRES_PASSWORD_FILE"]));
        let (user, own) = (embedded::USER, self.cluster.password());
        let url = format!("postgres://{user}:{own}@127.0.0.1:{}/{}", self.cluster.port(), embedded::DATABASE);
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let statement = AssertSqlSafe(format!("ALTER ROLE {user} PASSWORD '{}'", password.trim_end()));
        connection.execute(sqlx::raw_sql(statement)).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Makes the user that RabbitMQ would make of its configuration.
    async fn prepare_rabbitmq(&self, container: &Container) {
        let text = read(&container.path("/etc/rabbitmq/conf.d/90-claygate.conf"));
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap();
        let user = value("default_user");
        self.broker.ctl(&["add_user", user, value("default_pass")]).await;
        self.broker.ctl(&["set_permissions", "--vhost", "/", user, ".*", ".*", ".*"]).await;
    }
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Waits until the health check of a service says that it is healthy.
async fn wait_until_healthy(container: &Container) {
    let check = container.service.healthcheck.as_ref().unwrap();
    let limit = duration(&check.start_period) + duration(&check.interval);
    wait_for(&format!("{} to be healthy", container.name), limit.min(LIMIT), || container.check_health()).await;
}

/// Starts every service once what it depends on is as far as the file demands, in the order that this gives.
async fn compose_up(machine: &Machine, servers: &Servers) -> Vec<Process> {
    let mut running: BTreeMap<String, Vec<Process>> = BTreeMap::new();
    let mut order: Vec<&str> = vec!["init"];
    let wanted = ["postgres", "rabbitmq"].into_iter().chain(REPLICAS.map(|(name, _)| name));
    let mut waiting: Vec<&str> = wanted.collect();
    while !waiting.is_empty() {
        let is_ready = |name: &&str| {
            machine.document.services[*name].depends_on.keys().all(|other| order.contains(&other.as_str()))
        };
        let ready: Vec<&str> = waiting.iter().copied().filter(is_ready).collect();
        assert!(!ready.is_empty(), "{waiting:?} wait for each other, or for what is not started");
        waiting.retain(|name| !ready.contains(name));
        order.extend(ready);
    }
    for name in order {
        let service = &machine.document.services[name];
        for (other, dependency) in &service.depends_on {
            let is_healthy = dependency.condition == Condition::Healthy;
            for process in running.get(other).into_iter().flatten().filter(|_| is_healthy) {
                wait_until_healthy(&process.container).await;
            }
        }
        match name {
            "init" => {
                let output = machine.container(name, 1).run_to_end().await;
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                machine.close_read_only_volumes();
            }
            "postgres" => servers.prepare_postgres(&machine.container(name, 1)).await,
            "rabbitmq" => servers.prepare_rabbitmq(&machine.container(name, 1)).await,
            _ => {
                let (_, replicas) = REPLICAS.into_iter().find(|(known, _)| *known == name).unwrap();
                let start = |replica| machine.container(name, replica).start();
                running.insert(name.to_owned(), (1..=replicas).map(start).collect());
            }
        }
    }
    running.into_values().flatten().collect()
}

/// The first replica of a service.
fn of<'p>(processes: &'p [Process], service: &str) -> &'p Container {
    let name = format!("{service}-1");
    &processes.iter().find(|process| process.container.name == name).unwrap().container
}

/// Sends a lead as Clay does, and answers the id.
async fn send(machine: &Machine, intake: &Container, email: &str) -> String {
    let secret = read(&machine.volume("secrets").join("clay"));
    let answer = testkit::http::client()
        .post(format!("http://{}:8080/api/clay/enriched", intake.address))
        .header("X-Clay-Signature", secret.trim_end())
        .header("Content-Type", "application/json")
        .body(json!({ "email": email, "icp_score": 85 }).to_string())
        .send()
        .await
        .unwrap();
    let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap());
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["status"]), (200, &json!("accepted")), "{body}");
    body["id"].as_str().unwrap().to_owned()
}

/// What a volume holds.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_prepared_and_a_lead_arrives() {
    let receiver = Receiver::start().await;
    let servers = Servers::start().await;
    let mut machine = Machine::new();
    machine.hosts = servers.hosts();
    // All that a user sets: where leads go.
    machine.write(
        "worker.env",
        &format!(
            "CLAYGATE_DESTINATIONS__OUTREACH__KIND=http\nCLAYGATE_DESTINATIONS__OUTREACH__URL={}\n\
             CLAYGATE_DESTINATIONS__OUTREACH__ALLOW_PRIVATE=true\n",
            receiver.url("/leads")
        ),
    );
    let processes = compose_up(&machine, &servers).await;
    for process in &processes {
        wait_until_healthy(&process.container).await;
    }

    // Through either intake, over RabbitMQ, to the destination.
    let emails = ["ada@example.com", "grace@example.com"];
    let (first, second) = (of(&processes, "ingest"), of(&processes, "ingest-2"));
    let ids = [send(&machine, first, emails[0]).await, send(&machine, second, emails[1]).await];
    let mut sent: Vec<Value> =
        receiver.wait_for_requests(2).await.iter().map(|request| request.json()["email"].clone()).collect();
    sent.sort_by_key(Value::to_string);
    assert_eq!(sent, emails);
    wait_for("each worker to consume", LIMIT, async || {
        let queues = servers.broker.ctl(&["list_queues", "name", "consumers"]).await;
        if queues.lines().any(|line| line == "claygate.deliver.outreach\t3") { Ok(()) } else { Err(queues) }
    })
    .await;

    // What docs/production.md lets an operator type.
    let worker = of(&processes, "worker");
    let column = first.run(&["claygate", "column", "clay"]).await;
    let secret = read(&machine.volume("secrets").join("clay"));
    assert!(String::from_utf8_lossy(&column.stdout).contains(secret.trim_end()));
    let delivered = json!(["outreach: delivered"]);
    wait_for("both to be recorded as delivered", LIMIT, || async {
        let output = worker.run(&["claygate", "events", "list", "--json"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let events: Value = serde_json::from_slice(&output.stdout).unwrap();
        let is_delivered =
            |id: &String| events.as_array().unwrap().iter().any(|e| e["id"] == **id && e["deliveries"] == delivered);
        if ids.iter().all(is_delivered) { Ok(()) } else { Err(events) }
    })
    .await;
    for words in [&["claygate", "dead", "list"][..], &["claygate", "config", "check", "--role", "worker"]] {
        let output = worker.run(words).await;
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
    }

    let containers: Vec<Container> = processes.iter().map(|process| process.container.clone()).collect();
    for process in processes {
        process.stop().await;
    }
    for container in &containers {
        let said = container.check_health().await.unwrap_err();
        assert!(said.contains("nothing answers on"), "{said}");
    }
}

#[tokio::test]
async fn a_second_up_changes_no_secret() {
    let machine = Machine::new();
    let volumes = ["secrets", "postgres-password", "rabbitmq-password"];
    let mut seen = Vec::new();
    for replica in 1..=2 {
        let output = machine.container("init", replica).run_to_end().await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        seen.push(volumes.map(|volume| contents(&machine.volume(volume))));
    }
    assert_eq!(seen[0], seen[1]);
    let names: Vec<&str> = seen[0][0].keys().map(String::as_str).collect();
    assert_eq!(names, ["admin", "clay", "postgres.password", "rabbitmq.password"]);
}
