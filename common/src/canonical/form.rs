//! The canonical form itself: one pass cuts the text into tokens, one walk over them feeds the hasher.
//!
//! Both work on text that serde_json has accepted, and rely on it: this module validates nothing. On other input the
//! digest is meaningless, but nothing here panics.

use std::borrow::Cow;
use std::cmp::Ordering;

use sha2::{Digest, Sha256};

/// Bytes gathered before the hasher sees them: its per-call cost is the dearest part of a small body.
const CHUNK_BYTES: usize = 4096;

/// What a token is. The values of an object's members follow their keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    /// A string that stands as it is: valid JSON holds no quote and no control character unescaped.
    Plain,
    /// A string with a backslash in it.
    Escaped,
    /// A number, `true`, `false` or `null`, as written.
    Literal,
}

struct Token {
    kind: Kind,
    /// Strings, quotes included, and literals: the bytes `start..end` of the input.
    start: usize,
    end: usize,
    /// The token behind this one and everything in it.
    next: usize,
}

/// The SHA-256 of the canonical form of `raw`, which is one valid JSON value.
pub(super) fn digest(raw: &[u8]) -> [u8; 32] {
    let tokens = tokenize(raw);
    let mut form = Form { raw, tokens: &tokens, chunk: Vec::with_capacity(CHUNK_BYTES), hasher: Sha256::new() };
    form.write(0);
    form.hasher.update(&form.chunk);
    form.hasher.finalize().into()
}

fn tokenize(raw: &[u8]) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::with_capacity(raw.len() / 8);
    let mut open: Vec<usize> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        let next = tokens.len() + 1;
        match byte {
            b'{' | b'[' => {
                open.push(tokens.len());
                let kind = if byte == b'{' { Kind::Object } else { Kind::Array };
                tokens.push(Token { kind, start: at, end: at, next });
                at += 1;
            }
            b'}' | b']' => {
                let behind = tokens.len();
                if let Some(token) = open.pop().and_then(|index| tokens.get_mut(index)) {
                    token.next = behind;
                }
                at += 1;
            }
            b'"' => {
                let (end, kind) = end_of_text(raw, at + 1);
                tokens.push(Token { kind, start: at, end, next });
                at = end;
            }
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => at += 1,
            _ => {
                let end = end_of_literal(raw, at);
                tokens.push(Token { kind: Kind::Literal, start: at, end, next });
                at = end;
            }
        }
    }
    tokens
}

/// The position behind the closing quote, and what stands before it.
fn end_of_text(raw: &[u8], start: usize) -> (usize, Kind) {
    let mut at = start;
    let mut kind = Kind::Plain;
    while let Some(&byte) = raw.get(at) {
        match byte {
            b'"' => return (at + 1, kind),
            b'\\' => {
                kind = Kind::Escaped;
                at += 2;
            }
            _ => at += 1,
        }
    }
    (raw.len(), kind)
}

/// The position behind a number, `true`, `false` or `null`; at least one byte on.
fn end_of_literal(raw: &[u8], start: usize) -> usize {
    let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
    raw.iter().skip(start + 1).position(ends).map_or(raw.len(), |length| start + 1 + length)
}

struct Form<'a> {
    raw: &'a [u8],
    tokens: &'a [Token],
    chunk: Vec<u8>,
    hasher: Sha256,
}

/// A member of an object.
struct Member<'a> {
    /// Of the name: most pairs of names differ in it.
    beginning: u64,
    name: Cow<'a, [u8]>,
    /// The name's place among the tokens; the value's is behind it.
    key: usize,
}

impl Member<'_> {
    fn by_name(&self, other: &Self) -> Ordering {
        self.beginning.cmp(&other.beginning).then_with(|| self.name.cmp(&other.name))
    }
}

/// The first eight bytes of `name`, zeros behind a shorter one: a number that orders as the bytes do, where it differs.
fn beginning(name: &[u8]) -> u64 {
    let bytes = name.first_chunk().copied().unwrap_or_else(|| {
        let mut short = [0; 8];
        short.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        short
    });
    u64::from_be_bytes(bytes)
}

impl<'a> Form<'a> {
    /// Writes the value at `index`. As deep as the input is nested, which serde_json limits.
    fn write(&mut self, index: usize) {
        let Some(token) = self.tokens.get(index) else { return };
        match token.kind {
            Kind::Object => self.write_object(index, token.next),
            Kind::Array => self.write_array(index, token.next),
            Kind::Plain | Kind::Escaped | Kind::Literal => self.put_scalar(token),
        }
    }

    fn write_object(&mut self, index: usize, behind: usize) {
        let mut members: Vec<Member<'a>> = Vec::new();
        let mut key = index + 1;
        while key < behind {
            let Some(token) = self.tokens.get(key) else { break };
            let name = self.text(token);
            members.push(Member { beginning: beginning(&name), name, key });
            key = self.tokens.get(key + 1).map_or(behind, |value| value.next);
        }
        // Stable: members of the same name stay in the order of the text, and the last one counts.
        members.sort_by(Member::by_name);
        self.put(b"{");
        let mut first = true;
        for (position, member) in members.iter().enumerate() {
            if members.get(position + 1).is_some_and(|next| next.by_name(member).is_eq()) {
                continue;
            }
            if !std::mem::take(&mut first) {
                self.put(b",");
            }
            self.write(member.key);
            self.put(b":");
            self.write(member.key + 1);
        }
        self.put(b"}");
    }

    fn write_array(&mut self, index: usize, behind: usize) {
        self.put(b"[");
        let mut item = index + 1;
        while item < behind {
            if item > index + 1 {
                self.put(b",");
            }
            self.write(item);
            item = self.tokens.get(item).map_or(behind, |token| token.next);
        }
        self.put(b"]");
    }

    fn slice(&self, token: &Token) -> &'a [u8] {
        self.raw.get(token.start..token.end).unwrap_or_default()
    }

    /// The value of a string; borrowed where it is plain.
    fn text(&self, token: &Token) -> Cow<'a, [u8]> {
        let quoted = self.slice(token);
        let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        match token.kind {
            Kind::Escaped => Cow::Owned(decode(inner)),
            _ => Cow::Borrowed(inner),
        }
    }

    fn put_scalar(&mut self, token: &Token) {
        if token.kind == Kind::Escaped {
            self.put(b"\"");
            self.put(&escape(&self.text(token)));
            self.put(b"\"");
        } else {
            self.put(self.slice(token));
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.chunk.len() + bytes.len() > CHUNK_BYTES {
            self.hasher.update(&self.chunk);
            self.chunk.clear();
        }
        if bytes.len() > CHUNK_BYTES {
            self.hasher.update(bytes);
        } else {
            self.chunk.extend_from_slice(bytes);
        }
    }
}

fn escape(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len() + 16);
    for &byte in text {
        match byte {
            b'"' | b'\\' => escaped.extend([b'\\', byte]),
            0..0x20 => escaped.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => escaped.push(byte),
        }
    }
    escaped
}

/// The value of a JSON string, given what stands between its quotes.
fn decode(inner: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            value.push(byte);
            continue;
        }
        let Some((&escape, tail)) = rest.split_first() else { break };
        rest = tail;
        match escape {
            b'b' => value.push(0x08),
            b'f' => value.push(0x0c),
            b'n' => value.push(b'\n'),
            b'r' => value.push(b'\r'),
            b't' => value.push(b'\t'),
            b'u' => rest = decode_unit(rest, &mut value),
            other => value.push(other),
        }
    }
    value
}

/// Decodes what stands behind `\u`, with the low surrogate that follows a high one; gives what is left.
fn decode_unit<'a>(rest: &'a [u8], value: &mut Vec<u8>) -> &'a [u8] {
    let unit = |digits: Option<&[u8]>| {
        digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
    };
    let high = unit(rest.get(..4)).unwrap_or(0xfffd);
    let tail = rest.get(4..).unwrap_or_default();
    let (code, tail) = match (high, unit(tail.get(2..6))) {
        (0xd800..0xdc00, Some(low @ 0xdc00..0xe000)) => {
            (0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00), tail.get(6..).unwrap_or_default())
        }
        _ => (high, tail),
    };
    let mut buffer = [0; 4];
    value.extend_from_slice(char::from_u32(code).unwrap_or('\u{fffd}').encode_utf8(&mut buffer).as_bytes());
    tail
}
