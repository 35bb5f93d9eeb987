//! Reads matrices of doubles from MATLAB v5 files, compressed or not, also inside cell arrays.
//!
//! Layout: a header of 128 bytes, then elements `(type u32, length u32, data padded to 8 bytes)`. Short data may share
//! the tag's eight bytes. Source: MathWorks, "MAT-File Format". Version 7.3 files are HDF5 and are refused.

use std::io::Read;

use super::params::{ParamsError, ParamsFile};

/// A matrix of doubles.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix {
    /// Number of rows.
    pub(super) n_rows: usize,
    /// Number of columns.
    pub(super) n_columns: usize,
    /// Column-major, all finite.
    pub(super) values: Vec<f64>,
}

/// A variable, or a cell of a cell array.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A full, real matrix of class double.
    Matrix(Matrix),
    /// A cell array, column by column.
    Cells(Vec<Value>),
    /// A class that no parameter file needs.
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

const HEADER_BYTES: usize = 128;

/// Greatest size of an unpacked variable. The largest published one has 3 MB.
const MAX_UNPACKED: u64 = 64 << 20;

/// Deepest nesting of cell arrays that is followed.
const MAX_DEPTH: u32 = 4;

/// The variable `name` of `file`.
///
/// # Errors
/// The file is not a MATLAB v5 file, is damaged or cut short, or lacks the variable. The error lists its variables.
pub(super) fn variable(file: &ParamsFile, name: &str) -> Result<Value, ParamsError> {
    let mut found = Vec::new();
    for (variable, value) in variables(file)? {
        if variable == name {
            return Ok(value);
        }
        found.push(format!("`{variable}`"));
    }
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    Err(file.wrong("the variables", format!("one called `{name}`"), found))
}

impl Value {
    /// The matrix, which must have the given size. `name` appears in the error.
    pub(super) fn matrix(
        self,
        file: &ParamsFile,
        name: &str,
        n_rows: usize,
        n_columns: usize,
    ) -> Result<Matrix, ParamsError> {
        let expected = || format!("{n_rows} × {n_columns} doubles");
        let found = match self {
            Self::Matrix(matrix) if (matrix.n_rows, matrix.n_columns) == (n_rows, n_columns) => return Ok(matrix),
            Self::Matrix(matrix) => format!("{} × {}", matrix.n_rows, matrix.n_columns),
            Self::Cells(cells) => format!("{} cells", cells.len()),
            Self::Other(class) => class.to_owned(),
        };
        Err(file.wrong(format!("variable `{name}`"), expected(), found))
    }
}

fn variables(file: &ParamsFile) -> Result<Vec<(String, Value)>, ParamsError> {
    const EXPECTED: &str = "a MATLAB v5 file";
    let bytes = &file.bytes;
    let is_hdf5 = bytes.starts_with(b"MATLAB 7.3") || bytes.starts_with(b"\x89HDF\r\n\x1a\n");
    if is_hdf5 {
        let next_step = "save it again in MATLAB with `save(…, '-v7')`";
        return Err(file.wrong_but("the header", EXPECTED, "one of version 7.3 (HDF5)", next_step));
    }
    if bytes.len() < HEADER_BYTES {
        return Err(file.wrong("the header", EXPECTED, format!("{} bytes", bytes.len())));
    }
    let is_little = match &bytes[126..128] {
        b"IM" => true,
        b"MI" => false,
        _ => {
            let head = String::from_utf8_lossy(&bytes[..16]).into_owned();
            return Err(file.wrong("the header", EXPECTED, format!("{head:?}")));
        }
    };
    let reader = Reader { file, is_little };
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
                    .map_err(|error| file.wrong(&place, "a compressed variable", error.to_string()))?;
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

struct Reader<'a> {
    file: &'a ParamsFile,
    is_little: bool,
}

impl Reader<'_> {
    fn u32(&self, bytes: &[u8]) -> u32 {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if self.is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    }

    /// Takes the next element off `rest`.
    fn element<'a>(&self, rest: &mut &'a [u8], place: &str) -> Result<Element<'a>, ParamsError> {
        let cut = |found: usize, wanted: usize| {
            self.file.wrong(place, format!("{wanted} more bytes"), format!("{found}: the file is cut short"))
        };
        if rest.len() < 8 {
            return Err(cut(rest.len(), 8));
        }
        let (first, second) = (self.u32(rest), self.u32(&rest[4..]));
        if first >> 16 != 0 {
            // The small format has length, type and up to four bytes of data in one tag.
            let n_bytes = (first >> 16) as usize;
            if n_bytes > 4 {
                return Err(self.file.wrong(place, "at most 4 bytes in a tag", n_bytes.to_string()));
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

    fn named_matrix(&self, element: &Element<'_>, place: &str, depth: u32) -> Result<(String, Value), ParamsError> {
        if element.ty != MATRIX {
            return Err(self.file.wrong(place, "a matrix", format!("data of type {}", element.ty)));
        }
        let mut rest = element.data;
        let flags = self.element(&mut rest, place)?;
        if flags.ty != UINT32 || flags.data.len() != 8 {
            return Err(self.file.wrong(place, "the flags of an array", format!("data of type {}", flags.ty)));
        }
        let flags = self.u32(flags.data);
        let dims = self.element(&mut rest, place)?;
        let name = self.element(&mut rest, place)?;
        let name = String::from_utf8_lossy(name.data).into_owned();
        let dims: Vec<usize> = dims.data.chunks_exact(4).map(|dim| self.u32(dim) as usize).collect();
        let n_values = dims.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim));
        let too_large = || self.file.wrong(place, "an array that memory can hold", format!("{dims:?}"));
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
                let values = self.doubles(&self.element(&mut rest, place)?, place, &name)?;
                if values.len() != n_values {
                    let expected = format!("{n_values} values of `{name}`");
                    return Err(self.file.wrong(place, expected, values.len().to_string()));
                }
                Value::Matrix(Matrix { n_rows, n_columns, values })
            }
            (6, _) => Value::Other("a complex array or one of more than two dimensions"),
            (2 | 3, _) => Value::Other("a structure or object"),
            (4, _) => Value::Other("text"),
            (5, _) => Value::Other("a sparse matrix"),
            _ => Value::Other("an array of another class than double"),
        };
        Ok((name, value))
    }

    /// The values of a double matrix, which MATLAB stores in the smallest type that holds them.
    fn doubles(&self, element: &Element<'_>, place: &str, name: &str) -> Result<Vec<f64>, ParamsError> {
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
        let values = match element.ty {
            INT8 => numbers!(i8),
            UINT8 => numbers!(u8),
            INT16 => numbers!(i16),
            UINT16 => numbers!(u16),
            INT32 => numbers!(i32),
            UINT32 => numbers!(u32),
            SINGLE => numbers!(f32),
            DOUBLE => numbers!(f64),
            other => return Err(self.file.wrong(place, "numbers", format!("data of type {other}"))),
        };
        match values.iter().position(|value| !value.is_finite()) {
            Some(position) => {
                let found = format!("{} at position {position}", values[position]);
                Err(self.file.wrong(format!("variable `{name}`"), "finite values", found))
            }
            None => Ok(values),
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

    fn file(bytes: Vec<u8>) -> ParamsFile {
        ParamsFile { path: "m.mat".into(), bytes }
    }

    #[test]
    fn a_matrix_is_read_whether_compressed_or_not() {
        for is_compressed in [false, true] {
            let file = file(example(is_compressed));
            let matrix = variable(&file, "m").and_then(|value| value.matrix(&file, "m", 1, 2)).expect("a valid file");
            assert_eq!(matrix.values, [1.5, -2.0]);
        }
    }

    #[test]
    fn another_size_or_name_is_refused_with_the_size_or_name_found() {
        let file = file(example(true));
        let value = variable(&file, "m").expect("a valid file");
        let error = value.matrix(&file, "m", 36, 36).expect_err("another size").to_string();
        assert!(error.contains("variable `m`: expected 36 × 36 doubles, found 1 × 2"), "{error}");
        let error = variable(&file, "cov").expect_err("no such variable").to_string();
        assert!(error.contains("`cov`, found `m`"), "{error}");
    }

    #[test]
    fn a_file_of_version_7_3_is_refused_with_advice() {
        let mut bytes = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".to_vec();
        bytes.resize(512, b' ');
        bytes.extend(b"\x89HDF\r\n\x1a\n");
        let error = variable(&file(bytes), "m").expect_err("HDF5").to_string();
        assert!(error.contains("7.3 (HDF5)") && error.contains("-v7"), "{error}");
    }

    #[test]
    fn a_file_cut_short_is_refused_wherever_it_is_cut() {
        for is_compressed in [false, true] {
            let bytes = example(is_compressed);
            for n in 0..bytes.len() - 4 {
                if n == HEADER_BYTES {
                    continue; // A complete header without variables is a valid file, which lacks `m`.
                }
                assert!(variable(&file(bytes[..n].to_vec()), "m").is_err(), "cut to {n} of {} bytes", bytes.len());
            }
            assert!(variable(&file(bytes[..HEADER_BYTES].to_vec()), "m").is_err());
        }
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(at in 0_usize..4096, byte: u8, is_compressed: bool) {
            let mut bytes = example(is_compressed);
            let n = bytes.len();
            bytes[at % n] = byte;
            let _ = variable(&file(bytes), "m");
        }
    }
}
