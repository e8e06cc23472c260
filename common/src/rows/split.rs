//! Cuts a stream of bytes into rows: the lines of NDJSON, or the elements of a JSON array (or one object).
//!
//! Bytes come in pieces of any size; a row that lies within one piece is not copied, one that crosses pieces is gathered
//! in a buffer of bounded length. What is longer than the limit is passed over without being kept, so that a line without
//! end costs no memory. Nothing is parsed here beyond what tells where a row ends: a row may be anything.

/// What separates the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One object per line; empty lines are passed over.
    Lines,
    /// One JSON object, or one array of them.
    Document,
}

/// One row as it was cut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its line, or its place in the array; from 1.
    pub line: u64,
    /// Its bytes, without white space around them; `None`: it is longer than the limit.
    pub raw: Option<&'a [u8]>,
    /// It is all there is: the one object of a document.
    pub alone: bool,
}

/// Why the rest of a document cannot be cut into rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Something else than an object or an array.
    #[error("the body is neither a JSON object nor an array")]
    NoDocument,
    /// Something behind the document.
    #[error("something follows the end of the JSON document")]
    Trailing,
    /// A comma with nothing behind or before it.
    #[error("the array has a comma without a value beside it")]
    Comma,
    /// The document has no end.
    #[error("the JSON document ends in the middle")]
    Unfinished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the document, or inside of lines.
    Start,
    /// In an array, where a value may begin; whether one has to.
    Value { needed: bool },
    /// Inside a value of an array, or inside the one object of a document.
    Inside { depth: u32, in_text: bool, escaped: bool, alone: bool },
    /// Behind the document.
    End,
}

/// Cuts one stream.
#[derive(Debug)]
pub struct Splitter {
    form: Form,
    bytes_max: usize,
    state: State,
    /// The row that began in an earlier piece.
    begun: Vec<u8>,
    /// The row under way is too long; the rest of it is passed over.
    too_long: bool,
    line: u64,
    /// Bytes of a byte order mark that may still come.
    mark_left: usize,
}

const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

impl Splitter {
    /// Cuts a stream of `form` into rows of at most `bytes_max` bytes each.
    pub fn new(form: Form, bytes_max: usize) -> Self {
        Self {
            form,
            bytes_max,
            state: State::Start,
            begun: Vec::new(),
            too_long: false,
            line: 1,
            mark_left: BYTE_ORDER_MARK.len(),
        }
    }

    /// The line, or place, that the next row begins at or behind.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Takes the next bytes and gives every row that ends in them to `take`.
    ///
    /// # Errors
    /// [`Broken`]; no later bytes can be made sense of.
    pub fn feed(&mut self, bytes: &[u8], take: &mut dyn FnMut(Piece<'_>)) -> Result<(), Broken> {
        let bytes = self.without_mark(bytes);
        match self.form {
            Form::Lines => {
                self.feed_lines(bytes, take);
                Ok(())
            }
            Form::Document => self.feed_document(bytes, take),
        }
    }

    /// The stream has ended: gives a last line without a line's end to `take`.
    ///
    /// # Errors
    /// [`Broken`] when the document has no end.
    pub fn finish(mut self, take: &mut dyn FnMut(Piece<'_>)) -> Result<(), Broken> {
        match (self.form, self.state) {
            (Form::Lines, _) => {
                self.give(&[], take);
                Ok(())
            }
            (Form::Document, State::End) => Ok(()),
            (Form::Document, State::Start) => Err(Broken::NoDocument),
            (Form::Document, _) => Err(Broken::Unfinished),
        }
    }

    /// `bytes` without what is left of a byte order mark at the start of the stream.
    fn without_mark<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while self.mark_left > 0 {
            let Some((first, rest)) = bytes.split_first() else { break };
            let at = BYTE_ORDER_MARK.len() - self.mark_left;
            if BYTE_ORDER_MARK.get(at) != Some(first) {
                // A part of a mark is no white space: it belongs to the first row, which is refused for it.
                self.begun.extend_from_slice(BYTE_ORDER_MARK.get(..at).unwrap_or_default());
                self.mark_left = 0;
                break;
            }
            self.mark_left -= 1;
            bytes = rest;
        }
        bytes
    }

    fn feed_lines(&mut self, mut bytes: &[u8], take: &mut dyn FnMut(Piece<'_>)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.give(line, take);
            self.line += 1;
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.keep(bytes);
    }

    fn feed_document(&mut self, bytes: &[u8], take: &mut dyn FnMut(Piece<'_>)) -> Result<(), Broken> {
        // Where the value under way starts in `bytes`.
        let mut start = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            let is_space = byte.is_ascii_whitespace();
            match &mut self.state {
                State::Start | State::End | State::Value { .. } if is_space => {}
                State::Start => {
                    self.state = match byte {
                        b'[' => State::Value { needed: false },
                        b'{' => State::Inside { depth: 1, in_text: false, escaped: false, alone: true },
                        _ => return Err(Broken::NoDocument),
                    };
                    start = at;
                }
                State::End => return Err(Broken::Trailing),
                State::Value { needed } => match byte {
                    b']' if !*needed => self.state = State::End,
                    b']' | b',' => return Err(Broken::Comma),
                    _ => {
                        let (depth, in_text) = (u32::from(matches!(byte, b'{' | b'[')), byte == b'"');
                        self.state = State::Inside { depth, in_text, escaped: false, alone: false };
                        start = at;
                    }
                },
                State::Inside { escaped, .. } if *escaped => *escaped = false,
                State::Inside { in_text: in_text @ true, escaped, .. } => match byte {
                    b'\\' => *escaped = true,
                    b'"' => *in_text = false,
                    _ => {}
                },
                State::Inside { in_text, depth, alone, .. } => match byte {
                    b'"' => *in_text = true,
                    b'{' | b'[' => *depth = depth.saturating_add(1),
                    b'}' | b']' if *depth > 0 => {
                        *depth -= 1;
                        if *depth == 0 && *alone {
                            self.give(bytes.get(start..=at).unwrap_or_default(), take);
                            self.state = State::End;
                        }
                    }
                    b',' | b']' if *depth == 0 => {
                        self.give(bytes.get(start..at).unwrap_or_default(), take);
                        self.line += 1;
                        self.state = if byte == b',' { State::Value { needed: true } } else { State::End };
                    }
                    _ => {}
                },
            }
        }
        if matches!(self.state, State::Inside { .. }) {
            self.keep(bytes.get(start..).unwrap_or_default());
        }
        Ok(())
    }

    /// The row under way ends with `last`.
    fn give(&mut self, last: &[u8], take: &mut dyn FnMut(Piece<'_>)) {
        let line = self.line;
        let alone = matches!(self.state, State::Inside { alone: true, .. });
        let whole = if self.begun.is_empty() && !self.too_long {
            last
        } else {
            self.keep(last);
            &self.begun
        };
        let whole = whole.trim_ascii();
        if self.too_long || whole.len() > self.bytes_max {
            take(Piece { line, raw: None, alone });
        } else if !whole.is_empty() {
            take(Piece { line, raw: Some(whole), alone });
        }
        self.begun.clear();
        self.too_long = false;
    }

    /// The row under way goes on in the next bytes. White space in front of it is not kept, nor any beyond the limit: if
    /// the row goes on behind that, it is too long.
    fn keep(&mut self, bytes: &[u8]) {
        if self.too_long {
            return;
        }
        self.begun.extend_from_slice(if self.begun.is_empty() { bytes.trim_ascii_start() } else { bytes });
        let beyond = self.begun.get(self.bytes_max..).unwrap_or_default();
        if beyond.iter().all(u8::is_ascii_whitespace) {
            self.begun.truncate(self.bytes_max);
        } else {
            self.too_long = true;
            self.begun = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    type Rows = Vec<(u64, Option<String>)>;

    /// The rows of `pieces`, and how the stream ended.
    fn split(form: Form, pieces: &[&[u8]]) -> (Rows, Result<(), Broken>) {
        let mut rows = Vec::new();
        let mut take =
            |piece: Piece<'_>| rows.push((piece.line, piece.raw.map(|raw| String::from_utf8_lossy(raw).into_owned())));
        let mut splitter = Splitter::new(form, 20);
        let mut fed = Ok(());
        for piece in pieces {
            fed = fed.and_then(|()| splitter.feed(piece, &mut take));
        }
        let ended = fed.and_then(|()| splitter.finish(&mut take));
        (rows, ended)
    }

    fn some(rows: &[(u64, &str)]) -> Rows {
        rows.iter().map(|(line, text)| (*line, Some((*text).to_owned()))).collect()
    }

    #[test]
    fn lines_count_as_an_editor_counts_them() {
        let text = b"\xef\xbb\xbf{\"a\":1}\r\n\n  {\"b\":2}  \nnonsense\n{\"c\":3}";
        let expected = some(&[(1, "{\"a\":1}"), (3, "{\"b\":2}"), (4, "nonsense"), (5, "{\"c\":3}")]);
        assert_eq!(split(Form::Lines, &[text]), (expected, Ok(())));
        assert_eq!(split(Form::Lines, &[b""]), (vec![], Ok(())));
        assert_eq!(split(Form::Lines, &[b"\xef\xbb{}\n"]).0.len(), 1, "half a mark is not swallowed");
    }

    #[test]
    fn arrays_and_single_objects_are_documents() {
        for (text, rows, ended) in [
            (" [ {\"a\":\"],}\"} , [1,{}], 7 ] ", some(&[(1, "{\"a\":\"],}\"}"), (2, "[1,{}]"), (3, "7")]), Ok(())),
            ("[]", vec![], Ok(())),
            ("{\"a\":[1,2]}\n", some(&[(1, "{\"a\":[1,2]}")]), Ok(())),
            ("[{\"a\":\"\\\"]\"}]", some(&[(1, "{\"a\":\"\\\"]\"}")]), Ok(())),
            ("[{},]", some(&[(1, "{}")]), Err(Broken::Comma)),
            ("[,{}]", vec![], Err(Broken::Comma)),
            ("[{}", vec![], Err(Broken::Unfinished)),
            ("[{},{", some(&[(1, "{}")]), Err(Broken::Unfinished)),
            ("{} {}", some(&[(1, "{}")]), Err(Broken::Trailing)),
            ("[{}] x", some(&[(1, "{}")]), Err(Broken::Trailing)),
            ("  ", vec![], Err(Broken::NoDocument)),
            ("null", vec![], Err(Broken::NoDocument)),
        ] {
            assert_eq!(split(Form::Document, &[text.as_bytes()]), (rows, ended), "{text}");
        }
    }

    #[test]
    fn what_is_too_long_is_passed_over_without_being_kept() {
        let long = "x".repeat(21);
        let text = format!("{{}}\n{long}\n{}\n{{}}", " ".repeat(100));
        let expected = vec![(1, Some("{}".to_owned())), (2, None), (4, Some("{}".to_owned()))];
        assert_eq!(split(Form::Lines, &[text.as_bytes()]), (expected.clone(), Ok(())));
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(3).collect();
        assert_eq!(split(Form::Lines, &bytes), (expected, Ok(())));

        let mut splitter = Splitter::new(Form::Lines, 1_000);
        for _ in 0..10_000 {
            splitter.feed(&[b'x'; 1_000], &mut |_| {}).unwrap();
            assert!(splitter.begun.capacity() <= 4_000, "{}", splitter.begun.capacity());
        }
        let mut rows = Vec::new();
        splitter.finish(&mut |piece| rows.push((piece.line, piece.raw.is_none()))).unwrap();
        assert_eq!(rows, [(1, true)]);
    }

    proptest! {
        #[test]
        fn where_the_stream_is_cut_makes_no_difference(
            text in "[\\[\\]{},\"\\\\ \n\u{feff}a1]{0,60}", sizes in proptest::collection::vec(1usize..7, 1..20),
        ) {
            for form in [Form::Lines, Form::Document] {
                let whole = split(form, &[text.as_bytes()]);
                let mut rest = text.as_bytes();
                let mut pieces = Vec::new();
                for size in sizes.iter().cycle() {
                    if rest.is_empty() {
                        break;
                    }
                    let (piece, behind) = rest.split_at((*size).min(rest.len()));
                    pieces.push(piece);
                    rest = behind;
                }
                prop_assert_eq!(split(form, &pieces), whole);
            }
        }

        #[test]
        fn objects_come_out_as_they_went_in(values in proptest::collection::vec("[a-z\"\\\\\\]\\[,{}\n]{0,5}", 0..8)) {
            let objects: Vec<String> = values.iter().map(|text| serde_json::json!({"v": text}).to_string()).collect();
            let rows: Rows =
                objects.iter().enumerate().map(|(at, object)| (at as u64 + 1, Some(object.clone()))).collect();
            let fits = objects.iter().all(|object| object.len() <= 20);
            prop_assume!(fits);
            prop_assert_eq!(split(Form::Lines, &[objects.join("\n").as_bytes()]), (rows.clone(), Ok(())));
            let array = format!("[{}]", objects.join(" , "));
            prop_assert_eq!(split(Form::Document, &[array.as_bytes()]), (rows, Ok(())));
        }
    }
}
