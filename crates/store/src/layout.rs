//! Tables as text: aligned for terminals, Markdown for documents. The first line is the header.

use crate::metric::Estimate;

/// The text for a missing or undefined value.
pub const NONE: &str = "—";

/// Columns padded to their widest cell, counted in characters. All lines have as many cells as the first.
pub fn aligned<L: AsRef<[String]>>(lines: &[L]) -> String {
    let n_columns = lines.first().map_or(0, |line| line.as_ref().len());
    let mut widths = vec![0; n_columns];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line.as_ref()) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        let cells = line.as_ref().iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The same lines as a Markdown table.
pub fn markdown<L: AsRef<[String]>>(lines: &[L]) -> String {
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line.as_ref().iter().map(|cell| cell.replace('|', "\\|")).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
        if index == 0 {
            text.push_str(&format!("|{}\n", "---|".repeat(cells.len())));
        }
    }
    text
}

/// `value` with `n_digits` digits after the point.
pub fn number(value: Option<f64>, n_digits: usize) -> String {
    let Some(value) = value else { return NONE.to_owned() };
    let text = format!("{value:.n_digits$}");
    // A negative value that rounds to zero must print without a minus sign.
    let is_zero = text.trim_start_matches(['-', '0', '.']).is_empty();
    if is_zero { text.trim_start_matches('-').to_owned() } else { text }
}

/// `text` in one line for a terminal: control characters and marks of direction are escaped, as they could hide or forge
/// what is printed.
pub fn printable(text: &str) -> String {
    let is_mark = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_mark(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A mean with its standard deviation, if it has one.
pub fn with_deviation(mean: Option<f64>, deviation: Option<f64>, n_digits: usize) -> String {
    match deviation {
        Some(_) => format!("{} ± {}", number(mean, n_digits), number(deviation, n_digits)),
        None => number(mean, n_digits),
    }
}

/// A value with its interval, if it has one. The ends of the interval have three digits.
pub fn with_interval(estimate: Estimate, n_digits: usize) -> String {
    let Estimate { value, low, high } = estimate;
    match (low, high) {
        (Some(_), Some(_)) => format!("{} [{}, {}]", number(value, n_digits), number(low, 3), number(high, 3)),
        _ => number(value, n_digits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_sign_unless_they_round_to_zero() {
        assert_eq!(number(Some(-0.00001), 4), "0.0000");
        assert_eq!(number(Some(-0.5), 4), "-0.5000");
        assert_eq!(number(None, 4), NONE);
    }

    #[test]
    fn nothing_that_moves_the_cursor_or_turns_the_text_is_printed() {
        assert_eq!(printable("a\nb\u{1b}[2J é\u{202e}c"), "a\\nb\\u{1b}[2J é\\u{202e}c");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_in_characters() {
        let lines = [["a", "b"], ["—— —", "c|d"]].map(|line| line.map(str::to_owned));
        assert_eq!(aligned(&lines), "a     b\n—— —  c|d\n");
        assert_eq!(markdown(&lines), "| a | b |\n|---|---|\n| —— — | c\\|d |\n");
        let lines = lines.map(Vec::from);
        assert_eq!(aligned(&lines), "a     b\n—— —  c|d\n", "a number of columns that only the running program knows");
    }
}
