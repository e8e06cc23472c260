//! What a run printed: one line for each thing that was asked, one column for each size, with its ratio to the smallest.

use serde_json::{Value, json};

use super::site::Turn;
use super::sizes::Size;
use crate::report::{Header, Spread, grouped, markdown_rows};
use crate::scenarios::FOREIGN_MAX;

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    PerSecond,
    Milliseconds,
    Seconds,
}

/// One thing that is asked.
struct Question {
    key: &'static str,
    title: &'static str,
    unit: Unit,
    /// The least that is left of the smallest size's rate.
    at_least: Option<f64>,
}

const fn question(key: &'static str, title: &'static str, unit: Unit) -> Question {
    Question { key, title, unit, at_least: None }
}

/// In the order of the table.
const QUESTIONS: [Question; 20] = [
    Question { at_least: Some(0.9), ..question("intake", "intake: 64 connections, 600 B, HMAC", Unit::PerSecond) },
    question("intake-p99", "the intake's answers, p99", Unit::Milliseconds),
    Question { at_least: Some(0.9), ..question("metrics", "`/metrics`, one after the other", Unit::PerSecond) },
    question("events-first", "`events list`, first page", Unit::Milliseconds),
    question("events-deep", "`events list`, a page anywhere", Unit::Milliseconds),
    question("events-of-source", "`events list --source` of every fifth", Unit::Milliseconds),
    question("events-of-nobody", "`events list --source` of nobody", Unit::Milliseconds),
    question("events-dead", "`events list --state dead`, one in a thousand", Unit::Milliseconds),
    question("events-waiting", "`events list --state received`, none", Unit::Milliseconds),
    question("events-of-person", "`events list --person`, one person", Unit::Milliseconds),
    question("event", "`events show`", Unit::Milliseconds),
    question("dead-first", "`dead list`, first page", Unit::Milliseconds),
    question("dead-deep", "`dead list`, a page anywhere", Unit::Milliseconds),
    question("dead-of-destination", "`dead list --destination`, none", Unit::Milliseconds),
    question("dead-for-reason", "`dead list --reason`, none", Unit::Milliseconds),
    question("verify-day", "`verify --since 1d`", Unit::Seconds),
    question("verify", "`verify`, four weeks", Unit::Seconds),
    question("retention-idle", "`retention run`, nothing to remove", Unit::Milliseconds),
    question("retention-week", "`retention run`, a week of bodies or attempts", Unit::Milliseconds),
    question("retention", "`retention run`, a day by its keys: callbacks", Unit::PerSecond),
];

/// What there is to say beside the numbers.
const NOTES: &str = "Pages have 50 lines, and end after 10,000 rows that were looked at where few match; a page anywhere is \
                     the median of twenty places, and one person that of twenty persons. Retention removes in the last round \
                     alone, as fast as it can; a day of ten thousand in four weeks is a single step of it.";

/// A site as it was filled.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Filled {
    pub(super) size: Size,
    pub(super) seconds: f64,
    pub(super) bytes: u64,
}

/// Everything that was measured.
pub(super) struct Results {
    pub(super) header: Header,
    pub(super) command: String,
    /// From the smallest.
    pub(super) sites: Vec<Filled>,
    /// By round, then by site.
    pub(super) rounds: Vec<Vec<Turn>>,
}

impl Results {
    fn spread(&self, site: usize, key: &str) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| round.get(site)?.answers.get(key).copied()))
    }

    /// To the smallest, taken within each round.
    fn ratio(&self, site: usize, key: &str) -> Option<Spread> {
        let of = |round: &[Turn], site: usize| round.get(site)?.answers.get(key).copied();
        let ratios = self.rounds.iter().filter_map(|round| {
            let smallest = of(round, 0).filter(|smallest| *smallest > 0.0)?;
            Some(of(round, site)? / smallest)
        });
        Spread::of(ratios)
    }

    /// What grows that must not.
    pub(super) fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for question in &QUESTIONS {
            let Some(bound) = question.at_least else { continue };
            for (number, site) in self.sites.iter().enumerate().skip(1) {
                match self.ratio(number, question.key) {
                    Some(ratio) if ratio.median < bound => broken.push(format!(
                        "{}: {:.2} of what it was at {}, at {}; at least {bound} has to be left",
                        question.key,
                        ratio.median,
                        self.sites.first().map(|first| first.size.to_string()).unwrap_or_default(),
                        site.size,
                    )),
                    _ => {}
                }
            }
        }
        broken
    }

    /// The report as text, in Markdown.
    pub(super) fn to_text(&self) -> String {
        let mut head = vec!["what".to_owned()];
        for (number, site) in self.sites.iter().enumerate() {
            head.push(grouped(site.size.0 as f64));
            if number > 0 {
                head.push("ratio".to_owned());
            }
        }
        let mut rows = vec![head];
        rows.push(self.row("bytes on disk each", |site| Some(grouped((site.bytes / site.size.0) as f64)), |_| None));
        rows.push(self.row("filled in, s", |site| Some(format!("{:.0}", site.seconds)), |_| None));
        for question in &QUESTIONS {
            let Question { key, title, unit, at_least } = question;
            let place = |site: &Filled| self.sites.iter().position(|other| other.size == site.size);
            rows.push(self.row(
                &format!("{title}, {}", unit.name()),
                |site| Some(unit.write(self.spread(place(site)?, key)?.median)),
                |number| {
                    let ratio = self.ratio(number, key)?;
                    let verdict = match at_least {
                        Some(bound) if ratio.median < *bound => format!(" < {bound}: GROWS"),
                        Some(bound) => format!(" ≥ {bound}"),
                        None => String::new(),
                    };
                    Some(format!("{:.2} ({:.2}–{:.2}){verdict}", ratio.median, ratio.min, ratio.max))
                },
            ));
        }
        let disturbed = self.rounds.iter().flatten().map(|turn| turn.foreign).fold(0.0, f64::max);
        let mut text = format!("{}\n{}\n{NOTES}\n", self.header, markdown_rows(&rows));
        if disturbed > FOREIGN_MAX {
            text.push_str(&format!(
                "\nDisturbed: others used up to {:.0} % of the machine during a turn, so ratios near 1 say little.\n",
                disturbed * 100.0
            ));
        }
        text.push_str(&format!("\nRepeat it with `{}`.\n", self.command));
        for broken in self.broken() {
            text.push_str(&format!("\nGROWS: {broken}\n"));
        }
        text
    }

    /// A line: a cell for each size, and behind all but the smallest its ratio.
    fn row(
        &self,
        title: &str,
        cell: impl Fn(&Filled) -> Option<String>,
        ratio: impl Fn(usize) -> Option<String>,
    ) -> Vec<String> {
        let none = || "–".to_owned();
        let mut row = vec![title.to_owned()];
        for (number, site) in self.sites.iter().enumerate() {
            row.push(cell(site).unwrap_or_else(none));
            if number > 0 {
                row.push(ratio(number).unwrap_or_else(none));
            }
        }
        row
    }

    /// The same as JSON, with every round.
    pub(super) fn to_json(&self) -> Value {
        let ratios = |site: usize| -> serde_json::Map<String, Value> {
            let ratio = |question: &Question| Some((question.key.to_owned(), json!(self.ratio(site, question.key)?)));
            QUESTIONS.iter().filter_map(ratio).collect()
        };
        json!({
            "header": self.header,
            "command": self.command,
            "sites": self.sites,
            "rounds": self.rounds,
            "ratios": (0..self.sites.len()).map(ratios).collect::<Vec<_>>(),
            "broken": self.broken(),
        })
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "per s",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
        }
    }

    fn write(self, value: f64) -> String {
        match self {
            Self::PerSecond => grouped(value),
            _ if value < 10.0 => format!("{value:.2}"),
            _ => format!("{value:.0}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::growth::site::Answers;

    fn results(rounds: &[[(f64, f64); 2]]) -> Results {
        let turn = |(intake, page): (f64, f64)| Turn {
            answers: Answers::from([("intake", intake), ("events-deep", page)]),
            foreign: 0.0,
        };
        Results {
            header: Header {
                machine: "a machine".to_owned(),
                versions: "Postgres 15".to_owned(),
                commit: "abc".to_owned(),
                at: "2030-01-01T00:00:00Z".to_owned(),
                rounds: 3,
                seconds: 5.0,
            },
            command: "cargo xtask bench growth".to_owned(),
            sites: [10_000, 1_000_000].map(|n| Filled { size: Size(n), seconds: 1.0, bytes: n * 2_000 }).into(),
            rounds: rounds.iter().map(|round| round.map(turn).into()).collect(),
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let results = results(&[[(100.0, 1.0), (95.0, 2.0)], [(50.0, 1.0), (49.0, 3.0)], [(80.0, 2.0), (40.0, 2.0)]]);
        let ratio = results.ratio(1, "intake");
        assert_eq!(ratio, Some(Spread { median: 0.95, min: 0.5, max: 0.98 }));
        assert_eq!(results.ratio(1, "verify"), None);
        assert_eq!(results.ratio(1, "events-deep").map(|ratio| ratio.median), Some(2.0));
    }

    #[test]
    fn what_falls_below_its_bound_is_broken_and_what_takes_longer_is_only_shown() {
        let good = results(&[[(100.0, 1.0), (91.0, 9.0)]]);
        assert!(good.broken().is_empty());
        let bad = results(&[[(100.0, 1.0), (89.0, 1.0)]]);
        assert_eq!(bad.broken().len(), 1);
        assert!(bad.to_text().contains("GROWS: intake: 0.89"), "{}", bad.to_text());
    }

    #[test]
    fn the_table_has_a_ratio_behind_every_size_but_the_smallest() {
        let text = results(&[[(31_415.0, 0.5), (30_000.0, 0.75)]]).to_text();
        let head: Vec<&str> = text.lines().filter(|line| line.starts_with("| what")).collect();
        let cells: Vec<&str> = head.first().copied().unwrap_or_default().split('|').map(str::trim).collect();
        assert_eq!(cells, ["", "what", "10,000", "1,000,000", "ratio", ""]);
        assert!(text.contains("31,415") && text.contains("0.95 (0.95–0.95) ≥ 0.9"), "{text}");
        assert!(text.contains("1.50 (1.50–1.50)"), "{text}");
    }
}
