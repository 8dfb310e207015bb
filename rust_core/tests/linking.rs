//! The linking automaton against a plain twin that writes down every output, on generated inputs.
//!
//! Few distinct tokens, the markup's own among them, so that texts and titles have braces and brackets.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use rankdistill_core::error::ErrorKind;
use rankdistill_core::linking::{ANY, Automaton, Marks, Mode, Span, State};
use rankdistill_core::trie::{OnDuplicate, Sequences, Snapshot, TokenTrie, TrieInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const EOS: u32 = 9;
const MARKS: Marks = Marks { open: 0, close: 1, begin: 2, end: 3 };

type Titles = BTreeSet<Vec<u32>>;

fn trie_of(titles: &Titles) -> TokenTrie {
    let tokens: Vec<u32> = titles.iter().flat_map(|title| title.iter().copied().chain([EOS])).collect();
    let lengths: Vec<u32> = titles.iter().map(|title| title.len() as u32 + 1).collect();
    let info = TrieInfo { vocab_size: 10, eos: EOS, pad: 8, fingerprint: String::new() };
    TokenTrie::build(Sequences { tokens: &tokens, lengths: &lengths }, None, &info, OnDuplicate::Refuse).unwrap()
}

fn snapshot(titles: &Titles) -> Arc<Snapshot> {
    trie_of(titles).snapshot()
}

/// Every output behind a place of the text.
fn outputs(text: &[u32], titles: &BTreeMap<(u32, u32), Titles>, place: u32) -> Vec<Vec<i64>> {
    if place as usize == text.len() {
        return vec![vec![i64::from(EOS)]];
    }
    let wide = |tokens: &[u32]| tokens.iter().map(|&token| i64::from(token)).collect::<Vec<_>>();
    let mut found: Vec<Vec<i64>> = Vec::new();
    let mut add = |written: Vec<i64>, end: u32| {
        found.extend(outputs(text, titles, end).into_iter().map(|rest| [written.clone(), rest].concat()));
    };
    add(wide(&text[place as usize..][..1]), place + 1);
    for (&(start, end), own) in titles.iter().filter(|((start, _), _)| *start == place) {
        for title in own {
            let mention = wide(&text[start as usize..end as usize]);
            let (open, close) = (vec![i64::from(MARKS.open)], wide(&[MARKS.close, MARKS.begin]));
            add([open, mention, close, wide(title), wide(&[MARKS.end])].concat(), end);
        }
    }
    found
}

fn titles() -> impl Strategy<Value = Titles> {
    btree_set(vec(0u32..6, 1..4), 0..4)
}

prop_compose! {
    fn case()(text in vec(0u32..6, 0..4))(
        spans in btree_set((0..=text.len() as u32, 0..=text.len() as u32), 0..4),
        all in titles(),
        sets in vec(titles(), 3),
        chosen in vec(proptest::option::of(0usize..3), 16),
        text in Just(text),
    ) -> (Vec<u32>, Vec<Span>, Titles, Vec<Titles>) {
        let spans = spans.into_iter().filter(|(start, end)| start < end).zip(chosen);
        let spans = spans.map(|((start, end), set)| Span { text: 1, start, end, set: set.map_or(ANY, |set| set as u32) });
        (text, spans.collect(), all, sets)
    }
}

fn automaton(text: &[u32], spans: &[Span], all: &Titles, sets: &[Titles]) -> Automaton {
    // The text stands behind another one, which has no mentions.
    let tokens: Vec<u32> = [&[5, 5], text].concat();
    let texts = Sequences { tokens: &tokens, lengths: &[2, text.len() as u32] };
    Automaton::new(texts, spans.to_vec(), MARKS, snapshot(all), sets.iter().map(snapshot).collect()).unwrap()
}

proptest! {
    #[test]
    fn all_ways_are_all_outputs((text, spans, all, sets) in case()) {
        let found = automaton(&text, &spans, &all, &sets);
        let of = |span: &Span| if span.set == ANY { all.clone() } else { sets[span.set as usize].clone() };
        let by_span: BTreeMap<_, _> = spans.iter().map(|span| ((span.start, span.end), of(span))).collect();
        let mut written = Vec::new();
        let mut waiting = vec![(Vec::new(), State::START)];
        while let Some((tokens, state)) = waiting.pop() {
            if state.mode == Mode::Done {
                prop_assert!(found.walk(1, &tokens).unwrap().contains(&state));
                written.push(tokens);
                continue;
            }
            let edges = found.allow(&[1], &[state]).unwrap();
            // Never without a way on.
            prop_assert!(!edges.tokens.is_empty());
            let forced = found.forced(&[1], &[state]).unwrap();
            prop_assert_eq!(edges.tokens.len() == 1, !forced.tokens.is_empty());
            for (&token, &next) in edges.tokens.iter().zip(&edges.states) {
                prop_assert!(found.advance(&[1], &[state], &[token]).unwrap().states.contains(&next));
                waiting.push(([&tokens[..], &[token]].concat(), next));
            }
            let ids = found.ids(1, state).unwrap();
            let may_end = edges.states.iter().any(|next| state.mode == Mode::Entity && next.mode == Mode::Outside);
            prop_assert_eq!(ids.is_empty(), !may_end);
        }
        let mut wanted = outputs(&text, &by_span, 0);
        wanted.sort_unstable();
        written.sort_unstable();
        prop_assert_eq!(written, wanted);
        let other = found.forced(&[0], &[State::START]).unwrap();
        prop_assert_eq!(other.tokens, vec![5, 5, i64::from(EOS)]);
    }

    #[test]
    fn foreseen_tokens_are_ways((text, spans, all, sets) in case(), room in 0i64..6, max_copies in 0usize..4) {
        let found = automaton(&text, &spans, &all, &sets);
        let mut waiting = vec![State::START];
        while let Some(state) = waiting.pop() {
            let ahead = found.ahead(&[0, 1], &[State::START, state], &[0, room], max_copies).unwrap();
            prop_assert_eq!(&ahead.allowed, &found.allow(&ahead.rows, &ahead.states).unwrap());
            let mut depths = vec![0; ahead.states.len()];
            for node in 2..ahead.states.len() {
                let (parent, edge) = (ahead.parents[node] as usize, ahead.edges[node]);
                prop_assert!(parent < node && (ahead.allowed.indptr[parent]..ahead.allowed.indptr[parent + 1]).contains(&edge));
                prop_assert_eq!(ahead.allowed.states[edge as usize], ahead.states[node]);
                prop_assert_eq!(ahead.rows[node], 1);
                depths[node] = depths[parent] + 1;
                prop_assert!(depths[node] <= room);
                // Never behind a link's end, and no end of the text.
                prop_assert!(!matches!((ahead.states[parent].mode, ahead.states[node].mode), (Mode::Entity, Mode::Outside) | (_, Mode::Done)));
            }
            let foreseen = ahead.states.len() - 2;
            if max_copies == 0 || room == 0 {
                prop_assert_eq!(foreseen, 0);
            } else if state.mode == Mode::Outside && room >= text.len() as i64 && max_copies >= text.len() {
                prop_assert_eq!(foreseen, text.len() - state.position as usize);
            }
            waiting.extend(found.allow(&[1], &[state]).unwrap().states.into_iter().filter(|next| next.mode != Mode::Done));
        }
    }

    #[test]
    fn states_of_any_numbers_are_refused_or_have_a_way_on((text, spans, all, sets) in case(), words in vec(-1i32..6, 4)) {
        let found = automaton(&text, &spans, &all, &sets);
        if let Ok(state) = State::from_words([words[0], words[1], words[2], words[3]]) {
            match found.allow(&[1], &[state]) {
                Ok(edges) => prop_assert!(!edges.tokens.is_empty()),
                Err(error) => prop_assert_eq!(error.kind, ErrorKind::BadArgument),
            }
        }
    }
}

#[test]
fn a_title_added_to_the_trie_is_another_automatons() {
    let trie = trie_of(&Titles::from([vec![4]]));
    let make = || {
        let texts = Sequences { tokens: &[5], lengths: &[1] };
        Automaton::new(texts, vec![Span { text: 0, start: 0, end: 1, set: ANY }], MARKS, trie.snapshot(), vec![]).unwrap()
    };
    let before = make();
    trie.add(Sequences { tokens: &[5, EOS], lengths: &[2] }, &[7]).unwrap();
    let title = State { mode: Mode::Open, position: 1, start: 0, node: 0 };
    let titles = |own: &Automaton| {
        let root = own.allow(&[0], &[title]).unwrap().states[0];
        own.allow(&[0], &[root]).unwrap().tokens
    };
    assert_eq!((titles(&before), titles(&make())), (vec![4], vec![4, 5]));
}

#[test]
fn what_makes_no_automaton() {
    let all = snapshot(&Titles::from([vec![4]]));
    let make = |spans: Vec<Span>, lengths: &[u32]| {
        let found = Automaton::new(Sequences { tokens: &[5, 5], lengths }, spans, MARKS, all.clone(), vec![]);
        found.err().map(|error| (error.kind, error.to_string()))
    };
    let span = |text, start, end, set| Span { text, start, end, set };
    assert_eq!(make(vec![span(0, 0, 2, ANY)], &[2]), None);
    let cases = [
        (vec![], &[3][..], "expected 3 tokens, the sum of the lengths, found 2"),
        (vec![span(1, 0, 1, ANY)], &[2], "expected mentions in 1 texts"),
        (vec![span(0, 1, 1, ANY)], &[2], "expected mentions in 1 texts"),
        (vec![span(0, 0, 3, ANY)], &[2], "expected mentions in 1 texts"),
        (vec![span(0, 0, 1, 0)], &[2], "with one of 0 sets"),
        (vec![span(0, 0, 1, ANY), span(0, 0, 1, ANY)], &[2], "expected each mention once"),
    ];
    for (spans, lengths, message) in cases {
        let (kind, said) = make(spans, lengths).expect("an error");
        assert_eq!(kind, ErrorKind::BadArgument);
        assert!(said.contains(message), "{said}");
    }
}
