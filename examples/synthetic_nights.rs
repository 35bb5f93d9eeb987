//! Makes a store of invented nights with scores and without pixels, to measure what is said about a night:
//!
//! ```sh
//! cargo run --release --example synthetic_nights -- /tmp/nights 100000 31    # images a night, nights
//! time agiqa report --store /tmp/nights --corpus gen --night n30 --method niqe --out /tmp/n30.html
//! time agiqa check --store /tmp/nights --corpus gen --night n30 --method niqe
//! time agiqa select --store /tmp/nights --corpus gen --night n30 --method niqe
//! ```

use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::store::shard::Shard;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::images::{self, ExtraColumn, ExtraValues, ImageRow, Images};
use agiqa_store::tables::night_scores::{NightScore, ScoredNight};
use agiqa_store::tables::scores::{Direction, ScoreSet, ScorerKind};

/// Rows of a part of `images`, as a night writes them.
const PART_ROWS: usize = 65_536;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [store, n_images, n_nights] = &args[..] else {
        return Err("usage: synthetic_nights STORE IMAGES_A_NIGHT NIGHTS".into());
    };
    let store = Store::open(store, OpenMode::CreateIfMissing)?;
    let (n_images, n_nights): (usize, usize) = (n_images.parse()?, n_nights.parse()?);
    let set = ScoreSet {
        scorer: "niqe".parse()?,
        kind: ScorerKind::Method,
        fingerprint: Fingerprint::builder("invented").finish(),
        direction: Direction::Lower,
        settings: serde_json::json!({}),
    };
    set.write_description(&store)?;
    for night in 0..n_nights {
        let scored =
            ScoredNight { scorer: set.scorer.clone(), corpus: "gen".parse()?, night: format!("n{night:02}").parse()? };
        let dataset = images::night_dataset(&scored.corpus, &scored.night)?;
        let images: Vec<(ImageRow, f64)> = (0..n_images).map(|i| image(night, i)).collect();
        for part in images.chunks(PART_ROWS) {
            let rows = part.iter().map(|(row, _)| row.clone()).collect();
            let cached = ExtraValues::Real(vec![Some(0.0); part.len()]);
            let extra = vec![ExtraColumn { name: "cached".to_owned(), values: cached }];
            images::append_part(&store, &dataset, &Images { rows, extra })?;
            set.write_part(&store, &part.iter().map(|(row, score)| (row.image_id, *score)).collect::<Vec<_>>())?;
            let rows: Vec<NightScore> = part.iter().map(night_score).collect();
            scored.write_part(&store, Shard::WHOLE, set.direction, set.fingerprint, &rows)?;
        }
        agiqa_judge::night::summarise(&store, &scored, None)?;
    }
    println!("{n_nights} nights of {n_images} images in {}", store.url());
    Ok(())
}

/// An image of a prompt that four share, with its score.
fn image(night: usize, i: usize) -> (ImageRow, f64) {
    let image_id = ImageId::of_bytes(format!("{night} {i}").as_bytes());
    let random = image_id.as_bytes().map(f64::from);
    // Of about the shape of a bell, between 0 and 8.
    let score = random[..4].iter().sum::<f64>() / 128.0;
    let row = ImageRow {
        image_id,
        name: format!("image-{i:07}.png"),
        path: format!("/data/gen/{night:02}/image-{i:07}.png"),
        n_bytes: 1_500_000,
        width_px: 1024,
        height_px: 1024,
        format: "png".to_owned(),
        generator: Some(format!("model-{}", i % 12)),
        prompt: Some(format!("a picture of the number {} in the style of night {night}, detailed, sharp", i / 4)),
        mos: None,
        mos_std: None,
        mos_align: None,
    };
    (row, score)
}

fn night_score((row, score): &(ImageRow, f64)) -> NightScore {
    NightScore {
        image_id: row.image_id,
        uri: row.path.clone(),
        name: row.name.clone(),
        generator: row.generator.clone(),
        prompt: row.prompt.clone(),
        group_id: None,
        score: *score,
        std: None,
        gates: [None; 3],
        is_cached: false,
    }
}
