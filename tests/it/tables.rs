//! Every table gives back the rows that were written to it, whatever they hold.

use std::collections::BTreeMap;

use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::metric::{Estimate, Estimates};
use agiqa_store::tables::comparison::{self, ComparisonRow, Judged};
use agiqa_store::tables::experiments::{self, ExperimentKey, ExperimentRow, MeanStd, Ours};
use agiqa_store::tables::features::{FeatureKind, FeatureRows, FeatureSet, VectorColumn};
use agiqa_store::tables::images::{self, ExtraColumn, ExtraValues, ImageRow, Images};
use agiqa_store::tables::metrics::{self, MetricsRow, Statistic};
use agiqa_store::tables::rejects::{self, RejectRow};
use agiqa_store::tables::scores::{Direction, ScorerKind};
use agiqa_store::tables::splits::{self, Part, SplitRow};
use agiqa_store::tables::train_log::{self, TrainLogRow};
use proptest::option::of;
use proptest::prelude::*;

use crate::testdir::{TestDir, name};

/// Rows of a table; parquet's row groups and arrow's batches are larger, and what they do to rows `store` tests.
const N_ROWS: std::ops::Range<usize> = 0..12;

fn fingerprint() -> Fingerprint {
    Fingerprint::builder("test").finish()
}

/// Text of any characters, quotes, line ends and the empty text among them.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z0-9_.-]{1,12}", any::<String>()]
}

/// Finite numbers of every size, the smallest and both zeros among them.
fn real() -> impl Strategy<Value = f64> {
    use proptest::num::f64::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO
}

/// Counts that the tables' 64-bit integers hold.
fn count() -> impl Strategy<Value = u64> {
    0..=i64::MAX as u64
}

fn id() -> impl Strategy<Value = ImageId> {
    any::<u64>().prop_map(|seed| ImageId::of_bytes(&seed.to_le_bytes()))
}

fn part() -> impl Strategy<Value = Part> {
    prop::sample::select(&Part::ALL[..])
}

fn rows<T: std::fmt::Debug>(row: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(row, N_ROWS)
}

fn estimate() -> impl Strategy<Value = Estimate> {
    (of(real()), of(real()), of(real())).prop_map(|(value, low, high)| Estimate { value, low, high })
}

prop_compose! {
    fn image_row()(
        image_id in id(), name in text(), path in text(), n_bytes in count(), size in any::<[u32; 2]>(), format in text(),
        generator in of(text()), prompt in of(text()), mos in of(real()), mos_std in of(real()), mos_align in of(real()),
    ) -> ImageRow {
        let [width_px, height_px] = size;
        ImageRow {
            image_id, name, path, n_bytes, width_px, height_px, format, generator, prompt, mos, mos_std, mos_align,
        }
    }
}

/// A table of images with up to three columns of the dataset's own.
fn table_of_images() -> impl Strategy<Value = Images> {
    rows(image_row()).prop_flat_map(|rows| {
        let n = rows.len();
        let values = prop_oneof![
            prop::collection::vec(of(real()), n).prop_map(ExtraValues::Real),
            prop::collection::vec(of(text()), n).prop_map(ExtraValues::Text),
        ];
        prop::collection::vec(values, 0..4).prop_map(move |columns| {
            let column = |(i, values)| ExtraColumn { name: format!("extra{i}"), values };
            Images { rows: rows.clone(), extra: columns.into_iter().enumerate().map(column).collect() }
        })
    })
}

prop_compose! {
    fn split_row()(image_id in id(), seed in of(any::<i64>()), fold in any::<i64>(), part in part()) -> SplitRow {
        SplitRow { image_id, seed, fold, part }
    }
}

prop_compose! {
    fn train_log_row()(
        epoch in any::<u32>(), step in count(), lr in real(), n_images in count(), loss in real(),
        validation in [of(real()), of(real()), of(real())], seconds in real(),
    ) -> TrainLogRow {
        let [validation_srcc, validation_plcc, validation_mse] = validation;
        TrainLogRow { epoch, step, lr, n_images, loss, validation_srcc, validation_plcc, validation_mse, seconds }
    }
}

prop_compose! {
    fn metrics_row()(
        texts in [text(), text(), text(), text()],
        statistic in prop::sample::select(vec![Statistic::Value, Statistic::Mean, Statistic::Std, Statistic::Median]),
        n_runs in count(), n in count(),
        estimates in [estimate(), estimate(), estimate(), estimate(), estimate(), estimate()],
    ) -> MetricsRow {
        let [dataset, part, predictor, subset] = texts;
        MetricsRow { dataset, part, predictor, subset, statistic, n_runs, n, metrics: Estimates(estimates) }
    }
}

prop_compose! {
    fn comparison_row()(
        method in text(),
        kind in prop::sample::select(vec![ScorerKind::Method, ScorerKind::Rating, ScorerKind::Run]),
        direction in prop::sample::select(vec![Direction::Lower, Direction::Higher]),
        counts in [count(), count(), count()],
        estimates in [estimate(), estimate(), estimate(), estimate()], lead in estimate(),
        paper in [of(real()), of(real()), of(real()), of(real())],
        // Names of methods hold no semicolon.
        beats in prop::collection::vec("[a-z0-9@. ]{1,9}[a-z]", 0..4),
    ) -> ComparisonRow {
        let ([rank, n, n_paired], metrics) = (counts, Estimates(estimates));
        ComparisonRow { method, kind, direction, rank, n, metrics, paper, n_paired, lead, beats }
    }
}

prop_compose! {
    fn ours()(
        texts in [text(), text(), text(), text(), text()], n_runs in 1..=i64::MAX as u64,
        metrics in prop::array::uniform4((of(real()), of(real())).prop_map(|(mean, std)| MeanStd { mean, std })),
    ) -> Ours {
        let [inputs, gate, semantic, quality, run] = texts;
        Ours { inputs, gate, semantic, quality, run, n_runs, metrics }
    }
}

prop_compose! {
    fn experiment_row()(
        texts in [text(), text(), text()], ours in of(ours()), paper in [of(real()), of(real()), of(real()), of(real())],
    ) -> ExperimentRow {
        let [variant, trained_on, dataset] = texts;
        ExperimentRow { variant, trained_on, dataset, ours, paper }
    }
}

prop_compose! {
    fn reject_row()(
        texts in [of(text()), of(text()), of(text())], image_id in of(id()), row in of(count()), kind in text(),
        message in text(), at in text(),
    ) -> RejectRow {
        let [dataset, path, fingerprint] = texts;
        RejectRow { dataset, image_id, path, row, fingerprint, kind, message, at }
    }
}

proptest! {
    // Every case writes a table, so fewer than proptest's 256.
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn images_are_read_as_written(mut written in table_of_images()) {
        let dir = TestDir::new();
        let store = dir.store();
        images::write(&store, &name("d"), &written).expect("it can be written");
        if written.rows.is_empty() {
            // Without a row it is not read which columns of its own the table has.
            written.extra.clear();
        }
        prop_assert_eq!(images::read(&store, &name("d")).expect("it can be read"), written);
    }

    #[test]
    fn splits_are_read_as_written(written in rows(split_row())) {
        let dir = TestDir::new();
        let store = dir.store();
        splits::write(&store, &name("d"), &name("s"), &written).expect("it can be written");
        prop_assert_eq!(splits::read(&store, &name("d"), &name("s")).expect("it can be read"), written);
    }

    #[test]
    fn logs_of_trainings_are_read_as_written(written in rows(train_log_row())) {
        let dir = TestDir::new();
        let store = dir.store();
        train_log::write(&store, &name("r"), &written, fingerprint()).expect("it can be written");
        prop_assert_eq!(train_log::read(&store, &name("r")).expect("it can be read"), written);
    }

    #[test]
    fn metrics_are_read_as_written(written in rows(metrics_row())) {
        let dir = TestDir::new();
        let store = dir.store();
        metrics::write(&store, &name("r"), &written, Some(fingerprint())).expect("it can be written");
        prop_assert_eq!(metrics::read(&store, &name("r")).expect("it can be read"), written);
    }

    #[test]
    fn comparisons_are_read_as_written(written in rows(comparison_row()), part in of(part())) {
        let dir = TestDir::new();
        let store = dir.store();
        let judged = Judged { dataset: name("d"), part: part.map(|part| (name("s"), part)) };
        comparison::write(&store, &judged, &written, fingerprint()).expect("it can be written");
        prop_assert_eq!(comparison::read(&store, &judged).expect("it can be read"), written);
    }

    #[test]
    fn experiments_are_read_as_written(written in rows(experiment_row()), paper_table in any::<u32>()) {
        let dir = TestDir::new();
        let store = dir.store();
        let key = ExperimentKey { experiment: name("e"), features: name("f"), paper_table };
        experiments::write(&store, &key, &written, fingerprint()).expect("it can be written");
        prop_assert_eq!(experiments::read(&store, &key).expect("it can be read"), written);
    }

    /// By content, for that names the parts.
    #[test]
    fn rejects_of_all_parts_are_read_as_written(appended in rows(reject_row()), replaced in rows(reject_row())) {
        let dir = TestDir::new();
        let store = dir.store();
        rejects::append(&store, "features", &appended).expect("it can be written");
        rejects::replace(&store, "features", &name("p"), &replaced).expect("it can be written");
        let sorted = |rows: Vec<RejectRow>| {
            let mut rows: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
            rows.sort();
            rows
        };
        let found = rejects::read(&store, "features").expect("it can be read");
        prop_assert_eq!(sorted(found), sorted([appended, replaced].concat()));
    }

    #[test]
    fn features_are_read_as_written_in_the_order_that_is_asked_for(
        vectors in prop::collection::btree_map(id(), prop::collection::vec(any::<f32>().prop_filter("finite", |x| x.is_finite()), 5), 1..10),
        n_parts in 1_usize..4,
        kind in prop::sample::select(vec![FeatureKind::Semantic, FeatureKind::Quality]),
    ) {
        let dir = TestDir::new();
        let store = dir.store();
        let dims = [3, 2];
        let columns = dims.iter().enumerate().map(|(i, dim)| VectorColumn { name: format!("f_{i}"), dim: *dim }).collect();
        let set = FeatureSet {
            extractor: name("x"), fingerprint: fingerprint(), kind, columns, settings: serde_json::Value::Null,
        };
        let all: Vec<(&ImageId, &Vec<f32>)> = vectors.iter().collect();
        for part in all.chunks(all.len().div_ceil(n_parts)) {
            let rows = FeatureRows {
                image_ids: part.iter().map(|(id, _)| **id).collect(),
                vectors: [0..3, 3..5]
                    .map(|at| part.iter().flat_map(|(_, vector)| vector[at.clone()].to_vec()).collect())
                    .to_vec(),
                n_tokens: if kind == FeatureKind::Semantic { vec![7; part.len()] } else { Vec::new() },
            };
            set.write_part(&store, &rows).expect("it can be written");
        }
        // Backwards, and one that has none.
        let absent = ImageId::of_bytes(b"absent");
        let wanted: Vec<ImageId> = vectors.keys().rev().copied().chain([absent]).collect();
        let found = set.read(&store, &wanted).expect("it can be read");
        let rows: BTreeMap<ImageId, Option<Vec<f32>>> = wanted
            .iter()
            .zip(&found.rows)
            .map(|(id, row)| {
                let vector = |row: usize| {
                    let of_column = |(matrix, dim): (&Vec<f32>, usize)| matrix[row * dim..][..dim].to_vec();
                    found.matrices.iter().zip(dims).flat_map(of_column).collect()
                };
                (*id, row.map(vector))
            })
            .collect();
        let mut expected: BTreeMap<ImageId, Option<Vec<f32>>> =
            vectors.iter().map(|(id, vector)| (*id, Some(vector.clone()))).collect();
        expected.insert(absent, None);
        prop_assert_eq!(rows, expected);
    }
}

/// Wide vectors are read some rows at a time.
#[test]
fn wide_vectors_are_read_in_pieces_and_a_value_that_is_no_number_is_named_by_its_row() {
    let (dir, dim) = (TestDir::new(), 100_000);
    let store = dir.store();
    let columns = vec![VectorColumn { name: "f_1".to_owned(), dim }];
    let set = FeatureSet {
        extractor: name("x"),
        fingerprint: fingerprint(),
        kind: FeatureKind::Quality,
        columns,
        settings: serde_json::Value::Null,
    };
    let mut image_ids: Vec<ImageId> = (0..5_u8).map(|i| ImageId::of_bytes(&[i])).collect();
    image_ids.sort();
    let mut values: Vec<f32> = (0..5 * dim).map(|i| i as f32).collect();
    values[4 * dim + 17] = f32::NAN;
    let rows = FeatureRows { image_ids: image_ids.clone(), vectors: vec![values.clone()], n_tokens: Vec::new() };
    set.write_part(&store, &rows).expect("it can be written");
    let found = set.read(&store, &image_ids[1..4]).expect("its values are numbers");
    assert!(found.matrices[0] == values[dim..4 * dim] && found.rows == [Some(0), Some(1), Some(2)]);
    let error = set.read(&store, &image_ids[2..]).expect_err("a value is no number").to_string();
    assert!(error.contains("NaN in row 4"), "{error}");
}
