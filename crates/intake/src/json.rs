//! JSON in its shapes, and JSON lines. Columns are the keys in the order of their first appearance. An object inside a
//! row gives a column per key, named `outer.inner`.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::DeserializeSeed as _;
use serde_json::Value;

use crate::cells::{Cells, Header, Places, RowProblem};
use crate::repair::repair;
use crate::{Reading, TableFormat};

/// Deepest nesting of keys around a table.
const MAX_WRAPS: usize = 4;

/// Whether a text is JSON by its first characters.
pub(crate) fn is_likely(text: &[u8]) -> bool {
    let mut characters = text.iter().filter(|byte| !byte.is_ascii_whitespace());
    match (characters.next(), characters.next()) {
        (Some(b'{'), Some(next)) => matches!(next, b'"' | b'}'),
        (Some(b'['), Some(next)) => {
            matches!(next, b'{' | b'[' | b'"' | b']' | b'-' | b'N' | b'n' | b't' | b'f' | b'0'..=b'9')
        }
        _ => false,
    }
}

pub(crate) fn read(mut bytes: Vec<u8>, reading: &Reading) -> Result<Cells, String> {
    repair(&mut bytes);
    let mut rows = Rows::new(reading);
    if reading.format == Some(TableFormat::Jsonl) && !is_in_one_piece(&bytes) || are_lines(&bytes) {
        rows.cells.places = Places::Lines;
        for (line, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if !text.trim_ascii().is_empty() {
                let item = serde_json::from_slice::<Item>(text);
                let other = |error: serde_json::Error| shape("one JSON object", &error.to_string());
                rows.add(line as u64 + 1, item.map_err(other))?;
            }
        }
        return Ok(rows.cells);
    }
    if bytes.trim_ascii_start().starts_with(b"[") {
        let mut whole = serde_json::Deserializer::from_slice(&bytes);
        let read = Elements(&mut rows).deserialize(&mut whole).and_then(|()| whole.end());
        read.map_err(|error| format!("it is not valid JSON: {error}"))?;
        return Ok(rows.cells);
    }
    let mut values = serde_json::Deserializer::from_slice(&bytes).into_iter::<Item>();
    let invalid = |error: serde_json::Error| format!("it is not valid JSON: {error}");
    let first = values.next().ok_or("it is empty")?.map_err(invalid)?;
    let mut rest = Vec::new();
    for value in values {
        rest.push(value.map_err(invalid)?);
    }
    drop(bytes);
    if rest.is_empty() {
        table(first, &mut rows, reading, 0)?;
    } else {
        for item in std::iter::once(first).chain(rest) {
            rows.add(0, Ok(item))?;
        }
    }
    Ok(rows.cells)
}

/// Adds the elements of an array one by one, so that the array is never in memory as a whole.
struct Elements<'a>(&'a mut Rows);

impl<'de> serde::de::DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> serde::de::Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(item) = seq.next_element()? {
            self.0.add(0, Ok(item)).map_err(serde::de::Error::custom)?;
        }
        Ok(())
    }
}

/// Whether the whole text is one array or object over several lines.
fn is_in_one_piece(bytes: &[u8]) -> bool {
    let first = bytes.trim_ascii_start().split(|byte| *byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice::<serde::de::IgnoredAny>(first).is_err_and(|error| error.is_eof())
        && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

/// Whether the first line is a value and other lines follow.
fn are_lines(bytes: &[u8]) -> bool {
    let bytes = bytes.trim_ascii();
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return false };
    serde_json::from_slice::<serde::de::IgnoredAny>(&bytes[..end]).is_ok()
}

/// A JSON value whose objects keep their keys as written, also repeated ones.
#[derive(Clone, Debug)]
enum Item {
    Object(Vec<(String, Item)>),
    Array(Vec<Item>),
    Scalar(Value),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Item;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Item::Object(entries))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Item::Array(items))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Item, E> {
                Ok(Item::Scalar(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Item, E> {
                Ok(Item::Scalar(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Item, E> {
                Ok(Item::Scalar(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Item, E> {
                Ok(Item::Scalar(value.into()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Item, E> {
                Ok(Item::Scalar(value.into()))
            }
            fn visit_string<E>(self, value: String) -> Result<Item, E> {
                Ok(Item::Scalar(value.into()))
            }
            fn visit_unit<E>(self) -> Result<Item, E> {
                Ok(Item::Scalar(Value::Null))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Item {
    /// Its shape in words.
    fn shape(&self) -> String {
        match self {
            Self::Object(entries) => format!("an object with {} keys", entries.len()),
            Self::Array(items) => match items.first() {
                Some(first) => format!("an array of {} values, the first of which is {}", items.len(), first.shape()),
                None => "an empty array".to_owned(),
            },
            Self::Scalar(value) => shortened(&value.to_string()),
        }
    }

    fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    fn is_array(&self) -> bool {
        matches!(self, Self::Array(_))
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Scalar(Value::Number(_) | Value::Null))
    }

    fn is_text(&self) -> bool {
        matches!(self, Self::Scalar(Value::String(_)))
    }

    /// The cell: text as it is, the rest as JSON.
    fn cell(&self) -> String {
        match self {
            Self::Scalar(Value::Null) => String::new(),
            Self::Scalar(Value::String(text)) => text.clone(),
            Self::Scalar(value) => value.to_string(),
            Self::Array(items) => format!("[{}]", items.iter().map(Self::json).collect::<Vec<_>>().join(",")),
            Self::Object(entries) => {
                let entries =
                    entries.iter().map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), value.json()));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
            }
        }
    }

    fn json(&self) -> String {
        match self {
            Self::Scalar(value) => value.to_string(),
            nested => nested.cell(),
        }
    }
}

fn shape(expected: &'static str, found: &str) -> RowProblem {
    RowProblem::OtherShape { expected, found: shortened(found) }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Adds the table that `item` is, by its shape.
fn table(item: Item, rows: &mut Rows, reading: &Reading, n_wraps: usize) -> Result<(), String> {
    let entries = match item {
        Item::Array(items) => {
            for item in items {
                rows.add(0, Ok(item))?;
            }
            return Ok(());
        }
        Item::Object(entries) => entries,
        scalar @ Item::Scalar(_) => return Err(format!("expected an array or an object, found {}", scalar.shape())),
    };
    let all = |is: fn(&Item) -> bool| !entries.is_empty() && entries.iter().all(|(_, value)| is(value));
    let is_split =
        ["columns", "data"].iter().all(|wanted| entries.iter().any(|(key, value)| key == wanted && value.is_array()));
    if is_split && reading.sheet.is_none() {
        return split(entries, rows);
    }
    let keys = |value: &Item| match value {
        Item::Object(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
        _ => Vec::new(),
    };
    if all(Item::is_object) && reading.sheet.is_none() && (entries.len() > 1 || n_wraps > 0 || !wraps(&entries[0].1)) {
        // pandas writes a column as `{"0": …, "1": …}`; everybody else writes `{"a.png": {"mos": …}}`.
        let indices = keys(&entries[0].1);
        let is_indexed = !indices.is_empty() && indices.iter().all(|key| key.parse::<u64>().is_ok());
        return if is_indexed { columns(entries, rows) } else { by_name(entries, rows) };
    }
    if all(Item::is_array) && !entries.iter().any(|(_, value)| wraps(value)) && reading.sheet.is_none() {
        return columns(entries, rows);
    }
    if all(Item::is_number) && entries.len() > 2 {
        return by_name(entries, rows);
    }
    let named = |(key, _): &&(String, Item)| reading.sheet.as_ref().is_none_or(|sheet| sheet == key);
    let tables: Vec<&str> = entries
        .iter()
        .filter(|(_, value)| wraps(value) || reading.sheet.is_some() && (value.is_object() || value.is_array()))
        .filter(named)
        .map(|(key, _)| key.as_str())
        .collect();
    match tables.as_slice() {
        [key] if n_wraps < MAX_WRAPS => {
            let key = (*key).to_owned();
            let Some((_, inner)) = entries.into_iter().find(|(name, _)| *name == key) else { return Ok(()) };
            table(inner, rows, &Reading { sheet: None, ..reading.clone() }, n_wraps + 1)
        }
        [] if reading.sheet.is_none() && !entries.is_empty() => rows.add(0, Ok(Item::Object(entries))),
        [] if reading.sheet.is_none() => Ok(()),
        [] => {
            let keys: Vec<&str> = entries.iter().map(|(key, _)| key.as_str()).take(20).collect();
            Err(format!("the key that `--sheet` names holds no table; the keys are: `{}`", keys.join("`, `")))
        }
        several => Err(format!("it holds several tables: `{}`; choose one with `--sheet`", several.join("`, `"))),
    }
}

/// Whether a value is a table in itself, which a key was put around.
fn wraps(value: &Item) -> bool {
    match value {
        Item::Array(items) => items.first().is_some_and(|first| first.is_object() || first.is_array()),
        Item::Object(entries) => entries.len() == 1 && wraps(&entries[0].1),
        Item::Scalar(_) => false,
    }
}

/// `{"columns": ["name", …], "data": [["a.png", …], …]}`
fn split(entries: Vec<(String, Item)>, rows: &mut Rows) -> Result<(), String> {
    let take = |wanted: &str| match entries.iter().find(|(key, _)| key == wanted) {
        Some((_, Item::Array(items))) => items.clone(),
        _ => Vec::new(),
    };
    let (header, data) = (take("columns"), take("data"));
    rows.add_header(header.iter().map(Item::cell).collect());
    data.into_iter().try_for_each(|item| rows.add(0, Ok(item)))
}

/// `{"name": ["a.png", …], "mos": [1.5, …]}`
fn columns(entries: Vec<(String, Item)>, rows: &mut Rows) -> Result<(), String> {
    let (names, columns): (Vec<String>, Vec<Item>) = entries.into_iter().unzip();
    let values = |column: Item| match column {
        Item::Array(items) => items,
        Item::Object(entries) => entries.into_iter().map(|(_, value)| value).collect(),
        scalar @ Item::Scalar(_) => vec![scalar],
    };
    let columns: Vec<Vec<Item>> = columns.into_iter().map(values).collect();
    let n_rows = columns.first().map_or(0, Vec::len);
    if let Some(at) = columns.iter().position(|column| column.len() != n_rows) {
        let [first, other] = [&names[0], &names[at]];
        return Err(format!(
            "its columns differ in length: `{first}` has {n_rows} values, `{other}` has {}",
            columns[at].len()
        ));
    }
    rows.add_header(names);
    let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
    (0..n_rows).try_for_each(|_| rows.add(0, Ok(Item::Array(columns.iter_mut().filter_map(Iterator::next).collect()))))
}

/// `{"a.png": {"mos": 1.5}, …}` or `{"a.png": 1.5, …}`: the key is the column `name`.
fn by_name(entries: Vec<(String, Item)>, rows: &mut Rows) -> Result<(), String> {
    entries.into_iter().try_for_each(|(name, value)| {
        let name = ("name".to_owned(), Item::Scalar(name.into()));
        let mut row = match value {
            Item::Object(entries) => entries,
            other => vec![("value".to_owned(), other)],
        };
        if !row.iter().any(|(key, _)| key == "name") {
            row.insert(0, name);
        }
        rows.add(0, Ok(Item::Object(row)))
    })
}

struct Rows {
    cells: Cells,
    index: HashMap<String, usize>,
    /// Whether the rows are arrays; `None` before the first.
    are_arrays: Option<bool>,
    no_header: bool,
    row: Vec<String>,
}

impl Rows {
    fn new(reading: &Reading) -> Self {
        let (cells, index) = (Cells::default(), HashMap::new());
        Self { cells, index, are_arrays: None, no_header: reading.no_header, row: Vec::new() }
    }

    fn add_header(&mut self, names: Vec<String>) {
        self.cells.columns = names;
        self.are_arrays = Some(true);
    }

    fn add(&mut self, place: u64, item: Result<Item, RowProblem>) -> Result<(), String> {
        let expected = if self.are_arrays == Some(true) { "an array as before" } else { "one JSON object" };
        let problem = match item {
            Ok(Item::Object(entries)) if self.are_arrays != Some(true) => {
                self.are_arrays = Some(false);
                self.row.clear();
                self.row.resize(self.cells.columns.len(), String::new());
                match self.fill("", entries) {
                    Ok(()) => {
                        self.row.iter().for_each(|cell| self.cells.push(cell));
                        return self.cells.end_row(place);
                    }
                    Err(problem) => problem,
                }
            }
            Ok(Item::Array(items)) if self.are_arrays != Some(false) => {
                if self.are_arrays.is_none() {
                    self.are_arrays = Some(true);
                    self.cells.header = Header::Row;
                    if !self.no_header && !items.is_empty() && items.iter().all(Item::is_text) {
                        self.cells.columns = items.iter().map(|item| item.cell().trim().to_owned()).collect();
                        return Ok(());
                    }
                    self.cells.header = Header::Missing;
                    self.cells.number_columns(items.len());
                }
                let expected = self.cells.columns.len();
                if items.len() == expected {
                    items.iter().for_each(|item| self.cells.push(&item.cell()));
                    return self.cells.end_row(place);
                }
                RowProblem::Ragged { expected, found: items.len() }
            }
            Ok(other) => shape(expected, &other.json()),
            Err(problem) => problem,
        };
        self.cells.end_row_with(place, problem);
        Ok(())
    }

    /// Puts the values of an object into the row; the keys of objects in it follow `prefix`.
    fn fill(&mut self, prefix: &str, entries: Vec<(String, Item)>) -> Result<(), RowProblem> {
        let mut filled: Vec<usize> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let key = format!("{prefix}{key}");
            if let Item::Object(inner) = value {
                self.fill(&format!("{key}."), inner)?;
                continue;
            }
            let at = match self.index.get(&key) {
                Some(at) => *at,
                None => {
                    let at = self.cells.columns.len();
                    self.cells.columns.push(key.clone());
                    self.index.insert(key.clone(), at);
                    self.row.push(String::new());
                    at
                }
            };
            if filled.contains(&at) {
                return Err(RowProblem::RepeatedKey { key });
            }
            filled.push(at);
            self.row[at] = value.cell();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::{Reading, RowProblem, Table, read};

    fn table(text: &str) -> Table {
        read(text.as_bytes().to_vec(), &Reading::default()).expect("a table")
    }

    #[test]
    fn keys_that_appear_late_are_columns_too() {
        let table = table("{\"name\":\"a\"}\n\n[1]\n{\"mos\":1.5,\"name\":null,\"of\":{\"x\":[1]}}\n");
        assert_eq!(table.columns(), ["name", "mos", "of.x"]);
        let cells = |at| table.row(at).map(|row| [row.cell(0), row.cell(1), row.cell(2)]);
        assert_eq!(cells(0).ok(), Some([Some("a"), None, None]));
        assert!(matches!(cells(1), Err(RowProblem::OtherShape { .. })));
        assert_eq!(cells(2).ok(), Some([None, Some("1.5"), Some("[1]")]));
        assert_eq!(table.place(2), "row 3 (line 4)");
    }

    #[test]
    fn every_shape_gives_the_same_rows() {
        for text in [
            r#"[{"name":"a","mos":1},{"name":"b","mos":2}]"#,
            r#"{"name":["a","b"],"mos":[1,2]}"#,
            r#"{"name":{"0":"a","1":"b"},"mos":{"0":1,"1":2}}"#,
            r#"{"columns":["name","mos"],"index":[0,1],"data":[["a",1],["b",2]]}"#,
            r#"{"a":{"mos":1},"b":{"mos":2}}"#,
            r#"{"version":3,"data":[{"name":"a","mos":1},{"name":"b","mos":2}]}"#,
            r#"{"result":{"data":[{"name":"a","mos":1},{"name":"b","mos":2}]}}"#,
            r#"[["name","mos"],["a",1],["b",2]]"#,
            "{\"name\":\"a\",\"mos\":1}\n{\"name\":\"b\",\"mos\":2}",
            "{\n\"name\":\"a\",\n\"mos\":1}\n{\n\"name\":\"b\",\"mos\":2}",
        ] {
            let table = table(text);
            assert_eq!(table.columns(), ["name", "mos"], "{text}");
            let row = |at| table.row(at).map(|row| (row.cell(0), row.cell(1))).ok();
            assert_eq!([row(0), row(1)], [Some((Some("a"), Some("1"))), Some((Some("b"), Some("2")))], "{text}");
            assert_eq!(table.n_rows(), 2, "{text}");
        }
    }

    #[test]
    fn what_is_no_table_is_named_by_its_shape() {
        let error =
            |text: &str| read(text.as_bytes().to_vec(), &Reading::default()).err().expect("no table").to_string();
        assert!(error(r#"{"a":[{"x":1}],"b":[{"y":1}]}"#).contains("several tables: `a`, `b`"));
        assert!(error(r#"{"a":[1],"b":[1,2]}"#).contains("`b` has 2"));
        let table = table(r#"[{"mos":1,"mos":2}]"#);
        assert!(matches!(table.row(0), Err(RowProblem::RepeatedKey { .. })));
    }
}
