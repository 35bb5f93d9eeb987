//! Tells whether two stores hold the same features, bit for bit, with no image twice:
//!
//! ```sh
//! cargo run --release --example same_features -- STORE STORE
//! ```

use std::collections::BTreeMap;

use agiqa_store::identity::ImageId;
use agiqa_store::store::part::{PartReader, list};
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::features::FeatureSet;

type Error = Box<dyn std::error::Error>;

/// Vectors of every image per folder of features, as bits.
type Features = BTreeMap<String, BTreeMap<ImageId, Vec<u32>>>;

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [one, other] = &args[..] else {
        return Err("usage: same_features STORE STORE".into());
    };
    let (one, other) = (features(one)?, features(other)?);
    for (folder, rows) in &one {
        println!("{folder}: {} images", rows.len());
    }
    if one == other { Ok(()) } else { Err("the features differ".into()) }
}

fn features(url: &str) -> Result<Features, Error> {
    let store = Store::open(url, OpenMode::Existing)?;
    let mut features = Features::new();
    for set in FeatureSet::list(&store)? {
        let mut ids: Vec<ImageId> = set.done(&store)?.into_iter().collect();
        ids.sort();
        let mut n_rows = 0;
        for part in list(&store, &set.prefix())? {
            n_rows += PartReader::open(&store, &part, set.kind.part_kind())?.n_rows();
        }
        if n_rows != ids.len() as u64 {
            return Err(format!("{url}: {}: {} images in {n_rows} rows", set.prefix(), ids.len()).into());
        }
        let found = set.read(&store, &ids)?;
        let bits_of = |row: usize| {
            let columns = set.columns.iter().zip(&found.matrices);
            columns
                .flat_map(|(column, values)| &values[row * column.dim..][..column.dim])
                .map(|x| x.to_bits())
                .collect()
        };
        let rows = ids.iter().zip(&found.rows).filter_map(|(id, row)| Some((*id, bits_of((*row)?)))).collect();
        features.insert(set.prefix(), rows);
    }
    Ok(features)
}
