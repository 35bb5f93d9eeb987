//! The columns that the fusion head reads, joined by image: f_a and f_b of a semantic set, f_1 of a quality set.

use tch::Tensor;

use super::features::{FeatureKind, FeatureSet, VectorColumn};
use crate::identity::ImageId;
use crate::store::Store;
use crate::store::part::PartError;

/// Feature sets that the head cannot read.
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
        /// Extractor and fingerprint.
        set: String,
        /// `semantic` or `quality`.
        role: &'static str,
        /// What the head reads.
        expected: &'static str,
        /// The columns there are.
        found: Vec<String>,
    },
}

fn wrong(set: &FeatureSet, role: &'static str, expected: &'static str) -> HeadInputsError {
    let columns = set.columns.iter().map(|column| format!("`{}` ({})", column.name, column.dim));
    let found = std::iter::once(format!("a {:?} set with", set.kind).to_lowercase()).chain(columns).collect();
    HeadInputsError::Columns { set: format!("{}@{}", set.extractor, set.fingerprint.short()), role, expected, found }
}

fn dim(column: &VectorColumn) -> i64 {
    i64::try_from(column.dim).unwrap_or(i64::MAX)
}

/// Checks that the head can read `semantic`; returns the widths of f_a and f_b.
///
/// # Errors
/// A set of another kind or with other columns.
pub fn semantic_dims(semantic: &FeatureSet) -> Result<[i64; 2], HeadInputsError> {
    match (semantic.kind, semantic.columns.as_slice()) {
        (FeatureKind::Semantic, [f_a, f_b]) if f_a.name == "f_a" && f_b.name == "f_b" => Ok([dim(f_a), dim(f_b)]),
        _ => Err(wrong(semantic, "semantic", "a semantic set with columns `f_a` and `f_b`")),
    }
}

/// Checks that the head can read `semantic` and `quality`; returns the widths of f_a, f_b, f_1.
///
/// # Errors
/// A set of another kind or with other columns.
pub fn input_dims(semantic: &FeatureSet, quality: &FeatureSet) -> Result<[i64; 3], HeadInputsError> {
    let [f_a, f_b] = semantic_dims(semantic)?;
    let f_1 = match (quality.kind, quality.columns.as_slice()) {
        (FeatureKind::Quality, [f_1, ..]) if f_1.name == "f_1" => dim(f_1),
        _ => return Err(wrong(quality, "quality", "a quality set whose first column is `f_1`")),
    };
    Ok([f_a, f_b, f_1])
}

/// Features of some images as tensors: row `i` of each belongs to `image_ids[i]`.
#[derive(Debug)]
pub struct HeadInputs {
    /// Images that have all three vectors.
    pub image_ids: Vec<ImageId>,
    /// f_a, f_b, f_1, `(n, d)` each, raw.
    pub inputs: [Tensor; 3],
}

impl HeadInputs {
    /// Reads the features of those of `wanted` that have both semantic and quality ones.
    pub fn read(
        store: &Store,
        semantic: &FeatureSet,
        quality: &FeatureSet,
        wanted: &[ImageId],
    ) -> Result<Self, HeadInputsError> {
        let dims = input_dims(semantic, quality)?;
        let of_semantic = semantic.read(store, wanted)?;
        let of_quality = quality.read(store, wanted)?;
        let mut image_ids = Vec::with_capacity(wanted.len());
        let (mut semantic_rows, mut quality_rows) = (Vec::new(), Vec::new());
        for ((id, semantic_row), quality_row) in wanted.iter().zip(&of_semantic.rows).zip(&of_quality.rows) {
            if let (Some(semantic_row), Some(quality_row)) = (semantic_row, quality_row) {
                image_ids.push(*id);
                semantic_rows.push(*semantic_row as i64);
                quality_rows.push(*quality_row as i64);
            }
        }
        let tensor = |matrix: &[f32], dim: i64, rows: &[i64]| {
            Tensor::from_slice(matrix).view([-1, dim]).index_select(0, &Tensor::from_slice(rows))
        };
        let [semantic_matrices, quality_matrices] = [of_semantic.matrices, of_quality.matrices];
        let inputs = if image_ids.is_empty() {
            dims.map(|dim| Tensor::zeros([0, dim], (tch::Kind::Float, tch::Device::Cpu)))
        } else {
            [
                tensor(&semantic_matrices[0], dims[0], &semantic_rows),
                tensor(&semantic_matrices[1], dims[1], &semantic_rows),
                tensor(&quality_matrices[0], dims[2], &quality_rows),
            ]
        };
        Ok(Self { image_ids, inputs })
    }
}
