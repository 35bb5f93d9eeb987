//! Makes a store of invented images whose features are all cached, to measure planning, scoring and training at scale:
//!
//! ```sh
//! cargo run --release --example synthetic_store -- /tmp/store 1000000        # vectors one value wide: planning alone
//! time agiqa features --store /tmp/store --dataset synthetic
//!
//! cargo run --release --example synthetic_store -- /tmp/store 1000000 whole  # 12 kB an image: f_a, f_b, f_1 of 3072 values
//! agiqa split --store /tmp/store --dataset rated
//! agiqa train --store /tmp/store --dataset rated --features clip-b16 --epochs 1 --name head     # prints the run
//! time agiqa predict --store /tmp/store --run RUN --dataset synthetic        # scores all cached rows
//! time agiqa score NEW --store /tmp/store --corpus gen --night n2 --run RUN --set 'sides=[224]' --set 'statistics=["class"]'
//! ```
//!
//! The last command scores a night after one of these images. Planning reads the ids and never the vectors. Dataset
//! `rated` has the first 400 images. The inventory of corpus `gen` has all images, as files that do not exist, of night
//! `n1`. Memory of a training on as many images as AIGCQA-20k has:
//!
//! ```sh
//! cargo run --release --example synthetic_store -- /tmp/store 20000 full     # 37 kB an image: 9216 values
//! /usr/bin/time -v agiqa train --store /tmp/store --dataset synthetic --features clip-b16 --head kernel-ridge
//! ```

use agiqa::features::{FeatureSettings, NetworkSettings, feature_sets};
use agiqa_store::identity::ImageId;
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::features::{FeatureRows, FeatureSet, VectorColumn};
use agiqa_store::tables::images::{self, ImageRow, Images};
use agiqa_store::tables::inventory::{self, ImageFile, InventoryRow, State};
use agiqa_store::tables::{Making, PartitionName};

/// Rows of a part, as an extraction writes them.
const PART_ROWS: u64 = 1024;

/// Rows of a part of the inventory, as a night writes them.
const INVENTORY_ROWS: usize = 65_536;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (store, n_images, width) = match &args[..] {
        [store, n_images] => (store, n_images, ""),
        [store, n_images, width] if ["whole", "full"].contains(&width.as_str()) => (store, n_images, width.as_str()),
        _ => return Err("usage: synthetic_store STORE N_IMAGES [whole|full]".into()),
    };
    let store = Store::open(store, OpenMode::CreateIfMissing)?;
    let n_images: u64 = n_images.parse()?;
    let ids = |range: std::ops::Range<u64>| range.map(|i| ImageId::of_bytes(&i.to_le_bytes()));

    let rows: Vec<ImageRow> = ids(0..n_images).enumerate().map(|(i, image_id)| image(i, image_id)).collect();
    inventory(&store, &"gen".parse()?, &rows)?;
    let rated = Images { rows: rows.iter().take(400).cloned().collect(), extra: Vec::new() };
    images::write(&store, &"rated".parse()?, &rated)?;
    images::write(&store, &"synthetic".parse()?, &Images { rows, extra: Vec::new() })?;

    let mut settings = FeatureSettings::default();
    if let (false, NetworkSettings::ClipB16(options)) = (width.is_empty(), &mut settings.network) {
        options.sides = Some(vec![224]);
        if width == "whole" {
            options.statistics = Some(serde_json::from_value(serde_json::json!(["class"]))?);
        }
    }
    let pair = feature_sets(&settings)?;
    let mut state = 1;
    for set in [pair.semantic, pair.quality] {
        let narrow = |column: &VectorColumn| VectorColumn { name: column.name.clone(), dim: 1 };
        let columns = if !width.is_empty() { set.columns.clone() } else { set.columns.iter().map(narrow).collect() };
        let set = FeatureSet { columns, ..set };
        set.write_description(&store)?;
        for start in (0..n_images).step_by(PART_ROWS as usize) {
            let image_ids: Vec<ImageId> = ids(start..n_images.min(start + PART_ROWS)).collect();
            let n_rows = image_ids.len();
            let vectors = set.columns.iter().map(|column| vector(n_rows * column.dim, &mut state)).collect();
            set.write_part(&store, &FeatureRows { image_ids, vectors, n_tokens: vec![785; n_rows] })?;
        }
    }
    println!("{n_images} images in {}", store.url());
    Ok(())
}

/// Values that do not compress, by SplitMix64.
fn vector(n: usize, state: &mut u64) -> Vec<f32> {
    let mut next = || {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

fn image(i: usize, image_id: ImageId) -> ImageRow {
    ImageRow {
        image_id,
        name: format!("image-{i:07}.jpg"),
        path: format!("/data/synthetic/images/image-{i:07}.jpg"),
        n_bytes: 100_000,
        width_px: 512,
        height_px: 512,
        format: "jpeg".to_owned(),
        generator: None,
        prompt: None,
        mos: Some((i % 50) as f64 / 10.0),
        mos_std: None,
        mos_align: None,
    }
}

/// The images `rows` as files of a corpus' first night.
fn inventory(store: &Store, corpus: &PartitionName, rows: &[ImageRow]) -> Result<(), Box<dyn std::error::Error>> {
    let row = |row: &ImageRow| InventoryRow {
        uri: row.path.clone(),
        version: format!("2026-11-26T00:00:00Z-{}", row.n_bytes),
        first_night: "n1".to_owned(),
        name: row.name.clone(),
        container: None,
        state: State::Image(ImageFile {
            image_id: row.image_id,
            n_bytes: row.n_bytes,
            width_px: row.width_px,
            height_px: row.height_px,
            format: row.format.clone(),
            making: Making::default(),
        }),
    };
    for rows in rows.chunks(INVENTORY_ROWS) {
        inventory::append(store, corpus, &rows.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(())
}
