//! One value as it is printed: in full where programs read it, abbreviated where people do.

use std::fmt::Write as _;

use agiqa_store::layout;
use polars::prelude::*;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// Digits after the point of a number in a text table.
const N_DIGITS: usize = 6;

/// Values of a list that a text table shows if it has more than [`LONGEST_LIST`].
const N_SHOWN: usize = 3;

/// Length up to which a text table shows a list whole.
const LONGEST_LIST: usize = 6;

/// A value as JSON: numbers with all their digits, binary as hexadecimal text, what is not finite as null. Times and other
/// values that JSON has no form for are the text that polars prints.
pub(crate) struct Json<'a>(pub(crate) &'a AnyValue<'a>);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            AnyValue::Null => serializer.serialize_none(),
            AnyValue::Boolean(value) => serializer.serialize_bool(*value),
            AnyValue::Int8(value) => serializer.serialize_i8(*value),
            AnyValue::Int16(value) => serializer.serialize_i16(*value),
            AnyValue::Int32(value) => serializer.serialize_i32(*value),
            AnyValue::Int64(value) => serializer.serialize_i64(*value),
            AnyValue::UInt8(value) => serializer.serialize_u8(*value),
            AnyValue::UInt16(value) => serializer.serialize_u16(*value),
            AnyValue::UInt32(value) => serializer.serialize_u32(*value),
            AnyValue::UInt64(value) => serializer.serialize_u64(*value),
            AnyValue::Float32(value) => serializer.serialize_f32(*value),
            AnyValue::Float64(value) => serializer.serialize_f64(*value),
            AnyValue::String(value) => serializer.serialize_str(value),
            AnyValue::StringOwned(value) => serializer.serialize_str(value),
            AnyValue::Binary(value) => serializer.serialize_str(&hex(value)),
            AnyValue::BinaryOwned(value) => serializer.serialize_str(&hex(value)),
            AnyValue::List(values) | AnyValue::Array(values, _) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values.iter() {
                    list.serialize_element(&Json(&value))?;
                }
                list.end()
            }
            AnyValue::Struct(_, _, fields) => map(serializer, fields, self.0._iter_struct_av()),
            AnyValue::StructOwned(owned) => map(serializer, &owned.1, owned.0.iter().cloned()),
            other => serializer.serialize_str(&other.to_string()),
        }
    }
}

fn map<'a, S: Serializer>(
    serializer: S,
    fields: &[Field],
    values: impl Iterator<Item = AnyValue<'a>>,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(fields.len()))?;
    for (field, value) in fields.iter().zip(values) {
        map.serialize_entry(field.name.as_str(), &Json(&value))?;
    }
    map.end()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A value in full, as text; none for null. Lists and structs are JSON.
pub(crate) fn exact(value: &AnyValue<'_>) -> Option<String> {
    Some(match value {
        AnyValue::Null => return None,
        AnyValue::String(text) => (*text).to_owned(),
        AnyValue::StringOwned(text) => text.to_string(),
        AnyValue::Binary(bytes) => hex(bytes),
        AnyValue::BinaryOwned(bytes) => hex(bytes),
        // Rust's shortest form that reads back as the same number, NaN and infinities included.
        AnyValue::Float32(number) => format!("{number:?}"),
        AnyValue::Float64(number) => format!("{number:?}"),
        AnyValue::List(_) | AnyValue::Array(..) | AnyValue::Struct(..) | AnyValue::StructOwned(_) => json(value),
        number if number.is_integer() => json(number),
        other => other.to_string(),
    })
}

fn json(value: &AnyValue<'_>) -> String {
    serde_json::to_string(&Json(value)).unwrap_or_else(|_| value.to_string())
}

/// A value for people: six digits after the point, the first few values of a long list, on one line.
pub(crate) fn short(value: &AnyValue<'_>) -> String {
    match value {
        AnyValue::Null => layout::NONE.to_owned(),
        AnyValue::Float32(number) => short_number(f64::from(*number)),
        AnyValue::Float64(number) => short_number(*number),
        AnyValue::String(text) => on_one_line(text),
        AnyValue::StringOwned(text) => on_one_line(text),
        AnyValue::List(values) | AnyValue::Array(values, _) => short_list(values),
        other => on_one_line(&exact(other).unwrap_or_default()),
    }
}

fn short_list(values: &Series) -> String {
    let n_shown = if values.len() <= LONGEST_LIST { values.len() } else { N_SHOWN };
    let mut shown: Vec<String> = values.iter().take(n_shown).map(|value| short(&value)).collect();
    if n_shown < values.len() {
        shown.push(format!("… {} values", values.len()));
    }
    format!("[{}]", shown.join(", "))
}

fn short_number(number: f64) -> String {
    let size = number.abs();
    if !number.is_finite() || size >= 1e15 {
        return format!("{number:?}");
    }
    if size > 0.0 && size < 1e-4 {
        let text = format!("{number:.*e}", N_DIGITS - 1);
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.'));
    }
    let text = layout::number(Some(number), N_DIGITS);
    let trimmed = text.trim_end_matches('0');
    if trimmed.ends_with('.') { format!("{trimmed}0") } else { trimmed.to_owned() }
}

/// The text with what would break a line or a table written as in source code.
fn on_one_line(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people_have_six_digits_and_for_programs_all() {
        for (number, short, exact) in [
            (0.123_456_789, "0.123457", "0.123456789"),
            (-3.0, "-3.0", "-3.0"),
            (0.0, "0.0", "0.0"),
            (1.0e-9, "1e-9", "1e-9"),
            (0.000_012_345_678_9, "1.23457e-5", "1.23456789e-5"),
            (1_234_567.25, "1234567.25", "1234567.25"),
            (1.0e300, "1e300", "1e300"),
            (f64::NAN, "NaN", "NaN"),
        ] {
            let value = AnyValue::Float64(number);
            assert_eq!((super::short(&value).as_str(), super::exact(&value).as_deref()), (short, Some(exact)));
        }
        assert_eq!(json(&AnyValue::Float32(0.1)), "0.1", "a float of 32 bits has no digits of one of 64");
    }

    #[test]
    fn lists_are_whole_for_programs_and_begin_for_people() {
        let list = |n: u32| AnyValue::List((0..n).map(|i| f64::from(i) / 4.0).collect::<Series>());
        assert_eq!(short(&list(3)), "[0.0, 0.25, 0.5]");
        assert_eq!(short(&list(768)), "[0.0, 0.25, 0.5, … 768 values]");
        assert_eq!(exact(&list(3)).as_deref(), Some("[0.0,0.25,0.5]"));
    }

    #[test]
    fn a_cell_is_one_line() {
        assert_eq!(short(&AnyValue::String("a\nb\t—")), "a\\nb\\t—");
        assert_eq!(exact(&AnyValue::Binary(&[0, 255])).as_deref(), Some("00ff"));
        assert_eq!((short(&AnyValue::Null).as_str(), exact(&AnyValue::Null)), ("—", None));
    }

    #[test]
    fn times_and_decimals_are_text() {
        for (value, expected) in [
            (AnyValue::Date(19_724), "2024-01-02"),
            (AnyValue::Datetime(1_704_164_645_000_000, TimeUnit::Microseconds, None), "2024-01-02 03:04:05"),
            (AnyValue::Duration(90_000_000, TimeUnit::Microseconds), "1m 30s"),
            (AnyValue::Decimal(125, 10, 2), "1.25"),
        ] {
            assert_eq!(short(&value), expected);
            assert_eq!(json(&value), format!("\"{expected}\""));
        }
    }
}
