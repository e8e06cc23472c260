//! Cuts a stream of CSV or TSV into records, each with the line it starts at. What a record says is [`super::table`]'s.

/// A record as it was cut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// The line it starts at, from 1.
    pub(super) line: u64,
    /// Its bytes without the line's end; `None`: it is longer than the limit.
    pub(super) raw: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Where a quote opens a field.
    FieldStart,
    Plain,
    Quoted,
    /// Behind a quote inside a quoted field: its end, or the first of two that mean one.
    QuoteInQuoted,
}

/// Cuts one stream. Memory is bounded by the limit on a record, whatever the stream is.
#[derive(Debug)]
pub(super) struct Records {
    delimiter: u8,
    bytes_max: usize,
    state: State,
    begun: Vec<u8>,
    too_long: bool,
    /// The line that the record under way starts at, and the one being read.
    start: u64,
    line: u64,
}

impl Records {
    pub(super) fn new(delimiter: u8, bytes_max: usize) -> Self {
        Self { delimiter, bytes_max, state: State::FieldStart, begun: Vec::new(), too_long: false, start: 1, line: 1 }
    }

    /// The line that the next record starts at.
    pub(super) fn next_line(&self) -> u64 {
        self.start
    }

    /// Takes the next bytes and gives every record that ends in them to `take`. Empty lines are passed over.
    pub(super) fn feed(&mut self, bytes: &[u8], take: &mut dyn FnMut(Record<'_>)) {
        let mut from = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            self.line += u64::from(byte == b'\n');
            self.state = match (self.state, byte) {
                (State::Quoted, b'"') => State::QuoteInQuoted,
                (State::Quoted, _) | (State::QuoteInQuoted | State::FieldStart, b'"') => State::Quoted,
                (_, b'\n') => {
                    self.keep(bytes.get(from..at).unwrap_or_default());
                    self.give(take);
                    from = at + 1;
                    State::FieldStart
                }
                (_, byte) if byte == self.delimiter => State::FieldStart,
                _ => State::Plain,
            };
        }
        self.keep(bytes.get(from..).unwrap_or_default());
    }

    /// The stream has ended. False: inside quotes that nothing closed, and the last record is not given.
    pub(super) fn finish(&mut self, take: &mut dyn FnMut(Record<'_>)) -> bool {
        if self.state == State::Quoted {
            return false;
        }
        self.line += 1;
        self.give(take);
        true
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.too_long {
            return;
        }
        self.begun.extend_from_slice(bytes);
        if self.begun.len() > self.bytes_max {
            self.too_long = true;
            self.begun = Vec::new();
        }
    }

    fn give(&mut self, take: &mut dyn FnMut(Record<'_>)) {
        let raw = self.begun.strip_suffix(b"\r").unwrap_or(&self.begun);
        if self.too_long {
            take(Record { line: self.start, raw: None });
        } else if !raw.is_empty() {
            take(Record { line: self.start, raw: Some(raw) });
        }
        self.begun.clear();
        self.too_long = false;
        self.start = self.line;
    }
}

/// The fields of one record.
pub(super) fn fields(raw: &[u8], delimiter: u8) -> Vec<Vec<u8>> {
    let (mut fields, mut field, mut state) = (Vec::new(), Vec::new(), State::FieldStart);
    for &byte in raw {
        state = match (state, byte) {
            (State::Quoted, b'"') => State::QuoteInQuoted,
            (State::FieldStart, b'"') => State::Quoted,
            (State::FieldStart | State::Plain | State::QuoteInQuoted, byte) if byte == delimiter => {
                fields.push(std::mem::take(&mut field));
                State::FieldStart
            }
            (state, byte) => {
                field.push(byte);
                if matches!(state, State::Quoted) || (state == State::QuoteInQuoted && byte == b'"') {
                    State::Quoted
                } else {
                    State::Plain
                }
            }
        };
    }
    fields.push(field);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (u64, Option<Vec<String>>);

    fn cut(pieces: &[&[u8]]) -> (Vec<Row>, bool) {
        let mut found = Vec::new();
        let mut take = |record: Record<'_>| {
            let text =
                |raw| fields(raw, b',').into_iter().map(|field| String::from_utf8_lossy(&field).into_owned()).collect();
            found.push((record.line, record.raw.map(text)));
        };
        let mut records = Records::new(b',', 40);
        pieces.iter().for_each(|piece| records.feed(piece, &mut take));
        let whole = records.finish(&mut take);
        (found, whole)
    }

    fn row(line: u64, fields: &[&str]) -> Row {
        (line, Some(fields.iter().map(|field| (*field).to_owned()).collect()))
    }

    #[test]
    fn quotes_newlines_and_line_ends_of_any_kind() {
        let text = b"a,b\r\n\"x\ny\",\"say \"\"hi\"\"\"\n\n5\" pipe,\n\"q\"z,last";
        let expected =
            [row(1, &["a", "b"]), row(2, &["x\ny", "say \"hi\""]), row(5, &["5\" pipe", ""]), row(6, &["qz", "last"])];
        assert_eq!(cut(&[text]), (expected.to_vec(), true));
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(cut(&bytes), (expected.to_vec(), true), "where the stream is cut makes no difference");
    }

    #[test]
    fn what_is_too_long_or_never_ends_is_not_kept() {
        let long = "x".repeat(41);
        let expected = [row(1, &["a"]), (2, None), row(3, &["b"])];
        assert_eq!(cut(&[format!("a\n{long}\nb").as_bytes()]), (expected.to_vec(), true));
        assert_eq!(cut(&[b"a\n\"open,b\nc"]), (vec![row(1, &["a"])], false));
        let mut records = Records::new(b',', 1_000);
        for _ in 0..10_000 {
            records.feed(&[b'x'; 1_000], &mut |_| {});
            assert!(records.begun.capacity() <= 4_000);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_quoted_comes_back(rows in proptest::collection::vec(
            proptest::collection::vec("[a,\"\n\r ]{0,5}", 2..4), 1..4)) {
            let quoted = |field: &String| format!("\"{}\"", field.replace('"', "\"\""));
            let line = |row: &Vec<String>| row.iter().map(quoted).collect::<Vec<_>>().join(",");
            let text = rows.iter().map(line).collect::<Vec<_>>().join("\r\n");
            let mut found = Vec::new();
            let mut records = Records::new(b',', 1_000);
            let mut take = |record: Record<'_>| found.extend(record.raw.map(|raw| fields(raw, b',')));
            records.feed(text.as_bytes(), &mut take);
            assert!(records.finish(&mut take));
            let expected: Vec<Vec<Vec<u8>>> =
                rows.iter().map(|row| row.iter().map(|field| field.clone().into_bytes()).collect()).collect();
            assert_eq!(found, expected);
        }
    }
}
