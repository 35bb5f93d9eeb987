//! The matrix products of a ViT's own shapes, shared by the bench `vit` and the example `extraction_rate`.

use agiqa_nets::vit::VitConfig;
use tch::{Device, Kind, Tensor};

/// Sizes `(m, k, n)` of the products of a block at one side, and how many of each.
pub fn products(config: &VitConfig, side_px: i64) -> [(i64, [i64; 3]); 6] {
    let VitConfig { patch_px, dim: d, mlp_dim, n_heads, .. } = *config;
    let n = 1 + (side_px / patch_px).pow(2);
    let head = d / n_heads;
    [
        (1, [n, d, 3 * d]),
        (n_heads, [n, head, n]),
        (n_heads, [n, n, head]),
        (1, [n, d, d]),
        (1, [n, d, mlp_dim]),
        (1, [n, mlp_dim, d]),
    ]
}

/// Operations of one image: the products of all blocks; the rest is under 1 %.
pub fn n_operations(config: &VitConfig, side_px: i64) -> i64 {
    let of_product = |(times, sizes): &(i64, [i64; 3])| times * 2 * sizes.iter().product::<i64>();
    products(config, side_px).iter().map(of_product).sum::<i64>() * config.n_blocks as i64
}

/// Factors of all products of one image.
pub struct Products(Vec<(i64, Tensor, Tensor)>);

impl Products {
    /// Random factors. There are as many weights as the network has, so that they come from memory as they do there.
    pub fn new(config: &VitConfig, side_px: i64, kind: Kind) -> Self {
        let factor = |rows, columns| Tensor::rand([rows, columns], (Kind::Float, Device::Cpu)).to_kind(kind);
        let block = |_| products(config, side_px).map(|(times, [m, k, n])| (times, factor(m, k), factor(k, n)));
        Self((0..config.n_blocks).flat_map(block).collect())
    }

    /// Multiplies them all.
    pub fn multiply(&self) {
        for (times, a, b) in &self.0 {
            (0..*times).for_each(|_| drop(a.matmul(b)));
        }
    }
}
