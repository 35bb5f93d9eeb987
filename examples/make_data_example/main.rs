//! Makes `data.example`: a small invented study in AGIQA-3K's format, for the demonstration and the tests.
//!
//! ```text
//! cargo run --release --example make_data_example -- data.example
//! ```
//!
//! The same bytes come out everywhere, and a test compares them with what is committed. No image was made by a real
//! generator and no human rated any: the mean opinion scores follow from how the images were made (see `study`).

mod broken;
mod random;
mod render;
mod scene;
mod study;

use anyhow::Context;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, RgbImage};
use std::{fs, path::Path};

/// AGIQA-3K's columns.
const COLUMNS: [&str; 9] =
    ["name", "prompt", "adj1", "adj2", "style", "mos_quality", "std_quality", "mos_align", "std_align"];

const SEED: u64 = 20;

fn main() -> anyhow::Result<()> {
    let root = std::env::args_os().nth(1).context("usage: make_data_example FOLDER")?;
    write(Path::new(&root))
}

/// Writes the whole data set under `root`, over what is there.
pub fn write(root: &Path) -> anyhow::Result<()> {
    let images = root.join("images");
    fs::create_dir_all(&images).with_context(|| format!("cannot create {}", images.display()))?;
    let mut tables = ["data.csv", "train.csv", "validation.csv", "test.csv"]
        .map(|file| (file, csv::Writer::from_writer(Vec::new())));
    for (_, table) in &mut tables {
        table.write_record(COLUMNS)?;
    }
    for (item_idx, item) in study::items(SEED).iter().enumerate() {
        // One scene a prompt; the generators differ in what they make of it.
        let scene = scene::Scene::new(item.prompt.subject, SEED * 1000 + item.prompt_idx as u64);
        let seed = SEED * 1_000_000 + item_idx as u64 * 1000;
        let picture = render::render(&scene, item.coherence, item.damage, item.size_px, seed);
        let bytes = if item.name.ends_with(".png") {
            png(&DynamicImage::ImageRgb8(picture))?
        } else {
            jpeg(&picture, item.damage.jpeg_quality())?
        };
        let path = images.join(&item.name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        let scores = [item.mos_quality, item.std_quality, item.mos_align, item.std_align].map(|v| format!("{v:.6}"));
        let prompt = item.prompt.full();
        let texts = [&item.name, &prompt, item.prompt.adj1, item.prompt.adj2, item.prompt.style];
        let record: Vec<&str> = texts.into_iter().chain(scores.iter().map(String::as_str)).collect();
        for (file, table) in &mut tables {
            if ["data.csv", study::published_part(item_idx)].contains(file) {
                table.write_record(&record)?;
            }
        }
    }
    for (file, table) in tables {
        let path = root.join(file);
        fs::write(&path, table.into_inner()?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    broken::write(root, SEED * 2_000_000)
}

fn jpeg(picture: &RgbImage, quality: u8) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(picture)?;
    Ok(bytes)
}

/// `Fast` is the one compressor that the `png` crate brings itself. The others come with whatever `flate2` is built with,
/// which decides about their bytes.
fn png(picture: &DynamicImage) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    picture.write_with_encoder(PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Paeth))?;
    Ok(bytes)
}
