//! What came out of a query, and the forms that it is written in.

use std::io::Write;
use std::path::Path;

use agiqa_store::layout;
use polars::prelude::*;
use serde::ser::{SerializeMap, Serializer};

use crate::cell::{self, Json};

/// A form of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns; numbers have six digits after the point, long lists are abbreviated.
    Text,
    /// A Markdown table with the same values.
    Markdown,
    /// Comma-separated values, exact; lists are JSON. Null is nothing, an empty text is `""`.
    Csv,
    /// One JSON object a line, exact.
    Json,
    /// A parquet file with the columns' own types.
    Parquet,
}

impl Format {
    /// The format that the extension of `path` stands for, if it does for any.
    pub fn of_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "txt" => Some(Self::Text),
            "md" | "markdown" => Some(Self::Markdown),
            "csv" => Some(Self::Csv),
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// An answer that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The writer failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A row cannot be JSON.
    #[error("cannot write the answer as JSON")]
    Json(#[from] serde_json::Error),
    /// Polars cannot write it as parquet.
    #[error("cannot encode the answer as parquet")]
    Encode(#[from] PolarsError),
}

/// The rows that a query asked for.
#[derive(Clone, Debug)]
pub struct Answer {
    frame: DataFrame,
    notes: Vec<String>,
}

impl Answer {
    /// An answer of these rows.
    pub fn new(frame: DataFrame, notes: Vec<String>) -> Self {
        Self { frame, notes }
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.frame.height()
    }

    /// The rows.
    pub fn frame(&self) -> &DataFrame {
        &self.frame
    }

    /// What to know about the tables that were asked, e.g. that one has no parts yet.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Writes the rows to `out`.
    ///
    /// # Errors
    /// A writer that fails; what polars cannot encode.
    pub fn write(&self, format: Format, out: &mut dyn Write) -> Result<(), WriteError> {
        match format {
            Format::Text => out.write_all(layout::aligned(&self.lines()).as_bytes())?,
            Format::Markdown => out.write_all(layout::markdown(&self.lines()).as_bytes())?,
            Format::Csv => self.write_csv(out)?,
            Format::Json => self.write_json(out)?,
            Format::Parquet => {
                ParquetWriter::new(out).finish(&mut self.frame.clone())?;
            }
        }
        Ok(())
    }

    /// The columns, each in one piece.
    fn columns(&self) -> Vec<Series> {
        self.frame.columns().iter().map(|column| column.as_materialized_series().rechunk()).collect()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.frame.columns().iter().map(|column| column.name().as_str())
    }

    /// Head and rows for people.
    fn lines(&self) -> Vec<Vec<String>> {
        let columns = self.columns();
        let mut lines = vec![self.names().map(str::to_owned).collect::<Vec<_>>()];
        let mut cells: Vec<_> = columns.iter().map(Series::iter).collect();
        for _ in 0..self.n_rows() {
            lines.push(
                cells
                    .iter_mut()
                    .map(|column| column.next().map_or_else(String::new, |value| cell::short(&value)))
                    .collect(),
            );
        }
        lines
    }

    fn write_csv(&self, out: &mut dyn Write) -> Result<(), WriteError> {
        let columns = self.columns();
        let names: Vec<String> = self.names().map(csv_text).collect();
        out.write_all(format!("{}\n", names.join(",")).as_bytes())?;
        let mut cells: Vec<_> = columns.iter().map(Series::iter).collect();
        for _ in 0..self.n_rows() {
            let values = cells.iter_mut().map(|column| column.next().and_then(|value| cell::exact(&value)));
            let line: Vec<String> = values.map(|value| value.as_deref().map_or_else(String::new, csv_text)).collect();
            out.write_all(format!("{}\n", line.join(",")).as_bytes())?;
        }
        Ok(())
    }

    fn write_json(&self, out: &mut dyn Write) -> Result<(), WriteError> {
        let columns = self.columns();
        let mut cells: Vec<_> = columns.iter().map(Series::iter).collect();
        for _ in 0..self.n_rows() {
            let mut line = Vec::new();
            let mut serializer = serde_json::Serializer::new(&mut line);
            let mut object = serializer.serialize_map(Some(columns.len()))?;
            for (name, column) in self.names().zip(&mut cells) {
                object.serialize_entry(name, &Json(&column.next().unwrap_or(AnyValue::Null)))?;
            }
            object.end()?;
            line.push(b'\n');
            out.write_all(&line)?;
        }
        Ok(())
    }
}

/// A text as a field of CSV, in quotes if it would be taken for something else without.
fn csv_text(text: &str) -> String {
    let needs_quotes = text.is_empty() || text.trim() != text || text.contains([',', '"', '\n', '\r']);
    if needs_quotes { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let frame = df!(
            "text" => [Some("a,b"), Some(""), None],
            "number" => [Some(0.1), None, Some(2.0)],
            "flag" => [true, false, true],
        );
        let mut bytes = Vec::new();
        Answer::new(frame.expect("a frame"), Vec::new()).write(format, &mut bytes).expect("memory takes everything");
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn csv_tells_null_from_an_empty_text() {
        assert_eq!(written(Format::Csv), "text,number,flag\n\"a,b\",0.1,true\n\"\",,false\n,2.0,true\n");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let lines = "{\"text\":\"a,b\",\"number\":0.1,\"flag\":true}\n{\"text\":\"\",\"number\":null,\"flag\":false}\n\
                     {\"text\":null,\"number\":2.0,\"flag\":true}\n";
        assert_eq!(written(Format::Json), lines);
    }

    #[test]
    fn text_and_markdown_have_a_head() {
        assert_eq!(
            written(Format::Text),
            "text  number  flag\na,b   0.1     true\n      —       false\n—     2.0     true\n"
        );
        assert!(
            written(Format::Markdown).starts_with("| text | number | flag |\n|---|---|---|\n| a,b | 0.1 | true |\n")
        );
    }

    #[test]
    fn a_files_extension_gives_its_format() {
        let format_of = |name: &str| Format::of_path(Path::new(name));
        assert_eq!(format_of("a/b.CSV"), Some(Format::Csv));
        assert_eq!(format_of("b.jsonl"), Some(Format::Json));
        assert_eq!((format_of("b.xlsx"), format_of("b")), (None, None));
    }
}
