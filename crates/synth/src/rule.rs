//! Numbers that are computed from a name.

/// The values of one parameter, `offset + scale · c_i`.
///
/// For a parameter `name` and a seed, `state = fnv1a64(name) XOR seed`. `u_i` is the upper 24 bits of the i-th output
/// of splitmix64(state), divided by 2²⁴, and `c_i = 2 u_i − 1`. Vectors called `.weight` are `1 + 0.1 c`, scales of
/// residual branches `0.5 + 0.1 c`, other vectors `0.05 c`. Larger tensors called `.weight` are `√(3 / fan_in) c`,
/// others `0.1 c`. In the statistics of a batch norm, variances are `1 + 0.25 c`, means `0.1 c`, counts 0.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    state: u64,
    offset: f32,
    scale: f32,
}

impl Rule {
    /// The rule for the parameter `name` of shape `shape`.
    pub fn of(name: &str, shape: &[i64], seed: u64) -> Self {
        let ends = |ending: &str| name.ends_with(ending);
        let (offset, scale) = match shape {
            _ if ends("num_batches_tracked") => (0.0, 0.0),
            _ if ends("running_var") => (1.0, 0.25),
            _ if ends("running_mean") => (0.0, 0.1),
            [] | [_] if ends(".weight") => (1.0, 0.1),
            [] | [_] if ends("gamma") || ends("lambda1") => (0.5, 0.1),
            [] | [_] => (0.0, 0.05),
            [_, inner @ ..] if ends(".weight") => (0.0, (3.0 / inner.iter().product::<i64>() as f64).sqrt() as f32),
            _ => (0.0, 0.1),
        };
        Self { state: state(name, seed), offset, scale }
    }

    /// Value `i` in row-major order.
    pub fn value(self, i: u64) -> f32 {
        let u = (output(self.state, i) >> 40) as f32 / (1 << 24) as f32;
        let c = 2.0 * u - 1.0;
        self.offset + self.scale * c
    }
}

/// Values of the parameter `name` of shape `shape`, row-major.
pub fn values(name: &str, shape: &[i64], seed: u64) -> Vec<f32> {
    let rule = Rule::of(name, shape, seed);
    (0..shape.iter().product::<i64>() as u64).map(|i| rule.value(i)).collect()
}

/// A picture of bands, blocks and noise computed from its name: 8-bit levels, row by row, `channels` per pixel.
pub fn picture(name: &str, width: usize, height: usize, channels: usize) -> Vec<u8> {
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| (output(state(name, 1), i) % 23) as usize + 3);
    let noise = state(name, 2);
    let level = |i: usize| {
        let (x, y, k) = (i / channels % width, i / channels / width, i % channels);
        let bands = (x * a + y * b + k * 50) % 160;
        let blocks = (x / c + y / d + k) % 2 * 60;
        (bands + blocks) as u8 + (output(noise, i as u64) >> 59) as u8
    };
    (0..width * height * channels).map(level).collect()
}

/// The picture of a case in `tests/reference/handcrafted/expected.json`: width, height, RGB levels. A case has a name
/// and a size. It may have a `constant` rectangle, given by its first and last rows and columns.
///
/// # Panics
/// Panics if the case is malformed.
pub fn picture_of_case(case: &serde_json::Value) -> (usize, usize, Vec<u8>) {
    let size = |value: &serde_json::Value| value.as_u64().expect("a count") as usize;
    let (width, height) = (size(&case["width"]), size(&case["height"]));
    let mut pixels = picture(case["name"].as_str().expect("a name"), width, height, 3);
    if let [top, bottom, left, right] = case["constant"].as_array().map_or(&[][..], Vec::as_slice) {
        for y in size(top)..size(bottom) {
            pixels[3 * (y * width + size(left))..3 * (y * width + size(right))].fill(90);
        }
    }
    (width, height, pixels)
}

/// The initial state of a name's generator.
fn state(name: &str, seed: u64) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash ^ seed
}

/// Output `i` of splitmix64.
fn output(state: u64, i: u64) -> u64 {
    let z = state.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_python_rule() {
        // `rule.fill` and `rule.picture` print these values.
        assert_eq!(
            values("conv.weight", &[2, 3], 7),
            [-0.757_478_95, 0.954_105_73, 0.475_932_72, 0.594_930_77, 0.855_399_85, -0.121_632_34]
        );
        assert_eq!(values("norm.bias", &[3], 7), [-0.042_345_356, 0.031_957_187, -0.039_795_59]);
        assert_eq!(picture("wide.png", 61, 35, 3)[..8], [29, 125, 119, 22, 148, 121, 24, 151]);
    }
}
