//! What is to be made of a lead that the rules have judged. Pure: no clock, no I/O, no ids.

use std::collections::BTreeMap;
use std::time::Duration;

use common::config::Destination;
use common::person::Person;
use common::rules::Evaluation;
use common::states::{CallbackState, Reason};
use serde_json::{Map, Value};

/// What becomes of a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its end.
    pub state: CallbackState,
    /// Why, where it is not routed.
    pub reason: Option<Reason>,
    /// Its deliveries, by destination.
    pub deliveries: Vec<PlannedDelivery>,
}

/// One delivery of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedDelivery {
    /// Where it goes.
    pub destination: String,
    /// The rule that named the destination.
    pub rule: String,
    /// It is recorded and not sent, because of this.
    pub skip: Option<Reason>,
    /// The destination's cool-down, where one is to be taken.
    pub once_per: Option<Duration>,
    /// Whose cool-down it is: the person's, or that of the columns which the destination's filter compares.
    pub person: Option<Person>,
    /// The reason by which the cool-down holds it back.
    pub blocked_as: Reason,
}

/// The lead that is planned for.
#[derive(Clone, Copy, Debug)]
pub struct Planned<'a> {
    /// As its destinations see it.
    pub lead: &'a Map<String, Value>,
    /// Who it is.
    pub person: Option<Person>,
    /// The workspace whose row it came back from.
    pub workspace: Option<&'a str>,
}

/// Plans the deliveries of one lead.
///
/// The filter of a `clay` destination is applied here and not before the request: what it holds back takes neither a
/// slot nor a cool-down, and the cool-downs by which it finds repeats are taken in the routing's transaction.
///
/// A rule that failed ends the callback as dead, whatever the other rules said: half a routing would look like a whole
/// one. A destination that is not configured (a rule set older than the configuration) is kept as a delivery, so that
/// it is seen and not lost.
pub fn plan(evaluation: &Evaluation, planned: Planned<'_>, destinations: &BTreeMap<String, Destination>) -> Plan {
    if evaluation.failed {
        return Plan { state: CallbackState::Dead, reason: Some(Reason::RuleError), deliveries: Vec::new() };
    }
    if evaluation.destinations.is_empty() {
        return Plan { state: CallbackState::Skipped, reason: Some(Reason::NoRule), deliveries: Vec::new() };
    }
    let deliveries = evaluation
        .destinations
        .iter()
        .map(|(name, rule)| {
            let destination = destinations.get(name);
            let skip = destination.and_then(|destination| held_back(destination, planned));
            PlannedDelivery {
                destination: name.clone(),
                rule: rule.clone(),
                skip,
                once_per: destination.and_then(|d| d.once_per).filter(|_| skip.is_none()),
                person: destination.map_or(planned.person, |destination| person(destination, planned)),
                blocked_as: destination.map_or(Reason::CoolDown, Destination::blocked_as),
            }
        })
        .collect();
    Plan { state: CallbackState::Routed, reason: None, deliveries }
}

/// Why the lead is not sent to `destination`, whatever was sent there before.
fn held_back(destination: &Destination, planned: Planned<'_>) -> Option<Reason> {
    if goes_round(destination, planned.workspace) {
        return Some(Reason::Loop);
    }
    let filter = &destination.clay()?.filter;
    filter.judge(&filter.tidied(planned.lead))
}

/// Whose cool-down a delivery to `destination` takes.
fn person(destination: &Destination, planned: Planned<'_>) -> Option<Person> {
    match destination.clay() {
        Some(clay) if destination.blocked_as() == Reason::DuplicateRow => {
            clay.filter.identity(&clay.filter.tidied(planned.lead))
        }
        _ => planned.person,
    }
}

/// Whether `destination` would send the lead back to where it came from.
fn goes_round(destination: &Destination, workspace: Option<&str>) -> bool {
    !destination.allow_loop && workspace.is_some() && destination.workspace.as_deref() == workspace
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use common::config::{BreakerConfig, DestinationKind};

    fn destination(name: &str, once_per: Option<u64>, workspace: Option<&str>, allow_loop: bool) -> Destination {
        Destination {
            name: name.to_owned(),
            kind: DestinationKind::Log,
            concurrency: 1,
            rate: None,
            timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            retries: Vec::new(),
            once_per: once_per.map(Duration::from_secs),
            allow_private: false,
            workspace: workspace.map(str::to_owned),
            allow_loop,
            breaker: BreakerConfig { failures: 0, open: Duration::from_secs(1), open_max: Duration::from_secs(1) },
        }
    }

    fn evaluation(destinations: &[&str], failed: bool) -> Evaluation {
        Evaluation {
            trace: Vec::new(),
            destinations: destinations.iter().map(|d| ((*d).to_owned(), format!("to-{d}"))).collect(),
            failed,
        }
    }

    #[test]
    fn each_lead_gets_its_deliveries_or_a_reason() {
        let destinations: BTreeMap<String, Destination> = [
            destination("plain", None, None, false),
            destination("once", Some(60), None, false),
            destination("acme", Some(60), Some("acme"), false),
            destination("again", None, Some("acme"), true),
        ]
        .into_iter()
        .map(|d| (d.name.clone(), d))
        .collect();
        type Expected = (&'static str, Option<Reason>, bool);
        type Case<'a> = (&'a [&'static str], bool, Option<&'a str>, CallbackState, Option<Reason>, &'a [Expected]);
        let cases: [Case<'_>; 7] = [
            (&[], false, None, CallbackState::Skipped, Some(Reason::NoRule), &[]),
            (&["plain"], true, None, CallbackState::Dead, Some(Reason::RuleError), &[]),
            (&["plain"], false, None, CallbackState::Routed, None, &[("plain", None, false)]),
            (
                &["plain", "once"],
                false,
                Some("acme"),
                CallbackState::Routed,
                None,
                &[("once", None, true), ("plain", None, false)],
            ),
            (&["acme"], false, Some("acme"), CallbackState::Routed, None, &[("acme", Some(Reason::Loop), false)]),
            (&["acme"], false, Some("other"), CallbackState::Routed, None, &[("acme", None, true)]),
            (
                &["again", "gone"],
                false,
                Some("acme"),
                CallbackState::Routed,
                None,
                &[("again", None, false), ("gone", None, false)],
            ),
        ];
        for (names, failed, workspace, state, reason, expected) in cases {
            let planned = Planned { lead: &Map::new(), person: None, workspace };
            let plan = plan(&evaluation(names, failed), planned, &destinations);
            assert_eq!((plan.state, plan.reason), (state, reason), "{names:?}");
            let got: Vec<Expected> = plan
                .deliveries
                .iter()
                .map(|d| {
                    let name = names.iter().find(|n| **n == d.destination).copied().unwrap();
                    assert_eq!(d.rule, format!("to-{name}"));
                    (name, d.skip, d.once_per.is_some())
                })
                .collect();
            assert_eq!(got, expected, "{names:?}");
        }
    }

    #[test]
    fn the_filter_of_a_clay_destination_holds_back_before_anything_is_taken() {
        let config = common::config::Config::from_toml(
            common::config::Role::Worker,
            "[destinations.leads]\nkind = \"clay\"\nwebhooks = [{ url = \"https://clay.example.com/1\" }]\n\
             [destinations.leads.filter]\nrequired = [\"email\"]\nskip_personal = true\nunique_by = [\"email\"]\n\
             [destinations.log]\nkind = \"log\"\nonce_per = \"1d\"\n[database]\nurl = \"postgres://me@db/x\"",
            &common::config::Environment::default(),
        )
        .unwrap();
        let ada = Some(Person::by_email("ada@acme.example"));
        for (email, skip) in [
            (Some("ada@acme.example"), None),
            (Some("a@gmail.com"), Some(Reason::PersonalEmail)),
            (None, Some(Reason::MissingField)),
        ] {
            let lead: Map<String, Value> = email.map(|email| ("email".to_owned(), email.into())).into_iter().collect();
            let planned = Planned { lead: &lead, person: ada, workspace: None };
            let plan = plan(&evaluation(&["leads", "log"], false), planned, &config.destinations);
            let [leads, log] = plan.deliveries.as_slice() else { panic!("{plan:?}") };
            assert_eq!((leads.skip, leads.once_per.is_some()), (skip, skip.is_none()), "{email:?}");
            assert_eq!((leads.person.is_some(), leads.blocked_as), (email.is_some(), Reason::DuplicateRow));
            assert_ne!(leads.person, ada, "columns are compared, not people");
            assert_eq!((log.skip, log.person, log.blocked_as), (None, ada, Reason::CoolDown), "{email:?}");
        }
    }
}
