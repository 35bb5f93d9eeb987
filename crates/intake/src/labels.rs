//! MATLAB v5 files of labels: the variables of the greatest length are the columns.

use agiqa_matlab::Value;

use crate::cells::Cells;

pub(crate) fn read(bytes: &[u8]) -> Result<Cells, String> {
    let variables = agiqa_matlab::variables(bytes).map_err(|error| match error.next_step {
        Some(next_step) => format!("{error}; {next_step}"),
        None => error.to_string(),
    })?;
    let (mut columns, mut left_out) = (Vec::new(), Vec::new());
    for (name, value) in variables {
        let class = value.class();
        match column(&name, value) {
            Some(column) => columns.extend(column),
            None => left_out.push(format!("`{name}` ({class})")),
        }
    }
    let n_rows =
        columns.iter().map(|(_, cells)| cells.len()).max().ok_or_else(|| {
            format!("it has no vector and no list of text; its variables are: {}", left_out.join(", "))
        })?;
    let (columns, shorter): (Vec<_>, Vec<_>) = columns.into_iter().partition(|(_, cells)| cells.len() == n_rows);
    left_out.extend(shorter.iter().map(|(name, cells)| format!("`{name}` ({} values)", cells.len())));
    let mut cells = Cells::default();
    cells.columns = columns.iter().map(|(name, _)| name.clone()).collect();
    if !left_out.is_empty() {
        cells.notes.push(format!("left out, because they are no columns of {n_rows} rows: {}", left_out.join(", ")));
    }
    for row in 0..n_rows {
        columns.iter().for_each(|(_, column)| cells.push(&column[row]));
        cells.end_row(0)?;
    }
    Ok(cells)
}

/// The columns of a variable: a vector or a list of texts is one, a matrix has one per column; `None` for another class.
fn column(name: &str, value: Value) -> Option<Vec<(String, Vec<String>)>> {
    let texts = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<String>>();
    match value {
        Value::Matrix(matrix) if matrix.values.is_empty() => None,
        Value::Matrix(matrix) if matrix.n_rows.min(matrix.n_columns) == 1 => {
            Some(vec![(name.to_owned(), texts(&matrix.values))])
        }
        Value::Matrix(matrix) if matrix.n_columns <= 64 => {
            let columns = matrix.values.chunks(matrix.n_rows).enumerate();
            Some(columns.map(|(at, values)| (format!("{name}_{}", at + 1), texts(values))).collect())
        }
        Value::Cells(cells) => {
            let cell = |cell: Value| match cell {
                Value::Text(text) => Some(text),
                Value::Matrix(matrix) if matrix.values.len() == 1 => Some(matrix.values[0].to_string()),
                Value::Matrix(matrix) if matrix.values.is_empty() => Some(String::new()),
                // A cell of one cell, as the lists of some datasets have them.
                Value::Cells(mut inner) if inner.len() == 1 => match inner.pop() {
                    Some(Value::Text(text)) => Some(text),
                    _ => None,
                },
                _ => None,
            };
            let cells: Option<Vec<String>> = cells.into_iter().map(cell).collect();
            cells.filter(|cells| !cells.is_empty()).map(|cells| vec![(name.to_owned(), cells)])
        }
        Value::Matrix(_) | Value::Text(_) | Value::Other(_) => None,
    }
}
