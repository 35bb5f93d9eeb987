//! CSV and TSV. A quoted cell may hold delimiters, line breaks and doubled quotes. Line ends are LF, CR LF or CR.

use std::io::Read;

use csv::{ByteRecord, ReaderBuilder};

use super::{RawRow, RawTable, RowProblem};

/// A last line added to the file. If it does not arrive as a record of its own, an earlier quote was never closed and
/// has swallowed rows.
const LAST_LINE: &str = "\u{1}end of table\u{1}";

pub(super) fn read(bytes: &[u8], delimiter: u8) -> Result<RawTable, String> {
    let tail = format!("\n{LAST_LINE}\n");
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .from_reader(bytes.chain(tail.as_bytes()));
    let mut columns: Option<Vec<String>> = None;
    let mut rows = Vec::new();
    let mut record = ByteRecord::new();
    let mut lines = Lines { bytes, at: 0, line: 1 };
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Err("it ends unexpectedly".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
        let line = lines.line_of(record.position().map_or(0, csv::Position::byte));
        if holds_last_line(&record) {
            if record.len() == 1 && &record[0] == LAST_LINE.as_bytes() {
                let columns = columns.ok_or("it has no header line")?;
                return Ok(RawTable { columns, rows });
            }
            return Err(format!("the quote opened in the row that starts in line {line} is never closed"));
        }
        match &columns {
            None => columns = Some(header(&record)?),
            Some(columns) => rows.push(RawRow {
                number: rows.len() as u64 + 1,
                place: Some(format!("line {line}")),
                cells: cells(&record, columns.len()),
            }),
        }
    }
}

/// Counts lines as an editor does. The reader's own count is late by one after CR LF and leaves out blank lines.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// Line of the first character at or after `offset` that is not a line end. Offsets must ascend from call to call.
    fn line_of(&mut self, offset: u64) -> u64 {
        let ends_line = |at: usize| self.bytes.get(at).is_some_and(|byte| matches!(byte, b'\r' | b'\n'));
        let mut start = usize::try_from(offset).map_or(self.bytes.len(), |offset| offset.min(self.bytes.len()));
        while ends_line(start) {
            start += 1;
        }
        while self.at < start {
            match self.bytes[self.at] {
                b'\n' => self.line += 1,
                b'\r' if self.bytes.get(self.at + 1) != Some(&b'\n') => self.line += 1,
                _ => {}
            }
            self.at += 1;
        }
        self.line
    }
}

fn holds_last_line(record: &ByteRecord) -> bool {
    record.iter().next_back().is_some_and(|cell| cell.trim_ascii_end().ends_with(LAST_LINE.as_bytes()))
}

fn header(record: &ByteRecord) -> Result<Vec<String>, String> {
    let name = |cell: &[u8]| match std::str::from_utf8(cell) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) => Err(format!("its header is not UTF-8: found `{}`", String::from_utf8_lossy(cell))),
    };
    record.iter().map(name).collect()
}

fn cells(record: &ByteRecord, n_columns: usize) -> Result<Vec<Option<String>>, RowProblem> {
    if record.len() != n_columns {
        return Err(RowProblem::Ragged { expected: n_columns, found: record.len() });
    }
    let cell = |(column, cell)| match std::str::from_utf8(cell) {
        Ok("") => Ok(None),
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(RowProblem::NotUtf8 { column }),
    };
    record.iter().enumerate().map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(table: &RawTable) -> Vec<Vec<&str>> {
        let row = |row: &'_ RawRow| row.cells.clone().expect("a whole row");
        let rows: Vec<_> = table.rows.iter().map(row).collect();
        rows.into_iter().map(|row| row.into_iter().map(|cell| &*cell.unwrap_or_default().leak()).collect()).collect()
    }

    #[test]
    fn quotes_hold_delimiters_line_breaks_and_quotes() {
        let table = read(b"name,prompt\r\na.png,\"one, \"\"two\"\"\r\nthree\"\r\n\r\nb.png,\r\n", b',').expect("valid");
        assert_eq!(table.columns, ["name", "prompt"]);
        assert_eq!(texts(&table), [["a.png", "one, \"two\"\r\nthree"], ["b.png", ""]]);
        assert_eq!(table.rows[1].place.as_deref(), Some("line 5"));
    }

    #[test]
    fn a_quote_that_is_never_closed_is_an_error_instead_of_a_long_cell() {
        let error = read(b"name,prompt\na.png,\"one\nb.png,two\n", b',').expect_err("rows would vanish");
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn rows_of_another_width_are_told_apart() {
        let table = read(b"a,b\n1\n1,2,3\n\xFF,2\n", b',').expect("valid as a whole");
        let problems: Vec<_> = table.rows.into_iter().map(|row| row.cells.expect_err("each is wrong")).collect();
        assert_eq!(problems[0], RowProblem::Ragged { expected: 2, found: 1 });
        assert_eq!(problems[1], RowProblem::Ragged { expected: 2, found: 3 });
        assert_eq!(problems[2], RowProblem::NotUtf8 { column: 0 });
    }
}
