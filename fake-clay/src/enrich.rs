//! What a column makes of a row: the fate of the row and the bodies of its calls. Pure: the same seed and the same cells
//! give the same calls, whatever id and URL the row carries.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::column::{CallTo, Column, Shares};

const TITLES: [&str; 6] = ["VP Sales", "Head of Growth", "CTO", "Founder", "RevOps Manager", "Account Executive"];
const INDUSTRIES: [&str; 5] = ["Software", "Logistics", "Finance", "Healthcare", "Retail"];
const COMPANIES: [&str; 5] = ["Northwind", "Acme", "Globex", "Initech", "Umbra"];
/// What a cell holds when an enrichment found nothing and its chip stayed in the body.
const JUNK: [&str; 3] = ["N/A", "/Work Email", "{{Job Title}}"];
/// The second run of a row comes so much later than the first.
const RERUN_AFTER: Duration = Duration::from_millis(100);

/// What becomes of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fate {
    /// Its calls, none where it is silent.
    pub(crate) calls: Vec<Planned>,
    /// Nothing of it parses.
    pub(crate) is_malformed: bool,
    /// The second call has other values.
    pub(crate) changes: bool,
}

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Planned {
    /// So long after the row was taken.
    pub(crate) after: Duration,
    /// What is sent.
    pub(crate) body: String,
}

/// Plans the calls for a row.
pub(crate) fn plan(column: &Column, seed: u64, id_cell: &str, cells: &Map<String, Value>) -> Fate {
    let url_cell = match &column.to {
        CallTo::Cell(name) => name.as_str(),
        CallTo::Url(_) => "",
    };
    let mut own = cells.clone();
    let id = own.remove(id_cell);
    own.remove(url_cell);
    let mut random = StdRng::from_seed(digest(seed, &own));
    let shares = &column.shares;
    // All are drawn, so that one share does not change what another does.
    let is_silent = draw(&mut random, shares.silent);
    let is_malformed = draw(&mut random, shares.malformed);
    let runs_again = draw(&mut random, shares.reruns);
    let changes = draw(&mut random, shares.changed) && runs_again;
    let delay = random.random_range(column.delay.clone());
    if is_silent {
        return Fate::default();
    }
    let mut body = enrich(&own, shares, &mut random);
    if let Some(id) = id.filter(|_| column.names_row) {
        body.insert(id_cell.to_owned(), id);
    }
    let mut calls = vec![Planned { after: delay, body: write(&body, is_malformed) }];
    if runs_again {
        if changes {
            body.insert("job_title".to_owned(), json!("Chief Revenue Officer"));
            body.insert("icp_score".to_owned(), json!(random.random_range(0..=100).to_string()));
        }
        calls.push(Planned { after: delay + RERUN_AFTER, body: write(&body, is_malformed) });
    }
    Fate { calls, is_malformed, changes }
}

fn digest(seed: u64, cells: &Map<String, Value>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    // Members are sorted: a map of serde_json is a tree.
    hash.update(Value::Object(cells.clone()).to_string());
    hash.finalize().into()
}

fn draw(random: &mut StdRng, share: f64) -> bool {
    random.random_bool(share.clamp(0.0, 1.0))
}

/// The row's cells, and what the table found out. What the row has already stays.
fn enrich(cells: &Map<String, Value>, shares: &Shares, random: &mut StdRng) -> Map<String, Value> {
    let first = cells.get("first_name").and_then(Value::as_str).unwrap_or("there").to_owned();
    let handle = cells.get("email").and_then(Value::as_str).and_then(|email| email.split('@').next());
    let handle = handle.map_or_else(|| format!("person-{}", random.random_range(0..1_000_000)), str::to_owned);
    let pick = |list: &[&'static str], random: &mut StdRng| json!(list.choose(random).copied().unwrap_or_default());
    let found = [
        ("company_name", pick(&COMPANIES, random)),
        ("job_title", pick(&TITLES, random)),
        ("industry", pick(&INDUSTRIES, random)),
        ("linkedin_url", json!(format!("https://www.linkedin.com/in/{handle}"))),
        ("employee_count", number(random.random_range(2..5_000), shares, random)),
        ("icp_score", number(random.random_range(0..=100), shares, random)),
        ("personalized_opener", json!(format!("Hello {first}, congratulations on the launch!"))),
    ];
    let mut body = cells.clone();
    for (name, value) in found {
        let is_missing = draw(random, shares.missing);
        if body.contains_key(name) {
            continue;
        }
        if !is_missing {
            body.insert(name.to_owned(), value);
        } else if let Some(nothing) = nothing(random) {
            body.insert(name.to_owned(), nothing);
        }
    }
    body
}

/// A chip inside quotes arrives as text, at times with a thousands separator; one without as a number.
fn number(number: i64, shares: &Shares, random: &mut StdRng) -> Value {
    match draw(random, shares.numbers_as_text) {
        false => json!(number),
        true if number >= 1000 => json!(format!("{},{:03}", number / 1000, number % 1000)),
        true => json!(number.to_string()),
    }
}

/// The ways in which a cell is empty; `None`: left out.
fn nothing(random: &mut StdRng) -> Option<Value> {
    match random.random_range(0..4) {
        0 => None,
        1 => Some(Value::Null),
        2 => Some(json!("")),
        _ => Some(json!(JUNK.choose(random).copied().unwrap_or_default())),
    }
}

fn write(body: &Map<String, Value>, is_malformed: bool) -> String {
    let text = Value::Object(body.clone()).to_string();
    // A quote that nobody escaped, before the last member's end.
    if is_malformed { text.replacen("\":", "\"\":", 1) } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row(number: usize, id: &str) -> Map<String, Value> {
        let row = json!({"email": format!("p{number}@example.com"), "first_name": "Ada", "claygate_id": id,
            "back": format!("http://127.0.0.1/{id}")});
        row.as_object().unwrap().clone()
    }

    fn column(shares: Shares) -> Column {
        Column::calling(CallTo::Cell("back".to_owned())).shares(shares)
    }

    #[test]
    fn the_fate_of_a_row_hangs_on_seed_and_cells_alone() {
        let column = column(Shares::USUAL);
        let fate = |seed, number, id: &str| plan(&column, seed, "claygate_id", &row(number, id));
        let others = (0..50).filter(|n| fate(7, *n, "a") != fate(8, *n, "a")).count();
        assert!(others > 40, "{others} of 50 differ by the seed");
        for number in 0..50 {
            let (a, b) = (fate(7, number, "a"), fate(7, number, "b"));
            assert_eq!(a.calls.len(), b.calls.len());
            for (a, b) in a.calls.iter().zip(&b.calls) {
                assert_eq!(a.body.replace("\"a\"", "\"b\""), b.body);
                assert_eq!(a.after, b.after);
            }
        }
    }

    #[test]
    fn nothing_goes_wrong_unless_it_is_asked_for() {
        let fate = plan(&column(Shares::NONE), 1, "claygate_id", &row(1, "a"));
        let [call] = &fate.calls[..] else { unreachable!("one call: {fate:?}") };
        let body: Map<String, Value> = serde_json::from_str(&call.body).unwrap();
        assert_eq!(body["claygate_id"], "a");
        assert!(!body.contains_key("back"));
        assert!(body["icp_score"].is_i64());
        for name in ["company_name", "job_title", "industry", "linkedin_url", "personalized_opener"] {
            assert!(body[name].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        }
    }

    #[test]
    fn everything_that_goes_wrong_occurs() {
        let column = column(Shares { silent: 0.1, malformed: 0.1, reruns: 0.3, ..Shares::USUAL });
        let fates: Vec<Fate> = (0..500).map(|n| plan(&column, 1, "claygate_id", &row(n, "a"))).collect();
        let n = |what: fn(&Fate) -> bool| fates.iter().filter(|fate| what(fate)).count();
        assert!((20..100).contains(&n(|fate| fate.calls.is_empty())));
        assert!((20..100).contains(&n(|fate| fate.is_malformed)));
        assert!((80..220).contains(&n(|fate| fate.calls.len() == 2)));
        assert!((30..120).contains(&n(|fate| fate.changes)));
        let bodies: Vec<&str> = fates.iter().flat_map(|fate| &fate.calls).map(|call| &*call.body).collect();
        for fate in &fates {
            for call in &fate.calls {
                assert_eq!(serde_json::from_str::<Value>(&call.body).is_err(), fate.is_malformed, "{}", call.body);
            }
        }
        for part in ["\"job_title\":null", "\"industry\":\"\"", "\"icp_score\":\"", "N/A"] {
            assert!(bodies.iter().any(|body| body.contains(part)), "{part}");
        }
    }
}
