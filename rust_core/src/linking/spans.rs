//! Which runs of a text's tokens may be mentions.

use crate::error::{Error, ErrorKind, Result};
use crate::trie::{NONE, Snapshot};

/// Where mentions may begin and end.
#[derive(Debug, Clone, Copy)]
pub struct Borders<'a> {
    /// Whether one may begin before each token.
    pub begins: &'a [bool],
    /// Whether one may end behind each token.
    pub ends: &'a [bool],
}

/// (start, end) of every run that begins and ends at such a border, of at most `max_length` tokens; with `surfaces`, of those alone
/// that are a whole sequence of that trie but for its end token. By start, then by end.
///
/// # Errors
/// `BadArgument` if there isn't a border for each token; `BadStore` if what is read of the trie was changed.
pub fn find_spans(tokens: &[u32], borders: Borders<'_>, surfaces: Option<&Snapshot>, max_length: usize) -> Result<Vec<(u32, u32)>> {
    if borders.begins.len() != tokens.len() || borders.ends.len() != tokens.len() {
        let found = format!("{} and {}", borders.begins.len(), borders.ends.len());
        return Err(Error::new(ErrorKind::BadArgument, format!("{} borders on both sides", tokens.len()), found, ""));
    }
    let mut spans = Vec::new();
    for start in (0..tokens.len()).filter(|&start| borders.begins[start]) {
        let mut state = surfaces.map_or(0, Snapshot::root);
        for end in start + 1..=tokens.len().min(start.saturating_add(max_length)) {
            let token = tokens[end - 1];
            let mut is_whole = true;
            if let Some(surfaces) = surfaces {
                let eos = surfaces.info().eos;
                // The end token in a text is no end of a surface.
                state = if token == eos { NONE } else { surfaces.step(state, i64::from(token))? };
                if state == NONE {
                    break;
                }
                is_whole = surfaces.step(state, i64::from(eos))? != NONE;
            }
            if is_whole && borders.ends[end - 1] {
                spans.push((start as u32, end as u32));
            }
        }
    }
    Ok(spans)
}
