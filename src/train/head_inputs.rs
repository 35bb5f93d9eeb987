//! The columns that the fusion head reads, joined by image: f_a and f_b from a semantic set, f_1 from a quality set.

use tch::Tensor;

use super::recipes::HeadInput;
use agiqa_store::identity::ImageId;
use agiqa_store::store::Store;
use agiqa_store::store::part::PartError;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::{FeatureIndex, FeatureKind, FeatureSet, FoundFeatures, VectorColumn};
use agiqa_store::tables::models::{QUALITY, SEMANTIC};

/// The head cannot read a feature set.
#[derive(Debug, thiserror::Error)]
pub enum HeadInputsError {
    /// A table could not be read.
    #[error(transparent)]
    Part(#[from] PartError),
    /// A feature set lacks the columns that the head reads.
    #[error(
        "feature set `{set}` cannot be the {role} input: expected {expected}, found {}", found.join(", ")
    )]
    Columns {
        /// Extractor, fingerprint and table.
        set: String,
        /// `semantic` or `quality`.
        role: &'static str,
        /// The columns that the head reads.
        expected: &'static str,
        /// The columns of the set.
        found: Vec<String>,
    },
}

fn wrong(set: &FeatureSet, role: &'static str, expected: &'static str) -> HeadInputsError {
    let found = set.columns.iter().map(|column| format!("`{}` ({})", column.name, column.dim)).collect();
    let set = format!("{}@{} ({})", set.extractor, set.fingerprint.short(), set.kind.part_kind().table);
    HeadInputsError::Columns { set, role, expected, found }
}

fn dim(column: &VectorColumn) -> i64 {
    i64::try_from(column.dim).unwrap_or(i64::MAX)
}

/// `set` with only the columns `names`, in this order; `None` if it lacks one of them.
fn narrowed<const N: usize>(set: &FeatureSet, names: [&str; N]) -> Option<FeatureSet> {
    let column = |name: &str| set.columns.iter().find(|column| column.name == name).cloned();
    let columns = names.into_iter().map(column).collect::<Option<Vec<_>>>()?;
    Some(FeatureSet { columns, ..set.clone() })
}

/// `semantic` with only the two columns that the head reads, f_a before f_b. Other columns and their order do not
/// matter. [`FeatureSet::read`] of the result gives these two columns.
///
/// # Errors
/// Fails if the set has another kind or lacks these columns.
pub fn semantic_inputs(semantic: &FeatureSet) -> Result<FeatureSet, HeadInputsError> {
    narrowed(semantic, ["f_a", "f_b"])
        .filter(|set| set.kind == FeatureKind::Semantic)
        .ok_or_else(|| wrong(semantic, "semantic", "a semantic set with columns `f_a` and `f_b`"))
}

/// `quality` with only the column that the head reads, f_1.
///
/// # Errors
/// Fails if the set has another kind or lacks this column.
pub fn quality_inputs(quality: &FeatureSet) -> Result<FeatureSet, HeadInputsError> {
    narrowed(quality, ["f_1"])
        .filter(|set| set.kind == FeatureKind::Quality)
        .ok_or_else(|| wrong(quality, "quality", "a quality set with column `f_1`"))
}

/// `semantic` and `quality`, each with only the columns of `inputs`, and without those of no input. A column `f_a_224` is
/// one of f_a.
///
/// # Errors
/// Fails if an input has no column.
pub fn all_columns(
    semantic: &FeatureSet,
    quality: &FeatureSet,
    inputs: &[HeadInput],
) -> Result<Vec<FeatureSet>, HeadInputsError> {
    let mut sets = Vec::new();
    for (set, role, expected) in [(semantic, SEMANTIC, "a column `f_a` or `f_b`"), (quality, QUALITY, "a column `f_1`")]
    {
        let is_quality = role == QUALITY;
        let inputs: Vec<&str> = inputs
            .iter()
            .filter(|input| (**input == HeadInput::Quality) == is_quality)
            .map(|input| input.as_str())
            .collect();
        let is_of = |column: &VectorColumn, input: &str| {
            column.name.strip_prefix(input).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        if !inputs.iter().all(|input| set.columns.iter().any(|column| is_of(column, input))) {
            return Err(wrong(set, role, expected));
        }
        let columns: Vec<VectorColumn> =
            set.columns.iter().filter(|column| inputs.iter().any(|input| is_of(column, input))).cloned().collect();
        if !columns.is_empty() {
            sets.push(FeatureSet { columns, ..set.clone() });
        }
    }
    Ok(sets)
}

/// `sets` with only the columns `names`, in this order; without a set that has none of them.
///
/// # Errors
/// Fails if no set has one of the columns.
pub fn named_columns(sets: [&FeatureSet; 2], names: &[String]) -> Result<Vec<FeatureSet>, HeadInputsError> {
    let has = |set: &FeatureSet, name: &String| set.columns.iter().any(|column| column.name == *name);
    if !names.iter().all(|name| sets.iter().any(|set| has(set, name))) {
        return Err(wrong(sets[0], "support", "the columns of the training"));
    }
    let of_set = |set: &FeatureSet| {
        let columns = names.iter().filter_map(|name| set.columns.iter().find(|column| column.name == *name).cloned());
        FeatureSet { columns: columns.collect(), ..set.clone() }
    };
    Ok(sets.into_iter().map(of_set).filter(|set| !set.columns.is_empty()).collect())
}

/// The commands that fill gaps in the inputs of a head, in words.
pub fn advice(dataset: &PartitionName, semantic: &FeatureSet, quality: &FeatureSet) -> String {
    format!(
        "run `agiqa features --dataset {dataset}` (features `{}@{}` and `{}@{}`), or ingest again if MOS are missing",
        semantic.extractor,
        semantic.fingerprint.short(),
        quality.extractor,
        quality.fingerprint.short()
    )
}

/// Checks that the head can read `semantic`; returns the widths of f_a and f_b.
///
/// # Errors
/// Fails like [`semantic_inputs`].
pub fn semantic_dims(semantic: &FeatureSet) -> Result<[i64; 2], HeadInputsError> {
    let columns = semantic_inputs(semantic)?.columns;
    Ok([dim(&columns[0]), dim(&columns[1])])
}

/// Checks that the head can read `semantic` and `quality`; returns the widths of f_a, f_b, f_1.
///
/// # Errors
/// Fails like [`semantic_inputs`] and [`quality_inputs`].
pub fn input_dims(semantic: &FeatureSet, quality: &FeatureSet) -> Result<[i64; 3], HeadInputsError> {
    let [f_a, f_b] = semantic_dims(semantic)?;
    Ok([f_a, f_b, dim(&quality_inputs(quality)?.columns[0])])
}

/// Cached columns of some images. Row `i` of each belongs to `image_ids[i]`.
#[derive(Debug)]
pub struct Columns {
    /// Images that have all columns.
    pub image_ids: Vec<ImageId>,
    /// The columns of all sets in turn, `(n, d)` each, not standardised.
    pub tensors: Vec<Tensor>,
}

impl Columns {
    /// Reads the columns of `sets` for the images of `wanted` that have a row in every set. Without sets, takes all of
    /// `wanted`.
    ///
    /// # Errors
    /// Fails if a part cannot be read.
    pub fn read(store: &Store, sets: &[FeatureSet], wanted: &[ImageId]) -> Result<Self, PartError> {
        let found = sets.iter().map(|set| set.read(store, wanted)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::of(sets, found, wanted))
    }

    /// As [`Self::read`], with the places of each set's rows.
    ///
    /// # Errors
    /// Fails if a part cannot be read.
    pub fn read_indexed(
        store: &Store,
        sets: &[(FeatureSet, &FeatureIndex)],
        wanted: &[ImageId],
    ) -> Result<Self, PartError> {
        let read = |(set, index): &(FeatureSet, &FeatureIndex)| set.read_indexed(store, index, wanted);
        let found = sets.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let sets: Vec<FeatureSet> = sets.iter().map(|(set, _)| set.clone()).collect();
        Ok(Self::of(&sets, found, wanted))
    }

    fn of(sets: &[FeatureSet], found: Vec<FoundFeatures>, wanted: &[ImageId]) -> Self {
        let mut image_ids = Vec::with_capacity(wanted.len());
        let mut rows_of_sets = vec![Vec::with_capacity(wanted.len()); sets.len()];
        for (index, image_id) in wanted.iter().enumerate() {
            let rows: Option<Vec<usize>> = found.iter().map(|features| features.rows[index]).collect();
            let Some(rows) = rows else { continue };
            image_ids.push(*image_id);
            rows_of_sets.iter_mut().zip(rows).for_each(|(rows_of_set, row)| rows_of_set.push(row as i64));
        }
        let mut tensors = Vec::new();
        for ((set, features), rows) in sets.iter().zip(found).zip(&rows_of_sets) {
            // A reader that goes part by part asks for the rows in their order.
            let is_in_order = rows.iter().zip(0..).all(|(row, at)| *row == at);
            for (column, matrix) in set.columns.iter().zip(features.matrices) {
                let rows_of_parts = || Tensor::from_slice(&matrix).view([-1, dim(column)]);
                tensors.push(if image_ids.is_empty() {
                    Tensor::zeros([0, dim(column)], (tch::Kind::Float, tch::Device::Cpu))
                } else if is_in_order {
                    rows_of_parts().narrow(0, 0, rows.len() as i64)
                } else {
                    rows_of_parts().index_select(0, &Tensor::from_slice(rows))
                });
            }
        }
        Self { image_ids, tensors }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agiqa_store::identity::Fingerprint;
    use agiqa_store::store::OpenMode;
    use agiqa_store::tables::PartitionName;
    use agiqa_store::tables::features::FeatureRows;

    fn set(kind: FeatureKind, columns: &[(&str, usize)]) -> FeatureSet {
        let column = |(name, dim): &(&str, usize)| VectorColumn { name: (*name).to_owned(), dim: *dim };
        FeatureSet {
            extractor: PartitionName::new("own").expect("a name"),
            fingerprint: Fingerprint::builder("test").json("kind", &kind).finish(),
            kind,
            columns: columns.iter().map(column).collect(),
            settings: serde_json::Value::Null,
        }
    }

    #[test]
    fn columns_are_found_by_name_among_others_and_in_any_order() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().display().to_string(), OpenMode::CreateIfMissing).expect("a store");
        let semantic = set(FeatureKind::Semantic, &[("f_b", 2), ("sharp", 1), ("f_a", 3)]);
        let quality = set(FeatureKind::Quality, &[("rating", 1), ("f_1", 2)]);
        let image_ids: Vec<ImageId> = [b"x", b"y"].map(|bytes| ImageId::of_bytes(bytes)).to_vec();
        let rows = |vectors, n_tokens| FeatureRows { image_ids: image_ids.clone(), vectors, n_tokens };
        let of_prompts = vec![vec![1.0, 2.0, 3.0, 4.0], vec![5.0, 6.0], vec![7.0, 8.0, 9.0, 10.0, 11.0, 12.0]];
        semantic.write_part(&store, &rows(of_prompts, vec![1, 1])).expect("a part can be written");
        let rated = vec![vec![0.5, 0.25], vec![13.0, 14.0, 15.0, 16.0]];
        quality.write_part(&store, &rows(rated, Vec::new())).expect("a part can be written");

        assert_eq!(input_dims(&semantic, &quality).expect("they are all there"), [3, 2, 2]);
        let sets = [semantic_inputs(&semantic), quality_inputs(&quality)].map(|set| set.expect("they are all there"));
        let found = Columns::read(&store, &sets, &image_ids).expect("they are all there");
        let expected = [
            Tensor::from_slice(&[7_f32, 8.0, 9.0, 10.0, 11.0, 12.0]).view([2, 3]),
            Tensor::from_slice(&[1_f32, 2.0, 3.0, 4.0]).view([2, 2]),
            Tensor::from_slice(&[13_f32, 14.0, 15.0, 16.0]).view([2, 2]),
        ];
        assert_eq!((found.image_ids, found.tensors), (image_ids, expected.into()));
    }

    #[test]
    fn sets_without_the_columns_are_refused_with_those_there_are() {
        let [one, other] = [&[("f_a", 3)][..], &[("f_a", 3), ("f_1", 2)]];
        let error = semantic_dims(&set(FeatureKind::Semantic, one)).expect_err("there is no f_b").to_string();
        assert!(error.contains("columns `f_a` and `f_b`, found `f_a` (3)"), "{error}");
        let both = set(FeatureKind::Semantic, &[("f_a", 3), ("f_b", 2)]);
        assert!(input_dims(&both, &set(FeatureKind::Semantic, other)).is_err(), "of another kind");
        assert!(input_dims(&both, &set(FeatureKind::Quality, one)).is_err(), "no f_1");
        assert_eq!(input_dims(&both, &set(FeatureKind::Quality, other)).expect("f_1 is the second"), [3, 2, 2]);
    }
}
