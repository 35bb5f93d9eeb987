//! What the images show: each scene is a function from a point to a colour, so that a distortion is a moved point.

use super::random::{Rng, cloud, lattice, noise};

/// Red, green, blue, each 0 to 1.
pub type Rgb = [f32; 3];

/// The kinds of things drawn.
#[derive(Clone, Copy)]
pub enum Subject {
    Landscape,
    House,
    Portrait,
    Flowers,
    StillLife,
    Sea,
    City,
    Shapes,
}

/// One scene, its details drawn from a seed.
pub struct Scene {
    subject: Subject,
    seed: u64,
    /// Uniform in `[0, 1)`; what each decides is the subject's own business.
    detail: [f32; 8],
}

impl Scene {
    pub fn new(subject: Subject, seed: u64) -> Self {
        let mut rng = Rng::new(seed, 1);
        Scene { subject, seed, detail: std::array::from_fn(|_| rng.uniform()) }
    }

    /// The colour at a point; the image is the unit square with `y` downwards, and points outside of it have one too.
    pub fn colour(&self, x: f32, y: f32) -> Rgb {
        match self.subject {
            Subject::Landscape => self.landscape(x, y),
            Subject::House => self.house(x, y),
            Subject::Portrait => self.portrait(x, y),
            Subject::Flowers => self.flowers(x, y),
            Subject::StillLife => self.still_life(x, y),
            Subject::Sea => self.sea(x, y),
            Subject::City => self.city(x, y),
            Subject::Shapes => self.shapes(x, y),
        }
    }

    fn sky(&self, x: f32, y: f32, top: Rgb, bottom: Rgb) -> Rgb {
        let clouds = (cloud(self.seed + 10, x * 3.0, y * 7.0) - 0.5).max(0.0) * 1.6;
        blend(blend(top, bottom, y * 1.6), [1.0, 1.0, 1.0], clouds)
    }

    fn landscape(&self, x: f32, y: f32) -> Rgb {
        let [sun_x, sun_y, warm, far, near, ..] = self.detail;
        let horizon = blend([0.98, 0.86, 0.65], [0.85, 0.9, 0.98], warm);
        let mut c = self.sky(x, y, [0.2, 0.45, 0.85], horizon);
        let (sx, sy) = (0.15 + 0.7 * sun_x, 0.1 + 0.15 * sun_y);
        let from_sun = distance(x, y, sx, sy);
        c = blend(c, [1.0, 0.95, 0.6], (0.25 - from_sun).max(0.0) * 2.5);
        if from_sun < 0.07 {
            c = [1.0, 0.96, 0.72];
        }
        let far_ridge = 0.52 - 0.28 * cloud(self.seed + 1, x * 2.5 + far * 9.0, 0.5);
        if y > far_ridge {
            let rock = blend([0.45, 0.5, 0.62], [0.6, 0.62, 0.7], cloud(self.seed + 2, x * 12.0, y * 12.0));
            let snow = cloud(self.seed + 3, x * 20.0, 0.0) * 0.08 + 0.03;
            c = if y < far_ridge + snow { [0.95, 0.96, 1.0] } else { rock };
        }
        let near_ridge = 0.62 - 0.12 * cloud(self.seed + 4, x * 2.0 + near * 5.0, 0.5);
        if y > near_ridge {
            c = blend([0.2, 0.4, 0.18], [0.4, 0.58, 0.25], cloud(self.seed + 5, x * 25.0, y * 25.0));
        }
        for k in 0..9 {
            let foot = 0.72 + 0.03 * k as f32;
            let tx = lattice(self.seed + 6, k, 0);
            let height = 0.10 + 0.012 * k as f32;
            let half_width = (y - (foot - height)).max(0.0) * 0.35;
            if y < foot && (x - tx).abs() < half_width {
                let needles = cloud(self.seed + 7, x * 40.0, y * 40.0);
                c = blend([0.05, 0.2, 0.1], [0.15, 0.36, 0.16], needles);
            }
        }
        c
    }

    fn house(&self, x: f32, y: f32) -> Rgb {
        let [place, wall_hue, roof_hue, ..] = self.detail;
        let mut c = self.sky(x, y, [0.35, 0.6, 0.92], [0.85, 0.93, 1.0]);
        if y > 0.7 {
            c = blend([0.25, 0.5, 0.2], [0.45, 0.68, 0.3], cloud(self.seed + 1, x * 30.0, y * 60.0));
        }
        let left = 0.16 + 0.18 * place;
        let (right, eaves, foot) = (left + 0.48, 0.42, 0.82);
        let mid = (left + right) / 2.0;
        if inside(x, y, right - 0.13, 0.18, right - 0.06, 0.4) {
            c = [0.5, 0.28, 0.22];
        }
        if y > 0.17 && y < eaves && (x - mid).abs() < (y - 0.17) * 1.25 {
            let tile = ((y * 44.0) as i64 + (x * 30.0) as i64) % 2 == 0;
            c = blend([0.62, 0.2, 0.14], [0.3, 0.22, 0.4], roof_hue);
            c = if tile { c } else { blend(c, [0.0, 0.0, 0.0], 0.2) };
        }
        if inside(x, y, left, eaves, right, foot) {
            let plaster = blend([0.92, 0.85, 0.7], [0.75, 0.82, 0.86], wall_hue);
            c = blend(plaster, [0.6, 0.55, 0.5], 0.35 * cloud(self.seed + 2, x * 20.0, y * 20.0));
        }
        if inside(x, y, mid - 0.05, 0.6, mid + 0.05, foot) {
            c = [0.36, 0.22, 0.12];
            if distance(x, y, mid + 0.03, 0.71) < 0.01 {
                c = [0.9, 0.8, 0.3];
            }
        }
        for wx in [left + 0.1, right - 0.1] {
            if inside(x, y, wx - 0.06, 0.5, wx + 0.06, 0.63) {
                let bar = (x - wx).abs() < 0.006
                    || (y - 0.565).abs() < 0.006
                    || !inside(x, y, wx - 0.05, 0.51, wx + 0.05, 0.62);
                c = if bar {
                    [0.97, 0.97, 0.95]
                } else {
                    blend([0.2, 0.3, 0.42], [0.7, 0.82, 0.95], (x - wx) * 6.0 + 0.5)
                };
            }
        }
        if y > foot && (x - mid).abs() < 0.05 + (y - foot) * 0.5 {
            c = blend([0.6, 0.56, 0.5], [0.75, 0.7, 0.62], noise(self.seed + 3, x * 40.0, y * 40.0));
        }
        c
    }

    fn portrait(&self, x: f32, y: f32) -> Rgb {
        let [skin_tone, hair_tone, eye_tone, coat, turn, back, ..] = self.detail;
        let mut c = blend([0.25, 0.3, 0.38], [0.7, 0.62, 0.5], (back + cloud(self.seed + 1, x * 4.0, y * 4.0)) / 2.0);
        let skin = blend([0.96, 0.8, 0.68], [0.5, 0.33, 0.24], skin_tone);
        let hair = blend([0.12, 0.08, 0.06], [0.8, 0.6, 0.3], hair_tone * hair_tone);
        let strands = noise(self.seed + 2, x * 70.0, y * 6.0) * 0.35;
        let cx = 0.5 + 0.06 * (turn - 0.5);
        if ellipse(x, y, cx, 0.42, 0.29, 0.36) < 1.0 {
            c = blend(hair, [0.0, 0.0, 0.0], strands);
        }
        if ellipse(x, y, 0.5, 1.08, 0.46, 0.36) < 1.0 {
            c = blend(
                blend([0.15, 0.2, 0.4], [0.5, 0.15, 0.2], coat),
                [1.0, 1.0, 1.0],
                0.1 * cloud(self.seed + 3, x * 30.0, y * 30.0),
            );
        }
        if inside(x, y, cx - 0.08, 0.65, cx + 0.08, 0.8) {
            c = blend(skin, [0.0, 0.0, 0.0], 0.25);
        }
        let face = ellipse(x, y, cx, 0.46, 0.21, 0.28);
        if face < 1.0 {
            let light = 0.3 * face + 0.25 * (x - cx + 0.1).max(0.0) / 0.3;
            c = blend(
                blend(skin, [0.2, 0.08, 0.05], light),
                [1.0, 0.5, 0.45],
                0.05 * cloud(self.seed + 4, x * 25.0, y * 25.0),
            );
        }
        for side in [-1.0, 1.0] {
            let ex = cx + side * 0.085;
            if ellipse(x, y, ex, 0.43, 0.042, 0.02) < 1.0 {
                c = [0.97, 0.97, 0.96];
                let iris = distance(x, y, ex, 0.43);
                if iris < 0.019 {
                    c = blend([0.2, 0.4, 0.6], [0.35, 0.22, 0.1], eye_tone);
                }
                if iris < 0.009 {
                    c = [0.03, 0.03, 0.03];
                }
            }
            if inside(x, y, ex - 0.05, 0.375, ex + 0.05, 0.392) {
                c = hair;
            }
            if ellipse(x, y, cx + side * 0.022, 0.55, 0.012, 0.007) < 1.0 {
                c = blend(skin, [0.2, 0.05, 0.05], 0.6);
            }
        }
        let smile = y - 0.635 + (x - cx) * (x - cx) * 3.0;
        if smile.abs() < 0.016 && (x - cx).abs() < 0.085 {
            c = if smile.abs() < 0.003 { [0.35, 0.1, 0.1] } else { [0.75, 0.32, 0.32] };
        }
        if face < 1.3 && y < 0.3 + 0.3 * (x - cx) * (x - cx) {
            c = blend(hair, [0.0, 0.0, 0.0], strands);
        }
        c
    }

    fn flowers(&self, x: f32, y: f32) -> Rgb {
        let [hue, ..] = self.detail;
        let mut c = blend([0.06, 0.2, 0.08], [0.3, 0.5, 0.2], cloud(self.seed + 1, x * 9.0, y * 9.0));
        // Six directions, as numbers: see `random` for why not as sines.
        let around = [(1.0, 0.0), (0.5, 0.866), (-0.5, 0.866), (-1.0, 0.0), (-0.5, -0.866), (0.5, -0.866)];
        for k in 0..8 {
            let (cx, cy) = (lattice(self.seed + 2, k, 0), 0.08 + 0.75 * lattice(self.seed + 2, k, 1));
            let r = 0.07 + 0.07 * lattice(self.seed + 2, k, 2);
            if y > cy && (x - cx - 0.06 * (y - cy)).abs() < 0.007 {
                c = [0.2, 0.45, 0.15];
            }
            let mix = (hue + 0.4 * lattice(self.seed + 2, k, 3)) % 1.0;
            let petal = blend([0.95, 0.25, 0.4], [0.98, 0.85, 0.95], mix);
            for (dx, dy) in around {
                let d = distance(x, y, cx + dx * r * 0.62, cy + dy * r * 0.62) / (r * 0.42);
                if d < 1.0 {
                    c = blend(petal, [0.5, 0.05, 0.3], d * d * 0.5);
                }
            }
            let d = distance(x, y, cx, cy) / (r * 0.36);
            if d < 1.0 {
                c = blend([0.98, 0.85, 0.2], [0.7, 0.4, 0.05], d * noise(self.seed + 3, x * 120.0, y * 120.0));
            }
        }
        c
    }

    fn still_life(&self, x: f32, y: f32) -> Rgb {
        let [cloth, wall, ..] = self.detail;
        let mut c = blend(blend([0.5, 0.42, 0.36], [0.3, 0.4, 0.42], wall), [0.1, 0.08, 0.08], (x - 0.3).abs());
        if y > 0.52 {
            let depth = 0.5 / (y - 0.36);
            let (u, v) = ((x - 0.5) * depth * 5.0, depth * 7.0);
            let dark = (u.floor() as i64 + v.floor() as i64).rem_euclid(2) == 0;
            c = if dark { blend([0.7, 0.15, 0.15], [0.15, 0.25, 0.55], cloth) } else { [0.93, 0.91, 0.86] };
        }
        let fruit = [[0.85, 0.15, 0.12], [0.95, 0.6, 0.1], [0.55, 0.75, 0.2], [0.5, 0.15, 0.35]];
        for k in 0..5 {
            let cx = 0.18 + 0.16 * k as f32 + 0.06 * lattice(self.seed + 1, k, 0);
            let r = 0.085 + 0.045 * lattice(self.seed + 1, k, 1);
            let cy = 0.60 + 0.14 * lattice(self.seed + 1, k, 2);
            if ellipse(x, y, cx + 0.05, cy + r * 0.85, r * 1.1, r * 0.3) < 1.0 {
                c = blend(c, [0.0, 0.0, 0.0], 0.5);
            }
            let (dx, dy) = ((x - cx) / r, (y - cy) / r);
            let d2 = dx * dx + dy * dy;
            if d2 < 1.0 {
                let light = (-0.5 * dx - 0.6 * dy + 0.62 * (1.0 - d2).sqrt()).max(0.0);
                let skin = fruit[(lattice(self.seed + 1, k, 3) * 4.0) as usize];
                let spots = 0.15 * noise(self.seed + 2, x * 60.0, y * 60.0);
                c = blend(skin, [0.05, 0.03, 0.03], 0.85 - 0.85 * light + spots);
                c = blend(c, [1.0, 1.0, 1.0], (light - 0.9).max(0.0) * 8.0);
            }
        }
        c
    }

    fn sea(&self, x: f32, y: f32) -> Rgb {
        let [dusk, boat, hull_hue, ..] = self.detail;
        let mut c = self.sky(
            x,
            y,
            blend([0.3, 0.55, 0.9], [0.4, 0.25, 0.5], dusk),
            blend([0.85, 0.93, 1.0], [1.0, 0.65, 0.4], dusk),
        );
        if y > 0.55 {
            let depth = 1.0 / (y - 0.5);
            let wave = noise(self.seed + 1, x * depth * 3.0, depth * 9.0);
            c = blend(
                blend([0.05, 0.22, 0.38], [0.2, 0.18, 0.32], dusk),
                blend([0.4, 0.65, 0.75], [0.95, 0.6, 0.45], dusk),
                wave * wave,
            );
        }
        let bx = 0.3 + 0.4 * boat;
        let (deck, keel) = (0.62, 0.7);
        if y > deck && y < keel && (x - bx).abs() < 0.2 - (y - deck) * 0.8 {
            c = blend([0.5, 0.25, 0.12], [0.85, 0.85, 0.88], hull_hue);
            c = if y < deck + 0.012 { [0.95, 0.93, 0.85] } else { c };
        }
        if (x - bx).abs() < 0.006 && y > 0.14 && y < deck {
            c = [0.25, 0.15, 0.1];
        }
        let up = (y - 0.16) / (0.58 - 0.16);
        if up > 0.0 && up < 1.0 {
            let canvas = blend([0.98, 0.97, 0.93], [0.8, 0.78, 0.74], noise(self.seed + 2, x * 8.0, y * 14.0));
            if x > bx + 0.012 && x < bx + 0.012 + up * 0.19 {
                c = canvas;
            }
            if x < bx - 0.012 && x > bx - 0.012 - up * 0.13 {
                c = blend(canvas, [0.75, 0.2, 0.15], 0.8);
            }
        }
        c
    }

    fn city(&self, x: f32, y: f32) -> Rgb {
        let [moon_x, ..] = self.detail;
        let mut c = blend([0.03, 0.04, 0.12], [0.25, 0.16, 0.3], y);
        if lattice(self.seed + 1, (x * 90.0) as i64, (y * 90.0) as i64) > 0.985 {
            c = [0.9, 0.9, 0.8];
        }
        if distance(x, y, 0.1 + 0.8 * moon_x, 0.14) < 0.06 {
            c = blend([0.95, 0.94, 0.85], [0.7, 0.7, 0.66], cloud(self.seed + 2, x * 30.0, y * 30.0));
        }
        for row in 0..2 {
            let columns = 9.0 - 2.0 * row as f32;
            let k = (x * columns).floor();
            let roof = 0.3 + 0.2 * row as f32 + 0.3 * lattice(self.seed + 3, k as i64, row);
            let within = x * columns - k;
            if y > roof && within > 0.04 && within < 0.94 {
                let tone = 0.08 + 0.1 * lattice(self.seed + 4, k as i64, row);
                c = [tone, tone, tone * 1.5];
                let (u, v) = (within * 5.0, (y - roof) * 34.0);
                let window = u.fract() > 0.35 && v.fract() > 0.4 && u < 4.8;
                if window && lattice(self.seed + 5, (k * 7.0 + u.floor()) as i64, v as i64 + 40 * row) > 0.45 {
                    c = [0.98, 0.85, 0.45];
                }
            }
        }
        c
    }

    fn shapes(&self, x: f32, y: f32) -> Rgb {
        let paints = [[0.85, 0.15, 0.12], [0.1, 0.25, 0.65], [0.97, 0.8, 0.15], [0.08, 0.08, 0.08], [0.2, 0.6, 0.5]];
        let mut c = blend([0.95, 0.93, 0.88], [0.85, 0.82, 0.75], cloud(self.seed + 1, x * 30.0, y * 30.0));
        for k in 0..9 {
            let at = |i| lattice(self.seed + 2, k, i);
            let (cx, cy, size) = (at(0), at(1), 0.06 + 0.14 * at(2));
            let hit = match k % 3 {
                0 => distance(x, y, cx, cy) < size,
                1 => inside(x, y, cx - size, cy - size * 0.4, cx + size, cy + size * 0.4),
                _ => y < cy + size && (x - cx).abs() < (y - cy + size) * 0.5,
            };
            if hit {
                c = paints[(at(3) * 5.0) as usize];
            }
        }
        c
    }
}

/// `a` at 0, `b` at 1; the weight is cut to that range.
pub fn blend(a: Rgb, b: Rgb, weight: f32) -> Rgb {
    let w = weight.clamp(0.0, 1.0);
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * w)
}

fn distance(x: f32, y: f32, cx: f32, cy: f32) -> f32 {
    ((x - cx) * (x - cx) + (y - cy) * (y - cy)).sqrt()
}

/// Squared distance from the centre in units of the half axes: below 1 inside.
fn ellipse(x: f32, y: f32, cx: f32, cy: f32, rx: f32, ry: f32) -> f32 {
    let (dx, dy) = ((x - cx) / rx, (y - cy) / ry);
    dx * dx + dy * dy
}

fn inside(x: f32, y: f32, left: f32, top: f32, right: f32, bottom: f32) -> bool {
    x > left && x < right && y > top && y < bottom
}
