//! `claygate events`: what came in, one callback's whole story, and sending it again.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Args, Command, Subcommand};
use common::config::Role;
use common::db::events::{self, Event, EventFilter, Found};
use common::db::quarantine::{self, Held};
use common::db::{Database, replay};
use common::ids::CallbackId;
use common::person::Person;
use common::states::CallbackState;
use ingest::release::Released;
use serde_json::{Value, json};
use uuid::Uuid;

use super::paging::{self, Shown};
use super::plan::{self, Confirmation};
use super::since::Since;
use crate::globals::{Globals, OpenDatabase};

/// A state of its own in `list`: what is there is no callback yet.
const QUARANTINED: &str = "quarantined";

/// List callbacks, show one's whole story, route one again.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate events list --state skipped --since 24h")]
pub(crate) struct Events {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    List(List),
    Show(Show),
    Replay(Replay),
}

/// What came in, newest first, and where it went.
///
/// One page looks at 10,000 callbacks at most. Where that ends it before it is full, the command says how to go on.
#[derive(Args)]
#[command(after_help = "Examples:\n  claygate events list --source clay --since 24h --limit 20\n  \
                        claygate events list --person ada@example.com")]
struct List {
    /// Only of this source.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only in this state; `quarantined` lists bodies that could not be taken as callbacks.
    #[arg(long, value_parser = ["received", "routed", "skipped", "dead", QUARANTINED])]
    state: Option<String>,
    /// Only of this person, by e-mail address or by the URL of a LinkedIn profile.
    ///
    /// A profile finds only leads that have no e-mail address, because the person of a lead is its address first. Only
    /// callbacks that have been routed are found: before, nobody knows whom they are about.
    #[arg(long, value_name = "WHO", value_parser = PersonParser)]
    person: Option<Person>,
    /// Only what came in since then: 90m, 24h, 7d, or a moment like 2030-01-31T00:00:00Z.
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,
    /// Go on behind this id: the last one of the page before.
    #[arg(long, value_name = "ID")]
    before: Option<CallbackId>,
    /// Lines of one page, at most 1000.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Print JSON. What --before takes for the page behind is on standard error.
    #[arg(long)]
    json: bool,
}

/// Reads whom `--person` names. Its error does not repeat what was written, which may be somebody's address.
#[derive(Clone)]
struct PersonParser;

impl TypedValueParser for PersonParser {
    type Value = Person;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<Person, clap::Error> {
        value.to_str().and_then(Person::named).ok_or_else(|| {
            let expected = "--person takes an e-mail address, or the URL of a LinkedIn profile \
                            (https://www.linkedin.com/in/…)\n";
            clap::Error::raw(ErrorKind::ValueValidation, expected).with_cmd(command)
        })
    }
}

/// Everything about one callback: receipt, revisions, lead, decisions with every rule's result, deliveries, attempts.
///
/// Takes any id that a sender was answered with. Shows personal data.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate events show 0193a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b")]
struct Show {
    /// The callback's id.
    id: Uuid,
    /// Print the raw body instead, byte for byte as it came.
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Route a callback once more, under the rules of now.
///
/// Shows where it went before and asks. What was delivered then is sent again: cool-downs do not hold back a replay.
/// A body in quarantine is taken in as a callback, repaired by --body where it was malformed.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate events replay 0193a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b --yes")]
struct Replay {
    /// The callback's id, or that of a quarantined body.
    id: Uuid,
    /// For a quarantined body: the repaired one.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Events {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        if let Action::List(list) = &self.action
            && list.asks_for_what_has_no_person()
        {
            eprintln!(
                "claygate: --person finds callbacks that have been routed; leave out --state, or take routed, skipped or dead"
            );
            return Ok(ExitCode::from(2));
        }
        let open = OpenDatabase::reach(globals).await?;
        let done = match self.action {
            Action::List(list) => list.run(open.database()).await,
            Action::Show(show) => show.run(open.database()).await,
            Action::Replay(replay) => replay.run(globals, open.database()).await,
        };
        open.close().await?;
        done
    }
}

impl List {
    /// Whether it asks for somebody's callbacks in a state in which it is not known whose they are.
    fn asks_for_what_has_no_person(&self) -> bool {
        let unknown = [CallbackState::Received.as_str(), QUARANTINED];
        self.person.is_some() && self.state.as_deref().is_some_and(|state| unknown.contains(&state))
    }

    async fn run(self, database: &Database) -> anyhow::Result<ExitCode> {
        if self.state.as_deref() == Some(QUARANTINED) {
            return self.run_quarantined(database).await;
        }
        let filter = EventFilter {
            source: self.source.clone(),
            state: self.state.clone(),
            person: self.person,
            since: self.since.map(|since| since.0),
            before: self.before,
        };
        let page = events::list(database, &filter, self.limit).await?.ok_or_else(|| self.unknown())?;
        let shown = Shown { nothing: "No callbacks.", json: self.json };
        paging::print(&page, shown, |(_, id)| id.to_string(), print_line)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn run_quarantined(self, database: &Database) -> anyhow::Result<ExitCode> {
        let since = self.since.map(|since| since.0);
        let page = quarantine::list(database, self.source.as_deref(), since, self.before, self.limit)
            .await?
            .ok_or_else(|| self.unknown())?;
        let shown = Shown { nothing: "Nothing is in quarantine.", json: self.json };
        paging::print(&page, shown, |(_, id)| id.to_string(), print_held)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The page before is not there any more.
    fn unknown(&self) -> anyhow::Error {
        let before = self.before.map(|id| id.to_string()).unwrap_or_default();
        anyhow::anyhow!("--before: {before} is not in this list; begin without it")
    }
}

fn print_line(event: &Event) {
    let state = match &event.reason {
        Some(reason) => format!("{} ({reason})", event.state),
        None => event.state.clone(),
    };
    let score = event.icp_score.map_or_else(|| "-".to_owned(), |score| score.to_string());
    say!(
        "{}  {}  {:<12} {:<22} score {score:<5} {}  {}",
        event.id,
        super::since::shown(event.received_at),
        event.source,
        state,
        event.email.as_deref().unwrap_or("-"),
        event.deliveries.join(", ")
    );
}

fn print_held(held: &Held) {
    let released = held.callback_id.map(|id| format!(", released as {id}")).unwrap_or_default();
    say!(
        "{}  {}  {:<12} {:<10} seen {}x  {}{released}",
        held.id,
        super::since::shown(held.received_at),
        held.source,
        held.problem,
        held.seen,
        held.detail
    );
}

impl Show {
    async fn run(self, database: &Database) -> anyhow::Result<ExitCode> {
        let id = match events::resolve(database, self.id).await? {
            Some(Found::Callback(callback)) => callback,
            Some(Found::Quarantined(id)) => return self.show_quarantined(database, CallbackId(id)).await,
            None => anyhow::bail!("there is no callback {}", self.id),
        };
        if self.raw {
            let Some(body) = events::body(database, id).await? else {
                anyhow::bail!("the body of {id} has expired");
            };
            crate::say::bytes(&body);
            return Ok(ExitCode::SUCCESS);
        }
        let Some(story) = events::story(database, id).await? else {
            anyhow::bail!("there is no callback {id}");
        };
        if self.json {
            super::print_json(&story)?;
        } else {
            print_story(&story);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    async fn show_quarantined(&self, database: &Database, id: CallbackId) -> anyhow::Result<ExitCode> {
        let Some(held) = quarantine::load(database, id).await? else { anyhow::bail!("there is no callback {id}") };
        if self.raw {
            crate::say::bytes(&held.body);
            return Ok(ExitCode::SUCCESS);
        }
        let story = json!({ "quarantined": {
            "id": held.id,
            "source": held.source,
            "problem": held.problem,
            "detail": held.detail,
            "received_at": super::since::shown(held.received_at),
            "seen": held.seen,
            "callback_id": held.callback_id,
        } });
        if self.json {
            super::print_json(&story)?;
            return Ok(ExitCode::SUCCESS);
        }
        say!("quarantined");
        print_fields(&story["quarantined"], 2);
        say!(
            "\nTo repair it: claygate events show {id} --raw > body.json, mend the file, then\n\
             claygate events replay {id} --body body.json"
        );
        Ok(ExitCode::SUCCESS)
    }
}

fn print_story(story: &Value) {
    say!("callback");
    print_fields(&story["callback"], 2);
    let list = |name: &str| story[name].as_array().cloned().unwrap_or_default();
    for (name, entries) in [("aliases", list("aliases")), ("revisions", list("revisions"))] {
        if entries.len() > usize::from(name == "revisions") {
            say!("{name}");
            entries.iter().for_each(|entry| say!("  {}", one_line(entry)));
        }
    }
    say!("lead");
    print_fields(&story["lead"], 2);
    for decision in list("decisions") {
        say!("decision {} at {}", decision["routing"], text(&decision["decided_at"]));
        say!("  {} {}", text(&decision["outcome"]), text(&decision["reason"]));
        for rule in decision["trace"].as_array().into_iter().flatten() {
            say!("  rule {:<20} {} {}", text(&rule["rule"]), text(&rule["result"]), text(&rule["detail"]));
        }
    }
    for delivery in list("deliveries") {
        say!("delivery {} to {}", text(&delivery["id"]), text(&delivery["destination"]));
        say!(
            "  {} {}  rule {}  replay {}",
            text(&delivery["state"]),
            text(&delivery["reason"]),
            text(&delivery["rule"]),
            delivery["replay"]
        );
        if !delivery["next_attempt_at"].is_null() {
            say!("  next attempt at {}", text(&delivery["next_attempt_at"]));
        }
        for attempt in delivery["attempts"].as_array().into_iter().flatten() {
            say!(
                "  attempt {} at {}: {} {} in {} ms {}",
                attempt["number"],
                text(&attempt["started_at"]),
                text(&attempt["class"]),
                text(&attempt["status"]),
                attempt["duration_ms"],
                text(&attempt["error"])
            );
        }
    }
}

fn print_fields(object: &Value, indent: usize) {
    for (name, value) in object.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        say!("{:indent$}{name:<20} {}", "", one_line(value));
    }
}

fn one_line(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Text as it is, null as nothing.
fn text(value: &Value) -> String {
    if value.is_null() { String::new() } else { one_line(value) }
}

impl Replay {
    async fn run(self, globals: &Globals, database: &Database) -> anyhow::Result<ExitCode> {
        match events::resolve(database, self.id).await? {
            Some(Found::Callback(_)) if self.body.is_some() => {
                anyhow::bail!("--body is for quarantined bodies; a callback keeps the body that it came with")
            }
            Some(Found::Callback(id)) => self.route_again(database, id).await,
            Some(Found::Quarantined(id)) => self.release(globals, database, CallbackId(id)).await,
            None => anyhow::bail!("there is no callback {}", self.id),
        }
    }

    async fn route_again(&self, database: &Database, id: CallbackId) -> anyhow::Result<ExitCode> {
        let before = replay::last_routing(database, id).await?;
        say!("Callback {id} is routed again under the rules of now. Before, it went to:");
        plan::print(&before);
        if let Some(refused) = self.confirmation.ask()? {
            return Ok(refused);
        }
        replay::replay_callback(database, id).await?;
        say!("Queued. `claygate events show {id}` tells what became of it.");
        Ok(ExitCode::SUCCESS)
    }

    async fn release(&self, globals: &Globals, database: &Database, id: CallbackId) -> anyhow::Result<ExitCode> {
        let body = match &self.body {
            Some(file) => std::fs::read(file).with_context(|| format!("reading {}", file.display()))?,
            None => match quarantine::load(database, id).await? {
                Some(held) => held.body,
                None => anyhow::bail!("there is no callback {id}"),
            },
        };
        say!("The quarantined body {id} is taken in as a callback, and routed under the rules of now.");
        if let Some(refused) = self.confirmation.ask()? {
            return Ok(refused);
        }
        let config = globals.load(Role::Sender)?;
        match ingest::release::release(&config, database, id, body.into()).await? {
            Released::Accepted(callback) => say!("Taken in as callback {callback}."),
            Released::Recorded(callback) => say!("Kept as callback {callback}; it is not one that is routed."),
            Released::Duplicate(callback) => say!("The same data is there already, as callback {callback}."),
        }
        Ok(ExitCode::SUCCESS)
    }
}
