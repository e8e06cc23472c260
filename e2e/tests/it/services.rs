//! `ingest` and `worker` as processes of their own, any number of each, over one database and one queue.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::crash::Point;
use tempfile::TempDir;
use testkit::postgres::TestDatabase;
use testkit::receiver::Receiver;

use crate::books;
use crate::logs::{self, Log};
use crate::sender::Sender;
use crate::service::Service;
use crate::site::program;

/// The secret of the source `clay`.
pub(crate) const SECRET: &str = "a-secret-of-the-column";

/// Which processes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Ingest,
    Worker,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Worker => "worker",
        }
    }
}

/// An installation: its configuration, its database, and what its processes write. What a process needs of the machine
/// is in the environment, the rest in the file. Dropped, at the end of its test, it looks whether its books balance.
pub(crate) struct Services {
    folder: TempDir,
    pub(crate) database: TestDatabase,
    environment: Vec<(String, String)>,
    /// What processes of one kind have beside it, or instead.
    by_role: Vec<(Role, String, String)>,
    through_claygate: bool,
    with_books: bool,
}

/// Everything goes to one destination, which answers as `receiver` is told.
pub(crate) fn all_to(receiver: &Receiver) -> String {
    format!(
        "[destinations.out]\nkind = \"http\"\nurl = \"{}\"\nallow_private = true\nretries = [\"1s\", \"1s\", \"1s\", \"1s\"]\n\
         [[rules]]\nname = \"all\"\nwhen = \"true\"\nto = [\"out\"]\n",
        receiver.url("/leads")
    )
}

impl Services {
    /// One with these destinations and rules, where Postgres is the queue.
    pub(crate) async fn new(config: &str) -> Self {
        Self::over(TestDatabase::create().await, config)
    }

    /// The same over this database.
    pub(crate) fn over(database: TestDatabase, config: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("claygate-e2e-").tempdir().unwrap();
        let source = format!(
            "[sources.clay]\npath = \"/api/clay/enriched\"\n\
             verify = {{ kind = \"token\", header = \"X-Clay-Signature\", secrets = [\"{SECRET}\"] }}\n"
        );
        std::fs::write(folder.path().join("claygate.toml"), format!("{source}{config}")).unwrap();
        let environment = [
            ("CLAYGATE_DATABASE__URL", database.url()),
            // Several processes of several tests share one server.
            ("CLAYGATE_DATABASE__MAX_CONNECTIONS", "6".to_owned()),
            ("CLAYGATE_INGEST__LISTEN", "127.0.0.1:0".to_owned()),
            ("CLAYGATE_ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
            // A slow disk is no outage of Postgres.
            ("CLAYGATE_INGEST__LIMITS__COMMIT_TIMEOUT", "30s".to_owned()),
            ("CLAYGATE_WORKER__RESCUE_EVERY", "1s".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
        Self { folder, database, environment, by_role: Vec::new(), through_claygate: false, with_books: true }
    }

    /// The same with RabbitMQ at `url` as the queue.
    pub(crate) fn with_broker(self, url: &str, prefix: &str) -> Self {
        self.with("CLAYGATE_QUEUE__URL", url).with("CLAYGATE_QUEUE__PREFIX", prefix)
    }

    /// The same with a variable more, or another value of it, for processes that start from now on.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with a variable for processes of one kind.
    pub(crate) fn with_for(mut self, role: Role, name: &str, value: &str) -> Self {
        self.by_role.push((role, name.to_owned(), value.to_owned()));
        self
    }

    /// The same by `claygate ingest` and `claygate worker` instead of the programs of their own.
    pub(crate) fn through_claygate(mut self) -> Self {
        self.through_claygate = true;
        self
    }

    /// The same for a test that leaves, by purpose, what does not balance.
    pub(crate) fn without_books(mut self) -> Self {
        self.with_books = false;
        self
    }

    /// Starts an intake, and waits until it is ready. One of the same name comes back to its spool.
    pub(crate) async fn ingest(&self, name: &str) -> Service {
        self.spawn(Role::Ingest, name).wait_until_ready().await
    }

    /// Starts a worker, and waits until it is ready.
    pub(crate) async fn worker(&self, name: &str) -> Service {
        self.spawn(Role::Worker, name).wait_until_ready().await
    }

    /// Starts a process and does not wait.
    pub(crate) fn spawn(&self, role: Role, name: &str) -> Service {
        self.spawn_command(role, name, self.command(role, name))
    }

    /// Starts a process that ends itself when it passes `point` for the `passages`th time, and does not wait.
    pub(crate) fn spawn_doomed(&self, role: Role, name: &str, point: Point, passages: u32) -> Service {
        let mut command = self.command(role, name);
        command.env("CLAYGATE_TEST_CRASH_AT", format!("{}:{passages}", point.as_str()));
        self.spawn_command(role, name, command)
    }

    /// Starts a command made of [`Services::command`], and does not wait.
    pub(crate) fn spawn_command(&self, role: Role, name: &str, mut command: Command) -> Service {
        let path = self.log_of(name);
        let file = File::options().create(true).append(true).open(&path).unwrap();
        let log = Log::new(path);
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Service::new(role, name, child, log)
    }

    /// What starts such a process.
    pub(crate) fn command(&self, role: Role, name: &str) -> Command {
        let mut command = if self.through_claygate {
            let mut command = Command::new(program("claygate"));
            command.arg(role.as_str());
            command
        } else {
            Command::new(program(role.as_str()))
        };
        command.arg("--config").arg(self.folder.path().join("claygate.toml"));
        command.arg("--data").arg(self.folder.path().join(name));
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.envs(self.by_role.iter().filter(|(of, ..)| *of == role).map(|(_, name, value)| (name, value)));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// The data folder of the process of this name.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A sender to these intakes.
    pub(crate) fn sender<'a>(&self, ingests: impl IntoIterator<Item = &'a Service>) -> Sender {
        Sender::to(ingests.into_iter().map(Service::port), SECRET)
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// Fails if any process of any name here wrote more than it could have to say.
    pub(crate) fn assert_logs_bounded(&self) {
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "log") {
                logs::assert_bounded(&path);
            }
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        // A test that has failed has said why, and a second panic would hide it.
        if self.with_books && !std::thread::panicking() {
            books::assert_balanced(&self.database.settings());
        }
    }
}
