//! Columns of images in Parquet files: plain bytes, or Hugging Face's structure of `bytes` and `path`.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use crate::given::Given;
use crate::{Entry, Problem, Sink, SourceError, place};

/// Rows in memory at a time. A row may hold several megabytes.
const BATCH_ROWS: usize = 16;

/// Batches that stay in memory: several threads ask for neighbouring rows.
const N_BATCHES: usize = 4;

/// Rows that are read over rather than searched for.
const NEAR_ROWS: usize = 256;

/// Rows of names and texts in memory at a time.
const LISTED_ROWS: usize = 1024;

/// One column of images, read from some row on.
pub(crate) struct OpenColumn {
    file: PathBuf,
    column: String,
    batches: ParquetRecordBatchReader,
    /// Number of the row after those read.
    next_row: usize,
    /// The last batches with the numbers of their first rows.
    kept: VecDeque<(usize, ArrayRef)>,
}

impl OpenColumn {
    /// Opens `column` at `row`. Earlier row groups are not read.
    pub(crate) fn open(file: &Path, column: &str, row: usize) -> Result<Self, String> {
        let builder = builder(file)?;
        let root = builder.schema().index_of(column).map_err(|_| format!("there is no column `{column}`"))?;
        let mut group_start = 0;
        let mut first_group = 0;
        for group in builder.metadata().row_groups() {
            let n_rows = usize::try_from(group.num_rows()).unwrap_or(0);
            if row < group_start + n_rows {
                break;
            }
            group_start += n_rows;
            first_group += 1;
        }
        let groups = (first_group..builder.metadata().num_row_groups()).collect();
        let mask = image_leaves(&builder, root);
        let batches = builder.with_row_groups(groups).with_projection(mask).with_batch_size(BATCH_ROWS);
        let batches = batches.with_offset(row - group_start).build().map_err(|error| error.to_string())?;
        let (file, column) = (file.to_owned(), column.to_owned());
        Ok(Self { file, column, batches, next_row: row, kept: VecDeque::new() })
    }

    pub(crate) fn is_of(&self, file: &Path, column: &str) -> bool {
        self.file == file && self.column == column
    }

    /// Whether `row` is in memory or a little ahead.
    pub(crate) fn is_near(&self, row: usize) -> bool {
        let first = self.kept.front().map_or(self.next_row, |(start, _)| *start);
        (first..self.next_row + NEAR_ROWS).contains(&row)
    }

    /// The bytes of `row`; `None` for null.
    pub(crate) fn bytes(&mut self, row: usize) -> Result<Option<Vec<u8>>, String> {
        while row >= self.next_row {
            let batch = self.batches.next().ok_or_else(|| format!("there is no row {row}"))?;
            let batch = batch.map_err(|error| error.to_string())?;
            if self.kept.len() == N_BATCHES {
                self.kept.pop_front();
            }
            self.kept.push_back((self.next_row, binary(batch.column(0))?));
            self.next_row += batch.num_rows();
        }
        let batch = self.kept.iter().rev().find(|(start, _)| *start <= row);
        let (start, array) = batch.ok_or_else(|| format!("row {row} is not in memory"))?;
        let array = array.as_binary::<i64>();
        Ok(array.is_valid(row - start).then(|| array.value(row - start).to_vec()))
    }
}

fn builder(file: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, String> {
    let open = File::open(file).map_err(|error| error.to_string())?;
    ParquetRecordBatchReaderBuilder::try_new(open).map_err(|error| format!("it is not valid Parquet: {error}"))
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

/// Whether a column holds images: bytes, or a structure with bytes.
fn may_hold_images(field: &Field) -> bool {
    match field.data_type() {
        DataType::Struct(fields) => fields.iter().any(|field| field.name() == "bytes" && is_binary(field.data_type())),
        data_type => is_binary(data_type),
    }
}

/// The column at `root` alone; of a structure, its bytes alone.
fn image_leaves(builder: &ParquetRecordBatchReaderBuilder<File>, root: usize) -> ProjectionMask {
    let (schema, name) = (builder.parquet_schema(), builder.schema().field(root).name());
    let of_bytes = (0..schema.num_columns()).filter(|leaf| {
        let path = schema.column(*leaf);
        path.path().parts() == [name.clone(), "bytes".to_owned()]
    });
    let of_bytes: Vec<usize> = of_bytes.collect();
    if of_bytes.is_empty() { ProjectionMask::roots(schema, [root]) } else { ProjectionMask::leaves(schema, of_bytes) }
}

/// The bytes of a column of images. A null structure has null bytes.
fn binary(array: &ArrayRef) -> Result<ArrayRef, String> {
    let bytes = match array.as_struct_opt() {
        Some(structure) => {
            let bytes = structure.column_by_name("bytes").ok_or("the structure has no field `bytes`")?;
            match structure.nulls().filter(|nulls| nulls.null_count() > 0) {
                Some(nulls) => {
                    let is_null = arrow::array::BooleanArray::new(!nulls.inner(), None);
                    arrow::compute::nullif(bytes, &is_null).map_err(|error| error.to_string())?
                }
                None => bytes.clone(),
            }
        }
        None => array.clone(),
    };
    cast(&bytes, &DataType::LargeBinary).map_err(|error| error.to_string())
}

/// The columns of a Parquet file that hold images: those of `wanted`, or the only one there is. `None` if no column holds
/// bytes and none is wanted, so that the file may be a list.
///
/// # Errors
/// A wanted column does not exist or holds no bytes, or several columns do and none is wanted.
pub(crate) fn image_columns(path: &Path, wanted: &[String]) -> Result<Option<Vec<String>>, SourceError> {
    let builder = builder(path).map_err(|reason| SourceError::damaged(path, reason))?;
    let schema = builder.schema();
    let may_hold: Vec<String> =
        schema.fields().iter().filter(|field| may_hold_images(field)).map(|field| field.name().clone()).collect();
    let available =
        || schema.fields().iter().map(|field| format!("`{}` ({})", field.name(), field.data_type())).collect();
    for column in wanted {
        if !may_hold.contains(column) {
            let hint = agiqa_suggest::question(column, may_hold.iter().map(String::as_str));
            let available: Vec<String> = available();
            return Err(SourceError::Columns {
                path: path.to_owned(),
                problem: format!("no column `{column}` with image bytes{hint}"),
                available: available.join(", "),
            });
        }
    }
    match (wanted, may_hold.as_slice()) {
        ([], []) => Ok(None),
        ([], [_]) => Ok(Some(may_hold)),
        ([], several) => Err(SourceError::Columns {
            path: path.to_owned(),
            problem: format!("{} columns with bytes: name those of images (`--image-column`)", several.len()),
            available: available().join(", "),
        }),
        (wanted, _) => Ok(Some(wanted.to_vec())),
    }
}

/// Passes each image of `columns` to `sink`, row by row. Reads texts and numbers, no image.
pub(crate) fn list(
    path: &Path,
    uri: &str,
    version: &str,
    columns: &[String],
    sink: &mut Sink<'_>,
) -> Result<u64, SourceError> {
    let damaged = |reason: String| SourceError::damaged(path, reason);
    let builder = builder(path).map_err(damaged)?;
    let schema = builder.parquet_schema();
    let is_listed = |leaf: &usize| {
        let parts = schema.column(*leaf).path().parts().to_vec();
        match parts.as_slice() {
            [name] => !columns.contains(name),
            [name, field] => columns.contains(name) && field == "path",
            _ => false,
        }
    };
    let leaves: Vec<usize> = (0..schema.num_columns()).filter(is_listed).collect();
    let plain = builder.schema().fields().iter().filter(|field| !is_binary(field.data_type()));
    let plain: Vec<String> = plain.map(|field| field.name().clone()).collect();
    let mask = ProjectionMask::leaves(schema, leaves);
    let n_rows = usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut batches =
        builder.with_projection(mask).with_batch_size(LISTED_ROWS).build().map_err(|e| damaged(e.to_string()))?;
    let mut row = 0;
    while row < n_rows {
        let batch = match batches.next().transpose() {
            Ok(Some(batch)) if batch.num_rows() > 0 => batch,
            Ok(_) => break,
            Err(error) => {
                // What was listed stays: a damaged row group costs its own rows.
                let message = format!("`{uri}` is damaged from row {row} on: {error}; copy it again");
                _ = sink(Entry::broken(uri, &stem, version, Problem { kind: "damaged", message }));
                return Ok(row as u64);
            }
        };
        let texts = |name: &str| {
            let column = plain.iter().any(|plain| plain == name).then(|| batch.column_by_name(name)).flatten()?;
            cast(column, &DataType::LargeUtf8).ok()
        };
        let names =
            ["file_name", "name", "path", "image_name", "__key__", "key", "id"].iter().find_map(|name| texts(name));
        let known: Vec<(&str, ArrayRef)> = KNOWN.iter().filter_map(|name| Some((*name, texts(name)?))).collect();
        let own_names = columns.iter().map(|column| {
            let own = batch.column_by_name(column)?.as_struct_opt()?.column_by_name("path")?;
            cast(own, &DataType::LargeUtf8).ok()
        });
        let own_names: Vec<Option<ArrayRef>> = own_names.collect();
        for at in 0..batch.num_rows() {
            let text = |array: &ArrayRef| {
                let array = array.as_string::<i64>();
                array.is_valid(at).then(|| array.value(at).to_owned())
            };
            let given = Given::of(|name| known.iter().find(|(known, _)| *known == name).and_then(|(_, a)| text(a)));
            for (column, own) in columns.iter().zip(&own_names) {
                let own = own.as_ref().and_then(&text);
                let name = own.or_else(|| names.as_ref().and_then(&text)).unwrap_or_else(|| format!("{stem}-{row:06}"));
                let entry = Entry {
                    given: given.clone(),
                    ..Entry::plain(place::cell(uri, column, row), name, version.to_owned())
                };
                if let ControlFlow::Break(()) = sink(entry) {
                    return Ok(row as u64 + 1);
                }
            }
            row += 1;
        }
    }
    Ok(row as u64)
}

/// Names of columns that [`Given::of`] asks for.
const KNOWN: [&str; 9] =
    ["prompt", "caption", "text", "negative_prompt", "seed", "generator", "model", "sampler", "group_id"];
