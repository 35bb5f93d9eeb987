//! Delimited text. A quoted cell may hold delimiters, line breaks and doubled quotes. Line ends are LF, CR LF or CR.

use std::borrow::Cow;
use std::io::Read;

use csv::{ByteRecord, ReaderBuilder};

use crate::cells::{Cells, Header, Places, RowProblem};
use crate::dialect::{self, Dialect, blank_fields, blank_header};
use crate::text::Text;
use crate::{Delimiter, Reading, TableFormat};

/// A last line added to the file. If it does not arrive as a record of its own, an earlier quote was never closed and
/// has swallowed rows.
const LAST_LINE: &str = "\u{1}end of table\u{1}";

/// Name of the column of R's row names, which have none in the file.
const ROW_NAME: &str = "row_name";

pub(crate) fn read(text: &Text, reading: &Reading) -> Result<Cells, String> {
    let bytes = dialect::without_blanks_before_quotes(&text.bytes).map_or(Cow::Borrowed(&*text.bytes), Cow::Owned);
    let tabs = (reading.format == Some(TableFormat::Tsv)).then_some(Delimiter::Byte(b'\t'));
    let dialect = dialect::of(&bytes, reading.delimiter.or(tabs));
    let mut rows = Rows {
        cells: Cells::new(Places::Lines, Header::of_rows(reading.no_header)),
        n_titles: dialect.n_titles,
        width: None,
        n_trailing: dialect.n_trailing,
        has_row_names: dialect.has_row_names && !reading.no_header,
        may_have_rule: matches!(dialect.delimiter, Delimiter::Byte(b'|') | Delimiter::Blanks),
        lines: Lines { bytes: &bytes, at: 0, line: 1 },
    };
    match dialect.delimiter {
        Delimiter::Byte(delimiter) => separated(&bytes, dialect, delimiter, &mut rows)?,
        Delimiter::Blanks => {
            let mut start = dialect.n_skipped;
            for line in bytes[start..].split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
                let fields: Vec<Cow<'_, [u8]>> = match rows.width {
                    None => blank_header(line).collect(),
                    Some(_) => blank_fields(line).collect(),
                };
                let fields: Vec<&[u8]> = fields.iter().map(|field| &**field).collect();
                if !fields.is_empty() {
                    rows.add(start as u64, &fields)?;
                }
                start += line.len();
            }
        }
    }
    match rows.cells.columns.iter().all(String::is_empty) {
        true => Err("it has no header line".to_owned()),
        false => Ok(rows.cells),
    }
}

fn separated(bytes: &[u8], dialect: Dialect, delimiter: u8, rows: &mut Rows<'_>) -> Result<(), String> {
    let tail = format!("\n{LAST_LINE}\n");
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .quote(dialect.quote)
        .escape(dialect.has_escapes.then_some(b'\\'))
        .double_quote(!dialect.has_escapes)
        .from_reader(bytes[dialect.n_skipped..].chain(tail.as_bytes()));
    let mut record = ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Err("it ends unexpectedly".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
        let start = dialect.n_skipped as u64 + record.position().map_or(0, csv::Position::byte);
        if holds_last_line(&record) {
            if record.len() == 1 && &record[0] == LAST_LINE.as_bytes() {
                return Ok(());
            }
            let line = rows.lines.line_of(start);
            return Err(format!("the quote opened in the row that starts in line {line} is never closed"));
        }
        let fields: Vec<&[u8]> = record.iter().collect();
        rows.add(start, &fields)?;
    }
}

fn holds_last_line(record: &ByteRecord) -> bool {
    record.iter().next_back().is_some_and(|cell| cell.trim_ascii_end().ends_with(LAST_LINE.as_bytes()))
}

struct Rows<'a> {
    cells: Cells,
    n_titles: usize,
    /// Number of columns; `None` before the header.
    width: Option<usize>,
    /// Number of empty cells that every row has behind the header's last.
    n_trailing: usize,
    /// Every row begins with a name that the header has no cell for.
    has_row_names: bool,
    /// A line of dashes may stand below the header.
    may_have_rule: bool,
    lines: Lines<'a>,
}

impl Rows<'_> {
    fn add(&mut self, start: u64, fields: &[&[u8]]) -> Result<(), String> {
        if self.n_titles > 0 {
            self.n_titles -= 1;
            self.cells.notes.push(format!("the line `{}` was taken for a title", String::from_utf8_lossy(fields[0])));
            return Ok(());
        }
        let Some(width) = self.width else {
            self.width = Some(fields.len() + usize::from(self.has_row_names));
            if self.cells.header == Header::Missing {
                self.cells.number_columns(fields.len());
                return self.add(start, fields);
            }
            let name = |cell: &&[u8]| match std::str::from_utf8(cell) {
                Ok(text) => Ok(without_mark(text.trim()).to_owned()),
                Err(_) => Err(format!("its header is not UTF-8: found `{}`", String::from_utf8_lossy(cell))),
            };
            self.cells.columns = fields.iter().map(name).collect::<Result<_, _>>()?;
            if self.has_row_names {
                self.cells.columns.insert(0, ROW_NAME.to_owned());
                let note =
                    "its rows have a cell more than its header: the first is the row's name, column 1, `row_name`";
                self.cells.notes.push(note.to_owned());
            }
            return Ok(());
        };
        let place = self.lines.line_of(start);
        if self.cells.rows.is_empty() && self.may_have_rule && is_rule(fields) {
            return Ok(());
        }
        // A delimiter at the end of every row but not of the header gives rows more cells, which are empty.
        let behind = fields.get(width..).filter(|behind| behind.iter().all(|cell| cell.is_empty()));
        if behind.map(<[_]>::len) != Some(self.n_trailing) {
            let problem = RowProblem::Ragged { expected: width, found: fields.len() };
            self.cells.end_row_with(place, problem);
            return Ok(());
        }
        for (column, cell) in fields[..width].iter().enumerate() {
            match std::str::from_utf8(cell) {
                Ok(text) => self.cells.push(text),
                Err(_) => {
                    self.cells.end_row_with(place, RowProblem::NotUtf8 { column });
                    return Ok(());
                }
            }
        }
        self.cells.end_row(place)
    }
}

/// The name of a column without the mark of a comment before it, as NumPy writes a header. A name may be `#` itself.
fn without_mark(name: &str) -> &str {
    let rest = name.strip_prefix('#').map(str::trim_start);
    rest.filter(|rest| rest.starts_with(char::is_alphabetic)).unwrap_or(name)
}

/// Whether a row is the line below the header of a table in Markdown or of a database's prompt, such as `|:--|--:|`.
fn is_rule(fields: &[&[u8]]) -> bool {
    let mut bytes = fields.iter().flat_map(|field| field.iter());
    bytes.all(|byte| matches!(byte, b'-' | b':' | b'+' | b'=' | b' '))
        && fields.iter().any(|field| field.starts_with(b"--") || field.ends_with(b"--") || field.ends_with(b"- "))
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

#[cfg(test)]
mod tests {
    use crate::cells::RowProblem;
    use crate::{Reading, Table, read};

    fn table(text: &[u8]) -> Table {
        read(text.to_vec(), &Reading::default()).expect("a table")
    }

    fn texts(table: &Table) -> Vec<Vec<&str>> {
        let row = |at| table.row(at).expect("a whole row");
        let cells = |at| (0..table.columns().len()).map(|column| row(at).cell(column).unwrap_or_default()).collect();
        (0..table.n_rows()).map(cells).collect()
    }

    #[test]
    fn quotes_hold_delimiters_line_breaks_and_quotes() {
        let table = table(b"name,prompt\r\na.png,\"one, \"\"two\"\"\r\nthree\"\r\n\r\nb.png,\r\n");
        assert_eq!(table.columns(), ["name", "prompt"]);
        assert_eq!(texts(&table), [["a.png", "one, \"two\"\r\nthree"], ["b.png", ""]]);
        assert_eq!(table.place(1), "row 2 (line 5)");
    }

    #[test]
    fn a_quote_that_is_never_closed_is_an_error_instead_of_a_long_cell() {
        let error = read(b"name,prompt\na.png,\"one\nb.png,two\n".to_vec(), &Reading::default());
        let error = error.err().expect("rows would vanish").to_string();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn rows_of_another_width_and_damaged_text_are_told_apart() {
        let table = table(b"a,b\n1\n1,2,3\n\xC3\xA9\xFF,2\n");
        let problem = |at| table.row(at).err().cloned();
        assert_eq!(problem(0), Some(RowProblem::Ragged { expected: 2, found: 1 }));
        assert_eq!(problem(1), Some(RowProblem::Ragged { expected: 2, found: 3 }));
        assert_eq!(problem(2), Some(RowProblem::NotUtf8 { column: 0 }));
    }

    #[test]
    fn tables_of_r_of_numpy_and_in_markdown_are_read() {
        let rows = [["1", "a b.png", "1.5"], ["2", "c \"d\".png", ""]];
        let of_r = table(b"\"name\" \"mos\"\n\"1\" \"a b.png\" 1.5\n\"2\" \"c \\\"d\\\".png\" NA\n");
        assert_eq!(of_r.columns(), ["row_name", "name", "mos"]);
        assert_eq!(texts(&of_r), rows);
        assert_eq!(texts(&table(b"\"name\",\"mos\"\n\"1\",\"a b.png\",1.5\n\"2\",\"c \\\"d\\\".png\",NA\n")), rows);
        for text in [
            "'name','mos'\n'a.png',1\n'b.png',2\n",
            "name, \"mos\"\n\"a.png\", \"1\"\nb.png, 2\n",
            "name,mos\na.png,1\nb.png,2\n\0\0\0",
            "name,mos\r\na.png,1\r\nb.png,2\r\n\x1a",
            "# name mos\na.png 1\nb.png 2\n",
            "# name,mos\na.png,1\nb.png,2\n",
            "# by us, 2024, in two parts\n#name\tmos\na.png\t1\nb.png\t2\n",
            " name  | mos \n-------+-----\n a.png |   1\n b.png |   2\n",
        ] {
            let table = table(text.as_bytes());
            assert_eq!(table.columns(), ["name", "mos"], "{text}");
            assert_eq!(
                texts(&table).concat().iter().map(|cell| cell.trim()).collect::<Vec<_>>(),
                ["a.png", "1", "b.png", "2"]
            );
        }
        let markdown = table(b"| name  |   mos |\n|:------|------:|\n| a.png |   1.5 |\n");
        assert_eq!((markdown.columns().join(","), markdown.n_rows()), (",name,mos,".to_owned(), 1));
    }

    #[test]
    fn a_delimiter_behind_every_row_adds_no_cell() {
        assert_eq!(texts(&table(b"a,b\n1,2,\n3,4,\n")), [["1", "2"], ["3", "4"]]);
        assert!(table(b"a,b\n1,2\n3,4,\n").row(1).is_err());
    }
}
