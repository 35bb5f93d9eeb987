//! Excel workbooks (xlsx). The first row with a filled cell is the header. Rows without a filled cell are skipped.

use std::io::Cursor;

use calamine::{Data, Reader, Xlsx};

use super::{RawRow, RawTable};

pub(super) fn read(bytes: &[u8], sheet: Option<&str>) -> Result<RawTable, String> {
    let mut workbook: Xlsx<_> =
        Xlsx::new(Cursor::new(bytes)).map_err(|error| format!("it is not a valid xlsx workbook: {error}"))?;
    let sheets = workbook.sheet_names();
    let sheet = match sheet {
        Some(sheet) if sheets.iter().any(|name| name == sheet) => sheet.to_owned(),
        Some(sheet) => return Err(format!("there is no sheet `{sheet}`; there are: `{}`", sheets.join("`, `"))),
        None => sheets.first().ok_or("the workbook has no sheet")?.clone(),
    };
    let range = workbook.worksheet_range(&sheet).map_err(|error| format!("sheet `{sheet}`: {error}"))?;
    let first_row = range.start().map_or(0, |(row, _)| u64::from(row));
    let mut columns: Option<Vec<String>> = None;
    let mut rows = Vec::new();
    for (position, cells) in range.rows().enumerate() {
        let cells: Vec<Option<String>> = cells.iter().map(cell_of).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        match columns {
            None => {
                let name = |cell: Option<String>| cell.map_or_else(String::new, |name| name.trim().to_owned());
                columns = Some(cells.into_iter().map(name).collect());
            }
            Some(_) => rows.push(RawRow {
                number: rows.len() as u64 + 1,
                place: Some(format!("sheet row {}", first_row + position as u64 + 1)),
                cells: Ok(cells),
            }),
        }
    }
    Ok(RawTable { columns: columns.ok_or_else(|| format!("sheet `{sheet}` is empty"))?, rows })
}

fn cell_of(cell: &Data) -> Option<String> {
    let text = cell.to_string();
    (!text.is_empty()).then_some(text)
}
