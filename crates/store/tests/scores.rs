//! What is written to `scores` and `gates` is read back.

use std::collections::{BTreeMap, HashMap, HashSet};

use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::features::{FeatureKind, FeatureRows, FeatureSet, RATING, VectorColumn};
use agiqa_store::tables::gates::{self, GateRow};
use agiqa_store::tables::scores::{self, Direction, ScoreSet, ScorerKind};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&folder.path().display().to_string(), OpenMode::Existing).expect("a store");
    (folder, store)
}

fn id(number: u16) -> ImageId {
    ImageId::of_bytes(&number.to_le_bytes())
}

fn set(kind: ScorerKind, direction: Direction) -> ScoreSet {
    let fingerprint = Fingerprint::builder("test").finish();
    ScoreSet { scorer: "any".parse().expect("a name"), kind, fingerprint, direction, settings: serde_json::json!({}) }
}

fn real() -> impl Strategy<Value = f64> {
    proptest::num::f64::NORMAL | proptest::num::f64::ZERO | proptest::num::f64::SUBNORMAL
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn scores_are_read_as_written_whatever_parts_they_are_in(
        parts in vec(btree_map(0_u16..500, real(), 0..60), 1..4),
        is_higher in any::<bool>(),
    ) {
        let (_folder, store) = store();
        let direction = if is_higher { Direction::Higher } else { Direction::Lower };
        let set = set(ScorerKind::Method, direction);
        set.write_description(&store).expect("it can be written");
        let mut expected: HashMap<ImageId, Vec<u64>> = HashMap::new();
        for part in &parts {
            let rows: Vec<(ImageId, f64)> = part.iter().map(|(number, score)| (id(*number), *score)).collect();
            set.write_part(&store, &rows).expect("a part can be written");
            // A part that is written twice is one part.
            set.write_part(&store, &rows).expect("a part can be written");
            rows.iter().for_each(|(id, score)| expected.entry(*id).or_default().push(score.to_bits()));
        }
        prop_assert_eq!(ScoreSet::list(&store).expect("a listing"), vec![set.clone()]);
        let found = set.read(&store).expect("scores");
        prop_assert_eq!(found.len(), expected.len());
        prop_assert!(found.iter().all(|(id, score)| expected[id].contains(&score.to_bits())));
        prop_assert_eq!(set.done(&store).expect("ids"), expected.into_keys().collect::<HashSet<_>>());
    }

    #[test]
    fn gates_are_read_as_written(rows in btree_map(0_u16..500, [option::of(real()), option::of(real()), option::of(real())], 0..60)) {
        let (_folder, store) = store();
        let set = set(ScorerKind::Run, Direction::Higher);
        let rows: Vec<GateRow> =
            rows.into_iter().map(|(number, weights)| GateRow { image_id: id(number), weights }).collect();
        gates::write_part(&store, &set, &rows).expect("a part can be written");
        let by_id = |rows: Vec<GateRow>| rows.into_iter().map(|row| (row.image_id, row.weights)).collect::<BTreeMap<_, _>>();
        prop_assert_eq!(by_id(gates::read(&store, &set).expect("gates")), by_id(rows));
    }
}

#[test]
fn ratings_are_copied_once_and_read_before_they_are() {
    let (_folder, store) = store();
    let column = |name: &str, dim| VectorColumn { name: name.to_owned(), dim };
    let features = FeatureSet {
        extractor: "maniqa".parse().expect("a name"),
        fingerprint: Fingerprint::builder("test").finish(),
        kind: FeatureKind::Quality,
        columns: vec![column("f_1", 2), column(RATING, 1)],
        settings: serde_json::json!({ "dtype": "f32" }),
    };
    features.write_description(&store).expect("it can be written");
    let write = |numbers: std::ops::Range<u16>| {
        let image_ids: Vec<ImageId> = numbers.clone().map(id).collect();
        let vectors = vec![vec![0.5; 2 * image_ids.len()], numbers.map(|number| f32::from(number) / 3.0).collect()];
        features.write_part(&store, &FeatureRows { image_ids, vectors, n_tokens: Vec::new() }).expect("a part");
    };
    write(0..5);
    let set = ScoreSet::of_rating(&features).expect("it rates images");
    let expected =
        |n: u16| (0..n).map(|number| (id(number), f64::from(f32::from(number) / 3.0))).collect::<HashMap<_, _>>();
    assert_eq!(ScoreSet::list(&store).expect("a listing"), std::slice::from_ref(&set));
    assert_eq!(set.read(&store).expect("ratings"), expected(5));
    assert_eq!(scores::lacking_ratings(&store, &features).expect("ratings").len(), 5);
    scores::copy_ratings(&store, &features).expect("they can be copied");
    write(3..7);
    assert_eq!(scores::lacking_ratings(&store, &features).expect("ratings").len(), 2);
    scores::copy_ratings(&store, &features).expect("they can be copied");
    scores::copy_ratings(&store, &features).expect("there is nothing to copy");
    assert!(scores::lacking_ratings(&store, &features).expect("ratings").is_empty());
    let paths: Vec<String> = store.list("scores").expect("a listing").into_iter().map(|object| object.path).collect();
    assert!(paths.len() == 3 && paths.iter().all(|path| path.starts_with("scores/scorer=maniqa/")), "{paths:?}");
    assert_eq!(ScoreSet::list(&store).expect("a listing"), std::slice::from_ref(&set));
    assert_eq!(set.read(&store).expect("ratings"), expected(7));
}
