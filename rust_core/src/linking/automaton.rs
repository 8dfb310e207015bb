//! States, what is legal in each, and steps.

use super::ANY;
use super::state::{Marks, Mode, Span, State};
use crate::error::{Error, ErrorKind, Result};
use crate::trie::{NONE, Sequences, Snapshot};
use std::ops::Range;
use std::sync::Arc;

/// Legal tokens of rows end to end, and the states they lead to: row i's are those from `indptr[i]` to `indptr[i + 1]`.
///
/// A token stands twice in a row where it may be the text's (or the title's) own and the markup's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edges {
    /// Where each row begins, and the end.
    pub indptr: Vec<i64>,
    /// Tokens.
    pub tokens: Vec<i64>,
    /// The state after each token.
    pub states: Vec<State>,
}

struct Text {
    tokens: Vec<u32>,
    /// Where the spans of each start begin, and the end.
    first: Vec<u32>,
}

/// What may be written of some texts. It doesn't change, whatever becomes of the trie.
pub struct Automaton {
    texts: Vec<Text>,
    /// By text, start and end.
    spans: Vec<Span>,
    marks: Marks,
    entities: Arc<Snapshot>,
    sets: Vec<Arc<Snapshot>>,
}

pub(super) fn bad(expected: impl Into<String>, found: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadArgument, expected, found, "")
}

impl Automaton {
    /// The automaton of these texts, whose tokens lie end to end. `spans` are the runs that may be mentions, in any order; those
    /// whose set has no title are left out. `sets` are tries of the titles that some mentions have.
    ///
    /// # Errors
    /// `BadArgument` for a span outside of its text, empty, twice, or of a set that isn't there; a set with another end token.
    pub fn new(
        texts: Sequences<'_>,
        mut spans: Vec<Span>,
        marks: Marks,
        entities: Arc<Snapshot>,
        sets: Vec<Arc<Snapshot>>,
    ) -> Result<Self> {
        let total: usize = texts.lengths.iter().map(|&length| length as usize).sum();
        if total != texts.tokens.len() {
            return Err(bad(format!("{total} tokens, the sum of the lengths"), texts.tokens.len().to_string()));
        }
        if let Some(&token) = texts.tokens.iter().chain([&marks.open, &marks.close, &marks.begin, &marks.end]).find(|&&t| t >= 1 << 31) {
            return Err(bad("tokens below 2,147,483,648", token.to_string()));
        }
        let eos = entities.info().eos;
        if let Some(set) = sets.iter().find(|set| set.info().eos != eos) {
            return Err(bad(format!("candidates that end in {eos}, as the trie's titles do"), set.info().eos.to_string()));
        }
        for span in &spans {
            let length = texts.lengths.get(span.text as usize).copied().unwrap_or(0);
            let is_set = span.set == ANY || (span.set as usize) < sets.len();
            if span.start >= span.end || span.end > length || !is_set {
                let expected = format!("mentions in {} texts with one of {} sets", texts.lengths.len(), sets.len());
                return Err(bad(expected, format!("{span:?}")));
            }
        }
        spans.sort_unstable();
        if let Some(pair) =
            spans.windows(2).find(|pair| pair[0].text == pair[1].text && (pair[0].start, pair[0].end) == (pair[1].start, pair[1].end))
        {
            return Err(bad("each mention once", format!("{:?} and {:?}", pair[0], pair[1])));
        }
        let has_title = |span: &Span| sets.get(span.set as usize).unwrap_or(&entities).num_sequences() > 0;
        spans.retain(has_title);
        let texts = texts.iter().enumerate().map(|(text, tokens)| {
            let place = |start: usize| spans.partition_point(|span| (span.text, span.start) < (text as u32, start as u32)) as u32;
            Text { tokens: tokens.to_vec(), first: (0..=tokens.len()).map(place).collect() }
        });
        Ok(Self { texts: texts.collect(), spans, marks, entities, sets })
    }

    /// How many texts there are.
    pub fn num_texts(&self) -> usize {
        self.texts.len()
    }

    /// The mentions that may begin at a token of a text, by end.
    fn spans_at(&self, text: &Text, start: u32) -> &[Span] {
        let at = start as usize;
        text.first.get(at..at + 2).map_or(&[], |bounds| &self.spans[bounds[0] as usize..bounds[1] as usize])
    }

    fn text(&self, text: usize) -> Result<&Text> {
        let expected = || bad(format!("texts below {}", self.texts.len()), text.to_string());
        self.texts.get(text).ok_or_else(expected)
    }

    /// The titles of the mention that a state is behind.
    fn titles(&self, text: &Text, state: State) -> Result<&Snapshot> {
        let found = self.spans_at(text, state.start).iter().find(|span| span.end == state.position);
        let span = found.ok_or_else(|| bad("states of this automaton", format!("{state:?}")))?;
        Ok(self.sets.get(span.set as usize).unwrap_or(&self.entities))
    }

    /// Hands each legal token and the state after it to `take`.
    pub(super) fn each(&self, text: usize, state: State, mut take: impl FnMut(u32, State)) -> Result<()> {
        let own = self.text(text)?;
        let next = own.tokens.get(state.position as usize).copied();
        let foreign = || bad("states of this automaton", format!("{state:?}"));
        let copied = State { position: state.position.wrapping_add(1), ..state };
        match state.mode {
            Mode::Outside => match next {
                Some(token) => {
                    take(token, copied);
                    if !self.spans_at(own, state.position).is_empty() {
                        take(self.marks.open, State { mode: Mode::Mention, start: state.position, ..state });
                    }
                }
                None if state.position as usize == own.tokens.len() => {
                    take(self.entities.info().eos, State { mode: Mode::Done, ..state });
                }
                None => return Err(foreign()),
            },
            Mode::Mention => {
                let ends = self.spans_at(own, state.start);
                let last = ends.last().filter(|last| (state.start..=last.end).contains(&state.position)).ok_or_else(foreign)?;
                if let Some(token) = next.filter(|_| last.end > state.position) {
                    take(token, copied);
                }
                if ends.iter().any(|span| span.end == state.position) {
                    take(self.marks.close, State { mode: Mode::Open, ..state });
                }
            }
            Mode::Open => {
                let node = self.titles(own, state)?.root();
                take(self.marks.begin, State { mode: Mode::Entity, node, ..state });
            }
            Mode::Entity => {
                let (eos, mut count) = (self.entities.info().eos, 0);
                self.titles(own, state)?.each_child(state.node, |label, node| {
                    count += 1;
                    if label == eos {
                        take(self.marks.end, State::outside(state.position));
                    } else {
                        take(label, State { node, ..state });
                    }
                })?;
                if count == 0 {
                    return Err(foreign());
                }
            }
            Mode::Done => take(self.entities.info().pad, state),
        }
        Ok(())
    }

    /// What each row may go on with. What is done goes on with padding.
    ///
    /// # Errors
    /// `BadArgument` for a text or a state that isn't there; `BadStore` if what is read of the trie was changed.
    pub fn allow(&self, texts: &[i64], states: &[State]) -> Result<Edges> {
        let mut edges = Edges { indptr: vec![0], ..Edges::default() };
        for (text, state) in self.rows(texts, states)? {
            self.push(text, state, &mut edges)?;
        }
        Ok(edges)
    }

    /// Appends a row; which entries are its.
    pub(super) fn push(&self, text: usize, state: State, edges: &mut Edges) -> Result<Range<usize>> {
        let from = edges.tokens.len();
        self.each(text, state, |token, next| {
            edges.tokens.push(i64::from(token));
            edges.states.push(next);
        })?;
        edges.indptr.push(edges.tokens.len() as i64);
        Ok(from..edges.tokens.len())
    }

    pub(super) fn rows<'a>(&self, texts: &'a [i64], states: &'a [State]) -> Result<impl Iterator<Item = (usize, State)> + use<'a>> {
        if texts.len() != states.len() {
            return Err(bad(format!("a text for each of {} states", states.len()), texts.len().to_string()));
        }
        Ok(texts.iter().map(|&text| usize::try_from(text).unwrap_or(usize::MAX)).zip(states.iter().copied()))
    }

    /// The states after one more token of each row; none where it isn't legal, two where it may be the text's own and the markup's.
    ///
    /// # Errors
    /// As [`Automaton::allow`], and for another number of tokens.
    pub fn advance(&self, texts: &[i64], states: &[State], tokens: &[i64]) -> Result<Edges> {
        if tokens.len() != states.len() {
            return Err(bad(format!("a token for each of {} states", states.len()), tokens.len().to_string()));
        }
        let mut edges = Edges { indptr: vec![0], ..Edges::default() };
        for ((text, state), &wanted) in self.rows(texts, states)?.zip(tokens) {
            self.each(text, state, |token, next| {
                if i64::from(token) == wanted {
                    edges.tokens.push(wanted);
                    edges.states.push(next);
                }
            })?;
            edges.indptr.push(edges.tokens.len() as i64);
        }
        Ok(edges)
    }

    /// The tokens that each row must go on with, as long as there's one way only, and the states after them; the text's end included.
    ///
    /// # Errors
    /// As [`Automaton::allow`].
    pub fn forced(&self, texts: &[i64], states: &[State]) -> Result<Edges> {
        let mut edges = Edges { indptr: vec![0], ..Edges::default() };
        for (text, mut state) in self.rows(texts, states)? {
            while state.mode != Mode::Done {
                let (mut count, mut only) = (0, None);
                self.each(text, state, |token, next| {
                    count += 1;
                    only = Some((token, next));
                })?;
                let Some((token, next)) = only.filter(|_| count == 1) else { break };
                edges.tokens.push(i64::from(token));
                edges.states.push(next);
                state = next;
            }
            edges.indptr.push(edges.tokens.len() as i64);
        }
        Ok(edges)
    }

    /// The entities that a row's title names, if it is whole; ascending.
    ///
    /// # Errors
    /// As [`Automaton::allow`].
    pub fn ids(&self, text: usize, state: State) -> Result<Vec<u32>> {
        if state.mode != Mode::Entity {
            return Ok(vec![]);
        }
        let titles = self.titles(self.text(text)?, state)?;
        let leaf = titles.step(state.node, i64::from(titles.info().eos))?;
        if leaf == NONE { Ok(vec![]) } else { titles.ids(leaf) }
    }

    /// All states after these tokens from the start; several, where a token may be the text's own and the markup's.
    ///
    /// # Errors
    /// As [`Automaton::allow`].
    pub fn walk(&self, text: usize, tokens: &[i64]) -> Result<Vec<State>> {
        let mut states = vec![State::START];
        for &wanted in tokens {
            let mut after = Vec::new();
            for state in states {
                self.each(text, state, |token, next| {
                    if i64::from(token) == wanted {
                        after.push(next);
                    }
                })?;
            }
            states = after;
        }
        Ok(states)
    }
}
