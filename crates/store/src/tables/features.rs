//! Feature tables `semantic` and `quality`: one row of vectors per image, cached by image content and extractor.
//!
//! ```text
//! features/extractor=<name>/fingerprint=<16 hex>/extractor.json      the settings behind the numbers
//! features/extractor=<name>/fingerprint=<16 hex>/part-<16 hex>.parquet
//! ```
//!
//! One folder is one [`FeatureSet`]: one table kind, one list of vector columns. Semantic and quality vectors of one
//! network have separate fingerprints because their pooling differs. Each folder is therefore homogeneous. Vectors are
//! `FixedSizeList<Float32, dim>`, never null and always finite. Two writers may both compute an image. Readers then
//! keep the row of the part that sorts first.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Column, ColumnType, Columns, PartitionName, for_each_batch, integer_array, real_array, text_array};
use crate::identity::{Fingerprint, ImageId};
use crate::store::part::{self, PartError, PartKind, PartReader};
use crate::store::{ObjectInfo, Store, StoreError};

/// Name and version of the table `semantic`. Version 1 is the first.
pub const SEMANTIC: PartKind = PartKind { table: "semantic", version: 1 };

/// Name and version of the table `quality`. Version 1 is the first.
pub const QUALITY: PartKind = PartKind { table: "quality", version: 1 };

/// Values of a batch that is read: some rows at a time stay in a processor's cache until they are in their place.
const BATCH_VALUES: usize = 128 << 10;

/// The column of `quality` with an extractor's own score of the image. Higher means better quality.
pub const RATING: &str = "rating";

/// The columns of `semantic`. An extractor with other prompts has other vector columns.
pub const SEMANTIC_COLUMNS: &[Column] = &[
    Column::partition("extractor", "name of the extractor, e.g. `mplug-owl2`"),
    Column::partition("fingerprint", "first 16 hex digits of the fingerprint of everything that decides the numbers"),
    Column::required("image_id", ColumnType::Text, "identity of the image"),
    Column::required("f_a", ColumnType::Vector, "feature of prompt a: existence of semantic content"),
    Column::required("f_b", ColumnType::Vector, "feature of prompt b: coherence"),
    Column::required("n_tokens", ColumnType::Integer, "number of tokens that the features were pooled from"),
];

/// The columns of `quality`.
pub const QUALITY_COLUMNS: &[Column] = &[
    Column::partition("extractor", "name of the extractor, e.g. `maniqa`"),
    Column::partition("fingerprint", "first 16 hex digits of the fingerprint of everything that decides the numbers"),
    Column::required("image_id", ColumnType::Text, "identity of the image"),
    Column::required("f_1", ColumnType::Vector, "quality feature, S × W per token for MANIQA"),
    Column::optional(
        RATING,
        ColumnType::Real,
        "MANIQA's own score, sum(S W) / sum(W), on the scale that its weights were trained on; absent for others",
    ),
];

/// The table that a feature set fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureKind {
    /// `semantic`: a vector per prompt, and `n_tokens`.
    Semantic,
    /// `quality`: `f_1`.
    Quality,
}

impl FeatureKind {
    /// Table name and version.
    pub fn part_kind(self) -> PartKind {
        match self {
            Self::Semantic => SEMANTIC,
            Self::Quality => QUALITY,
        }
    }
}

/// A vector column. A column with a single value is stored as a plain number, so that people can query it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorColumn {
    /// Name, e.g. `f_a`.
    pub name: String,
    /// Number of values.
    pub dim: usize,
}

/// A folder of features: its extractor and its columns. `extractor.json` is its JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureSet {
    /// Name of the extractor.
    pub extractor: PartitionName,
    /// Fingerprint of everything that decides the numbers.
    pub fingerprint: Fingerprint,
    /// The table that the set fills.
    pub kind: FeatureKind,
    /// Vector columns in file order.
    pub columns: Vec<VectorColumn>,
    /// The settings behind the fingerprint, for people.
    pub settings: serde_json::Value,
}

/// Features of some images: row `i` belongs to `image_ids[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureRows {
    /// The images.
    pub image_ids: Vec<ImageId>,
    /// Per vector column, in the set's order: row-major values, `image_ids.len() * dim` of them.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens pooled per image; empty for [`FeatureKind::Quality`].
    pub n_tokens: Vec<u32>,
}

impl FeatureRows {
    /// No rows yet, for `n_columns` vector columns.
    pub fn empty(n_columns: usize) -> Self {
        Self { image_ids: Vec::new(), vectors: vec![Vec::new(); n_columns], n_tokens: Vec::new() }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.image_ids.len()
    }

    /// Whether the number of rows is 0.
    pub fn is_empty(&self) -> bool {
        self.image_ids.is_empty()
    }
}

/// Rows of a part, and where their vectors go.
struct WantedPart<'a> {
    object: &'a ObjectInfo,
    /// Their numbers in the part, ascending.
    rows: Vec<usize>,
    /// Room for them in each column's matrix, row-major.
    matrices: Vec<&'a mut [f32]>,
}

impl FeatureSet {
    /// Folder of this set.
    pub fn prefix(&self) -> String {
        format!("features/extractor={}/fingerprint={}", self.extractor, self.fingerprint.short())
    }

    /// Whether the features have a column [`RATING`].
    pub fn has_rating(&self) -> bool {
        let is_rating = |column: &VectorColumn| column.name == RATING && column.dim == 1;
        self.kind == FeatureKind::Quality && self.columns.iter().any(is_rating)
    }

    /// Writes `extractor.json` unless it exists.
    pub fn write_description(&self, store: &Store) -> Result<(), StoreError> {
        let json = serde_json::to_vec_pretty(self).expect("a feature set is plain data");
        store.put_if_absent(&format!("{}/extractor.json", self.prefix()), json).map(|_| ())
    }

    /// Writes `rows` as one part, sorted by image, named by content. Returns its path.
    ///
    /// # Panics
    /// Panics if the lengths of `rows` disagree with each other or with the set's columns, which is a bug of the
    /// caller.
    pub fn write_part(&self, store: &Store, rows: &FeatureRows) -> Result<String, PartError> {
        self.write_part_with(store, rows, &[])
    }

    /// As [`Self::write_part`], with `notes` in the part's metadata.
    pub fn write_part_with(
        &self,
        store: &Store,
        rows: &FeatureRows,
        notes: &[(&str, String)],
    ) -> Result<String, PartError> {
        let kind = self.kind.part_kind();
        let batch = self.to_batch(rows)?;
        let path = format!("{}/part-{}.parquet", self.prefix(), part::content_name(kind, &batch)?);
        part::write_with(store, kind, &path, &batch, Some(self.fingerprint), notes)?;
        Ok(path)
    }

    /// Images that have features in this set. Only their ids are read.
    pub fn done(&self, store: &Store) -> Result<HashSet<ImageId>, PartError> {
        let mut ids = HashSet::new();
        for_each_batch(store, &self.prefix(), self.kind.part_kind(), Some(&["image_id"]), |columns, _| {
            ids.extend(columns.image_ids("image_id")?);
            Ok(())
        })?;
        Ok(ids)
    }

    /// The places of the rows of the images that `is_wanted` accepts. Only ids are read.
    pub fn index(&self, store: &Store, is_wanted: impl Fn(&ImageId) -> bool) -> Result<FeatureIndex, PartError> {
        let kind = self.kind.part_kind();
        let mut index = FeatureIndex { parts: part::list(store, &self.prefix())?, place_of: HashMap::new() };
        for (part, object) in (0..).zip(&index.parts) {
            let mut row = 0;
            let mut batches = PartReader::open(store, object, kind)?.read(Some(&["image_id"]))?;
            while let Some(batch) = batches.next() {
                for id in Columns::new(&batches, &batch?).image_ids("image_id")? {
                    if is_wanted(&id) {
                        index.place_of.entry(id).or_insert((part, row));
                    }
                    row += 1;
                }
            }
        }
        Ok(index)
    }

    /// Reads the vectors of `wanted`, in its order.
    ///
    /// Returns a row-major matrix over the found images for each vector column, and the row of each wanted image in
    /// these matrices. The row is `None` for an image without features.
    pub fn read(&self, store: &Store, wanted: &[ImageId]) -> Result<FoundFeatures, PartError> {
        let wanted_set: HashSet<ImageId> = wanted.iter().copied().collect();
        self.read_indexed(store, &self.index(store, |id| wanted_set.contains(id))?, wanted)
    }

    /// As [`Self::read`], from the places in `index`. No part without a wanted image is opened.
    pub fn read_indexed(
        &self,
        store: &Store,
        index: &FeatureIndex,
        wanted: &[ImageId],
    ) -> Result<FoundFeatures, PartError> {
        let mut by_part: BTreeMap<u32, BTreeMap<usize, ImageId>> = BTreeMap::new();
        for id in wanted {
            if let Some((part, row)) = index.place_of.get(id) {
                by_part.entry(*part).or_default().insert(*row as usize, *id);
            }
        }
        let n_found: usize = by_part.values().map(BTreeMap::len).sum();
        let mut matrices: Vec<Vec<f32>> = self.columns.iter().map(|column| vec![0.0; n_found * column.dim]).collect();
        let mut positions: HashMap<ImageId, usize> = HashMap::with_capacity(n_found);
        // The parts lie one after the other in the matrices, so that threads can fill them.
        let mut rest: Vec<&mut [f32]> = matrices.iter_mut().map(Vec::as_mut_slice).collect();
        let mut wanted_parts: Vec<WantedPart<'_>> = Vec::new();
        for (part, rows) in by_part {
            for id in rows.values() {
                positions.insert(*id, positions.len());
            }
            let mut own = Vec::with_capacity(rest.len());
            for (rest, column) in rest.iter_mut().zip(&self.columns) {
                let (head, tail) = std::mem::take(rest).split_at_mut(rows.len() * column.dim);
                own.push(head);
                *rest = tail;
            }
            let object = &index.parts[part as usize];
            wanted_parts.push(WantedPart { object, rows: rows.into_keys().collect(), matrices: own });
        }
        wanted_parts.into_par_iter().try_for_each(|part| self.read_part(store, part))?;
        let rows = wanted.iter().map(|id| positions.get(id).copied()).collect();
        Ok(FoundFeatures { matrices, rows })
    }

    fn read_part(&self, store: &Store, part: WantedPart<'_>) -> Result<(), PartError> {
        let WantedPart { object, rows, mut matrices } = part;
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let n_values: usize = self.columns.iter().map(|column| column.dim).sum();
        let reader =
            PartReader::open(store, object, self.kind.part_kind())?.in_batches_of(BATCH_VALUES / n_values.max(1));
        let mut batches = reader.read_rows(&names, &rows)?;
        let mut rest = rows.as_slice();
        while let Some(batch) = batches.next() {
            let batch = batch?;
            let columns = Columns::new(&batches, &batch);
            for (column, matrix) in self.columns.iter().zip(&mut matrices) {
                let (head, tail) = std::mem::take(matrix).split_at_mut(batch.num_rows() * column.dim);
                columns.copy_vectors(&column.name, column.dim, &batch, rest, head)?;
                *matrix = tail;
            }
            rest = &rest[batch.num_rows()..];
        }
        Ok(())
    }

    /// Feature sets in `store`, read from their `extractor.json`.
    pub fn list(store: &Store) -> Result<Vec<Self>, StoreError> {
        let mut sets = Vec::new();
        for object in store.list("features")? {
            if object.path.ends_with("/extractor.json") {
                // A description that does not parse belongs to another version. Reading its parts then gives the error.
                sets.extend(serde_json::from_slice(&store.get(&object.path)?).ok());
            }
        }
        Ok(sets)
    }

    fn schema(&self) -> SchemaRef {
        let mut fields = vec![Field::new("image_id", DataType::Utf8, false)];
        for column in &self.columns {
            fields.push(Field::new(&column.name, column.data_type(), false));
        }
        if self.kind == FeatureKind::Semantic {
            fields.push(Field::new("n_tokens", DataType::Int64, false));
        }
        Arc::new(Schema::new(fields))
    }

    fn to_batch(&self, rows: &FeatureRows) -> Result<RecordBatch, PartError> {
        assert_eq!(rows.vectors.len(), self.columns.len(), "one matrix per vector column");
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|row| rows.image_ids[*row]);
        order.dedup_by_key(|row| rows.image_ids[*row]);
        let ids: Vec<String> = order.iter().map(|row| rows.image_ids[*row].to_string()).collect();
        let mut arrays: Vec<ArrayRef> = vec![text_array(ids.iter().map(String::as_str))];
        for (column, values) in self.columns.iter().zip(&rows.vectors) {
            assert_eq!(values.len(), rows.len() * column.dim, "column `{}` is rows × dim", column.name);
            let sorted: Vec<f32> =
                order.iter().flat_map(|row| &values[row * column.dim..(row + 1) * column.dim]).copied().collect();
            if column.dim == 1 {
                arrays.push(real_array(sorted.into_iter().map(f64::from)));
                continue;
            }
            let item = Arc::new(Field::new("item", DataType::Float32, false));
            let width = i32::try_from(column.dim).expect("vector widths are thousands");
            let array = FixedSizeListArray::try_new(item, width, Arc::new(Float32Array::from(sorted)), None)
                .map_err(|source| PartError::Batch { table: self.kind.part_kind().table, source })?;
            arrays.push(Arc::new(array));
        }
        if self.kind == FeatureKind::Semantic {
            arrays.push(integer_array(order.iter().map(|row| i64::from(rows.n_tokens[*row]))));
        }
        part::batch(self.kind.part_kind().table, self.schema(), arrays)
    }
}

/// Where the rows of a feature set lie, by image: about 30 bytes each.
#[derive(Clone, Debug)]
pub struct FeatureIndex {
    parts: Vec<ObjectInfo>,
    /// Number of the part, and of the row in it. Of two writers' rows, that of the part that sorts first counts.
    place_of: HashMap<ImageId, (u32, u32)>,
}

impl FeatureIndex {
    /// The place of an image's row: number of its part, and of the row in it.
    pub fn place(&self, id: &ImageId) -> Option<(u32, u32)> {
        self.place_of.get(id).copied()
    }
}

/// Vectors of some images, as [`FeatureSet::read`] finds them.
#[derive(Clone, Debug)]
pub struct FoundFeatures {
    /// Per vector column, row-major values of the found images.
    pub matrices: Vec<Vec<f32>>,
    /// For each wanted image, its row in the matrices, or `None` if it has no features.
    pub rows: Vec<Option<usize>>,
}

impl VectorColumn {
    fn data_type(&self) -> DataType {
        if self.dim == 1 {
            return DataType::Float64;
        }
        let width = i32::try_from(self.dim).expect("vector widths are thousands");
        DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, false)), width)
    }
}

impl super::Columns<'_> {
    /// Copies the values of a vector column, row-major, to `places`. All values are finite. `rows` are the numbers of the
    /// batch's rows, for messages.
    fn copy_vectors(
        &self,
        name: &str,
        dim: usize,
        batch: &RecordBatch,
        rows: &[usize],
        places: &mut [f32],
    ) -> Result<(), PartError> {
        let wrong =
            |found: String| self.column_problem(name, &format!("expected vectors of {dim} values, found {found}"));
        let column = batch.column_by_name(name).ok_or_else(|| wrong("no such column".to_owned()))?;
        if let (1, DataType::Float64) = (dim, column.data_type()) {
            let values = self.reals(name)?;
            places.iter_mut().zip(values.values()).for_each(|(place, value)| *place = *value as f32);
            return match places.iter().position(|value| !value.is_finite()) {
                Some(at) => Err(wrong(format!("{} in row {}", places[at], rows[at]))),
                None => Ok(()),
            };
        }
        let list = column.as_fixed_size_list_opt().ok_or_else(|| wrong(column.data_type().to_string()))?;
        if usize::try_from(list.value_length()) != Ok(dim) {
            return Err(wrong(format!("vectors of {} values", list.value_length())));
        }
        let values = list
            .values()
            .as_primitive_opt::<Float32Type>()
            .ok_or_else(|| wrong(list.values().data_type().to_string()))?;
        let start = list.offset() * dim;
        let values = &values.values()[start..start + batch.num_rows() * dim];
        if let Some(position) = values.iter().position(|value| !value.is_finite()) {
            return Err(wrong(format!("{} in row {}", values[position], rows[position / dim])));
        }
        places.copy_from_slice(values);
        Ok(())
    }
}
