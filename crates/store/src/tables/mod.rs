//! The tables that stages exchange. Each has one module with its row type, schema, version, writer and reader.
//!
//! A table's Arrow schema and its page in `schemas/*.json` both come from its list of [`Column`]s.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef};

use crate::identity::ImageId;
use crate::store::part::{PartBatches, PartError, PartKind};

pub mod images;

mod making;

pub use making::{COLUMNS as MAKING_COLUMNS, Making};

pub mod inventory;

pub mod splits;

pub mod features;

pub mod models;

pub mod train_log;

pub mod scores;

pub mod gates;

pub mod night_scores;

pub mod nights;

pub mod selections;

pub mod checks;

mod estimates;

pub mod metrics;

pub mod comparison;

pub mod experiments;

pub mod rejects;

pub mod registry;

pub mod schema_json;

/// Type of a scalar column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// UTF-8 text.
    Text,
    /// 64-bit signed integer.
    Integer,
    /// 64-bit float. A value that is not null is finite.
    Real,
    /// `FixedSizeList<Float32, dim>`. The extractor decides `dim`.
    Vector,
    /// A list of 64-bit signed integers.
    Counts,
}

/// The place of a column: the file or the folder name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnPlace {
    /// In the file.
    File,
    /// In the folder name, as `column=value` (hive partitioning).
    Partition,
}

/// One column of a table. It is the only source of its Arrow field and of its entry in `schemas/`.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub ty: ColumnType,
    /// Whether null is allowed. Null means undefined or unknown.
    pub nullable: bool,
    /// The place of its values.
    pub place: ColumnPlace,
    /// Description of the values, with units.
    pub doc: &'static str,
}

impl Column {
    /// A column of the file without nulls.
    pub const fn required(name: &'static str, ty: ColumnType, doc: &'static str) -> Self {
        Self { name, ty, nullable: false, place: ColumnPlace::File, doc }
    }

    /// A column of the file that may be null.
    pub const fn optional(name: &'static str, ty: ColumnType, doc: &'static str) -> Self {
        Self { name, ty, nullable: true, place: ColumnPlace::File, doc }
    }

    /// A partition column.
    pub const fn partition(name: &'static str, doc: &'static str) -> Self {
        Self { name, ty: ColumnType::Text, nullable: false, place: ColumnPlace::Partition, doc }
    }
}

/// Arrow fields of the file columns among `columns`, without vectors. The table that knows their width must add
/// vectors.
pub fn fields_of(columns: &[Column]) -> Vec<Field> {
    columns
        .iter()
        .filter(|column| column.place == ColumnPlace::File)
        .filter_map(|column| {
            let ty = match column.ty {
                ColumnType::Text => DataType::Utf8,
                ColumnType::Integer => DataType::Int64,
                ColumnType::Real => DataType::Float64,
                ColumnType::Vector => return None,
                ColumnType::Counts => DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true))),
            };
            Some(Field::new(column.name, ty, column.nullable))
        })
        .collect()
}

/// Arrow schema of a table that has only fixed columns.
pub fn schema_of(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(fields_of(columns)))
}

/// Names of the columns that stand in the files.
fn schema_names(columns: &[Column]) -> Vec<&'static str> {
    columns.iter().filter(|column| column.place == ColumnPlace::File).map(|column| column.name).collect()
}

/// A name that is valid in a partition folder: letters, digits, `.`, `_`, `-`; not empty, not starting with a dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartitionName(String);

/// A name that is not valid in a partition folder.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` cannot be a name here: use letters, digits, `.`, `_` and `-`, at most 120, not starting with a dot")]
pub struct PartitionNameError(String);

impl PartitionName {
    /// Checks `name`.
    pub fn new(name: &str) -> Result<Self, PartitionNameError> {
        let valid = (1..=120).contains(&name.len())
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if valid { Ok(Self(name.to_owned())) } else { Err(PartitionNameError(name.to_owned())) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for PartitionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for PartitionName {
    type Err = PartitionNameError;

    fn from_str(name: &str) -> Result<Self, PartitionNameError> {
        Self::new(name)
    }
}

impl TryFrom<String> for PartitionName {
    type Error = PartitionNameError;

    fn try_from(name: String) -> Result<Self, PartitionNameError> {
        Self::new(&name)
    }
}

impl From<PartitionName> for String {
    fn from(name: PartitionName) -> Self {
        name.0
    }
}

/// A column of text without nulls.
pub fn text_array<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// A column of text; `None` becomes null.
pub fn optional_text_array<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

/// A column of integers without nulls.
pub fn integer_array(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

/// A column of integers; `None` becomes null.
pub fn optional_integer_array(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(Int64Array::from_iter(values))
}

/// A column of floats without nulls.
pub fn real_array(values: impl Iterator<Item = f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(values))
}

/// A column of floats; `None` becomes null.
pub fn optional_real_array(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    // An undefined value must be null, never NaN.
    Arc::new(Float64Array::from_iter(values.map(|value| value.filter(|value| value.is_finite()))))
}

/// A column of lists of integers; `None` becomes null.
pub fn counts_array<'a>(values: impl Iterator<Item = Option<&'a [u64]>>) -> ArrayRef {
    let integers =
        |counts: &[u64]| counts.iter().map(|n| Some(i64::try_from(*n).unwrap_or(i64::MAX))).collect::<Vec<_>>();
    Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(values.map(|counts| counts.map(integers))))
}

/// Typed access to the columns of one batch of a part, with errors that name part, column and row.
pub struct Columns<'a> {
    part: &'a PartBatches,
    batch: &'a RecordBatch,
}

impl<'a> Columns<'a> {
    /// The columns of `batch`, which belongs to `part`.
    pub fn new(part: &'a PartBatches, batch: &'a RecordBatch) -> Self {
        Self { part, batch }
    }

    fn column(&self, name: &str) -> Result<&'a ArrayRef, PartError> {
        self.batch.column_by_name(name).ok_or_else(|| {
            let schema = self.batch.schema();
            let names: Vec<String> = schema.fields().iter().map(|field| format!("`{}`", field.name())).collect();
            self.part.column_error(format!("no column `{name}`; the columns are: {}", names.join(", ")))
        })
    }

    /// An error about column `name` as a whole.
    pub fn column_problem(&self, name: &str, problem: &str) -> PartError {
        self.part.column_error(format!("column `{name}`: {problem}"))
    }

    fn wrong_type(&self, name: &str, expected: &str, found: &DataType) -> PartError {
        self.column_problem(name, &format!("expected {expected}, found {found}"))
    }

    /// A column of text.
    ///
    /// # Errors
    /// Fails if the column is absent or has another type.
    pub fn text(&self, name: &str) -> Result<&'a StringArray, PartError> {
        let column = self.column(name)?;
        column.as_string_opt::<i32>().ok_or_else(|| self.wrong_type(name, "text", column.data_type()))
    }

    /// A column of integers.
    ///
    /// # Errors
    /// Fails if the column is absent or has another type.
    pub fn integers(&self, name: &str) -> Result<&'a Int64Array, PartError> {
        let column = self.column(name)?;
        column
            .as_primitive_opt::<Int64Type>()
            .ok_or_else(|| self.wrong_type(name, "64-bit integers", column.data_type()))
    }

    /// A column of floats.
    ///
    /// # Errors
    /// Fails if the column is absent or has another type.
    pub fn reals(&self, name: &str) -> Result<&'a Float64Array, PartError> {
        let column = self.column(name)?;
        column
            .as_primitive_opt::<Float64Type>()
            .ok_or_else(|| self.wrong_type(name, "64-bit floats", column.data_type()))
    }

    /// The lists of integers of a column, by row; null becomes `None`.
    ///
    /// # Errors
    /// Fails if the column is absent or has another type.
    pub fn counts(&self, name: &str) -> Result<impl Fn(usize) -> Option<Vec<u64>> + use<'a>, PartError> {
        let column = self.column(name)?;
        let lists = column.as_list_opt::<i32>().filter(|lists| lists.value_type() == DataType::Int64);
        let lists = lists.ok_or_else(|| self.wrong_type(name, "lists of 64-bit integers", column.data_type()))?;
        Ok(move |row: usize| {
            let list = lists.is_valid(row).then(|| lists.value(row))?;
            Some(list.as_primitive::<Int64Type>().values().iter().map(|n| u64::try_from(*n).unwrap_or(0)).collect())
        })
    }

    /// An error about the value of column `name` in row `row` (from 0) of this batch.
    pub fn error(&self, row: usize, name: &str, expected: &str, found: &str) -> PartError {
        self.part.column_error(format!("row {row}, column `{name}`: expected {expected}, found `{found}`"))
    }

    /// A column of image ids.
    ///
    /// # Errors
    /// Fails if the column is absent or a value is not a valid id.
    pub fn image_ids(&self, name: &str) -> Result<Vec<ImageId>, PartError> {
        self.text(name)?
            .iter()
            .enumerate()
            .map(|(row, text)| {
                let text = text.unwrap_or("null");
                text.parse().map_err(|error| self.part.column_error(format!("row {row}, column `{name}`: {error}")))
            })
            .collect()
    }
}

/// The value at `row`, or `None` if it is null.
pub fn text_at(array: &StringArray, row: usize) -> Option<String> {
    array.is_valid(row).then(|| array.value(row).to_owned())
}

/// The value at `row`, or `None` if it is null.
pub fn integer_at(array: &Int64Array, row: usize) -> Option<i64> {
    array.is_valid(row).then(|| array.value(row))
}

/// The value at `row`, or `None` if it is null.
pub fn real_at(array: &Float64Array, row: usize) -> Option<f64> {
    array.is_valid(row).then(|| array.value(row))
}

/// Reads all parts under `prefix` and passes each batch to `each`.
pub fn for_each_batch(
    store: &crate::store::Store,
    prefix: &str,
    kind: PartKind,
    columns: Option<&[&str]>,
    mut each: impl FnMut(&Columns<'_>, &RecordBatch) -> Result<(), PartError>,
) -> Result<(), PartError> {
    for object in crate::store::part::list(store, prefix)? {
        let mut batches = crate::store::part::PartReader::open(store, &object, kind)?.read(columns)?;
        while let Some(batch) = batches.next() {
            let batch = batch?;
            each(&Columns::new(&batches, &batch), &batch)?;
        }
    }
    Ok(())
}
