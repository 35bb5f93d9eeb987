//! Makes a store of invented images whose features are all cached, to measure planning at scale:
//!
//! ```sh
//! cargo run --release --example synthetic_store -- /tmp/store 1000000
//! time agiqa features --store /tmp/store --dataset synthetic
//! ```
//!
//! Planning reads the ids and never the vectors, so these are one value wide instead of thousands.

use agiqa::features::{FeatureSettings, feature_sets};
use agiqa_store::identity::ImageId;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::features::{FeatureRows, FeatureSet, VectorColumn};
use agiqa_store::tables::images::{self, ImageRow, Images};

/// Rows of a part, as an extraction writes them.
const PART_ROWS: u64 = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [store, n_images] = &args[..] else {
        return Err("usage: synthetic_store STORE N_IMAGES".into());
    };
    let store = Store::open(store, OpenMode::CreateIfMissing)?;
    let n_images: u64 = n_images.parse()?;
    let ids = |range: std::ops::Range<u64>| range.map(|i| ImageId::of_bytes(&i.to_le_bytes()));

    let rows = ids(0..n_images).enumerate().map(|(i, image_id)| ImageRow {
        image_id,
        name: format!("image-{i:07}.jpg"),
        path: format!("/data/synthetic/images/image-{i:07}.jpg"),
        n_bytes: 100_000,
        width_px: 512,
        height_px: 512,
        format: "jpeg".to_owned(),
        generator: None,
        prompt: None,
        mos: None,
        mos_std: None,
        mos_align: None,
    });
    let table = Images { rows: rows.collect(), extra: Vec::new() };
    images::write(&store, &"synthetic".parse()?, &table)?;

    let pair = feature_sets(&FeatureSettings::default())?;
    for set in [pair.semantic, pair.quality] {
        let narrow = |column: &VectorColumn| VectorColumn { name: column.name.clone(), dim: 1 };
        let set = FeatureSet { columns: set.columns.iter().map(narrow).collect(), ..set };
        set.write_description(&store)?;
        for start in (0..n_images).step_by(PART_ROWS as usize) {
            let image_ids: Vec<ImageId> = ids(start..n_images.min(start + PART_ROWS)).collect();
            let n_rows = image_ids.len();
            let vectors = vec![vec![0.5; n_rows]; set.columns.len()];
            set.write_part(&store, &FeatureRows { image_ids, vectors, n_tokens: vec![785; n_rows] })?;
        }
    }
    println!("{n_images} images in {}", store.url());
    Ok(())
}
