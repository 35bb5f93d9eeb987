//! Randomness that gives the same bits on every machine: integer hashes and the four operations of arithmetic only.
//!
//! `sin`, `exp` and their kin come from the system's mathematics library, whose last bit differs from one version to
//! the next. One such bit changes a pixel, and with it the bytes of a file.

/// SplitMix64, after Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
pub struct Rng(u64);

impl Rng {
    /// A stream of its own for each pair: images do not depend on the order in which they are made.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Rng(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        rng.next_u64();
        rng
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Uniform in `[low, high)`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }

    /// Mean 0, standard deviation 1, never beyond ±3.5: the sum of twelve uniforms would be the textbook's, four do here.
    pub fn normal(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| self.uniform()).sum();
        (sum - 2.0) * 1.732_050_8
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A uniform value in `[0, 1)` for a point of an integer grid.
pub fn lattice(seed: u64, x: i64, y: i64) -> f32 {
    let cell = (x as u64).wrapping_mul(0x8da6_b343) ^ (y as u64).wrapping_mul(0xd816_3841_9e37);
    (mix(seed.wrapping_add(mix(cell))) >> 40) as f32 / (1u64 << 24) as f32
}

/// Value noise in `[0, 1)`: smooth between the points of the lattice, one bump per unit.
pub fn noise(seed: u64, x: f32, y: f32) -> f32 {
    let (x0, y0) = (x.floor(), y.floor());
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    let (tx, ty) = (smooth(x - x0), smooth(y - y0));
    let at = |dx: i64, dy: i64| lattice(seed, x0 as i64 + dx, y0 as i64 + dy);
    let top = at(0, 0) + (at(1, 0) - at(0, 0)) * tx;
    let bottom = at(0, 1) + (at(1, 1) - at(0, 1)) * tx;
    top + (bottom - top) * ty
}

/// Four octaves of [`noise`], in `[0, 1)`: clouds, foliage, skin.
pub fn cloud(seed: u64, x: f32, y: f32) -> f32 {
    let octave = |k: u64, scale: f32| noise(seed.wrapping_add(k), x * scale, y * scale) / scale;
    (octave(0, 1.0) + octave(1, 2.0) + octave(2, 4.0) + octave(3, 8.0)) / 1.875
}
