//! The part of Python's `random` module that a published split needs: `random.seed(n)` and `random.shuffle`.
//!
//! Source: CPython 3, `Modules/_randommodule.c` (`random_seed`, `getrandbits`) and `Lib/random.py` (`_randbelow`,
//! `shuffle`): a Mersenne Twister whose key is the seed's 32-bit words, and rejection sampling of just enough bits.

use rand_mt::Mt;

/// The generator behind Python's `random` after `random.seed(seed)`.
#[derive(Clone, Debug)]
pub struct PythonRandom(Mt);

impl PythonRandom {
    /// `random.seed(seed)` for a seed that fits 32 bits.
    pub fn new(seed: u32) -> Self {
        Self(Mt::new_with_key([seed]))
    }

    /// `random._randbelow(n)`: uniform in `0..n`. `n` must be positive.
    fn below(&mut self, n: u32) -> u32 {
        let n_bits = u32::BITS - n.leading_zeros();
        loop {
            let drawn = self.0.next_u32() >> (u32::BITS - n_bits);
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `random.shuffle(values)`.
    ///
    /// # Panics
    /// If there are 2³² values or more.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            let n = u32::try_from(i + 1).expect("fewer than four thousand million rows");
            values.swap(i, self.below(n) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffles_as_python_does() {
        // python3 -c 'import random; random.seed(20); x = list(range(10)); random.shuffle(x); print(x)'
        let mut values: Vec<u32> = (0..10).collect();
        PythonRandom::new(20).shuffle(&mut values);
        assert_eq!(values, PYTHON_SEED_20);
        // The same with seed 0.
        let mut values: Vec<u32> = (0..10).collect();
        PythonRandom::new(0).shuffle(&mut values);
        assert_eq!(values, PYTHON_SEED_0);
    }

    const PYTHON_SEED_20: [u32; 10] = [5, 3, 0, 7, 8, 9, 6, 1, 4, 2];
    const PYTHON_SEED_0: [u32; 10] = [7, 8, 1, 5, 3, 4, 2, 0, 9, 6];
}
