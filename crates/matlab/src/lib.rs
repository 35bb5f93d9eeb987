//! Reads matrices of doubles and text from MATLAB v5 files, compressed or not, also inside cell arrays.
//!
//! Layout: a header of 128 bytes, then elements `(type u32, length u32, data padded to 8 bytes)`. Short data may share
//! the tag's eight bytes. Source: MathWorks, "MAT-File Format". Version 7.3 files are HDF5 and are refused.

use std::io::Read;

/// A file or variable that is not as expected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{place}: expected {expected}, found {found}")]
pub struct MatError {
    /// The header, a variable, or a position in the file.
    pub place: String,
    /// What the format asks for.
    pub expected: String,
    /// What stands there.
    pub found: String,
    /// What to do about it, if there is more to do than to get the file again.
    pub next_step: Option<&'static str>,
}

/// A matrix of doubles.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Number of rows.
    pub n_rows: usize,
    /// Number of columns.
    pub n_columns: usize,
    /// Column-major. A value may be NaN or infinite.
    pub values: Vec<f64>,
}

/// A variable, or a cell of a cell array.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A full, real matrix of class double.
    Matrix(Matrix),
    /// A cell array, column by column.
    Cells(Vec<Value>),
    /// A row of characters.
    Text(String),
    /// A class that is not read.
    Other(&'static str),
}

// Data types of elements.
const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT16: u32 = 3;
const UINT16: u32 = 4;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const SINGLE: u32 = 7;
const DOUBLE: u32 = 9;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const UTF8: u32 = 16;
const UTF16: u32 = 17;

const HEADER_BYTES: usize = 128;

/// Greatest size of an unpacked variable. The largest published one has 3 MB.
const MAX_UNPACKED: u64 = 64 << 20;

/// Deepest nesting of cell arrays that is followed.
const MAX_DEPTH: u32 = 4;

/// The variable `name` of a file's `bytes`.
///
/// # Errors
/// The file is not a MATLAB v5 file, is damaged or cut short, or lacks the variable. The error lists its variables.
pub fn variable(bytes: &[u8], name: &str) -> Result<Value, MatError> {
    let mut found = Vec::new();
    for (variable, value) in variables(bytes)? {
        if variable == name {
            return Ok(value);
        }
        found.push(format!("`{variable}`"));
    }
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    Err(wrong("the variables", format!("one called `{name}`"), found))
}

fn wrong(place: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> MatError {
    MatError { place: place.into(), expected: expected.into(), found: found.into(), next_step: None }
}

impl Value {
    /// The matrix, which must have the given size and finite values. `name` appears in the error.
    ///
    /// # Errors
    /// The value is of another class or size, or is not finite.
    pub fn matrix(self, name: &str, n_rows: usize, n_columns: usize) -> Result<Matrix, MatError> {
        let place = format!("variable `{name}`");
        let found = match self {
            Self::Matrix(matrix) if (matrix.n_rows, matrix.n_columns) == (n_rows, n_columns) => {
                let Some(position) = matrix.values.iter().position(|value| !value.is_finite()) else {
                    return Ok(matrix);
                };
                let found = format!("{} at position {position}", matrix.values[position]);
                return Err(wrong(place, "finite values", found));
            }
            Self::Matrix(matrix) => format!("{} × {}", matrix.n_rows, matrix.n_columns),
            other => other.class(),
        };
        Err(wrong(place, format!("{n_rows} × {n_columns} doubles"), found))
    }

    /// Its class in words.
    pub fn class(&self) -> String {
        match self {
            Self::Matrix(_) => "a matrix".to_owned(),
            Self::Cells(cells) => format!("{} cells", cells.len()),
            Self::Text(_) => "text".to_owned(),
            Self::Other(class) => (*class).to_owned(),
        }
    }
}

/// All variables of a file's `bytes` with their names, in the order of the file.
///
/// # Errors
/// The file is not a MATLAB v5 file, or it is damaged or cut short.
pub fn variables(bytes: &[u8]) -> Result<Vec<(String, Value)>, MatError> {
    const EXPECTED: &str = "a MATLAB v5 file";
    let is_hdf5 = bytes.starts_with(b"MATLAB 7.3") || bytes.starts_with(b"\x89HDF\r\n\x1a\n");
    if is_hdf5 {
        let next_step = "save it again in MATLAB with `save(…, '-v7')`";
        let error = wrong("the header", EXPECTED, "one of version 7.3 (HDF5)");
        return Err(MatError { next_step: Some(next_step), ..error });
    }
    if bytes.len() < HEADER_BYTES {
        return Err(wrong("the header", EXPECTED, format!("{} bytes", bytes.len())));
    }
    let is_little = match &bytes[126..128] {
        b"IM" => true,
        b"MI" => false,
        _ => {
            let head = String::from_utf8_lossy(&bytes[..16]).into_owned();
            return Err(wrong("the header", EXPECTED, format!("{head:?}")));
        }
    };
    let reader = Reader { is_little };
    let mut rest = &bytes[HEADER_BYTES..];
    let mut variables = Vec::new();
    while !rest.is_empty() {
        let place = format!("byte {}", bytes.len() - rest.len());
        let element = reader.element(&mut rest, &place)?;
        match element.ty {
            COMPRESSED => {
                let mut unpacked = Vec::new();
                let mut decoder = flate2::read::ZlibDecoder::new(element.data).take(MAX_UNPACKED);
                decoder
                    .read_to_end(&mut unpacked)
                    .map_err(|error| wrong(&place, "a compressed variable", error.to_string()))?;
                let inner = reader.element(&mut unpacked.as_slice(), &place)?;
                variables.push(reader.named_matrix(&inner, &place, 0)?);
            }
            MATRIX => variables.push(reader.named_matrix(&element, &place, 0)?),
            // Subsystem data and the like.
            _ => {}
        }
    }
    Ok(variables)
}

/// One tagged piece of data.
struct Element<'a> {
    ty: u32,
    data: &'a [u8],
}

struct Reader {
    is_little: bool,
}

impl Reader {
    fn u32(&self, bytes: &[u8]) -> u32 {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if self.is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    }

    /// Takes the next element off `rest`.
    fn element<'a>(&self, rest: &mut &'a [u8], place: &str) -> Result<Element<'a>, MatError> {
        let cut = |found: usize, wanted: usize| {
            wrong(place, format!("{wanted} more bytes"), format!("{found}: the file is cut short"))
        };
        if rest.len() < 8 {
            return Err(cut(rest.len(), 8));
        }
        let (first, second) = (self.u32(rest), self.u32(&rest[4..]));
        if first >> 16 != 0 {
            // The small format has length, type and up to four bytes of data in one tag.
            let n_bytes = (first >> 16) as usize;
            if n_bytes > 4 {
                return Err(wrong(place, "at most 4 bytes in a tag", n_bytes.to_string()));
            }
            let element = Element { ty: first & 0xFFFF, data: &rest[4..4 + n_bytes] };
            *rest = &rest[8..];
            return Ok(element);
        }
        let n_bytes = second as usize;
        let data = rest.get(8..8 + n_bytes).ok_or_else(|| cut(rest.len() - 8, n_bytes))?;
        // Compressed elements are not padded. The last element of a file need not be padded.
        let padded = if first == COMPRESSED { n_bytes } else { n_bytes.next_multiple_of(8) };
        *rest = rest.get(8 + padded..).unwrap_or_default();
        Ok(Element { ty: first, data })
    }

    fn named_matrix(&self, element: &Element<'_>, place: &str, depth: u32) -> Result<(String, Value), MatError> {
        if element.ty != MATRIX {
            return Err(wrong(place, "a matrix", format!("data of type {}", element.ty)));
        }
        let mut rest = element.data;
        let flags = self.element(&mut rest, place)?;
        if flags.ty != UINT32 || flags.data.len() != 8 {
            return Err(wrong(place, "the flags of an array", format!("data of type {}", flags.ty)));
        }
        let flags = self.u32(flags.data);
        let dims = self.element(&mut rest, place)?;
        let name = self.element(&mut rest, place)?;
        let name = String::from_utf8_lossy(name.data).into_owned();
        let dims: Vec<usize> = dims.data.chunks_exact(4).map(|dim| self.u32(dim) as usize).collect();
        let n_values = dims.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim));
        let too_large = || wrong(place, "an array that memory can hold", format!("{dims:?}"));
        let n_values = n_values.filter(|n| *n as u64 <= MAX_UNPACKED).ok_or_else(too_large)?;
        let is_complex = flags & 0x0800 != 0;
        let value = match (flags & 0xFF, dims.as_slice()) {
            (1, _) if depth < MAX_DEPTH => {
                let mut cells = Vec::new();
                for _ in 0..n_values {
                    let cell = self.element(&mut rest, place)?;
                    cells.push(self.named_matrix(&cell, place, depth + 1)?.1);
                }
                Value::Cells(cells)
            }
            (6, &[n_rows, n_columns]) if !is_complex => {
                let values = self.doubles(&self.element(&mut rest, place)?, place)?;
                if values.len() != n_values {
                    let expected = format!("{n_values} values of `{name}`");
                    return Err(wrong(place, expected, values.len().to_string()));
                }
                Value::Matrix(Matrix { n_rows, n_columns, values })
            }
            (6, _) => Value::Other("a complex array or one of more than two dimensions"),
            (2 | 3, _) => Value::Other("a structure or object"),
            (4, &[n_rows, n_columns]) if n_rows.min(n_columns) <= 1 => {
                Value::Text(self.characters(&self.element(&mut rest, place)?, place, n_values)?)
            }
            (4, _) => Value::Other("text of several rows"),
            (5, _) => Value::Other("a sparse matrix"),
            _ => Value::Other("an array of another class than double"),
        };
        Ok((name, value))
    }

    /// The values of a double matrix, which MATLAB stores in the smallest type that holds them.
    fn doubles(&self, element: &Element<'_>, place: &str) -> Result<Vec<f64>, MatError> {
        macro_rules! numbers {
            ($ty:ty) => {
                element
                    .data
                    .as_chunks::<{ size_of::<$ty>() }>()
                    .0
                    .iter()
                    .map(|bytes| {
                        let value =
                            if self.is_little { <$ty>::from_le_bytes(*bytes) } else { <$ty>::from_be_bytes(*bytes) };
                        f64::from(value)
                    })
                    .collect::<Vec<f64>>()
            };
        }
        Ok(match element.ty {
            INT8 => numbers!(i8),
            UINT8 => numbers!(u8),
            INT16 => numbers!(i16),
            UINT16 => numbers!(u16),
            INT32 => numbers!(i32),
            UINT32 => numbers!(u32),
            SINGLE => numbers!(f32),
            DOUBLE => numbers!(f64),
            other => return Err(wrong(place, "numbers", format!("data of type {other}"))),
        })
    }

    /// The characters of a text, which MATLAB stores as UTF-8, as UTF-16 or as numbers.
    fn characters(&self, element: &Element<'_>, place: &str, n_values: usize) -> Result<String, MatError> {
        let text = match element.ty {
            UTF8 => String::from_utf8_lossy(element.data).into_owned(),
            INT8 | UINT8 => element.data.iter().map(|byte| char::from(*byte)).collect(),
            UINT16 | UTF16 => {
                let unit = |pair: &[u8; 2]| match self.is_little {
                    true => u16::from_le_bytes(*pair),
                    false => u16::from_be_bytes(*pair),
                };
                let units: Vec<u16> = element.data.as_chunks::<2>().0.iter().map(unit).collect();
                String::from_utf16_lossy(&units)
            }
            other => return Err(wrong(place, "characters", format!("data of type {other}"))),
        };
        match text.is_empty() && n_values > 0 {
            true => Err(wrong(place, format!("{n_values} characters"), "none")),
            false => Ok(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with the 1 × 2 matrix `m` = [1.5 -2], compressed or not.
    fn example(is_compressed: bool) -> Vec<u8> {
        let mut matrix = Vec::new();
        let mut element = |ty: u32, data: &[u8]| {
            matrix.extend(ty.to_le_bytes());
            matrix.extend((data.len() as u32).to_le_bytes());
            matrix.extend(data);
            matrix.resize(matrix.len().next_multiple_of(8), 0);
        };
        element(UINT32, &[6, 0, 0, 0, 0, 0, 0, 0]);
        element(INT32, &[1, 0, 0, 0, 2, 0, 0, 0]);
        element(INT8, b"m");
        element(DOUBLE, &[1.5_f64.to_le_bytes(), (-2.0_f64).to_le_bytes()].concat());
        let mut whole = [MATRIX.to_le_bytes(), (matrix.len() as u32).to_le_bytes()].concat();
        whole.extend(matrix);
        let mut bytes = b"MATLAB 5.0 MAT-file".to_vec();
        bytes.resize(126, b' ');
        bytes.extend(b"IM");
        if is_compressed {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            std::io::Write::write_all(&mut encoder, &whole).expect("memory takes bytes");
            let packed = encoder.finish().expect("memory takes bytes");
            bytes.extend([COMPRESSED.to_le_bytes(), (packed.len() as u32).to_le_bytes()].concat());
            bytes.extend(packed);
        } else {
            bytes.extend(whole);
        }
        bytes
    }

    #[test]
    fn a_matrix_is_read_whether_compressed_or_not() {
        for is_compressed in [false, true] {
            let file = example(is_compressed);
            let matrix = variable(&file, "m").and_then(|value| value.matrix("m", 1, 2)).expect("a valid file");
            assert_eq!(matrix.values, [1.5, -2.0]);
        }
    }

    #[test]
    fn another_size_or_name_is_refused_with_the_size_or_name_found() {
        let file = example(true);
        let value = variable(&file, "m").expect("a valid file");
        let error = value.matrix("m", 36, 36).expect_err("another size").to_string();
        assert!(error.contains("variable `m`: expected 36 × 36 doubles, found 1 × 2"), "{error}");
        let error = variable(&file, "cov").expect_err("no such variable").to_string();
        assert!(error.contains("`cov`, found `m`"), "{error}");
    }

    #[test]
    fn a_file_of_version_7_3_is_refused_with_advice() {
        let mut bytes = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".to_vec();
        bytes.resize(512, b' ');
        bytes.extend(b"\x89HDF\r\n\x1a\n");
        let error = variable(&bytes, "m").expect_err("HDF5");
        assert!(error.to_string().contains("7.3 (HDF5)"), "{error}");
        assert!(error.next_step.is_some_and(|next_step| next_step.contains("-v7")), "{error}");
    }

    #[test]
    fn a_file_cut_short_is_refused_wherever_it_is_cut() {
        for is_compressed in [false, true] {
            let bytes = example(is_compressed);
            for n in 0..bytes.len() - 4 {
                if n == HEADER_BYTES {
                    continue; // A complete header without variables is a valid file, which lacks `m`.
                }
                assert!(variable(&bytes[..n], "m").is_err(), "cut to {n} of {} bytes", bytes.len());
            }
            assert!(variable(&bytes[..HEADER_BYTES], "m").is_err());
        }
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(at in 0_usize..4096, byte: u8, is_compressed: bool) {
            let mut bytes = example(is_compressed);
            let n = bytes.len();
            bytes[at % n] = byte;
            let _ = variable(&bytes, "m");
        }
    }
}
