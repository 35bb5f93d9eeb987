//! Assigns images to parts: from images and settings to rows of the `splits` table.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fractions, PythonRandom, SplitError, SplitSettings, published};
use agiqa_store::identity::ImageId;
use agiqa_store::tables::images::{ImageRow, Images};
use agiqa_store::tables::splits::{Part, SplitRow};

/// The result of splitting a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// One row per image of the split: training rows, then validation, then test, each in the split's own order.
    pub rows: Vec<SplitRow>,
    /// Names of a published split that the images table lacks, with their parts.
    pub unmatched: Vec<(String, Part)>,
    /// Number of images that a published split does not mention. They are not in any part.
    pub n_unassigned: usize,
}

impl Assignment {
    /// Number of rows of `part`.
    pub fn n_in(&self, part: Part) -> usize {
        self.rows.iter().filter(|row| row.part == part).count()
    }
}

/// Assigns `images` to parts.
///
/// `rejected_rows` are the numbers (from 1) of the dataset's table rows that ingest rejected. The official split
/// shuffles all rows of that table, and rejected rows then drop out of their parts, so its parts are subsets of the
/// published parts. The other splits shuffle only ingested images.
///
/// # Errors
/// A part would be empty, a generator or file is absent, or a column is missing.
pub fn assign(images: &Images, rejected_rows: &[u64], settings: &SplitSettings) -> Result<Assignment, SplitError> {
    let rows = &images.rows;
    let mut unmatched = Vec::new();
    let parts: Vec<(ImageId, Part)> = match settings {
        SplitSettings::Random { seed, fractions } => {
            fractions.check()?;
            cut(shuffled_ids(rows.iter(), *seed), *fractions)
        }
        SplitSettings::Official { seed } => {
            let mut ids = table_rows(rows, rejected_rows);
            PythonRandom::new(*seed).shuffle(&mut ids);
            cut(ids, Fractions::default()).into_iter().filter_map(|(id, part)| Some((id?, part))).collect()
        }
        SplitSettings::Published { train, validation, test } => {
            let files = [(Part::Train, train), (Part::Validation, validation), (Part::Test, test)];
            let found = published::read(rows, files)?;
            unmatched = found.unmatched;
            found.parts
        }
        SplitSettings::ByPrompt { seed, fractions } => {
            fractions.check()?;
            by_prompt(rows, *seed, *fractions)?
        }
        SplitSettings::HeldOutGenerator { generator, seed } => held_out(rows, generator, *seed)?,
    };
    let seed = settings.seed().map(i64::from);
    let rows: Vec<SplitRow> =
        parts.into_iter().map(|(image_id, part)| SplitRow { image_id, seed, fold: 0, part }).collect();
    let n_unassigned = images.rows.len().saturating_sub(rows.len());
    let assignment = Assignment { rows, unmatched, n_unassigned };
    let [n_train, n_validation, n_test] = Part::ALL.map(|part| assignment.n_in(part));
    if [n_train, n_validation, n_test].contains(&0) {
        let hint = match settings {
            SplitSettings::Random { .. } | SplitSettings::Official { .. } => {
                "the dataset needs more images (10 at least for 70/10/20), or a split with larger shares"
            }
            SplitSettings::Published { .. } => {
                "check that the files belong to this dataset and that their `name` column has its file names"
            }
            SplitSettings::ByPrompt { .. } => {
                "the dataset has too few prompts to put whole ones into each part; split at random"
            }
            SplitSettings::HeldOutGenerator { .. } => {
                "the other generators have too few images to train and validate on"
            }
        };
        let n_images = images.rows.len();
        return Err(SplitError::EmptyPart { split: settings.name(), n_train, n_validation, n_test, n_images, hint });
    }
    Ok(assignment)
}

/// The ids in an order that depends on the set of ids and the seed alone.
fn shuffled_ids<'a>(rows: impl Iterator<Item = &'a ImageRow>, seed: u32) -> Vec<ImageId> {
    let mut ids: Vec<ImageId> = rows.map(|row| row.image_id).collect();
    ids.sort_unstable();
    shuffle(&mut ids, seed);
    ids
}

fn shuffle<T>(values: &mut [T], seed: u32) {
    // All seeded splits use the generator of the published code. `official` applies it to the order of the table.
    PythonRandom::new(seed).shuffle(values);
}

/// The images in the order of the dataset's own table. A row that ingest rejected is `None`.
fn table_rows(rows: &[ImageRow], rejected_rows: &[u64]) -> Vec<Option<ImageId>> {
    let rejected: BTreeSet<u64> = rejected_rows.iter().copied().collect();
    let mut ids = rows.iter().map(|row| row.image_id);
    (1..=(rows.len() + rejected.len()) as u64)
        .map(|number| if rejected.contains(&number) { None } else { ids.next() })
        .collect()
}

fn cut<T>(ids: Vec<T>, fractions: Fractions) -> Vec<(T, Part)> {
    let (train_end, validation_end) = fractions.cuts(ids.len());
    let part = |i| match i {
        i if i < train_end => Part::Train,
        i if i < validation_end => Part::Validation,
        _ => Part::Test,
    };
    ids.into_iter().enumerate().map(|(i, id)| (id, part(i))).collect()
}

/// Shuffles whole prompts and lays them end to end. The middle of a prompt decides its part. An image without a prompt
/// is a group of its own.
fn by_prompt(rows: &[ImageRow], seed: u32, fractions: Fractions) -> Result<Vec<(ImageId, Part)>, SplitError> {
    let mut groups: BTreeMap<(Option<&str>, Option<ImageId>), Vec<ImageId>> = BTreeMap::new();
    for row in rows {
        let alone = if row.prompt.is_none() { Some(row.image_id) } else { None };
        groups.entry((row.prompt.as_deref(), alone)).or_default().push(row.image_id);
    }
    if rows.iter().all(|row| row.prompt.is_none()) {
        return Err(SplitError::NoColumn { column: "prompt" });
    }
    let mut groups: Vec<Vec<ImageId>> = groups.into_values().collect();
    for group in &mut groups {
        group.sort_unstable();
    }
    shuffle(&mut groups, seed);
    let n_rows = rows.len() as f64;
    let mut n_before = 0;
    let mut parts = Vec::with_capacity(rows.len());
    for group in groups {
        let middle = (n_before as f64 + group.len() as f64 / 2.0) / n_rows;
        let part = if middle < fractions.train {
            Part::Train
        } else if middle < fractions.train + fractions.validation {
            Part::Validation
        } else {
            Part::Test
        };
        n_before += group.len();
        parts.extend(group.into_iter().map(|id| (id, part)));
    }
    parts.sort_by_key(|(_, part)| *part);
    Ok(parts)
}

fn held_out(rows: &[ImageRow], generator: &str, seed: u32) -> Result<Vec<(ImageId, Part)>, SplitError> {
    if rows.iter().all(|row| row.generator.is_none()) {
        return Err(SplitError::NoColumn { column: "generator" });
    }
    let (test, rest): (Vec<&ImageRow>, Vec<&ImageRow>) =
        rows.iter().partition(|row| row.generator.as_deref() == Some(generator));
    if test.is_empty() {
        let mut generators: Vec<String> = rows.iter().filter_map(|row| row.generator.clone()).collect();
        generators.sort_unstable();
        generators.dedup();
        return Err(SplitError::UnknownGenerator { generator: generator.to_owned(), known: generators });
    }
    let rest = shuffled_ids(rest.into_iter(), seed);
    // Seven to one, the ratio of training to validation in 70/10/20.
    let n_train = rest.len() * 7 / 8;
    let mut parts: Vec<(ImageId, Part)> = rest
        .into_iter()
        .enumerate()
        .map(|(i, id)| (id, if i < n_train { Part::Train } else { Part::Validation }))
        .collect();
    parts.extend(test.into_iter().map(|row| (row.image_id, Part::Test)));
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn images(n: usize, n_prompts: usize, n_generators: usize) -> Images {
        let row = |i: usize| ImageRow {
            image_id: ImageId::of_bytes(&i.to_le_bytes()),
            name: format!("{i}.png"),
            path: format!("/{i}.png"),
            n_bytes: 1,
            width_px: 1,
            height_px: 1,
            format: "png".to_owned(),
            generator: Some(format!("g{}", i % n_generators)),
            prompt: Some(format!("p{}", i % n_prompts)),
            mos: Some(1.0),
            mos_std: None,
            mos_align: None,
        };
        Images { rows: (0..n).map(row).collect(), extra: Vec::new() }
    }

    fn is_partition(images: &Images, rows: &[SplitRow]) -> bool {
        let ids: HashSet<ImageId> = rows.iter().map(|row| row.image_id).collect();
        ids.len() == rows.len() && ids.len() == images.rows.len()
    }

    #[test]
    fn rows_that_ingest_rejected_do_not_move_the_others_in_the_official_split() {
        let whole = images(40, 10, 2);
        let settings = SplitSettings::Official { seed: 20 };
        let all = assign(&whole, &[], &settings).expect("forty images suffice").rows;
        let rejected = [3_u64, 17, 40];
        let mut less = whole.clone();
        less.rows =
            (1..).zip(whole.rows).filter(|(number, _)| !rejected.contains(number)).map(|(_, row)| row).collect();
        let ids: Vec<ImageId> = less.rows.iter().map(|row| row.image_id).collect();
        let expected: Vec<SplitRow> = all.into_iter().filter(|row| ids.contains(&row.image_id)).collect();
        assert_eq!(assign(&less, &rejected, &settings).expect("37 images suffice").rows, expected);
    }

    proptest! {
        #[test]
        fn every_image_is_in_exactly_one_part(n in 10_usize..400, n_prompts in 10_usize..40, seed in any::<u32>()) {
            let images = images(n, n_prompts, 2);
            let fractions = Fractions::default();
            for settings in [
                SplitSettings::Random { seed, fractions },
                SplitSettings::Official { seed },
                SplitSettings::ByPrompt { seed, fractions },
                SplitSettings::HeldOutGenerator { generator: "g1".to_owned(), seed },
            ] {
                match assign(&images, &[], &settings) {
                    Ok(assignment) => prop_assert!(is_partition(&images, &assignment.rows)),
                    // Few whole prompts or few images may leave a part empty. Nothing else may fail.
                    Err(error) => prop_assert!(matches!(error, SplitError::EmptyPart { .. }), "{error}"),
                }
            }
        }

        #[test]
        fn no_prompt_is_in_two_parts(n in 30_usize..300, n_prompts in 20_usize..60, seed in any::<u32>()) {
            let images = images(n, n_prompts, 1);
            let settings = SplitSettings::ByPrompt { seed, fractions: Fractions::default() };
            if let Ok(assignment) = assign(&images, &[], &settings) {
                let mut part_of_prompt = BTreeMap::new();
                for split in &assignment.rows {
                    let row = images.rows.iter().find(|row| row.image_id == split.image_id).expect("one of them");
                    let part = *part_of_prompt.entry(row.prompt.clone()).or_insert(split.part);
                    prop_assert_eq!(part, split.part);
                }
            }
        }

        #[test]
        fn a_random_split_ignores_the_order_of_the_table(n in 10_usize..200, seed in any::<u32>()) {
            let mut images = images(n, 5, 2);
            let settings = SplitSettings::Random { seed, fractions: Fractions::default() };
            let before = assign(&images, &[], &settings).expect("ten images suffice");
            images.rows.reverse();
            prop_assert_eq!(before, assign(&images, &[], &settings).expect("ten images suffice"));
        }
    }
}
