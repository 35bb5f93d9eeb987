//! Excel workbooks (xlsx). Cells are read one by one, so memory follows the filled cells and not the sheet's extent.
//!
//! The first row with two filled cells is the header; rows with one cell above it are titles. The columns are those that
//! the header or the row after it fills. Rows without a cell in them are left out.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;

use calamine::{DataRef, Dimensions, Reader, SheetType, SheetVisible, Xlsx};

use crate::Reading;
use crate::cells::{Cells, Header, Places};

/// Greatest sum of the unpacked files of a workbook.
const MAX_UNPACKED: u64 = 1 << 30;

/// Greatest number of rows with a title before the header.
const MAX_TITLES: usize = 5;

type Row = BTreeMap<u32, String>;

pub(crate) fn read(bytes: &[u8], reading: &Reading) -> Result<Cells, String> {
    check(bytes)?;
    let mut workbook: Xlsx<_> =
        Xlsx::new(Cursor::new(bytes)).map_err(|error| format!("it is not a valid xlsx workbook: {error}"))?;
    let mut sheets: Vec<&calamine::Sheet> =
        workbook.sheets_metadata().iter().filter(|sheet| sheet.typ == SheetType::WorkSheet).collect();
    // Nobody means a hidden sheet, unless no other has a table.
    sheets.sort_by_key(|sheet| sheet.visible != SheetVisible::Visible);
    let sheets: Vec<String> = sheets.into_iter().map(|sheet| sheet.name.clone()).collect();
    let names = || format!("`{}`", sheets.join("`, `"));
    let candidates = match &reading.sheet {
        Some(sheet) if sheets.contains(sheet) => std::slice::from_ref(sheet),
        Some(sheet) => return Err(format!("no sheet `{sheet}`; the sheets are: {}", names())),
        None => sheets.as_slice(),
    };
    let mut chosen = None;
    for sheet in candidates {
        let merged = workbook.merge_cells_by_sheet_name(sheet).map_err(|error| format!("sheet `{sheet}`: {error}"))?;
        let cells = Sheet::new(merged, reading.no_header).read(&mut workbook, sheet)?;
        if !cells.columns.is_empty() {
            chosen = Some((sheet, cells));
            break;
        }
    }
    let (sheet, mut cells) = chosen.ok_or_else(|| format!("its sheets are empty: {}", names()))?;
    if sheets.len() > 1 {
        let others: Vec<&str> = sheets.iter().filter(|other| *other != sheet).map(String::as_str).collect();
        cells.elsewhere =
            format!("; this is sheet `{sheet}`, and `--sheet` chooses another: `{}`", others.join("`, `"));
        if reading.sheet.is_none() {
            cells
                .notes
                .insert(0, format!("read sheet `{sheet}`; the others are `{}` (`--sheet`)", others.join("`, `")));
        }
    }
    Ok(cells)
}

/// Tells a workbook from other zip archives, and refuses one that claims to be huge.
fn check(bytes: &[u8]) -> Result<(), String> {
    let damaged = |error: zip::result::ZipError| format!("it is not a valid xlsx workbook: {error}");
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    let names: Vec<String> = archive.file_names().flatten().map(Cow::into_owned).collect();
    let holds = |name: &str| names.iter().any(|there| there.eq_ignore_ascii_case(name));
    if holds("mimetype") && holds("content.xml") {
        return Err("it is an OpenDocument sheet; save it as xlsx or CSV".to_owned());
    }
    if holds("xl/workbook.bin") {
        return Err("it is a binary Excel workbook (xlsb); save it as xlsx or CSV".to_owned());
    }
    if !names.iter().any(|name| name.to_ascii_lowercase().starts_with("xl/")) {
        let first: Vec<&str> = names.iter().take(5).map(String::as_str).collect();
        return Err(format!("it is a zip archive of `{}`; unpack it first", first.join("`, `")));
    }
    let mut size = 0_u64;
    for at in 0..archive.len() {
        size = size.saturating_add(archive.by_index_raw(at).map_err(damaged)?.size());
    }
    match size > MAX_UNPACKED {
        true => Err(format!("its parts unpack to {} MiB; save it as CSV", size >> 20)),
        false => Ok(()),
    }
}

struct Sheet {
    cells: Cells,
    merged: Vec<Dimensions>,
    /// Values of merged cells that began in an earlier row, by column, with the last row they count for.
    carried: HashMap<u32, (u32, String)>,
    /// Rows before the header is known.
    leading: Vec<(u32, Row)>,
    /// The columns' positions in the sheet; `None` before the first data row.
    positions: Option<Vec<u32>>,
    header: Option<Row>,
    without_value: Option<(u64, String)>,
    n_without_value: u64,
    n_stray: u64,
    stray: Option<String>,
}

impl Sheet {
    fn new(mut merged: Vec<Dimensions>, no_header: bool) -> Self {
        merged.sort_by_key(|region| region.start);
        let cells = Cells::new(Places::SheetRows, Header::of_rows(no_header));
        Self {
            cells,
            merged,
            carried: HashMap::new(),
            leading: Vec::new(),
            positions: None,
            header: None,
            without_value: None,
            n_without_value: 0,
            n_stray: 0,
            stray: None,
        }
    }

    fn read(mut self, workbook: &mut Xlsx<Cursor<&[u8]>>, sheet: &str) -> Result<Cells, String> {
        let error = |error: calamine::XlsxError| format!("sheet `{sheet}`: {error}");
        let mut reader = workbook.worksheet_cells_reader(sheet).map_err(error)?;
        let (mut at, mut row) = (0, Row::new());
        while let Some(cell) = reader.next_cell_with_formula_metadata().map_err(error)? {
            let (cell_row, column) = cell.pos;
            if cell_row != at {
                self.add(at, std::mem::take(&mut row))?;
                at = cell_row;
            }
            let text = text_of(&cell.value);
            if text.is_empty() && cell.formula.is_some() {
                self.n_without_value += 1;
                self.without_value.get_or_insert((u64::from(cell_row) + 1, letters(column)));
            }
            if !text.is_empty() {
                row.insert(column, text);
            }
        }
        self.add(at, row)?;
        self.flush()?;
        if let Some((row, column)) = &self.without_value {
            let n = self.n_without_value;
            let plural = if n == 1 { "formula has" } else { "formulas have" };
            self.cells.notes.push(format!(
                "{n} {plural} no stored value, the first in cell {column}{row}; open the workbook in a spreadsheet \
                 program and save it there"
            ));
        }
        if let Some(stray) = &self.stray {
            let n = self.n_stray;
            let cells = if n == 1 { "cell is" } else { "cells are" };
            self.cells.notes.push(format!("{n} {cells} ignored, outside of the table's columns; the first is {stray}"));
        }
        Ok(self.cells)
    }

    /// Adds a row of the sheet with its filled cells.
    fn add(&mut self, at: u32, row: Row) -> Result<(), String> {
        if row.is_empty() {
            return Ok(());
        }
        if self.header.is_some() || self.cells.header == Header::Missing {
            return self.add_data(at, row);
        }
        let is_title = row.len() == 1 && self.leading.len() < MAX_TITLES;
        let is_header = row.len() > 1;
        self.leading.push((at, row));
        if is_title { Ok(()) } else { self.lead(is_header) }
    }

    /// Takes the header out of the leading rows: the last one if it `is_last`, else the first.
    fn lead(&mut self, is_last: bool) -> Result<(), String> {
        let mut leading = std::mem::take(&mut self.leading);
        if is_last {
            self.header = leading.pop().map(|(_, row)| row);
            for (_, title) in leading {
                let title = title.into_values().next().unwrap_or_default();
                self.cells.notes.push(format!("the row `{title}` was taken for a title"));
            }
            return Ok(());
        }
        let mut rows = leading.into_iter();
        self.header = rows.next().map(|(_, row)| row);
        rows.try_for_each(|(at, row)| self.add_data(at, row))
    }

    fn flush(&mut self) -> Result<(), String> {
        if !self.leading.is_empty() {
            self.lead(false)?;
        }
        if self.positions.is_none() && self.header.is_some() {
            self.set_columns(&Row::new());
        }
        Ok(())
    }

    /// Fixes the columns: those that the header or the `first` row fills.
    fn set_columns(&mut self, first: &Row) {
        let header = self.header.take().unwrap_or_default();
        let mut positions: Vec<u32> = header.keys().chain(first.keys()).copied().collect();
        positions.sort_unstable();
        positions.dedup();
        let name = |at: &u32| header.get(at).map_or_else(String::new, |name| name.trim().to_owned());
        self.cells.columns = positions.iter().map(name).collect();
        if self.cells.header == Header::Missing {
            self.cells.number_columns(positions.len());
        }
        self.header = Some(header);
        self.positions = Some(positions);
    }

    fn add_data(&mut self, at: u32, mut row: Row) -> Result<(), String> {
        if self.positions.is_none() {
            self.set_columns(&row);
        }
        let positions = self.positions.take().unwrap_or_default();
        let is_blank = !positions.iter().any(|column| row.contains_key(column));
        self.fill_merged(at, &mut row, &positions);
        for (column, _) in row.iter().filter(|(column, _)| positions.binary_search(column).is_err()) {
            self.n_stray += 1;
            self.stray.get_or_insert_with(|| format!("{}{}", letters(*column), u64::from(at) + 1));
        }
        let ended = if is_blank {
            Ok(())
        } else {
            positions.iter().for_each(|column| self.cells.push(row.get(column).map_or("", String::as_str)));
            self.cells.end_row(u64::from(at) + 1)
        };
        self.positions = Some(positions);
        ended
    }

    /// Gives a merged region's value to each of its cells in this row.
    fn fill_merged(&mut self, at: u32, row: &mut Row, positions: &[u32]) {
        let first = self.merged.partition_point(|region| region.start.0 < at);
        let starting = self.merged[first..].iter().take_while(|region| region.start.0 == at);
        for region in starting {
            let Some(value) = row.get(&region.start.1).cloned() else { continue };
            let within = |column: &&u32| (region.start.1..=region.end.1).contains(*column);
            for column in positions.iter().filter(within) {
                self.carried.insert(*column, (region.end.0, value.clone()));
            }
        }
        self.carried.retain(|_, (end, _)| *end >= at);
        for (column, (_, value)) in &self.carried {
            row.entry(*column).or_insert_with(|| value.clone());
        }
    }
}

fn text_of(value: &DataRef<'_>) -> String {
    match value {
        DataRef::Int(value) => value.to_string(),
        DataRef::Float(value) => value.to_string(),
        DataRef::String(text) | DataRef::DateTimeIso(text) | DataRef::DurationIso(text) => text.clone(),
        DataRef::SharedString(text) => (*text).to_owned(),
        DataRef::Bool(value) => value.to_string(),
        DataRef::DateTime(value) => value.to_string(),
        DataRef::Error(error) => error.to_string(),
        DataRef::Empty => String::new(),
    }
}

/// The name of a sheet's column: A, B, …, Z, AA, …
fn letters(column: u32) -> String {
    let (mut rest, mut name) = (column + 1, Vec::new());
    while rest > 0 {
        name.push(char::from(b'A' + ((rest - 1) % 26) as u8));
        rest = (rest - 1) / 26;
    }
    name.iter().rev().collect()
}
