//! The invented study: which generator made which prompt how well, and what the raters said of it.

use super::random::Rng;
use super::render::Damage;
use super::scene::Subject;

/// Everything that decides one image and its row.
pub struct Item {
    /// File name, as AGIQA-3K names its files: `<generator>_<setting>_<number of the prompt>.<format>`.
    pub name: String,
    pub prompt: &'static Prompt,
    pub prompt_idx: usize,
    /// 0 (nothing recognisable) to 1 (all of it).
    pub coherence: f32,
    pub damage: Damage,
    pub size_px: (u32, u32),
    pub mos_quality: f32,
    pub std_quality: f32,
    pub mos_align: f32,
    pub std_align: f32,
}

/// A prompt in the parts in which AGIQA-3K's table repeats it.
pub struct Prompt {
    pub subject: Subject,
    pub text: &'static str,
    pub adj1: &'static str,
    pub adj2: &'static str,
    pub style: &'static str,
}

impl Prompt {
    /// The whole prompt, as the table's column `prompt` has it.
    pub fn full(&self) -> String {
        let parts = [self.text, self.adj1, self.adj2, self.style];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
    }
}

const fn prompt(
    subject: Subject,
    text: &'static str,
    adj1: &'static str,
    adj2: &'static str,
    style: &'static str,
) -> Prompt {
    Prompt { subject, text, adj1, adj2, style }
}

const PROMPTS: [Prompt; 15] = [
    prompt(Subject::Landscape, "snowy mountains under a bright sun", "", "", "realistic style"),
    prompt(Subject::House, "a small house with a tiled roof", "", "", ""),
    prompt(Subject::Portrait, "portrait of a smiling woman", "close-up", "soft lighting", ""),
    prompt(Subject::Flowers, "pink flowers in a meadow", "top view", "", "baroque style"),
    prompt(Subject::StillLife, "fruit on a checkered tablecloth", "", "", "realistic style"),
    prompt(Subject::Sea, "a sailing boat on the sea, seen from the shore", "", "", ""),
    prompt(Subject::City, "a city skyline at night", "long-shot", "cold color", ""),
    prompt(Subject::Shapes, "discs, bars and triangles on paper", "", "", "abstract style"),
    prompt(Subject::Landscape, "fir trees in front of a mountain range", "warm color", "", ""),
    prompt(Subject::House, "a \"gingerbread\" house", "soft lighting", "", "anime style"),
    prompt(Subject::Portrait, "a man who looks at the camera", "", "", "realistic style"),
    prompt(Subject::Flowers, "a bunch of daisies", "close-up", "", ""),
    prompt(Subject::StillLife, "apples, plums and oranges", "", "", "baroque style"),
    prompt(Subject::Sea, "a boat at sunset", "warm color", "long-shot", ""),
    prompt(Subject::Portrait, "portrait of a captain", "", "", "sci-fi style"),
];

/// Name and setting, mean coherence, mean level of damage. The names are made up, and no such programs exist.
const GENERATORS: [(&str, f32, f32); 5] = [
    ("toygan_normal", 0.12, 0.75),
    ("toyglide_normal", 0.38, 0.60),
    ("toydiff1.5_lowstep", 0.58, 0.55),
    ("toydiff1.5_normal", 0.78, 0.30),
    ("toyjourney_normal", 0.95, 0.12),
];

/// The 60 items: each prompt by four of the five generators, as not every prompt of AGIQA-3K has all of its ten.
pub fn items(seed: u64) -> Vec<Item> {
    let mut items = Vec::new();
    for (generator_idx, &(generator, coherence, level)) in GENERATORS.iter().enumerate() {
        for (prompt_idx, prompt) in PROMPTS.iter().enumerate() {
            if prompt_idx % GENERATORS.len() != generator_idx {
                let rng = Rng::new(seed, (generator_idx * 100 + prompt_idx) as u64);
                items.push(item(rng, generator, coherence, level, prompt_idx, prompt));
            }
        }
    }
    items
}

fn item(mut rng: Rng, generator: &str, coherence: f32, level: f32, idx: usize, prompt: &'static Prompt) -> Item {
    let coherence = (coherence + 0.18 * rng.normal()).clamp(0.0, 1.0);
    let level = (level + 0.3 * rng.normal()).clamp(0.0, 1.0);
    let damage = match rng.below(4) {
        0 => Damage::Blur(level),
        1 => Damage::Noise(level),
        2 => Damage::Blocks(level),
        _ => Damage::Cast(level),
    };
    let sides = [160, 192, 224, 256];
    let size_px = (sides[rng.below(4)], sides[rng.below(4)]);
    // PNG for a few, and never for what only a JPEG can have, nor for noise, which it cannot compress.
    let is_png = rng.uniform() < 0.3 && matches!(damage, Damage::Blur(_) | Damage::Cast(_)) && coherence > 0.5;
    // What cannot be recognised is bad however cleanly it is shown; a damage takes its share of what there is.
    let quality = 0.2 + 4.4 * (0.12 + 0.88 * coherence) * (1.0 - 0.65 * level);
    let align = 0.3 + 4.0 * coherence * (1.0 - 0.25 * level);
    let mos = |value: f32, rng: &mut Rng| (value + 0.15 * rng.normal()).clamp(0.0, 5.0);
    let (mos_quality, mos_align) = (mos(quality, &mut rng), mos(align, &mut rng));
    Item {
        name: format!("{generator}_{idx:03}.{}", if is_png { "png" } else { "jpg" }),
        prompt,
        prompt_idx: idx,
        coherence,
        damage,
        size_px,
        mos_quality,
        std_quality: rng.between(0.2, 0.9),
        mos_align,
        std_align: rng.between(0.3, 1.0),
    }
}

/// Which of the published split's three files a row stands in: 36, 12 and 12 of the 60.
pub fn published_part(item_idx: usize) -> &'static str {
    match (item_idx * 7 + 3) % 5 {
        0 => "validation.csv",
        1 => "test.csv",
        _ => "train.csv",
    }
}
