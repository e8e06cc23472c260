//! What is said about configurations that cannot be used, or should not: one snapshot over every class of message.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write;
use std::path::Path;

use super::tests::environment;
use super::*;

/// What every case has in its environment, beside its own.
const VARIABLES: [(&str, &str); 3] =
    [("CLAY_WEBHOOK_SECRET", "webhook-secret-0123456789"), ("MARKED", "marked-secret"), ("EMPTY", "")];

fn source(rest: &str) -> String {
    format!("[sources.a]\npath = \"/a\"\n{rest}")
}

fn http(rest: &str) -> String {
    format!("[destinations.outreach]\nkind = \"http\"\nurl = \"https://example.com\"\nonce_per = \"1d\"\n{rest}")
}

fn clay(name: &str, rest: &str) -> String {
    let url = format!("https://clay.example.com/{name}-marked-secret");
    format!("[destinations.{name}]\nkind = \"clay\"\nwebhooks = [{{ url = \"{url}\" }}]\n{rest}")
}

fn rule(rest: &str) -> String {
    format!("[destinations.x]\nkind = \"log\"\n[[rules]]\nname = \"r\"\nwhen = \"true\"\n{rest}")
}

fn say(role: Role, text: &str, variables: &[(&str, &str)]) -> String {
    let variables: Vec<_> = VARIABLES.iter().chain(variables).copied().collect();
    let environment = environment(&variables);
    let locations = Locations::resolve(None, None, &environment, Path::new("/folder"));
    let inspection = interpret(role, Some(text), &locations, &environment, false);
    let mut said = String::new();
    match &inspection.config {
        Ok(_) => said.push_str("usable\n"),
        Err(error) => error.problems.iter().for_each(|problem| writeln!(said, "{problem}").unwrap()),
    }
    inspection.warnings.iter().for_each(|warning| writeln!(said, "warning: {warning}").unwrap());
    assert!(!said.contains("marked-secret"), "{said}");
    said
}

/// Every case's file and what is said about it.
fn said_of(cases: &[String]) -> String {
    cases.iter().fold(String::new(), |said, text| said + text + "\n=> " + &say(Role::Up, text, &[]) + "\n")
}

fn cases(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn the_file_and_its_values() {
    let said = said_of(&cases(&[
        "[ingest]\nlisten = \"127.0.0.1:1",
        "x = 1\nx = 2",
        "ingest = 5",
        "[sources]\nclay = 5",
        "rules = { name = \"x\" }",
        "[ingestt]\n",
        "[ingest]\nlisten_on = \"127.0.0.1:1\"\nlimit = 3\nzzz = 1",
        "[ingest]\nlisten = 8080",
        "[ingest]\nlisten = \"localhost:8080\"",
        "[ingest]\nmax_body = \"12\"",
        "[ingest]\nmax_body = \"1GiB\"",
        "[ingest]\nwriters = 0",
        "[ingest]\nwriters = \"two\"",
        "[ingest]\nwriters = \"${MARKED}\"",
        "[ingest]\npublic_url = \"https://example.com/path\"",
        "[ingest]\npublic_url = \"example.com\"",
        "[worker]\ndrain = 5",
        "[worker]\ndrain = \"5\"",
        "[worker]\ndrain = \"2h\"",
        "[telemetry]\nlog = \"a=b=c\"",
        "[spool]\ndir = \"${NO_SUCH}/${EMPTY}\"",
        "[spool]\ndir = \"${\"",
        "[retention]\nbodies = \"1d\"\nlead = \"90d\"",
        "[retention]\nbodies = \"90d\"\nkeys = \"60d\"\n[destinations.alerts]\nkind = \"log\"\nonce_per = \"90d\"",
        "[telemetry]\notlp_endpoint = \"http://localhost:4317\"",
        "[ingest]\nrows_tokens = []",
        "[ingest]\nrows_tokens = \"marked-secret\"",
    ]));
    insta::assert_snapshot!(said);
}

#[test]
fn databases_listeners_and_relations() {
    let said = said_of(&cases(&[
        "[database]\nurl = \"mysql://me:marked-secret@db.example.com/x\"",
        "[database]\nurl = \"marked-secret\"",
        "[database]\nurl = \"postgres://me:marked-secret@db.example.com/x?sslmod=require\"",
        "[database]\nurl = \"postgres://me:marked-secret@db.example.com/x\"\npassword = \"marked-secret\"",
        "[database]\nurl = \"postgres://me@db.example.com/x\"\nport = 5433",
        "[database]\nurl = \"postgres://me@db.example.com/x\"\npassword = \"a\"\npassword_file = \"/b\"",
        "[database]\npassword_file = \"no-such-file\"",
        "[database]\npassword = \" \"",
        "[database]\nmax_connections = 4\n[ingest]\nwriters = 3",
        "[ingest.limits]\nin_flight_bytes = \"512KiB\"",
        "[admin]\nlisten = \"127.0.0.1:8080\"",
        "[admin]\ntoken = \"marked-secret-of-mine\"",
    ]));
    insta::assert_snapshot!(said);
}

#[test]
fn brokers() {
    let said = said_of(&cases(&[
        "[queue]\nurl = \"redis://me:marked-secret@mq.example.com\"",
        "[queue]\nurl = \"marked-secret\"",
        "[queue]\nurl = \"amqp:///marked-secret\"",
        "[queue]\nurl = \"amqp://me:marked-secret@mq.example.com/a/b\"",
        "[queue]\nurl = \"amqp://me:marked-secret@mq.example.com/?heartbeat=5\"",
        "[queue]\nurl = \"amqp://me:%FFmarked-secret@mq.example.com\"",
        "[queue]\nurl = \"amqp://me:marked-secret@mq.example.com\"\npassword = \"marked-secret\"",
        "[queue]\nurl = \"amqp://me@mq.example.com\"\npassword = \"a\"\npassword_file = \"/b\"",
        "[queue]\nurl = \"amqp://me@mq.example.com\"\npassword_file = \"no-such-file\"",
        "[queue]\nurl = \"amqp://me@localhost\"",
        "[queue]\nurl = \"amqp://guest@mq.example.com\"",
        "[queue]\nurl = \"amqp://mq.example.com\"",
        "[queue]\npassword = \"marked-secret\"",
        "[queue]\nurl = \"amqp://localhost\"\nprefix = \"Claygate.dev\"",
        "[queue]\nurl = \"amqp://localhost\"\nprefxi = \"claygate\"",
        "[queue]\nurl = \"amqp://localhost\"",
    ]));
    insta::assert_snapshot!(said);
}

#[test]
fn roles_without_a_file() {
    let said = [Role::Ingest, Role::Worker, Role::Tool, Role::Sender]
        .map(|role| format!("{role:?}\n=> {}", say(role, "", &[])));
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn sources() {
    let mut all = cases(&[
        "[sources.Clay]\npath = \"/a\"",
        "[sources.admin]\npath = \"/a\"\nverify = { kind = \"none\" }",
        "[sources.a]\nverify = { kind = \"none\" }",
        "[sources.clay]\npath = \"/a\"\n[sources.b]\npath = \"/a\"\nverify = { kind = \"none\" }",
    ]);
    for path in ["a", "/a//b", "/a/../b", "/a/{b}", "/a?x=1", "/v1/rows", "/v1/anything", "/a/"] {
        all.push(format!("[sources.clay]\npath = \"{path}\""));
    }
    for rest in [
        "",
        "verify = []",
        "verify = {}",
        "verify = { kind = \"tokens\" }",
        "verify = { kind = \"token\" }",
        "verify = { kind = \"token\", secrets = [] }",
        "verify = { kind = \"token\", secrets = [\"\"] }",
        "verify = { kind = \"token\", secrets = [\"${NO_SUCH}\"] }",
        "verify = { kind = \"token\", secrets = [5] }",
        "verify = { kind = \"token\", secrets = \"marked-secret\" }",
        "verify = { kind = \"token\", secrets = [\"short\"] }",
        "verify = { kind = \"token\", secrets = [\"marked-secret \"] }",
        "verify = { kind = \"token\", secrets = [\"marked-\\nsecret\"] }",
        "verify = { kind = \"token\", secrets_file = \"no-such-file\" }",
        "verify = { kind = \"token\", secrets = [{ file = \"x\" }] }",
        "verify = { kind = \"token\", secrets = [{ value = \"marked-secret-0123\", expires = \"tomorrow\" }] }",
        "verify = { kind = \"token\", header = \"X Y\", secrets = [\"marked-secret-0123\"] }",
        "verify = { kind = \"standard-webhooks\", header = \"x\", secrets = [\"marked-secret-0123\"] }",
        "verify = { kind = \"none\", secrets = [\"marked-secret-0123\"] }",
        "verify = { kind = \"none\" }\nidempotency = { pointers = [\"id\"], changed = \"accpt\" }",
        "verify = { kind = \"none\" }\nfields = { email = \"Work Email\", \"Work Email\" = \"/email\" }",
    ] {
        all.push(source(rest));
    }
    let said = said_of(&all);
    insta::assert_snapshot!(said);
}

#[test]
fn filters_of_rows() {
    let said = said_of(&[
        clay("leads", "filter = 5"),
        clay("leads", "row_key = [\"crm_id\"]"),
        clay("leads", "[destinations.leads.filter]\nrequred = [\"email\"]\nrequired = [\"\", \"/a~2\"]"),
        clay("leads", "[destinations.leads.filter]\npersonal_domains = [\"example\", \"a@example.com\"]"),
        clay("leads", "[destinations.leads.filter]\nwithin = \"5d\""),
        clay("leads", "once_per = \"1d\"\n[destinations.leads.filter]\nunique_by = [\"email\"]"),
        "[destinations.alerts]\nkind = \"log\"\n[destinations.alerts.filter]\nskip_personal = true".to_owned(),
    ]);
    insta::assert_snapshot!(said);
}

#[test]
fn tables_of_clay() {
    let webhooks = |list: &str| format!("[destinations.leads]\nkind = \"clay\"\nwebhooks = {list}");
    let said = said_of(&[
        webhooks("[]"),
        webhooks("\"https://clay.example.com/marked-secret\""),
        webhooks("[{ token = \"marked-secret\" }]"),
        webhooks("[{ url = \"https://clay.example.com/{{ lead.email }}\" }]"),
        webhooks("[{ url = \"http://127.0.0.1/marked-secret\", tokn = \"marked-secret\" }]"),
        webhooks(
            "[{ url = \"https://clay.example.com/marked-secret\" }, { url = \"https://clay.example.com/marked-secret\" }]",
        ),
        clay("leads", "url = \"https://clay.example.com/marked-secret\""),
        clay("leads", "cap = 0"),
        clay("leads", "cap = \"nothing\""),
        clay("leads", "cap = 1000\nrollover = 1001"),
        clay("leads", "workspace = \" \""),
        clay("leads", "body = [{ email = \"{{ lead.email }}\" }]"),
        clay("leads", "text = \"{{ lead.email }}\""),
        clay("leads", "rate = \"5/s\"\n") + &clay("more", ""),
        clay("leads", "rate = \"5/s\"\nworkspace = \"a\"\n") + &clay("more", "burst = 5"),
    ]);
    insta::assert_snapshot!(said);
}

#[test]
fn destinations() {
    let mut all = cases(&[
        "[destinations.X]\nkind = \"log\"",
        "[destinations.alerts]\n",
        "[destinations.alerts]\nkind = \"htpp\"",
        "[destinations.alerts]\nkind = \"hubspot\"",
        "[destinations.alerts]\nkind = \"clay\"",
        "[destinations.alerts]\nkind = \"log\"\nurl = \"https://example.com\"",
        "[destinations.alerts]\nkind = \"slack\"",
        "[destinations.alerts]\nkind = \"slack\"\nurl = \"https://{{ lead.x }}\"",
        "[destinations.alerts]\nkind = \"slack\"\nurl = \"${NO_SUCH}\"",
        "[destinations.outreach]\nkind = \"http\"\nonce_per = \"1d\"",
        "[destinations.outreach]\nkind = \"http\"\nurl = \"https://example.com\"",
        "[destinations.outreach]\nkind = \"http\"\nurl = \"ftp://marked-secret\"\nonce_per = \"1d\"",
        "[destinations.outreach]\nkind = \"http\"\nurl = \"https://exa mple/marked-secret\"\nonce_per = \"1d\"",
        "[destinations.outreach]\nkind = \"http\"\nurl = \"https://me:marked-secret@example.com\"\nonce_per = \"1d\"",
        "[destinations.outreach]\nkind = \"http\"\nurl = \"http://example.com/marked-secret\"\nonce_per = \"1d\"",
        "[destinations.outreach]\nkind = \"http\"\nurl = \"http://127.0.0.1/marked-secret\"\nonce_per = \"1d\"",
        "[destinations.outreach]\nkind = \"http\"\nurl = \"http://127.0.0.1/\"\nonce_per = \"1d\"\nallow_private = true",
    ]);
    for rest in [
        "ratee = \"10/s\"",
        "rate = 10",
        "rate = \"10\"",
        "rate = \"0/s\"",
        "burst = 5",
        "concurrency = 0",
        "timeout = \"10m\"",
        "timeout = \"2s\"\nconnect_timeout = \"3s\"",
        "retries = \"5s\"",
        "retries = [5, \"x\", \"60d\"]",
        "method = \"SEND\"",
        "success = [200, \"2xx\"]",
        "success = [409]\nterminal = [\"400-410\"]",
        "terminal = [204]",
        "allow_private = \"yes\"",
        "auth = { kind = \"oauth\" }",
        "auth = { kind = \"bearer\", username = \"x\" }",
        "auth = { kind = \"bearer\", token = \"marked-secret\" }\nheaders = { Authorization = \"marked-secret\" }",
        "headers = { Host = \"x\", \"a b\" = \"y\", X = 1 }",
        "body = { a = \"x\" }\nbody_text = \"y\"",
        "content_type = \"text/csv\"",
        "signing_secret = \"marked-secret\"",
        "steps = [{ url = \"https://example.com\" }]",
        "breaker = { open = \"1h\", open_max = \"1m\" }",
    ] {
        all.push(http(rest));
    }
    all.push("[destinations.outreach]\nkind = \"http\"\nonce_per = \"1d\"\nsteps = []".to_owned());
    all.push(
        "[destinations.outreach]\nkind = \"http\"\nonce_per = \"1d\"\nsteps = [{ capture = { A = \"x\" } }]".to_owned(),
    );
    let said = said_of(&all);
    insta::assert_snapshot!(said);
}

#[test]
fn rules() {
    let mut all = cases(&["rules = []", "[[rules]]", "[[rules]]\nname = \"A b\"\nwhen = 5\nto = \"x\""]);
    for rest in [
        "",
        "to = []",
        "stop = true",
        "to = [\"xx\"]",
        "to = [\"nothing-like-it\"]",
        "to = [\"x\"]\nsource = [\"clayy\"]",
        "to = [\"x\"]\n[[rules]]\nname = \"r\"\nwhen = \"true\"\nto = [\"x\"]",
        "to = [\"x\"]\nwehn = \"x\"",
        "to = [\"x\"]\n[[rules]]\nname = \"s\"\nwhen = \"lead.icp_score >= \"\nto = [\"x\"]",
        "to = [\"x\"]\n[[rules]]\nname = \"s\"\nwhen = \"led.icp_score >= 80\"\nto = [\"x\"]",
        "to = [\"x\"]\n[[rules]]\nname = \"s\"\nwhen = \"lead.icp_scroe >= 80\"\nto = [\"x\"]",
    ] {
        all.push(rule(rest));
    }
    let said = said_of(&all);
    insta::assert_snapshot!(said);
}

#[test]
fn variables() {
    let text = "[destinations.crm-sync]\nkind = \"log\"\n[destinations.crm_sync]\nkind = \"log\"";
    let mut said = String::new();
    for (name, value) in [
        ("CLAYGATE_INGEST__LISTN", "x"),
        ("CLAYGATE_LISTEN", "x"),
        ("CLAYGATE_PORT", "8080"),
        ("CLAYGATE_QUITE_OTHER", "x"),
        ("CLAYGATE_CONFG", "x"),
        ("CLAYGATE_INGEST__LIMITS__IN_FLIGHT", "many"),
        ("CLAYGATE_INGEST__LISTEN", ""),
        ("CLAYGATE_WORKER__DRAIN", "5"),
        ("CLAYGATE_ADMIN__TOKEN_FILE", "/no-such-file"),
        ("CLAYGATE_DESTINATIONS__OUTREACH__RETRIES", "5s"),
        ("CLAYGATE_DESTINATIONS__OUTREACH__BODY", "{}"),
        ("CLAYGATE_DESTINATIONS__OTHER__URL", "https://example.com"),
        ("CLAYGATE_DESTINATIONS__CRM_SYNC__ONCE_PER", "1d"),
        ("CLAYGATE_RULES", "[]"),
        ("CLAYGATE_QUEUE__URL", "amqp://localhost"),
    ] {
        writeln!(said, "{name}={value}\n=> {}", say(Role::Up, text, &[(name, value)])).unwrap();
    }
    insta::assert_snapshot!(said);
}

#[test]
fn all_problems_are_told_at_once_and_never_with_a_secret() {
    let text =
        "[worker]\ndrain = \"5\"\n[destinations.x]\nkind = \"log\"\nrate = \"1/s\"\n[sources.clay]\npath = \"x\"";
    let error = Config::from_toml(Role::Up, text, &environment(&[("CLAYGATE_LISTEN", "marked-secret")])).unwrap_err();
    assert!(error.problems.len() >= 4, "{error}");
    assert!(error.to_string().starts_with("the configuration cannot be used; "), "{error}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("missing.toml");
    let locations = Locations::resolve(Some(&file), None, &Environment::default(), Path::new("/"));
    let error = Config::load(Role::Up, &locations, &Environment::default()).unwrap_err().to_string();
    assert!(error.contains("missing.toml cannot be read"), "{error}");
}
