//! From a scene to pixels, and what goes wrong on the way: first with what is seen, then with how well it is shown.

use super::random::{Rng, cloud, lattice, noise};
use super::scene::{Rgb, Scene, blend};
use image::{Rgb as Pixel, RgbImage};

/// How well the picture is shown. Each level runs from 0 (nothing to see of it) to 1.
#[derive(Clone, Copy)]
pub enum Damage {
    /// Three box blurs, which together are close to a Gaussian one.
    Blur(f32),
    /// Gaussian noise of its own in each channel.
    Noise(f32),
    /// The file itself is a JPEG of low quality: blocks and rings.
    Blocks(f32),
    /// One channel up, another down, and the contrast with them.
    Cast(f32),
}

impl Damage {
    /// The quality setting of the JPEG file.
    pub fn jpeg_quality(self) -> u8 {
        match self {
            Damage::Blocks(level) => (60.0 - 54.0 * level) as u8,
            Damage::Blur(_) | Damage::Noise(_) | Damage::Cast(_) => 88,
        }
    }
}

/// Draws `scene` at the given size.
///
/// `coherence` is how much of the scene is left to recognise: 1 is all of it; lower, lines bend; below 0.5, pieces stand
/// in the wrong places; towards 0, coloured clouds are all there is.
pub fn render(scene: &Scene, coherence: f32, damage: Damage, (width, height): (u32, u32), seed: u64) -> RgbImage {
    let bend = (1.0 - coherence) * (1.0 - coherence) * 0.3;
    let swapped = ((0.5 - coherence) * 1.6).max(0.0);
    let fog = ((0.3 - coherence) * 3.4).clamp(0.0, 1.0);
    let sample = |x: f32, y: f32| -> Rgb {
        let tile = ((x * 6.0).floor() as i64, (y * 6.0).floor() as i64);
        let (mut sx, mut sy) = (x, y);
        if lattice(seed + 1, tile.0, tile.1) < swapped {
            sx += lattice(seed + 2, tile.0, tile.1) - 0.5;
            sy += lattice(seed + 3, tile.0, tile.1) - 0.5;
        }
        sx += (noise(seed + 4, x * 5.0, y * 5.0) - 0.5) * bend * 2.0;
        sy += (noise(seed + 5, x * 5.0, y * 5.0) - 0.5) * bend * 2.0;
        let seen = scene.colour(sx, sy);
        if fog == 0.0 {
            return seen;
        }
        let clouds = std::array::from_fn(|i| cloud(seed + 6 + i as u64, x * 6.0, y * 6.0));
        blend(seen, clouds, fog)
    };
    let (w, h) = (width as usize, height as usize);
    // Four samples a pixel, against stairs along the edges, which would be a damage that no table knows of.
    let mut pixels: Vec<Rgb> = Vec::with_capacity(w * h);
    for row in 0..h {
        for column in 0..w {
            let mut sum = [0.0; 3];
            for (dx, dy) in [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)] {
                let c = sample((column as f32 + dx) / w as f32, (row as f32 + dy) / h as f32);
                (0..3).for_each(|i| sum[i] += c[i] / 4.0);
            }
            pixels.push(sum);
        }
    }
    let mut rng = Rng::new(seed, 9);
    match damage {
        Damage::Blur(level) => {
            let radius = (level * w as f32 / 36.0 + 0.5) as usize;
            for _ in 0..3 {
                pixels = box_blur(&pixels, w, radius);
                pixels = transpose(&pixels, w);
                pixels = box_blur(&pixels, h, radius);
                pixels = transpose(&pixels, h);
            }
        }
        Damage::Noise(level) => {
            pixels.iter_mut().flatten().for_each(|v| *v += rng.normal() * level * 0.3);
        }
        Damage::Blocks(_) => {}
        Damage::Cast(level) => {
            let (up, down) = (rng.below(3), rng.below(3));
            for c in &mut pixels {
                c.iter_mut().for_each(|v| *v = 0.5 + (*v - 0.5) * (1.0 - 0.6 * level));
                c[up] += 0.3 * level;
                c[down] -= 0.15 * level;
            }
        }
    }
    RgbImage::from_fn(width, height, |column, row| {
        let c = pixels[row as usize * w + column as usize];
        Pixel(c.map(|v| (v.clamp(0.0, 1.0) * 255.0 + 0.5) as u8))
    })
}

/// The mean over `2 * radius + 1` pixels along each row of the given width; the edge pixels count again beyond the edge.
fn box_blur(pixels: &[Rgb], width: usize, radius: usize) -> Vec<Rgb> {
    let n = (2 * radius + 1) as f32;
    let mut blurred = Vec::with_capacity(pixels.len());
    for row in pixels.chunks_exact(width) {
        for x in 0..width {
            let mut sum = [0.0; 3];
            for offset in 0..=2 * radius {
                let c = row[(x + offset).saturating_sub(radius).min(width - 1)];
                (0..3).for_each(|i| sum[i] += c[i]);
            }
            blurred.push(sum.map(|v| v / n));
        }
    }
    blurred
}

fn transpose(pixels: &[Rgb], width: usize) -> Vec<Rgb> {
    let height = pixels.len() / width;
    (0..pixels.len()).map(|i| pixels[(i % height) * width + i / height]).collect()
}
