//! What a decoder may be fed before it's known to be wanted: nearly always it is, and one pass costs what one token would.
//!
//! Outside of mentions, the text itself: one pass over what is left of it says at every place how probable copying is, and how
//! probable a mention. In a mention, the text to its last possible end, but no more than a few tokens, and behind each end `} [`. In a
//! title, what alone may follow, and what few titles are left.

use super::automaton::{Automaton, Edges};
use super::state::{Mode, State};
use crate::error::{Error, ErrorKind, Result};

/// Tokens of a mention at once; nearly all are shorter, and each end costs two tokens more.
const IN_MENTION: usize = 4;

/// What a title may go on with, if all of it is to be fed.
const FEW: usize = 8;
/// Tokens of titles behind a row, those apart that alone may follow.
const IN_TITLE: usize = 16;

/// Rows and the tokens behind them, as trees: first the rows themselves, then what follows, each after its parent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ahead {
    /// The node that each stands behind; -1 for the rows.
    pub parents: Vec<i64>,
    /// The row that each belongs to.
    pub rows: Vec<i64>,
    /// The edge, of all edges, that leads to each; -1 for the rows.
    pub edges: Vec<i64>,
    /// The state after each.
    pub states: Vec<State>,
    /// What each may go on with.
    pub allowed: Edges,
}

impl Automaton {
    /// What follows each row as far as it's foreseen. `room` says how many tokens may stand behind each row, one after the other;
    /// `max_copies`, how much text outside of mentions is copied at once: with 0, nothing at all is foreseen.
    ///
    /// # Errors
    /// As [`Automaton::allow`], and for another number of rooms.
    pub fn ahead(&self, texts: &[i64], states: &[State], room: &[i64], max_copies: usize) -> Result<Ahead> {
        if room.len() != states.len() {
            let expected = format!("a room for each of {} states", states.len());
            return Err(Error::new(ErrorKind::BadArgument, expected, room.len().to_string(), ""));
        }
        let mut found = Ahead { allowed: Edges { indptr: vec![0], ..Edges::default() }, ..Ahead::default() };
        // Text, copies left, room left of each node.
        let mut left: Vec<(usize, usize, i64)> = Vec::new();
        for (row, ((text, state), &room)) in self.rows(texts, states)?.zip(room).enumerate() {
            left.push((text, if state.mode == Mode::Mention { max_copies.min(IN_MENTION) } else { max_copies }, room));
            found.parents.push(-1);
            found.rows.push(row as i64);
            found.edges.push(-1);
            found.states.push(state);
        }
        let mut title_left = vec![IN_TITLE; left.len()];
        let mut node = 0;
        while node < left.len() {
            let ((text, copies, room), state) = (left[node], found.states[node]);
            let entries = self.push(text, state, &mut found.allowed)?;
            let count = entries.len();
            let row_left = &mut title_left[found.rows[node] as usize];
            let is_fed = count == 1 || (count <= FEW && count <= *row_left);
            if state.mode == Mode::Entity && 1 < count && is_fed && max_copies > 0 {
                *row_left -= count;
            }
            for entry in entries {
                let next = found.allowed.states[entry];
                let (wanted, copies) = match (state.mode, next.mode) {
                    (Mode::Outside, Mode::Outside) | (Mode::Mention, Mode::Mention) => (copies > 0, copies.saturating_sub(1)),
                    (Mode::Mention | Mode::Open, _) => (max_copies > 0, copies),
                    (Mode::Entity, Mode::Entity) => (max_copies > 0 && is_fed, copies),
                    _ => (false, 0),
                };
                if wanted && room > 0 {
                    left.push((text, copies, room - 1));
                    found.parents.push(node as i64);
                    found.rows.push(found.rows[node]);
                    found.edges.push(entry as i64);
                    found.states.push(next);
                }
            }
            node += 1;
        }
        Ok(found)
    }
}
