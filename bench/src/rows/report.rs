//! What was promised, and the table.

use serde_json::{Value, json};

use super::run::Outcome;
use crate::report::{Header, grouped, markdown_rows};

/// The most that `claygate send` may take, whatever the file's length.
const SEND_MB_MAX: f64 = 100.0;
/// The least part of the allowed rate that is used.
const RATE_MIN: f64 = 0.95;

/// Everything that was measured.
pub struct Results {
    pub(super) header: Header,
    pub(super) command: String,
    pub(super) runs: Vec<Outcome>,
}

impl Results {
    /// Promises that were not kept.
    pub fn broken(&self) -> Vec<String> {
        self.runs.iter().flat_map(|run| broken(run).into_iter().map(|what| format!("{}: {what}", run.name))).collect()
    }

    /// The report as text, in Markdown.
    pub fn to_text(&self) -> String {
        let head = [
            "what",
            "rows",
            "stored/s",
            "delivered/s",
            "of the allowed rate",
            "429",
            "killed: send, worker",
            "came twice",
            "counted, not taken",
            "peak MB: send, worker",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.runs.iter().map(line));
        let Header { machine, versions, commit, at, .. } = &self.header;
        let mut text = format!(
            "Machine: {machine}, shared by everything that was measured, the fake Clay included.\n\
             Versions: {versions}. Commit {commit}, {at}.\n\n{}\n\
             Rates count from the start of `claygate send` to the end of the last row; that of the allowed one from the \
             first quarter of the rows to the last row, since Clay's burst lies before. Rows that came twice were under way \
             when a worker was killed.\n",
            markdown_rows(&rows)
        );
        let foreign = self.runs.iter().map(|run| run.foreign).fold(0.0, f64::max);
        if foreign > crate::scenarios::FOREIGN_MAX {
            text.push_str(&format!("\nDisturbed: others used up to {:.0} % of the machine.\n", foreign * 100.0));
        }
        text.push_str(&format!("\nRepeat it with `{}`.\n", self.command));
        for what in self.broken() {
            text.push_str(&format!("\nBROKEN: {what}\n"));
        }
        text
    }

    /// The same as JSON.
    pub fn to_json(&self) -> Value {
        json!({ "header": self.header, "command": self.command, "runs": self.runs, "broken": self.broken() })
    }
}

fn line(run: &Outcome) -> Vec<String> {
    vec![
        run.name.to_owned(),
        grouped(run.rows as f64),
        grouped(run.stored_per_second),
        grouped(run.delivered_per_second),
        share(run).map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0)),
        run.fake.dropped.to_string(),
        format!("{}, {}", run.send_kills, run.worker_kills),
        run.fake.repeated.to_string(),
        (i128::from(run.books.used) - i128::from(run.fake.accepted)).to_string(),
        format!("{:.0}, {:.0}", run.send_peak_mb, run.worker_peak_mb),
    ]
}

/// The part of the allowed rate that was used.
fn share(run: &Outcome) -> Option<f64> {
    Some(run.steady_per_second / f64::from(run.limit?.0))
}

fn broken(run: &Outcome) -> Vec<String> {
    let mut broken = Vec::new();
    let mut promise = |kept: bool, what: String| {
        if !kept {
            broken.push(what);
        }
    };
    let (fake, books, rows) = (&run.fake, &run.books, i128::from(run.rows));
    let in_doubt = run.worker_kills * u64::from(run.concurrency);
    promise(i128::from(books.rows) == rows, format!("{} rows are stored instead of {rows}", books.rows));
    promise(
        i128::from(books.delivered) == rows && books.others == 0,
        format!("{} rows are recorded as taken and {} not, of {rows}", books.delivered, books.others),
    );
    let arrived = i128::from(fake.accepted) - i128::from(fake.repeated);
    promise(
        arrived == rows && fake.without_id == 0,
        format!("{arrived} different rows arrived, and {} without an id, of {rows}", fake.without_id),
    );
    promise(fake.repeated <= in_doubt, format!("{} rows came twice; kills allow {in_doubt}", fake.repeated));
    let counted = i128::from(books.used) - i128::from(fake.accepted);
    promise(counted >= 0, format!("claygate counted {} submissions, and Clay took {}", books.used, fake.accepted));
    promise(
        counted <= i128::from(in_doubt),
        format!("{counted} submissions more are counted than came; kills allow {in_doubt}"),
    );
    promise(fake.dropped == 0, format!("{} rows were above the rate (429)", fake.dropped));
    promise(fake.refused.is_empty(), format!("requests were refused, by status: {:?}", fake.refused));
    promise(
        run.send_peak_mb < SEND_MB_MAX,
        format!("`send` took {:.0} MB; {SEND_MB_MAX:.0} are allowed", run.send_peak_mb),
    );
    // A killed worker's leases have to run out first.
    if let Some(share) = share(run).filter(|_| run.worker_kills == 0) {
        promise(share >= RATE_MIN, format!("{:.1} % of the allowed rate were used", share * 100.0));
    }
    broken
}

#[cfg(test)]
mod tests {
    use fake_clay::Counts;

    use super::super::run::Books;
    use super::*;

    fn good() -> Outcome {
        Outcome {
            name: "limited",
            rows: 1_000,
            limit: Some((100, 200)),
            concurrency: 8,
            stored_per_second: 10_000.0,
            delivered_per_second: 120.0,
            steady_per_second: 97.0,
            send_kills: 0,
            worker_kills: 0,
            send_peak_mb: 40.0,
            worker_peak_mb: 50.0,
            fake: Counts { accepted: 1_000, ..Counts::default() },
            books: Books { rows: 1_000, delivered: 1_000, others: 0, used: 1_000 },
            foreign: 0.0,
        }
    }

    #[test]
    fn a_good_run_breaks_no_promise() {
        assert_eq!(broken(&good()), Vec::<String>::new());
        assert_eq!(share(&good()), Some(0.97));
    }

    #[test]
    fn each_promise_can_be_broken() {
        let counts = |accepted, repeated| Counts { accepted, repeated, ..Counts::default() };
        let cases = [
            Outcome { fake: counts(999, 0), ..good() },
            Outcome { fake: counts(1_001, 1), books: Books { used: 1_001, ..good().books }, ..good() },
            Outcome { books: Books { used: 999, ..good().books }, ..good() },
            Outcome { books: Books { used: 1_001, ..good().books }, ..good() },
            Outcome { books: Books { delivered: 999, others: 1, ..good().books }, ..good() },
            Outcome { books: Books { rows: 1_001, ..good().books }, ..good() },
            Outcome { fake: Counts { dropped: 1, ..good().fake }, ..good() },
            Outcome { steady_per_second: 94.0, ..good() },
            Outcome { send_peak_mb: 101.0, ..good() },
        ];
        for case in cases {
            assert!(!broken(&case).is_empty(), "{case:?}");
        }
    }

    #[test]
    fn a_kill_allows_as_many_repeats_as_were_under_way_and_a_pause() {
        let killed = Outcome {
            worker_kills: 2,
            steady_per_second: 60.0,
            fake: Counts { accepted: 1_016, repeated: 16, ..Counts::default() },
            books: Books { used: 1_032, ..good().books },
            ..good()
        };
        assert_eq!(broken(&killed), Vec::<String>::new());
        let too_many = Outcome { fake: Counts { accepted: 1_017, repeated: 17, ..Counts::default() }, ..killed };
        assert_eq!(broken(&too_many).len(), 1);
    }
}
