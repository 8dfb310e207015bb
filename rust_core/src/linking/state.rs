//! Marks, states, and what may be a mention.

use super::automaton::bad;
use crate::error::Result;

/// The tokens of the markup; a text and titles may hold them, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// `{`, before a mention.
    pub open: u32,
    /// `}`, behind it.
    pub close: u32,
    /// `[`, before its title.
    pub begin: u32,
    /// `]`, behind that.
    pub end: u32,
}

/// What is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Text, outside of mentions.
    Outside,
    /// Text, in a mention.
    Mention,
    /// What comes between a mention and its title.
    Open,
    /// A title.
    Entity,
    /// Nothing more.
    Done,
}

const MODES: [Mode; 5] = [Mode::Outside, Mode::Mention, Mode::Open, Mode::Entity, Mode::Done];

/// Where the writing of a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    /// What is being written.
    pub mode: Mode,
    /// How many of the text's tokens are.
    pub position: u32,
    /// Where the mention begins; 0 outside.
    pub start: u32,
    /// The state of the title in its trie; 0 unless in one.
    pub node: u32,
}

impl State {
    /// Before the first token.
    pub const START: Self = Self::outside(0);

    pub(super) const fn outside(position: u32) -> Self {
        Self { mode: Mode::Outside, position, start: 0, node: 0 }
    }

    /// As four numbers.
    pub fn to_words(self) -> [i32; 4] {
        [self.mode as i32, self.position as i32, self.start as i32, self.node as i32]
    }

    /// The state of four numbers; whether it's one of a text, its use will tell.
    ///
    /// # Errors
    /// `BadArgument` for a mode that isn't there.
    pub fn from_words([mode, position, start, node]: [i32; 4]) -> Result<Self> {
        let found = usize::try_from(mode).ok().and_then(|mode| MODES.get(mode));
        let &mode = found.ok_or_else(|| bad("a mode from 0 to 4", mode.to_string()))?;
        Ok(Self { mode, position: position as u32, start: start as u32, node: node as u32 })
    }
}

/// A run of a text's tokens that may be a mention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Which text.
    pub text: u32,
    /// Its first token.
    pub start: u32,
    /// Behind its last token.
    pub end: u32,
    /// Which set of titles it may have; `ANY` is all of the trie.
    pub set: u32,
}
