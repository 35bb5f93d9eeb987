//! Names of files other than tables, by their first bytes, with the next step.

pub(crate) const PARQUET: &[u8] = b"PAR1";

const FOREIGN: [(&[u8], &str); 32] = [
    (b"BZh", "compressed by bzip2; unpack it first"),
    (b"\xFD7zXZ\0", "compressed by xz; unpack it first"),
    (b"\x04\x22\x4D\x18", "compressed by lz4; unpack it first"),
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", "an old Excel file, or one with a password; save it as xlsx or CSV"),
    (b"SQLite format 3\0", "an SQLite database; export the table as CSV"),
    (b"ARROW1\0\0", "an Arrow (Feather) file; save it as Parquet"),
    (b"\xFF\xFF\xFF\xFF", "a stream of Arrow; save it as Parquet"),
    (b"FEA1", "a Feather file of version 1; save it as Parquet"),
    (b"ORC", "an ORC file; save it as Parquet"),
    (b"Obj\x01", "an Avro file; save it as Parquet"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file; save the table as CSV or Parquet"),
    (b"\x93NUMPY", "a NumPy array; save the table as CSV or Parquet"),
    (b"\x80\x02", "a Python pickle, which is not read for safety; save the table as CSV or Parquet"),
    (b"\x80\x03", "a Python pickle, which is not read for safety; save the table as CSV or Parquet"),
    (b"\x80\x04", "a Python pickle, which is not read for safety; save the table as CSV or Parquet"),
    (b"\x80\x05", "a Python pickle, which is not read for safety; save the table as CSV or Parquet"),
    (b"<stata_dta>", "a file of Stata; export the table as CSV"),
    (b"$FL2", "a file of SPSS; export the table as CSV"),
    (b"$FL3", "a file of SPSS; export the table as CSV"),
    (b"RDX2\n", "a workspace of R; save the table with `write.csv`"),
    (b"RDX3\n", "a workspace of R; save the table with `write.csv`"),
    (b"X\n\0\0\0", "an object of R (RDS); save the table with `write.csv`"),
    (b"HEADER RECORD*******", "a transport file of SAS; export the table as CSV"),
    (b"%PDF", "a PDF document; save the table as CSV"),
    (b"{\\rtf", "an RTF document; save the table as CSV"),
    (b"\x89PNG", "a picture (PNG), not a table"),
    (b"\xFF\xD8\xFF", "a picture (JPEG), not a table"),
    (b"GIF8", "a picture (GIF), not a table"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file; get the file with `git lfs pull`"),
];

/// What `bytes` are if they are known not to be a table.
pub(crate) fn name(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("empty");
    }
    // The name of a column may begin with these letters.
    let is_name = |magic: &[u8]| {
        matches!(magic, b"ORC" | b"FEA1")
            && bytes.get(magic.len()).is_some_and(|next| matches!(next, b' '..=b'~'))
            && !bytes[..bytes.len().min(512)].contains(&0)
    };
    let is_begun_by = |(magic, _): &&(&[u8], &str)| bytes.starts_with(magic) && !is_name(magic);
    if let Some((_, what)) = FOREIGN.iter().find(is_begun_by) {
        return Some(what);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some("a tar archive; unpack it first");
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes).trim_ascii_start();
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).to_ascii_lowercase();
    let is = |start: &str| head.starts_with(start);
    if is("<!doctype html") || is("<html") || (is("<!--") || is("<?xml")) && head.contains("<html") {
        return Some("a web page (HTML), such as a page that asks to sign in; get the table itself");
    }
    (is("<?xml") || is("<table")).then_some("XML; save the table as CSV or xlsx")
}
