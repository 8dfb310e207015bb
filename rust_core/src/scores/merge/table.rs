//! The pairs of one bucket, with each teacher's score of them; and how those become one.

use super::buckets::mix;

/// What is done to a teacher's scores before they are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalize {
    /// Nothing.
    None,
    /// Mean 0, standard deviation 1.
    ZScore,
    /// From 0 to 1.
    MinMax,
    /// The share of a query's other docs that a doc beats, ties counting half.
    Rank,
}

impl Normalize {
    /// The name that users write.
    pub fn name(self) -> &'static str {
        ["none", "zscore", "minmax", "rank"][self as usize]
    }

    /// The value of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::None, Self::ZScore, Self::MinMax, Self::Rank].into_iter().find(|value| value.name() == name)
    }

    /// Scores of one query's docs by one teacher, in place. Where all are equal, they're 0 standard deviations from the mean, or half-way.
    fn apply(self, scores: &mut [f64]) {
        let summary = Summary::of(scores.iter().copied());
        match self {
            Self::None => {}
            Self::Rank => rank(scores),
            _ => scores.iter_mut().for_each(|score| *score = self.by(summary, *score)),
        }
    }

    /// A score by the spread of those it's among.
    fn by(self, summary: Summary, score: f64) -> f64 {
        let constant = summary.max <= summary.min;
        match self {
            Self::ZScore if constant => 0.0,
            Self::ZScore => (score - summary.mean) / summary.sd(),
            Self::MinMax if constant => 0.5,
            Self::MinMax => (score - summary.min) / (summary.max - summary.min),
            Self::None | Self::Rank => score,
        }
    }
}

fn rank(scores: &mut [f64]) {
    let sorted = {
        let mut sorted = scores.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted
    };
    let others = sorted.len() as f64 - 1.0;
    for score in scores {
        let below = sorted.partition_point(|other| other < score) as f64;
        let ties = sorted.partition_point(|other| other <= score) as f64 - below - 1.0;
        *score = if others > 0.0 { (below + ties / 2.0) / others } else { 0.5 };
    }
}

/// Number, mean and spread of some scores.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Sum of squared distances from it.
    squares: f64,
    /// The lowest; infinite if there are none.
    pub min: f64,
    /// The highest; minus infinity if there are none.
    pub max: f64,
}

impl Default for Summary {
    fn default() -> Self {
        Self { count: 0, mean: 0.0, squares: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Summary {
    fn of(scores: impl Iterator<Item = f64> + Clone) -> Self {
        let (mut all, mut sum) = (Self::default(), 0.0);
        for score in scores.clone() {
            all.count += 1;
            sum += score;
            all.min = all.min.min(score);
            all.max = all.max.max(score);
        }
        all.mean = sum / all.count.max(1) as f64;
        all.squares = scores.map(|score| (score - all.mean).powi(2)).sum();
        all
    }

    /// Both together (Chan, Golub and LeVeque 1979).
    pub(super) fn with(self, other: Self) -> Self {
        let count = self.count + other.count;
        let share = other.count as f64 / count.max(1) as f64;
        let step = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + step * share,
            squares: self.squares + other.squares + step * step * share * self.count as f64,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }

    /// Standard deviation of the population.
    pub fn sd(&self) -> f64 {
        (self.squares / self.count.max(1) as f64).sqrt()
    }
}

/// Distinct pairs; open addressing, slots hold row + 1, 0 is free.
pub struct Table {
    num_teachers: usize,
    pairs: Vec<(u64, u64)>,
    /// One a pair and teacher; NaN where the teacher hasn't the pair.
    scores: Vec<f32>,
    slots: Vec<u32>,
    /// Pairs with several scores, by teacher.
    pub changed: Vec<u64>,
}

impl Table {
    pub fn new(num_teachers: usize) -> Self {
        Self { num_teachers, pairs: Vec::new(), scores: Vec::new(), slots: vec![0; 1 << 10], changed: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    fn slot(&self, pair: (u64, u64)) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = mix(pair.0 ^ mix(pair.1)) as usize & mask;
        while self.slots[slot] != 0 && self.pairs[self.slots[slot] as usize - 1] != pair {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The row of a pair, appended if it's new.
    pub fn pair(&mut self, query: u64, doc: u64) -> usize {
        let pair = (query, doc);
        let mut slot = self.slot(pair);
        if self.slots[slot] == 0 {
            if (self.pairs.len() + 1) * 4 > self.slots.len() * 3 {
                self.slots = vec![0; self.slots.len() * 2];
                for row in 0..self.pairs.len() {
                    let slot = self.slot(self.pairs[row]);
                    self.slots[slot] = row as u32 + 1;
                }
                slot = self.slot(pair);
            }
            self.pairs.push(pair);
            self.scores.resize(self.scores.len() + self.num_teachers, f32::NAN);
            self.slots[slot] = u32::try_from(self.pairs.len()).expect("a bucket holds fewer than 2^32 pairs");
        }
        self.slots[slot] as usize - 1
    }

    /// Sets a score; the distance from an earlier, different one.
    pub fn set(&mut self, pair: usize, teacher: usize, score: f32) -> Option<f64> {
        let place = &mut self.scores[pair * self.num_teachers + teacher];
        let before = std::mem::replace(place, score);
        (!before.is_nan() && before != score).then(|| (f64::from(before) - f64::from(score)).abs())
    }

    /// A pair's score by each teacher.
    pub fn scores(&self, pair: usize) -> &[f32] {
        &self.scores[pair * self.num_teachers..][..self.num_teachers]
    }

    /// Of a teacher's scores.
    pub fn summary(&self, teacher: usize) -> Summary {
        let scores = self.scores.iter().skip(teacher).step_by(self.num_teachers);
        Summary::of(scores.filter(|score| !score.is_nan()).map(|&score| f64::from(score)))
    }
}

/// One score a pair: the weighted mean over the teachers that have it, each normalised.
///
/// # Arguments
/// `summaries`: of all scores of each teacher, for normalising that isn't by query.
pub fn combine(table: &Table, weights: &[f64], normalize: Normalize, per_query: bool, summaries: &[Summary]) -> Vec<f32> {
    let (mut sums, mut totals) = (vec![0.0; table.len()], vec![0.0; table.len()]);
    let mut add = |pair: usize, weight: f64, score: f64| {
        sums[pair] += weight * score;
        totals[pair] += weight;
    };
    if per_query {
        let mut order: Vec<usize> = (0..table.len()).collect();
        order.sort_unstable_by_key(|&pair| table.pairs[pair]);
        for docs in order.chunk_by(|&left, &right| table.pairs[left].0 == table.pairs[right].0) {
            for (teacher, &weight) in weights.iter().enumerate() {
                let known: Vec<usize> = docs.iter().copied().filter(|&pair| !table.scores(pair)[teacher].is_nan()).collect();
                let mut scores: Vec<f64> = known.iter().map(|&pair| f64::from(table.scores(pair)[teacher])).collect();
                normalize.apply(&mut scores);
                known.iter().zip(scores).for_each(|(&pair, score)| add(pair, weight, score));
            }
        }
    } else {
        for pair in 0..table.len() {
            for ((&score, &weight), &summary) in table.scores(pair).iter().zip(weights).zip(summaries) {
                if !score.is_nan() {
                    add(pair, weight, normalize.by(summary, f64::from(score)));
                }
            }
        }
    }
    sums.iter().zip(totals).map(|(sum, total)| (sum / total) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() <= 1e-9 * (1.0 + left.abs())
    }

    proptest! {
        #[test]
        fn summaries_of_parts_make_that_of_the_whole(scores in proptest::collection::vec(-1e3f64..1e3, 1..60), at in 0usize..60) {
            let (left, right) = scores.split_at(at.min(scores.len()));
            let whole = Summary::of(scores.iter().copied());
            let both = Summary::of(left.iter().copied()).with(Summary::of(right.iter().copied()));
            prop_assert!(close(whole.mean, both.mean) && close(whole.sd(), both.sd()));
            prop_assert_eq!((whole.count, whole.min, whole.max), (both.count, both.min, both.max));
        }

        #[test]
        fn a_table_is_a_hash_map(records in proptest::collection::vec((0u64..9, 0u64..300, -4i8..4), 0..2000)) {
            let (mut table, mut twin) = (Table::new(1), HashMap::new());
            for &(query, doc, score) in &records {
                let pair = table.pair(query, doc);
                let step = table.set(pair, 0, f32::from(score));
                let before = twin.insert((query, doc), score);
                prop_assert_eq!(step, before.filter(|&old| old != score).map(|old| f64::from(old.abs_diff(score))));
            }
            prop_assert_eq!(table.len(), twin.len());
            for (&(query, doc), &score) in &twin {
                let pair = table.pair(query, doc);
                prop_assert_eq!(table.scores(pair), &[f32::from(score)]);
            }
        }
    }

    #[test]
    fn ranks_are_shares_of_the_others() {
        let mut scores = [3.0, -1.0, 3.0, 7.0];
        rank(&mut scores);
        assert_eq!(scores, [0.5, 0.0, 0.5, 1.0]);
        let mut alone = [9.0];
        rank(&mut alone);
        assert_eq!(alone, [0.5]);
    }
}
