//! `images`: one row per (image, MOS) of a dataset; `images/dataset=<dataset>/part-<name>.parquet`.
//!
//! A dataset's table is the part `0`, replaced as a whole by each ingest. Readers see the old rows or the new ones. The
//! night of a corpus is the dataset `<corpus>.<night>`, whose parts are named by their content: they only grow. Columns
//! of the dataset that have no place among the fixed columns follow them. Such a column holds numbers if every cell is
//! a number.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};

use super::{
    Column, ColumnType, Columns, PartitionName, PartitionNameError, integer_array, optional_real_array,
    optional_text_array, real_at, text_array, text_at,
};
use crate::identity::{Fingerprint, ImageId};
use crate::store::derived::Derived;
use crate::store::part::{self, PartError, PartKind, PartReader};
use crate::store::{ObjectInfo, Store, StoreError};

/// Name and version of the table. Version 1 is the first.
pub const KIND: PartKind = PartKind { table: "images", version: 1 };

/// The fixed columns. A dataset's own columns follow them.
pub const COLUMNS: &[Column] = &[
    Column::partition("dataset", "dataset that the row belongs to"),
    Column::required("image_id", ColumnType::Text, "first 32 hex digits of the BLAKE3 of the image file's bytes"),
    Column::required("name", ColumnType::Text, "file name as the dataset's table gives it"),
    Column::required(
        "path",
        ColumnType::Text,
        "absolute path of the image file when it was ingested; of a corpus, an address as in `inventory`",
    ),
    Column::required("bytes", ColumnType::Integer, "size of the image file, bytes"),
    Column::required("width", ColumnType::Integer, "width, pixels, before any EXIF rotation"),
    Column::required("height", ColumnType::Integer, "height, pixels, before any EXIF rotation"),
    Column::required("format", ColumnType::Text, "file format by content: jpeg, png, webp, bmp, gif, tiff, …"),
    Column::optional("generator", ColumnType::Text, "model that made the image"),
    Column::optional("prompt", ColumnType::Text, "text that the image was made from"),
    Column::optional("mos", ColumnType::Real, "mean opinion score of quality, on the dataset's own scale"),
    Column::optional("mos_std", ColumnType::Real, "standard deviation of the opinion scores of quality"),
    Column::optional("mos_align", ColumnType::Real, "mean opinion score of text-to-image alignment"),
];

/// Values of one of the dataset's own columns.
#[derive(Clone, Debug, PartialEq)]
pub enum ExtraValues {
    /// Every non-empty cell is a finite number.
    Real(Vec<Option<f64>>),
    /// Any other values. An empty cell is `None`.
    Text(Vec<Option<String>>),
}

impl ExtraValues {
    /// The cell as text, in the form that names subsets.
    pub fn text_at(&self, row: usize) -> Option<String> {
        match self {
            Self::Real(values) => values[row].map(|value| value.to_string()),
            Self::Text(values) => values[row].clone(),
        }
    }

    fn array(&self) -> ArrayRef {
        match self {
            Self::Real(values) => optional_real_array(values.iter().copied()),
            Self::Text(values) => optional_text_array(values.iter().map(Option::as_deref)),
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Real(_) => DataType::Float64,
            Self::Text(_) => DataType::Utf8,
        }
    }
}

/// One of the dataset's own columns.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtraColumn {
    /// Name in the dataset's table.
    pub name: String,
    /// One value per row.
    pub values: ExtraValues,
}

/// One image of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRow {
    /// Identity of the file's content.
    pub image_id: ImageId,
    /// File name as the dataset's table gives it.
    pub name: String,
    /// Absolute path of the file.
    pub path: String,
    /// Size of the file.
    pub n_bytes: u64,
    /// Width, pixels.
    pub width_px: u32,
    /// Height, pixels.
    pub height_px: u32,
    /// Image format, detected from the content.
    pub format: String,
    /// Model that made the image.
    pub generator: Option<String>,
    /// Prompt of the image.
    pub prompt: Option<String>,
    /// Mean opinion score of quality.
    pub mos: Option<f64>,
    /// Standard deviation of the opinion scores.
    pub mos_std: Option<f64>,
    /// Mean opinion score of alignment.
    pub mos_align: Option<f64>,
}

/// The `images` table of one dataset, in the order of the dataset's own table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Images {
    /// One row per image.
    pub rows: Vec<ImageRow>,
    /// The dataset's own columns. Each has one value per row.
    pub extra: Vec<ExtraColumn>,
}

impl Images {
    /// Values of the fixed or extra column `name` as text, for grouping with `--by`. `None` if the column does not
    /// exist.
    pub fn column_text(&self, name: &str) -> Option<Vec<Option<String>>> {
        let fixed = |value: fn(&ImageRow) -> Option<String>| Some(self.rows.iter().map(value).collect());
        match name {
            "generator" => fixed(|row| row.generator.clone()),
            "prompt" => fixed(|row| row.prompt.clone()),
            "format" => fixed(|row| Some(row.format.clone())),
            "name" => fixed(|row| Some(row.name.clone())),
            "width" => fixed(|row| Some(row.width_px.to_string())),
            "height" => fixed(|row| Some(row.height_px.to_string())),
            _ => {
                let extra = self.extra.iter().find(|extra| extra.name == name)?;
                Some((0..self.rows.len()).map(|row| extra.values.text_at(row)).collect())
            }
        }
    }

    /// Names of the columns that [`Self::column_text`] can read.
    pub fn groupable_columns(&self) -> Vec<String> {
        let fixed = ["generator", "prompt", "format", "name", "width", "height"].map(str::to_owned);
        fixed.into_iter().chain(self.extra.iter().map(|extra| extra.name.clone())).collect()
    }
}

/// Folder of `dataset`'s images.
pub fn prefix(dataset: &PartitionName) -> String {
    format!("images/dataset={dataset}")
}

fn part_path(dataset: &PartitionName) -> String {
    format!("{}/part-0.parquet", prefix(dataset))
}

/// Replaces `dataset`'s table with `images`.
pub fn write(store: &Store, dataset: &PartitionName, images: &Images) -> Result<(), PartError> {
    replace(store, dataset, images, None)
}

/// Replaces `dataset`'s table with `images`. `fingerprint` identifies the inputs of `images`.
pub fn replace(
    store: &Store,
    dataset: &PartitionName,
    images: &Images,
    fingerprint: Option<Fingerprint>,
) -> Result<(), PartError> {
    part::write(store, KIND, &part_path(dataset), &to_batch(images)?, fingerprint).map(|_| ())
}

/// Whether `dataset`'s table was made from the inputs that `fingerprint` identifies.
///
/// # Errors
/// Fails if the store cannot be read.
pub fn state(store: &Store, dataset: &PartitionName, fingerprint: Fingerprint) -> Result<Derived, StoreError> {
    Derived::of(store, &part_path(dataset), KIND, fingerprint)
}

/// Datasets that have an `images` table.
pub fn datasets(store: &Store) -> Result<Vec<PartitionName>, StoreError> {
    let mut names: Vec<PartitionName> = part::list(store, "images")?
        .iter()
        .filter_map(|object| object.path.strip_prefix("images/dataset=")?.split('/').next())
        .filter_map(|name| PartitionName::new(name).ok())
        .collect();
    names.dedup();
    Ok(names)
}

/// Reads `dataset`'s table; empty if the dataset was never ingested.
pub fn read(store: &Store, dataset: &PartitionName) -> Result<Images, PartError> {
    let mut images = Images::default();
    for object in part::list(store, &prefix(dataset))? {
        append_part_of(store, &object, &mut images)?;
    }
    Ok(images)
}

/// Passes image id and path of each row of `dataset`'s table to `each`, in order. Only these two columns are read.
pub fn for_each_location(
    store: &Store,
    dataset: &PartitionName,
    mut each: impl FnMut(ImageId, &str),
) -> Result<(), PartError> {
    super::for_each_batch(store, &prefix(dataset), KIND, Some(&["image_id", "path"]), |columns, _| {
        let paths = columns.text("path")?;
        for (row, image_id) in columns.image_ids("image_id")?.into_iter().enumerate() {
            each(image_id, paths.value(row));
        }
        Ok(())
    })
}

/// Passes image id and generator of each row of `dataset`'s table to `each`, in order. Only these two columns are read.
pub fn for_each_generator(
    store: &Store,
    dataset: &PartitionName,
    mut each: impl FnMut(ImageId, Option<&str>),
) -> Result<(), PartError> {
    super::for_each_batch(store, &prefix(dataset), KIND, Some(&["image_id", "generator"]), |columns, _| {
        let generators = columns.text("generator")?;
        for (row, image_id) in columns.image_ids("image_id")?.into_iter().enumerate() {
            each(image_id, generators.is_valid(row).then(|| generators.value(row)));
        }
        Ok(())
    })
}

/// The image id of each row of `dataset`'s table, in order. Only this column is read.
pub fn ids(store: &Store, dataset: &PartitionName) -> Result<Vec<ImageId>, PartError> {
    let mut ids = Vec::new();
    super::for_each_batch(store, &prefix(dataset), KIND, Some(&["image_id"]), |columns, _| {
        ids.extend(columns.image_ids("image_id")?);
        Ok(())
    })?;
    Ok(ids)
}

/// The MOS of the rows of `dataset`'s table that have one. Only this column is read.
pub fn mos(store: &Store, dataset: &PartitionName) -> Result<Vec<f64>, PartError> {
    let mut mos = Vec::new();
    super::for_each_batch(store, &prefix(dataset), KIND, Some(&["mos"]), |columns, _| {
        mos.extend(columns.reals("mos")?.iter().flatten());
        Ok(())
    })?;
    Ok(mos)
}

/// Name of the dataset that a corpus' night is. `corpus` has no dot, so that the name can be taken apart again.
///
/// # Errors
/// The name is too long.
pub fn night_dataset(corpus: &PartitionName, night: &PartitionName) -> Result<PartitionName, PartitionNameError> {
    PartitionName::new(&format!("{corpus}.{night}"))
}

/// Adds `images` to the table of a corpus' night, as a part that is named by its content. Writes nothing if there are no
/// rows.
pub fn append_part(store: &Store, dataset: &PartitionName, images: &Images) -> Result<(), PartError> {
    if images.rows.is_empty() {
        return Ok(());
    }
    let batch = to_batch(images)?;
    let path = format!("{}/part-{}.parquet", prefix(dataset), part::content_name(KIND, &batch)?);
    part::write(store, KIND, &path, &batch, None).map(|_| ())
}

/// Deletes the table of a corpus' night.
pub fn delete(store: &Store, dataset: &PartitionName) -> Result<(), StoreError> {
    part::list(store, &prefix(dataset))?.iter().try_for_each(|object| store.delete(&object.path))
}

/// Whether `dataset` was ingested as a whole, and is no night of a corpus.
pub fn is_ingested(store: &Store, dataset: &PartitionName) -> Result<bool, StoreError> {
    store.exists(&part_path(dataset))
}

/// Passes the rows of each part of `dataset`'s table to `each`. One part is in memory at a time.
///
/// # Errors
/// A part cannot be read, or `each` fails.
pub fn for_each_part<E: From<PartError>>(
    store: &Store,
    dataset: &PartitionName,
    mut each: impl FnMut(Images) -> Result<(), E>,
) -> Result<(), E> {
    for object in part::list(store, &prefix(dataset)).map_err(PartError::from)? {
        let mut images = Images::default();
        append_part_of(store, &object, &mut images)?;
        each(images)?;
    }
    Ok(())
}

/// Reads the part `object` and adds its rows to `images`.
fn append_part_of(store: &Store, object: &ObjectInfo, images: &mut Images) -> Result<(), PartError> {
    let mut batches = PartReader::open(store, object, KIND)?.read(None)?;
    while let Some(batch) = batches.next() {
        let batch = batch?;
        append(images, &Columns::new(&batches, &batch), &batch)?;
    }
    Ok(())
}

fn to_batch(images: &Images) -> Result<RecordBatch, PartError> {
    let rows = &images.rows;
    let mut fields = super::fields_of(COLUMNS);
    let mut columns: Vec<ArrayRef> = vec![
        text_array(rows.iter().map(|row| row.image_id.to_string()).collect::<Vec<_>>().iter().map(String::as_str)),
        text_array(rows.iter().map(|row| row.name.as_str())),
        text_array(rows.iter().map(|row| row.path.as_str())),
        integer_array(rows.iter().map(|row| i64::try_from(row.n_bytes).unwrap_or(i64::MAX))),
        integer_array(rows.iter().map(|row| i64::from(row.width_px))),
        integer_array(rows.iter().map(|row| i64::from(row.height_px))),
        text_array(rows.iter().map(|row| row.format.as_str())),
        optional_text_array(rows.iter().map(|row| row.generator.as_deref())),
        optional_text_array(rows.iter().map(|row| row.prompt.as_deref())),
        optional_real_array(rows.iter().map(|row| row.mos)),
        optional_real_array(rows.iter().map(|row| row.mos_std)),
        optional_real_array(rows.iter().map(|row| row.mos_align)),
    ];
    for ExtraColumn { name, values } in &images.extra {
        fields.push(Field::new(name, values.data_type(), true));
        columns.push(values.array());
    }
    part::batch(KIND.table, Arc::new(Schema::new(fields)), columns)
}

fn append(images: &mut Images, columns: &Columns<'_>, batch: &RecordBatch) -> Result<(), PartError> {
    let n_before = images.rows.len();
    let ids = columns.image_ids("image_id")?;
    let (names, paths) = (columns.text("name")?, columns.text("path")?);
    let (n_bytes, widths) = (columns.integers("bytes")?, columns.integers("width")?);
    let (heights, formats) = (columns.integers("height")?, columns.text("format")?);
    let (generators, prompts) = (columns.text("generator")?, columns.text("prompt")?);
    let (mos, mos_std, mos_align) = (columns.reals("mos")?, columns.reals("mos_std")?, columns.reals("mos_align")?);
    for (row, image_id) in ids.into_iter().enumerate() {
        images.rows.push(ImageRow {
            image_id,
            name: names.value(row).to_owned(),
            path: paths.value(row).to_owned(),
            n_bytes: n_bytes.value(row).try_into().unwrap_or(0),
            width_px: widths.value(row).try_into().unwrap_or(0),
            height_px: heights.value(row).try_into().unwrap_or(0),
            format: formats.value(row).to_owned(),
            generator: text_at(generators, row),
            prompt: text_at(prompts, row),
            mos: real_at(mos, row),
            mos_std: real_at(mos_std, row),
            mos_align: real_at(mos_align, row),
        });
    }
    let schema = batch.schema();
    let n_fixed = super::fields_of(COLUMNS).len();
    for (index, field) in schema.fields().iter().enumerate().skip(n_fixed) {
        let array = batch.column(index);
        let position = images.extra.iter().position(|extra| extra.name == *field.name()).unwrap_or_else(|| {
            let values = match field.data_type() {
                DataType::Float64 => ExtraValues::Real(vec![None; n_before]),
                _ => ExtraValues::Text(vec![None; n_before]),
            };
            images.extra.push(ExtraColumn { name: field.name().clone(), values });
            images.extra.len() - 1
        });
        match &mut images.extra[position].values {
            ExtraValues::Real(values) => {
                let array = array.as_primitive_opt::<Float64Type>();
                values.extend((0..batch.num_rows()).map(|row| array.and_then(|array| real_at(array, row))));
            }
            ExtraValues::Text(values) => {
                let array = array.as_string_opt::<i32>();
                values.extend((0..batch.num_rows()).map(|row| array.and_then(|array| text_at(array, row))));
            }
        }
    }
    Ok(())
}
