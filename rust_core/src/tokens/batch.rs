//! Padded batches out of token stores.

use super::TokenStore;
use crate::error::{Error, ErrorKind, Result};

/// Row-major `num_rows x length`.
#[derive(Debug, PartialEq, Eq)]
pub struct PaddedBatch {
    /// Tokens, padded on the right.
    pub input_ids: Vec<i64>,
    /// 1 where there's a token, 0 where there's padding.
    pub attention_mask: Vec<i64>,
    /// 1 for the second text of a pair where the tokenizer says so; empty for single texts.
    pub token_type_ids: Vec<i64>,
    /// Columns.
    pub length: usize,
}

/// How a tokenizer joins two texts.
#[derive(Debug, Clone)]
pub struct PairShape {
    /// Special tokens between the two: `[SEP]`, or `</s></s>`.
    pub joiner: Vec<i64>,
    /// Token type of the second text and what follows it: 1 for BERT.
    pub second_type: i64,
    /// No pair has more tokens, special ones included.
    pub max_length: usize,
}

/// Copies tokens of 2 or 4 bytes to 64 bits.
fn widen(bytes: &[u8], width: usize, out: &mut [i64]) {
    if width == 2 {
        for (to, from) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *to = i64::from(u16::from_le_bytes(*from));
        }
    } else {
        for (to, from) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *to = i64::from(u32::from_le_bytes(*from));
        }
    }
}

fn padded_length(longest: usize, multiple: usize) -> usize {
    longest.max(1).next_multiple_of(multiple.max(1))
}

/// `longest_first` of Hugging Face: how many tokens two texts of `first` and `second` keep of `budget`.
fn longest_first(first: usize, second: usize, budget: usize) -> (usize, usize) {
    if first + second <= budget {
        return (first, second);
    }
    // As the tokenizers library: the longer text gives until both are equal; of an odd budget the longer keeps one more.
    let short = first.min(second).min(budget / 2);
    if first > second { (budget - short, short) } else { (short, budget - short) }
}

impl TokenStore {
    /// Texts of `rows`, cut to `max_length` (their last special tokens stay, as a tokenizer would leave them), padded to the longest.
    ///
    /// # Errors
    /// `BadArgument` for a row that isn't there, or a `max_length` below the number of special tokens.
    pub fn batch(&self, rows: &[i64], pad_id: i64, max_length: Option<usize>, pad_to_multiple_of: usize) -> Result<PaddedBatch> {
        let (suffix, width) = (usize::from(self.info.num_suffix), self.info.width as usize);
        let special = usize::from(self.info.num_prefix) + suffix;
        let most = max_length.unwrap_or(usize::MAX);
        if most < special.max(1) {
            return Err(Error::new(ErrorKind::BadArgument, format!("max_length of {} or more", special.max(1)), most.to_string(), ""));
        }
        let kept: Vec<usize> = self.lengths(rows)?.iter().map(|&length| (length as usize).min(most)).collect();
        let length = padded_length(kept.iter().copied().max().unwrap_or(0), pad_to_multiple_of);
        let mut input_ids = vec![pad_id; rows.len() * length];
        let mut attention_mask = vec![0; rows.len() * length];
        for (i, (&row, &kept)) in rows.iter().zip(&kept).enumerate() {
            let bytes = self.token_bytes(row as usize);
            let out = &mut input_ids[i * length..i * length + kept];
            widen(bytes, width, out);
            if bytes.len() > kept * width {
                widen(&bytes[bytes.len() - suffix * width..], width, &mut out[kept - suffix..]);
            }
            attention_mask[i * length..i * length + kept].fill(1);
        }
        Ok(PaddedBatch { input_ids, attention_mask, token_type_ids: Vec::new(), length })
    }

    /// Pairs of a text of `self` and one of `others`, as the tokenizer would join and cut them (`longest_first`).
    ///
    /// # Errors
    /// `BadArgument` for a row that isn't there, unequal numbers of rows, stores of two tokenizers, or a `max_length` that can't hold the specials.
    pub fn pair_batch(
        &self,
        rows: &[i64],
        others: &TokenStore,
        other_rows: &[i64],
        shape: &PairShape,
        pad_id: i64,
        pad_to_multiple_of: usize,
    ) -> Result<PaddedBatch> {
        let bad = |expected: &str, found: String| Err(Error::new(ErrorKind::BadArgument, expected, found, ""));
        if rows.len() != other_rows.len() {
            return bad("as many rows of each store", format!("{} and {}", rows.len(), other_rows.len()));
        }
        if self.info.tokenizer != others.info.tokenizer {
            return bad("two stores of one tokenizer", format!("{} and {}", self.info.tokenizer, others.info.tokenizer));
        }
        let (prefix, suffix) = (usize::from(self.info.num_prefix), usize::from(self.info.num_suffix));
        let special = prefix + shape.joiner.len() + suffix;
        let Some(budget) = shape.max_length.checked_sub(special) else {
            return bad(&format!("max_length of {special} or more"), shape.max_length.to_string());
        };
        let own = |length: &i32| (*length as usize).saturating_sub(prefix + suffix);
        let firsts: Vec<usize> = self.lengths(rows)?.iter().map(own).collect();
        let seconds: Vec<usize> = others.lengths(other_rows)?.iter().map(own).collect();
        let kept: Vec<_> = firsts.iter().zip(&seconds).map(|(&first, &second)| longest_first(first, second, budget)).collect();
        let length = padded_length(kept.iter().map(|(first, second)| first + second + special).max().unwrap_or(0), pad_to_multiple_of);
        let mut input_ids = vec![pad_id; rows.len() * length];
        let mut attention_mask = vec![0; rows.len() * length];
        let mut token_type_ids = vec![0; rows.len() * length];
        let (width, other_width) = (self.info.width as usize, others.info.width as usize);
        for (i, &(first, second)) in kept.iter().enumerate() {
            let (left, right) = (self.token_bytes(rows[i] as usize), others.token_bytes(other_rows[i] as usize));
            let joiner_at = prefix + first;
            let second_at = joiner_at + shape.joiner.len();
            let used = second_at + second + suffix;
            let out = &mut input_ids[i * length..i * length + used];
            widen(left, width, &mut out[..joiner_at]);
            out[joiner_at..second_at].copy_from_slice(&shape.joiner);
            widen(&right[prefix * other_width..], other_width, &mut out[second_at..second_at + second]);
            widen(&right[right.len() - suffix * other_width..], other_width, &mut out[second_at + second..]);
            attention_mask[i * length..i * length + used].fill(1);
            token_type_ids[i * length + second_at..i * length + used].fill(shape.second_type);
        }
        Ok(PaddedBatch { input_ids, attention_mask, token_type_ids, length })
    }
}
