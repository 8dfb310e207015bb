//! Linking entities in a text: what a decoder may write that copies the text and puts ` { mention } [ Title ]` around its mentions.
//!
//! - `state` is where the writing of a text stands, `automaton` what is legal there, and steps;
//! - `ahead` is what a decoder may be fed before it's known to be wanted.
//!
//! A state says where the text is copied to, not what the last token was, so a text may hold the markup's own tokens: where a text
//! has `{` and a mention may begin, there are two ways to write `{`, and they lead to two states.
//!
//! "{" is legal only where a mention of at least one title begins, "}" only where one ends, "]" only after a whole title; the text
//! ends only behind its last token. So no state is without a way on, and every way ends.

mod ahead;
mod automaton;
mod state;

pub use ahead::Ahead;
pub use automaton::{Automaton, Edges};
pub use state::{Marks, Mode, Span, State};

/// The set of a span that may have any title of the trie.
pub const ANY: u32 = u32::MAX;
