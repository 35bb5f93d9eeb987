//! Parquet. Numbers become the shortest text that reads back as the same number. The fields of a structure are columns
//! named `outer.inner`. Lists, maps, and bytes other than text are left out with a note.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::ChunkReader;

use crate::cells::Cells;

/// Number of rows in memory at a time, and of the first rows that show whether bytes are text.
const BATCH_ROWS: usize = 1024;
const FIRST_ROWS: usize = 64;

pub(crate) fn read<R: ChunkReader + 'static>(file: R) -> Result<Cells, String> {
    let error = |error: &dyn std::fmt::Display| format!("it is not valid Parquet: {error}");
    let file = Shared(std::sync::Arc::new(file));
    let open = || ParquetRecordBatchReaderBuilder::try_new(file.clone()).map_err(|e| error(&e));
    let builder = open()?;
    let leaves: Vec<Leaf> = builder.schema().fields().iter().flat_map(|field| leaves_of(field)).collect();
    // Columns of bytes such as whole images are told by their first rows, and are then never read.
    let mut has_text: Vec<bool> = leaves.iter().map(|leaf| leaf.is_readable).collect();
    if leaves.iter().any(|leaf| leaf.is_binary) {
        for batch in builder.with_batch_size(FIRST_ROWS).with_limit(FIRST_ROWS).build().map_err(|e| error(&e))? {
            let batch = batch.map_err(|e| error(&e))?;
            let arrays: Vec<ArrayRef> = batch.columns().iter().flat_map(arrays_of).collect();
            for (at, array) in arrays.iter().enumerate().filter(|(at, _)| leaves[*at].is_binary) {
                has_text[at] &= texts(array).is_ok();
            }
        }
    }
    let builder = open()?;
    // A list has leaves of its own in the file, so the mask is made of the columns' paths.
    let schema = builder.parquet_schema();
    let is_wanted = |path: &str| leaves.iter().zip(&has_text).any(|(leaf, has_text)| *has_text && leaf.path == path);
    let wanted = (0..schema.num_columns()).filter(|at| is_wanted(&schema.column(*at).path().string()));
    let mask = ProjectionMask::leaves(schema, wanted.collect::<Vec<_>>());
    let mut cells = Cells::default();
    let kept: Vec<&Leaf> =
        leaves.iter().zip(&has_text).filter(|(_, has_text)| **has_text).map(|(leaf, _)| leaf).collect();
    cells.columns = kept.iter().map(|leaf| leaf.path.clone()).collect();
    let mut is_bytes = vec![false; kept.len()];
    for batch in builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(|e| error(&e))? {
        let batch = batch.map_err(|e| error(&e))?;
        let mut arrays = Vec::with_capacity(kept.len());
        for (at, array) in batch.columns().iter().flat_map(arrays_of).enumerate() {
            let text = texts(&array);
            is_bytes[at] |= text.is_err();
            arrays.push(text.unwrap_or(array));
        }
        add(&mut cells, &arrays, &is_bytes, batch.num_rows())?;
    }
    let left_out: Vec<String> = leaves
        .iter()
        .zip(&has_text)
        .filter(|(_, has_text)| !**has_text)
        .map(|(leaf, _)| format!("`{}` ({})", leaf.path, leaf.kind))
        .chain(kept.iter().zip(&is_bytes).filter(|(_, is)| **is).map(|(leaf, _)| format!("`{}` (bytes)", leaf.path)))
        .collect();
    if !left_out.is_empty() {
        let left_out = left_out.join(", ");
        cells.elsewhere = format!("; left out: {left_out}");
        cells.notes.push(format!("left out, because they hold neither text nor numbers: {left_out}"));
    }
    if is_bytes.contains(&true) { cells.without(&is_bytes) } else { Ok(cells) }
}

/// Adds the rows of one batch.
fn add(cells: &mut Cells, arrays: &[ArrayRef], is_bytes: &[bool], n_rows: usize) -> Result<(), String> {
    let options = FormatOptions::default();
    let formatter = |array| ArrayFormatter::try_new(array, &options).map_err(|error| error.to_string());
    let formatters: Vec<ArrayFormatter<'_>> =
        arrays.iter().map(|array| formatter(array.as_ref())).collect::<Result<_, _>>()?;
    for row in 0..n_rows {
        for ((array, formatter), is_bytes) in arrays.iter().zip(&formatters).zip(is_bytes) {
            match array.is_null(row) || *is_bytes {
                true => cells.push(""),
                false => cells.push_display(formatter.value(row)),
            }
        }
        cells.end_row(0)?;
    }
    Ok(())
}

/// One file that is opened several times.
struct Shared<R>(std::sync::Arc<R>);

impl<R> Clone for Shared<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: ChunkReader> parquet::file::reader::Length for Shared<R> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl<R: ChunkReader> ChunkReader for Shared<R> {
    type T = R::T;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        self.0.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<bytes::Bytes> {
        self.0.get_bytes(start, length)
    }
}

/// A column without structure.
struct Leaf {
    path: String,
    is_readable: bool,
    is_binary: bool,
    kind: &'static str,
}

fn leaves_of(field: &Field) -> Vec<Leaf> {
    if let DataType::Struct(fields) = field.data_type() {
        let within = |leaf: Leaf| Leaf { path: format!("{}.{}", field.name(), leaf.path), ..leaf };
        return fields.iter().flat_map(|field| leaves_of(field)).map(within).collect();
    }
    let is_binary = is_binary(field.data_type());
    let is_nested = field.data_type().is_nested();
    let kind = if is_nested { "nested" } else { "bytes" };
    vec![Leaf { path: field.name().clone(), is_readable: !is_nested, is_binary, kind }]
}

/// The arrays without structure that an array consists of. A null structure has null fields.
fn arrays_of(array: &ArrayRef) -> Vec<ArrayRef> {
    let Some(structure) = array.as_struct_opt() else { return vec![array.clone()] };
    let nulls = structure.nulls();
    let child = |child: &ArrayRef| match nulls {
        // A null structure may hide a value.
        Some(nulls) if nulls.null_count() > 0 => {
            let mask = arrow::array::BooleanArray::new(nulls.inner().clone(), None);
            let is_null = arrow::compute::not(&mask).and_then(|is_null| arrow::compute::nullif(child, &is_null));
            is_null.unwrap_or_else(|_| child.clone())
        }
        _ => child.clone(),
    };
    structure.columns().iter().map(child).flat_map(|child| arrays_of(&child)).collect()
}

fn is_binary(data_type: &DataType) -> bool {
    match data_type {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => true,
        DataType::Dictionary(_, values) => is_binary(values),
        _ => false,
    }
}

/// The array in a form that displays as text: bytes as UTF-8, numbers of 32 bits as their exact value, and times with a
/// zone in UTC. Fails if bytes are not UTF-8.
fn texts(array: &ArrayRef) -> Result<ArrayRef, String> {
    let error = |error: arrow::error::ArrowError| error.to_string();
    match array.data_type() {
        // 3.6 stored in 32 bits is not exactly 3.6. The text is the exact stored number.
        DataType::Float16 | DataType::Float32 => cast(array, &DataType::Float64).map_err(error),
        // The zone's name would need a database of zones.
        DataType::Timestamp(unit, Some(_)) => {
            let instants = cast(array, &DataType::Int64).map_err(error)?;
            cast(&instants, &DataType::Timestamp(*unit, Some("+00:00".into()))).map_err(error)
        }
        DataType::Dictionary(_, values) => texts(&cast(array, values).map_err(error)?),
        binary if is_binary(binary) => {
            let binary = cast(array, &DataType::LargeBinary).map_err(error)?;
            let is_text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'));
            match binary.as_binary::<i64>().iter().flatten().all(is_text) {
                true => cast(&binary, &DataType::LargeUtf8).map_err(error),
                false => Err("bytes".to_owned()),
            }
        }
        _ => Ok(array.clone()),
    }
}
