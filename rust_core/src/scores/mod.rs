//! Teacher score files: reading them as columns, and the fixed-width store that training reads from.
//!
//! - `source` opens plain, gzip and zstd files by their first bytes; `reader` cuts them into blocks of whole lines;
//! - `parse` and `nway` turn lines into columns (`number` holds the fast digits); `sniff` tells the formats apart;
//! - `build` writes the store, `store` maps it; `write` writes score files, `merge` makes one of several.

mod build;
mod columns;
mod merge;
mod number;
mod nway;
mod parse;
mod reader;
mod sniff;
mod source;
mod store;
mod write;

pub use build::ScoreStoreWriter;
pub use columns::Columns;
pub use merge::{Merge, MergeOptions, Normalize, OnMissingPair, Progress, Summary, TeacherCounts};
pub use number::parse_f32;
pub use reader::{Block, Position, ReaderOptions, ScoreReader};
pub use source::fingerprint;
pub use store::{IdKind, ScoreStore};
pub use write::ScoreFileWriter;

/// The largest magnitude of a score that training can use.
///
/// A gradient of Margin-MSE is proportional to a margin, up to 2e12 here and 4e13 with a teacher scale of 20. The squared norm of the
/// gradients of 1e8 weights is then about 1e35, which float32 (at most 3e38) still holds. No teacher's raw scores come near.
pub const MAX_SCORE: f32 = 1e12;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `pos_score neg_score query_id pos_id neg_id`, tab-separated.
    Ids,
    /// The same columns with texts in the place of ids.
    Text,
    /// `query_id positive_id negative_id margin`, tab-separated, with or without a header line.
    Margin,
    /// `[query_id, [doc_id, score], …]`, one JSON list a line.
    Nway,
}

impl Format {
    /// All of them, in the order of their codes in a store.
    pub const ALL: [Format; 4] = [Format::Ids, Format::Text, Format::Margin, Format::Nway];

    /// The name that users write.
    pub fn name(self) -> &'static str {
        ["ids", "text", "margin", "nway"][self as usize]
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// What a row looks like.
    fn expected(self) -> &'static str {
        match self {
            Format::Ids => "5 tab-separated columns (pos_score, neg_score, query_id, pos_id, neg_id)",
            Format::Text => "5 tab-separated columns (pos_score, neg_score, query, positive text, negative text)",
            Format::Margin => "4 tab-separated columns (query_id, positive_id, negative_id, margin)",
            Format::Nway => "a JSON list [query_id, [doc_id, score], ...]",
        }
    }
}

/// Why a row was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadKind {
    /// Another number of columns (an empty line is one).
    Columns,
    /// A score that isn't a number of at most [`MAX_SCORE`].
    Score,
    /// An id (or text) without a character, or an id with white space.
    Id,
    /// Bytes that aren't UTF-8.
    Utf8,
    /// A line longer than the limit.
    Overlong,
    /// An archive that ends early or is damaged; the rest of its file is lost.
    Archive,
    /// A line that isn't the JSON list it should be.
    Json,
    /// A row with another number of docs than the first.
    Width,
    /// A row that holds a doc twice, so that a relevant doc may be its own negative.
    Repeated,
}

impl BadKind {
    /// All of them, in the order of their counts.
    pub const ALL: [BadKind; 9] = [
        BadKind::Columns,
        BadKind::Score,
        BadKind::Id,
        BadKind::Utf8,
        BadKind::Overlong,
        BadKind::Archive,
        BadKind::Json,
        BadKind::Width,
        BadKind::Repeated,
    ];

    /// The name that users read.
    pub fn name(self) -> &'static str {
        ["columns", "score", "id", "utf8", "overlong", "archive", "json", "width", "repeated"][self as usize]
    }
}

/// How many rows were skipped, by kind.
pub type BadCounts = [u64; BadKind::ALL.len()];

/// One refused row; its place is added by the reader.
#[derive(Debug, Clone)]
struct BadRow {
    kind: BadKind,
    expected: String,
    found: String,
    remedy: &'static str,
}

const FIX_OR_SKIP: &str = "correct the row, or pass on_bad_row=\"skip\" to leave such rows out, counted";

impl BadRow {
    fn new(kind: BadKind, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { kind, expected: expected.into(), found: found.into(), remedy: FIX_OR_SKIP }
    }
}

/// The beginning of a line, printable, for messages.
fn excerpt(line: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text: String = String::from_utf8_lossy(&line[..line.len().min(4 * SHOWN)]).chars().take(SHOWN).collect();
    format!("{text:?}{}", if text.len() < line.len() { "…" } else { "" })
}
