//! Parquet. Numbers become the shortest text that reads back as the same number.

use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{RawRow, RawTable};

pub(super) fn read(bytes: Vec<u8>) -> Result<RawTable, String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes))
        .map_err(|error| format!("it is not valid Parquet: {error}"))?;
    let columns: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    let mut rows: Vec<RawRow> = Vec::new();
    for batch in builder.build().map_err(|error| error.to_string())? {
        let batch = batch.map_err(|error| error.to_string())?;
        let texts: Vec<Vec<Option<String>>> =
            batch.columns().iter().map(texts_of).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        let mut texts: Vec<_> = texts.into_iter().map(Vec::into_iter).collect();
        for _ in 0..batch.num_rows() {
            let cells = texts.iter_mut().map(|texts| texts.next().flatten()).collect();
            rows.push(RawRow { number: rows.len() as u64 + 1, place: None, cells: Ok(cells) });
        }
    }
    Ok(RawTable { columns, rows })
}

fn texts_of(array: &ArrayRef) -> Result<Vec<Option<String>>, ArrowError> {
    let array = match array.data_type() {
        // 3.6 stored in 32 bits is not exactly 3.6. The text is the exact stored number.
        DataType::Float16 | DataType::Float32 => cast(array, &DataType::Float64)?,
        _ => array.clone(),
    };
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
    let text = |row| -> Result<Option<String>, ArrowError> {
        if array.is_null(row) {
            return Ok(None);
        }
        let text = formatter.value(row).try_to_string()?;
        Ok((!text.is_empty()).then_some(text))
    };
    (0..array.len()).map(text).collect()
}
