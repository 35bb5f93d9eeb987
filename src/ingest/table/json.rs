//! JSON (one array of objects) and JSON lines. Columns are the keys in the order of their first appearance.

use std::collections::HashMap;

use serde_json::Value;

use super::{RawRow, RawTable, RowProblem};

pub(super) fn read_array(bytes: &[u8]) -> Result<RawTable, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("it is not valid JSON: {error}"))?;
    let Value::Array(values) = value else {
        return Err("expected one array of objects (for one object per line use the format `jsonl`)".to_owned());
    };
    let mut rows = Rows::default();
    for value in values {
        rows.push(None, object_of(value));
    }
    Ok(rows.finish())
}

pub(super) fn read_lines(bytes: &[u8]) -> RawTable {
    let mut rows = Rows::default();
    for (line, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let value = serde_json::from_slice(text).map_err(|error| RowProblem::NotAnObject { found: error.to_string() });
        rows.push(Some(format!("line {}", line + 1)), value.and_then(object_of));
    }
    rows.finish()
}

type Object = serde_json::Map<String, Value>;

fn object_of(value: Value) -> Result<Object, RowProblem> {
    match value {
        Value::Object(object) => Ok(object),
        other => Err(RowProblem::NotAnObject { found: shortened(&other.to_string()) }),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[derive(Default)]
struct Rows {
    columns: Vec<String>,
    index: HashMap<String, usize>,
    rows: Vec<RawRow>,
}

impl Rows {
    fn push(&mut self, place: Option<String>, object: Result<Object, RowProblem>) {
        let cells = object.map(|object| {
            let mut cells = vec![None; self.columns.len()];
            for (key, value) in object {
                let position = *self.index.entry(key.clone()).or_insert_with(|| {
                    self.columns.push(key);
                    self.columns.len() - 1
                });
                cells.resize(cells.len().max(position + 1), None);
                cells[position] = cell_of(value);
            }
            cells
        });
        self.rows.push(RawRow { number: self.rows.len() as u64 + 1, place, cells });
    }

    /// Adds empty cells to rows that precede a column's first appearance.
    fn finish(mut self) -> RawTable {
        for row in &mut self.rows {
            if let Ok(cells) = &mut row.cells {
                cells.resize(self.columns.len(), None);
            }
        }
        RawTable { columns: self.columns, rows: self.rows }
    }
}

fn cell_of(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => (!text.is_empty()).then_some(text),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Some(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_appear_late_are_columns_too() {
        let table = read_lines(b"{\"name\":\"a\"}\n\n[1]\n{\"mos\":1.5,\"name\":null}\n");
        assert_eq!(table.columns, ["name", "mos"]);
        assert_eq!(table.rows[0].cells, Ok(vec![Some("a".to_owned()), None]));
        assert_eq!(table.rows[1].cells, Err(RowProblem::NotAnObject { found: "[1]".to_owned() }));
        assert_eq!(table.rows[2].cells, Ok(vec![None, Some("1.5".to_owned())]));
        assert_eq!(table.rows[2].place.as_deref(), Some("line 4"));
    }

    #[test]
    fn lines_given_as_an_array_are_told_which_format_they_are() {
        let error = read_array(b"{\"name\":\"a\"}").expect_err("an object");
        assert!(error.contains("jsonl"), "{error}");
    }
}
