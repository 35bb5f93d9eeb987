//! Any bytes as a table: an error or a table whose every cell can be read, never a panic.

use agiqa_intake::Reading;

pub fn read(bytes: &[u8]) {
    for no_header in [false, true] {
        let reading = Reading { no_header, decimal_comma: no_header, ..Reading::default() };
        let Ok(table) = agiqa_intake::read(bytes.to_vec(), &reading) else { continue };
        for position in 0..table.n_rows() {
            assert!(!table.place(position).is_empty());
            let Ok(row) = table.row(position) else { continue };
            for column in 0..table.columns().len() {
                if let Some(text) = row.trimmed(column) {
                    assert!(!agiqa_intake::is_missing(text));
                    let _ = (table.number(text), table.number_hint(text));
                }
            }
        }
        let _ = (table.column("name"), table.column("1"), table.require_rows(), table.header_warning(&[]));
    }
}
