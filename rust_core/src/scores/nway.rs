//! One JSON list a line: `[query_id, [doc_id, score], …]`.

use super::columns::Columns;
use super::parse::{Rules, check_id, repeated, score};
use super::{BadKind, BadRow, Format, excerpt};
use std::borrow::Cow;

/// Reads one line into `columns`; on an error they're as before.
pub(super) fn row(text: &str, rules: Rules, columns: &mut Columns) -> Result<(), BadRow> {
    let mark = columns.mark();
    let num_docs = rules.num_docs;
    let result = Cursor { text, at: 0, max_score: rules.max_score }.row(columns).and_then(|count| {
        if count < 2 {
            return Err(BadRow::new(BadKind::Width, "at least 2 docs a row", format!("{count} ({})", excerpt(text.as_bytes()))));
        }
        if num_docs != 0 && count != num_docs {
            let expected = format!("{num_docs} docs, as in the first row");
            return Err(BadRow {
                remedy: "cut all rows to one number of docs, or pass on_bad_row=\"skip\" to leave the others out, counted",
                ..BadRow::new(BadKind::Width, expected, format!("{count} ({})", excerpt(text.as_bytes())))
            });
        }
        if let Some(doc) = columns.repeated(&columns.docs[columns.docs.len() - count..]) {
            return Err(repeated(&columns.id(doc)));
        }
        columns.num_docs = count;
        Ok(())
    });
    if result.is_err() {
        columns.back_to(mark);
    }
    result
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
    max_score: f32,
}

impl<'a> Cursor<'a> {
    fn bad<T>(&self, wanted: &str) -> Result<T, BadRow> {
        let rest = &self.text.as_bytes()[self.at.min(self.text.len())..];
        let found = if rest.is_empty() { "the end of the line".into() } else { excerpt(rest) };
        let expected = format!("{}, with {wanted} at column {}", Format::Nway.expected(), self.at + 1);
        Err(BadRow::new(BadKind::Json, expected, found))
    }

    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at), Some(b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Result<(), BadRow> {
        if self.peek() != Some(byte) {
            return self.bad(&format!("{:?}", char::from(byte)));
        }
        self.at += 1;
        Ok(())
    }

    /// The whole list; returns the number of docs.
    fn row(mut self, columns: &mut Columns) -> Result<usize, BadRow> {
        self.take(b'[')?;
        let query = self.id("query_id", columns)?;
        columns.queries.push(query);
        let mut count = 0;
        while self.peek() == Some(b',') {
            self.at += 1;
            self.take(b'[')?;
            let doc = self.id("doc_id", columns)?;
            columns.docs.push(doc);
            self.take(b',')?;
            let value = self.score()?;
            columns.scores.push(value);
            self.take(b']')?;
            count += 1;
        }
        self.take(b']')?;
        if self.peek().is_some() { self.bad("the end of the line") } else { Ok(count) }
    }

    fn id(&mut self, name: &str, columns: &mut Columns) -> Result<u64, BadRow> {
        let id = match self.peek() {
            Some(b'"') => self.string()?,
            Some(b'-' | b'0'..=b'9') => {
                let start = self.at;
                let number = self.number()?;
                if number.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
                    self.at = start;
                    return self.bad("a string or a whole number");
                }
                Cow::Borrowed(number)
            }
            _ => return self.bad("a string or a whole number"),
        };
        check_id(name, &id, self.text.as_bytes())?;
        Ok(columns.code(&id))
    }

    /// A number by JSON's own grammar.
    fn number(&mut self) -> Result<&'a str, BadRow> {
        let (start, bytes) = (self.at, self.text.as_bytes());
        let mut at = start + usize::from(bytes.get(start) == Some(&b'-'));
        let digits = |mut at: usize| {
            let from = at;
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            (at, at - from)
        };
        let (end, count) = digits(at);
        if count == 0 || (count > 1 && bytes[at] == b'0') {
            return self.bad("a number");
        }
        at = end;
        if bytes.get(at) == Some(&b'.') {
            let (end, count) = digits(at + 1);
            if count == 0 {
                return self.bad("a number");
            }
            at = end;
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            let (end, count) = digits(at + 1 + sign);
            if count == 0 {
                return self.bad("a number");
            }
            at = end;
        }
        self.at = at;
        Ok(&self.text[start..at])
    }

    fn score(&mut self) -> Result<f32, BadRow> {
        self.peek();
        let rest = &self.text[self.at..];
        // What Python's json writes for non-finite floats, though JSON has no word for them.
        if let Some(word) = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| rest.starts_with(word)) {
            return score("score", word, self.max_score);
        }
        score("score", self.number()?, self.max_score)
    }

    fn string(&mut self) -> Result<Cow<'a, str>, BadRow> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut at = start;
        let mut unescaped: Option<String> = None;
        let mut copied = start;
        loop {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    let result = unescaped.get_or_insert_default();
                    result.push_str(&self.text[copied..at]);
                    let Some((character, length)) = escape(&bytes[at + 1..]) else {
                        self.at = at;
                        return self.bad("a valid escape");
                    };
                    result.push(character);
                    at += 1 + length;
                    copied = at;
                }
                Some(0..=0x1f) | None => {
                    self.at = at.min(bytes.len());
                    return self.bad("the end of a string");
                }
                Some(_) => at += 1,
            }
        }
        self.at = at + 1;
        let tail = &self.text[copied..at];
        Ok(match unescaped {
            None => Cow::Borrowed(tail),
            Some(result) => Cow::Owned(result + tail),
        })
    }
}

/// The character that an escape (after its backslash) stands for, and its length. Surrogates must come in pairs.
fn escape(bytes: &[u8]) -> Option<(char, usize)> {
    let hex = |at: usize| {
        let digits = bytes.get(at..at + 4)?;
        digits.iter().try_fold(0u32, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
    };
    Some(match bytes.first()? {
        b'"' => ('"', 1),
        b'\\' => ('\\', 1),
        b'/' => ('/', 1),
        b'b' => ('\u{8}', 1),
        b'f' => ('\u{c}', 1),
        b'n' => ('\n', 1),
        b'r' => ('\r', 1),
        b't' => ('\t', 1),
        b'u' => match hex(1)? {
            high @ 0xd800..=0xdbff if bytes.get(5..7) == Some(b"\\u") => {
                let low = hex(7)?.checked_sub(0xdc00).filter(|&low| low < 0x400)?;
                (char::from_u32(0x10000 + ((high - 0xd800) << 10) + low)?, 11)
            }
            code => (char::from_u32(code)?, 5),
        },
        _ => return None,
    })
}
