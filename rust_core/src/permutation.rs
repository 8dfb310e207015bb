//! A pseudo-random permutation of `0..len`, computed on the fly: a global shuffle without a list in memory.
//!
//! Cost: O(1) memory, about 20 ns a position. A balanced Feistel network permutes the smallest even power of two that holds
//! `len`; positions that fall outside are sent through again ("cycle walking", at most 4 rounds expected), which keeps it a bijection.

/// Rounds of the Feistel network. Four make a pseudo-random permutation (Luby and Rackoff 1988); six leave a margin for a cheap round function.
const ROUNDS: usize = 6;

/// A bijection on `0..len`, decided by `(seed, epoch)`.
#[derive(Debug, Clone)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

/// The finaliser of SplitMix64: every input bit reaches every output bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Permutation {
    /// The permutation of `0..len` for one epoch of one seed.
    pub fn new(len: u64, seed: u64, epoch: u64) -> Self {
        let bits = (64 - len.saturating_sub(1).leading_zeros()).max(2);
        let mut state = mix(seed ^ 0x9e37_79b9_7f4a_7c15) ^ mix(epoch.wrapping_add(0x2545_f491_4f6c_dd1d));
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        });
        Self { len, half_bits: bits.div_ceil(2), keys }
    }

    /// How many positions there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where position `index < len` goes.
    pub fn get(&self, index: u64) -> u64 {
        debug_assert!(index < self.len);
        let mask = (1u64 << self.half_bits) - 1;
        let mut x = index;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for key in &self.keys {
                (left, right) = (right, left ^ (mix(right ^ key) & mask));
            }
            x = (left << self.half_bits) | right;
            if x < self.len {
                return x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Permutation;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_a_bijection(len in 1u64..3000, seed: u64, epoch in 0u64..1000) {
            let permutation = Permutation::new(len, seed, epoch);
            let mut seen = vec![false; len as usize];
            for i in 0..len {
                let to = permutation.get(i) as usize;
                prop_assert!(!seen[to]);
                seen[to] = true;
            }
        }

        #[test]
        fn stays_inside_for_any_length(len in 1u64..=u64::MAX >> 2, seed: u64, at: u64) {
            prop_assert!(Permutation::new(len, seed, 0).get(at % len) < len);
        }
    }

    #[test]
    fn epochs_and_seeds_differ_and_look_uniform() {
        let order = |seed, epoch| (0..1000).map(|i| Permutation::new(1000, seed, epoch).get(i)).collect::<Vec<_>>();
        assert_ne!(order(0, 0), order(0, 1));
        assert_ne!(order(0, 0), order(1, 0));
        // Mean displacement of a uniform permutation of n is n/3; standard error here is about 7.5.
        let moved: u64 = order(7, 3).iter().enumerate().map(|(i, &to)| to.abs_diff(i as u64)).sum();
        assert!((moved as f64 / 1000.0 - 333.3).abs() < 40.0, "{moved}");
    }
}
