//! Reads score files the plain way: whole, line by line, with `str::split`, `str::parse` and a JSON parser without a fast way.

use rankdistill_core::scores::{BadKind, Format, MAX_SCORE};

/// One row; scores are bits, since -0.0 isn't 0.0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub query: String,
    pub docs: Vec<String>,
    pub scores: Vec<u32>,
}

/// A float by the grammar that files use: no infinity, no NaN, no name, and none beyond the bound.
fn score(text: &str) -> Result<u32, BadKind> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    let value = text.parse::<f32>().ok().filter(|value| is_number && value.abs() <= MAX_SCORE);
    value.map(f32::to_bits).ok_or(BadKind::Score)
}

/// A JSON value, numbers and non-finite words as they are written.
enum Value {
    Text(String),
    Number(String),
    List(Vec<Value>),
}

struct Json<'a>(std::iter::Peekable<std::str::Chars<'a>>);

impl Json<'_> {
    fn space(&mut self) {
        while self.0.next_if(|c| " \t\r".contains(*c)).is_some() {}
    }

    fn take(&mut self, wanted: char) -> Option<char> {
        self.space();
        self.0.next_if_eq(&wanted)
    }

    /// The next characters, as long as they are among these.
    fn word(&mut self, of: impl Fn(char) -> bool) -> String {
        std::iter::from_fn(|| self.0.next_if(|&c| of(c))).collect()
    }

    fn value(&mut self) -> Option<Value> {
        self.space();
        match *self.0.peek()? {
            '"' => self.text().map(Value::Text),
            '[' => {
                self.0.next();
                let mut list = Vec::new();
                while list.is_empty() || self.take(',').is_some() {
                    list.push(self.value()?);
                }
                self.take(']').map(|_| Value::List(list))
            }
            c if c.is_ascii_digit() || c == '-' || c == 'N' || c == 'I' => {
                let word = self.word(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
                let is_json = matches!(word.as_str(), "NaN" | "Infinity" | "-Infinity") || is_json_number(&word);
                is_json.then_some(Value::Number(word))
            }
            _ => None,
        }
    }

    fn text(&mut self) -> Option<String> {
        self.0.next();
        // UTF-16, since escapes are.
        let mut units = Vec::new();
        loop {
            match self.0.next()? {
                '"' => return whole(&units),
                '\\' => match self.0.next()? {
                    'u' => units.push(self.unit()?),
                    c => units.push(r#""\/bfnrt"#.find(c).map(|at| b"\"\\/\x08\x0c\n\r\t"[at])?.into()),
                },
                '\0'..='\x1f' => return None,
                c => units.extend_from_slice(c.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn unit(&mut self) -> Option<u16> {
        let digits: String = self.0.by_ref().take(4).collect();
        let is_hex = digits.len() == 4 && digits.chars().all(|c| c.is_ascii_hexdigit());
        is_hex.then(|| u16::from_str_radix(&digits, 16).ok())?
    }
}

fn whole(units: &[u16]) -> Option<String> {
    String::from_utf16(units).ok()
}

fn is_json_number(word: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let word = word.strip_prefix('-').unwrap_or(word);
    let (mantissa, exponent) = word.split_once(['e', 'E']).unwrap_or((word, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    digits(whole) && (whole == "0" || !whole.starts_with('0')) && digits(fraction) && digits(exponent)
}

/// At least one character, and no white space of ASCII.
pub fn is_id(text: &str) -> bool {
    !text.is_empty() && !text.contains([' ', '\t', '\n', '\x0b', '\x0c', '\r'])
}

/// Whether a doc stands there twice.
pub fn is_repeated(docs: &[String]) -> bool {
    docs.iter().enumerate().any(|(i, doc)| docs[..i].contains(doc))
}

fn json_id(value: Value) -> Result<String, BadKind> {
    match value {
        Value::Text(text) if !is_id(&text) => Err(BadKind::Id),
        Value::Text(text) => Ok(text),
        Value::Number(number) if number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => Ok(number),
        _ => Err(BadKind::Json),
    }
}

fn json_row(text: &str, num_docs: usize) -> Result<Row, BadKind> {
    let mut json = Json(text.chars().peekable());
    let Some(Value::List(mut docs)) = json.value() else { return Err(BadKind::Json) };
    json.space();
    if json.0.next().is_some() {
        return Err(BadKind::Json);
    }
    let mut row = Row { query: json_id(docs.remove(0))?, docs: vec![], scores: vec![] };
    for doc in docs {
        let Value::List(doc) = doc else { return Err(BadKind::Json) };
        let Ok([id, Value::Number(number)]) = <[Value; 2]>::try_from(doc) else { return Err(BadKind::Json) };
        row.docs.push(json_id(id)?);
        row.scores.push(score(&number)?);
    }
    let fits = row.docs.len() >= 2 && (num_docs == 0 || num_docs == row.docs.len());
    match fits {
        false => Err(BadKind::Width),
        true if is_repeated(&row.docs) => Err(BadKind::Repeated),
        true => Ok(row),
    }
}

fn row(line: &[u8], format: Format, max_line_bytes: usize, num_docs: usize) -> Result<Row, BadKind> {
    if line.len() > max_line_bytes {
        return Err(BadKind::Overlong);
    }
    let text = std::str::from_utf8(line).map_err(|_| BadKind::Utf8)?;
    if format == Format::Nway {
        return json_row(text, num_docs);
    }
    let columns: Vec<&str> = text.split('\t').collect();
    let (ids, scores) = match (format, columns.len()) {
        (Format::Margin, 4) => (&columns[..3], &columns[3..]),
        (Format::Ids | Format::Text, 5) => (&columns[2..], &columns[..2]),
        _ => return Err(BadKind::Columns),
    };
    if ids.iter().any(|id| if format == Format::Text { id.is_empty() } else { !is_id(id) }) {
        return Err(BadKind::Id);
    }
    if ids[1] == ids[2] {
        return Err(BadKind::Repeated);
    }
    let mut scores = scores.iter().map(|text| score(text)).collect::<Result<Vec<u32>, _>>()?;
    scores.resize(2, 0);
    Ok(Row { query: ids[0].into(), docs: ids[1..].iter().map(|&id| id.into()).collect(), scores })
}

fn is_header(line: &[u8]) -> bool {
    let columns: Vec<&[u8]> = line.split(|&byte| byte == b'\t').collect();
    let first = columns[0].to_ascii_lowercase();
    let is_number = std::str::from_utf8(columns[columns.len() - 1]).is_ok_and(|last| last.parse::<f32>().is_ok());
    columns.len() > 1 && !is_number && matches!(first.as_slice(), b"query_id" | b"query-id" | b"qid" | b"query")
}

/// What some files hold: the good rows of all; file (from 0), line (from 1) and kind of each bad one.
pub fn read(files: &[Vec<u8>], format: Format, max_line_bytes: usize) -> (Vec<Row>, Vec<(usize, u64, BadKind)>) {
    let (mut rows, mut bad) = (Vec::<Row>::new(), Vec::new());
    for (file, content) in files.iter().enumerate() {
        let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        let mut lines: Vec<&[u8]> = content.split(|&byte| byte == b'\n').collect();
        lines.iter_mut().for_each(|line| *line = line.strip_suffix(b"\r").unwrap_or(line));
        // Empty lines at the end are none.
        while lines.pop_if(|line| line.is_empty()).is_some() {}
        for (line, number) in lines.into_iter().zip(1..) {
            if format == Format::Margin && number == 1 && is_header(line) {
                continue;
            }
            match row(line, format, max_line_bytes, rows.first().map_or(0, |row| row.docs.len())) {
                Ok(row) => rows.push(row),
                Err(kind) => bad.push((file, number, kind)),
            }
        }
    }
    (rows, bad)
}
