//! Sample callbacks: what a Clay table sends on a good day, and on a bad one. Pure: the same seed gives the same bytes.
//!
//! Every person and company is invented, every address is under example.com.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

const FIRST_NAMES: [&str; 16] = [
    "Ada", "Grace", "Linus", "Margaret", "Dennis", "Barbara", "Ken", "Radia", "Edsger", "Hedy", "Alan", "Frances",
    "José", "Zoë", "Søren", "Nguyễn",
];
const LAST_NAMES: [&str; 12] = [
    "Lindqvist",
    "Okafor",
    "Sato",
    "Moreau",
    "Novak",
    "Haddad",
    "O'Neill",
    "García",
    "Petrov",
    "Iyer",
    "Kowalski",
    "Yılmaz",
];
const COMPANIES: [&str; 10] = [
    "Northwind",
    "Acme",
    "Globex",
    "Initech",
    "Umbra",
    "Hooli",
    "Stark Foods",
    "Wayne Logistics",
    "Tyrell Labs",
    "Soylent & Sons",
];
const TITLES: [&str; 7] =
    ["VP Sales", "Head of Growth", "CTO", "Founder", "RevOps Manager", "Marketing Lead", "Account Executive"];
const INDUSTRIES: [&str; 6] = ["Software", "Logistics", "Finance", "Healthcare", "Retail", "Manufacturing"];
/// What Clay columns hold when an enrichment found nothing or a chip was typed by hand.
const JUNK: [&str; 7] = ["", "N/A", "null", "/Work Email", "{{Work Email}}", "[object Object]", "undefined"];

/// What is wrong with a sample, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A lead as it should be.
    Lead,
    /// A lead with placeholders and numbers as text.
    Junk,
    /// An earlier sample once more, byte for byte or laid out otherwise.
    Repeat,
    /// An earlier person with new data.
    Again,
    /// The wrong secret.
    WrongSecret,
    /// No secret.
    NoSecret,
    /// Not JSON.
    Malformed,
}

/// One request of the demonstration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// What it is.
    pub(super) kind: Kind,
    /// The body.
    pub(super) body: String,
}

/// `count` samples: first those that stand alone, then those that repeat earlier ones.
pub(super) fn generate(count: usize, seed: u64) -> Vec<Sample> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut alone: Vec<Sample> = Vec::new();
    let mut leads: Vec<Map<String, Value>> = Vec::new();
    let mut later = Vec::new();
    for number in 0..count {
        // The first is always a lead, so that there is something to repeat.
        let kind = if leads.is_empty() { Kind::Lead } else { pick_kind(&mut random) };
        match kind {
            Kind::Repeat | Kind::Again => later.push(kind),
            _ => {
                let lead = make_lead(number, seed, kind, &mut random);
                alone.push(Sample { kind, body: write_body(kind, &lead) });
                if kind == Kind::Lead {
                    leads.push(lead);
                }
            }
        }
    }
    for kind in later {
        if let Some(lead) = leads.choose(&mut random) {
            alone.push(Sample { kind, body: repeat(kind, lead, &mut random) });
        }
    }
    alone
}

fn pick_kind(random: &mut StdRng) -> Kind {
    match random.random_range(0..100) {
        0..70 => Kind::Lead,
        70..79 => Kind::Junk,
        79..87 => Kind::Repeat,
        87..91 => Kind::Again,
        91..94 => Kind::WrongSecret,
        94..96 => Kind::NoSecret,
        _ => Kind::Malformed,
    }
}

fn make_lead(number: usize, seed: u64, kind: Kind, random: &mut StdRng) -> Map<String, Value> {
    let pick = |list: &[&'static str], random: &mut StdRng| list.choose(random).copied().unwrap_or_default();
    let (first, last) = (pick(&FIRST_NAMES, random), pick(&LAST_NAMES, random));
    let company = pick(&COMPANIES, random);
    let handle = format!("demo-{seed}-{number}");
    let score: i64 = random.random_range(0..=100);
    let employees: i64 = random.random_range(2..5_000);
    let mut lead = Map::new();
    lead.insert("email".into(), json!(format!("{handle}@example.com")));
    lead.insert("first_name".into(), json!(first));
    lead.insert("last_name".into(), json!(last));
    lead.insert("company_name".into(), json!(company));
    lead.insert("job_title".into(), json!(pick(&TITLES, random)));
    lead.insert("employee_count".into(), as_clay_sends(employees, random));
    lead.insert("industry".into(), json!(pick(&INDUSTRIES, random)));
    lead.insert("linkedin_url".into(), json!(format!("https://www.linkedin.com/in/{handle}")));
    lead.insert("icp_score".into(), as_clay_sends(score, random));
    lead.insert("personalized_opener".into(), json!(format!("{first}, congratulations on the new {company} launch!")));
    if kind == Kind::Junk {
        for field in ["email", "job_title", "icp_score", "linkedin_url"] {
            if random.random_bool(0.6) {
                lead.insert(field.into(), json!(pick(&JUNK, random)));
            }
        }
    }
    lead
}

/// A chip inside quotes arrives as text, at times with a thousands separator; one without as a number.
fn as_clay_sends(number: i64, random: &mut StdRng) -> Value {
    match random.random_range(0..3) {
        0 => json!(number),
        1 => json!(number.to_string()),
        _ if number >= 1000 => json!(format!("{},{:03}", number / 1000, number % 1000)),
        _ => json!(format!("{number}")),
    }
}

fn write_body(kind: Kind, lead: &Map<String, Value>) -> String {
    let body = Value::Object(lead.clone()).to_string();
    match kind {
        // An unescaped quote in a hand-typed body.
        Kind::Malformed => body.replacen("\"first_name\":\"", "\"first_name\":\"\"", 1),
        _ => body,
    }
}

fn repeat(kind: Kind, lead: &Map<String, Value>, random: &mut StdRng) -> String {
    let mut lead = lead.clone();
    if kind == Kind::Again {
        lead.insert("job_title".into(), json!("Chief Revenue Officer"));
        lead.insert("icp_score".into(), json!(random.random_range(80..=100)));
        return Value::Object(lead).to_string();
    }
    match random.random_bool(0.5) {
        true => Value::Object(lead).to_string(),
        false => format!("{:#}", Value::Object(lead)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_samples() {
        assert_eq!(generate(300, 7), generate(300, 7));
        assert_ne!(generate(300, 7), generate(300, 8));
        assert_eq!(generate(300, 7).len(), 300);
        assert_eq!(generate(1, 7).len(), 1);
    }

    #[test]
    fn every_kind_occurs_and_only_the_malformed_do_not_parse() {
        let samples = generate(300, 1);
        let kinds: HashSet<Kind> = samples.iter().map(|sample| sample.kind).collect();
        assert_eq!(kinds.len(), 7);
        for sample in samples {
            let parses = serde_json::from_str::<Map<String, Value>>(&sample.body).is_ok();
            assert_eq!(parses, sample.kind != Kind::Malformed, "{sample:?}");
        }
    }

    #[test]
    fn every_band_of_scores_occurs() {
        let scores: Vec<f64> = generate(300, 1)
            .iter()
            .filter(|sample| sample.kind == Kind::Lead)
            .filter_map(|sample| serde_json::from_str::<Value>(&sample.body).ok())
            .filter_map(|lead| lead["icp_score"].as_f64().or_else(|| lead["icp_score"].as_str()?.parse().ok()))
            .collect();
        for band in [0.0..50.0, 50.0..80.0, 80.0..90.0, 90.0..101.0] {
            assert!(scores.iter().any(|score| band.contains(score)), "{band:?}");
        }
    }
}
