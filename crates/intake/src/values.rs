//! The vocabulary of missing values, and numbers as people write them.

/// Words that stand for no value: those of pandas, R, databases and NumPy, the errors of spreadsheets, dashes, and the point
/// of SAS and Stata.
const MISSING: [&str; 34] = [
    "#DIV/0!", "#N/A", "#N/A N/A", "#NA", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!", "-1.#IND", "-1.#QNAN",
    "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NAN", "NULL", "NaN", "NaT", "None", "Null", "n/a",
    "nan", "null", "na", "-", "--", "---", "\u{2013}", "\u{2014}", ".",
];

/// Whether `text`, without surrounding blanks, is empty or a word that stands for no value.
pub fn is_missing(text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || (text.len() <= 8 && MISSING.contains(&text))
}

/// Whether `text` ends like the name of an image file.
pub(crate) fn names_image(text: &str) -> bool {
    const ENDINGS: [&str; 7] = [".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"];
    let text = text.to_ascii_lowercase();
    ENDINGS.iter().any(|ending| text.ends_with(ending))
}

/// The number that `text` is; it may be infinite. `None` if it is no number.
///
/// With a decimal comma, points and blanks between groups of digits are left out.
pub(crate) fn number(text: &str, decimal_comma: bool) -> Option<f64> {
    let text = text.trim();
    if !decimal_comma || !text.contains(',') {
        return text.parse().ok();
    }
    let (whole, fraction) = text.split_once(',')?;
    let whole: String = whole.chars().filter(|c| !matches!(c, '.' | ' ' | '\u{a0}' | '\u{202f}')).collect();
    format!("{whole}.{fraction}").parse().ok()
}

/// Whether `text` is a number with a decimal comma, such as `-1,5`.
pub(crate) fn has_decimal_comma(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.trim();
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    unsigned.split_once(',').is_some_and(|(whole, fraction)| digits(whole) && digits(fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_for_no_value_is_missing() {
        for text in ["", "  ", "NA", " N/A ", "nan", "NaN", "None", "null", "NULL", "#N/A", "#DIV/0!", "-", "—", "."]
        {
            assert!(is_missing(text), "{text:?}");
        }
        for text in ["-1", "0", "none of them", "inf", "NAB", "a-b", ".5"] {
            assert!(!is_missing(text), "{text:?}");
        }
    }

    #[test]
    fn a_decimal_comma_is_read_only_where_it_is_asked_for() {
        assert_eq!(number("1,5", true), Some(1.5));
        assert_eq!(number("-1.234,5", true), Some(-1234.5));
        assert_eq!(number("1.5", true), Some(1.5));
        assert_eq!(number("1,5", false), None);
        assert!(has_decimal_comma("-1,5") && !has_decimal_comma("1,5,2") && !has_decimal_comma("a,5"));
    }
}
