//! Damaged tables of every format: an error or a table, never a panic.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Float64Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::Float64Type;
use zip::write::SimpleFileOptions;

use crate::{Reading, Table, read};

/// A generator of test bytes: xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n.max(1)
    }
}

fn parquet() -> Vec<u8> {
    let names: ArrayRef = Arc::new(StringArray::from(vec!["a.png", "b.png"]));
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![&b"\xFF\xD8"[..], b"x"]));
    let image: ArrayRef = Arc::new(
        StructArray::try_from(vec![("path", names.clone()), ("bytes", bytes)]).expect("columns of one length"),
    );
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>([Some([Some(1.0)]), None]));
    let mos: ArrayRef = Arc::new(Float64Array::from(vec![1.5, f64::NAN]));
    let columns = [("name", names), ("image", image), ("all", list), ("mos", mos)];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a plain schema");
    writer.write(&batch).expect("in memory");
    writer.into_inner().expect("in memory")
}

fn workbook() -> Vec<u8> {
    let main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
    let documents = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
    let package = "http://schemas.openxmlformats.org/package/2006/relationships";
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, text) in [
        (
            "_rels/.rels",
            format!(
                "<Relationships xmlns=\"{package}\"><Relationship Id=\"r1\" Type=\"{documents}/officeDocument\" Target=\"xl/workbook.xml\"/></Relationships>"
            ),
        ),
        (
            "xl/workbook.xml",
            format!(
                "<workbook xmlns=\"{main}\" xmlns:r=\"{documents}\"><sheets><sheet name=\"S\" sheetId=\"1\" r:id=\"r1\"/></sheets></workbook>"
            ),
        ),
        (
            "xl/_rels/workbook.xml.rels",
            format!(
                "<Relationships xmlns=\"{package}\"><Relationship Id=\"r1\" Type=\"{documents}/worksheet\" Target=\"worksheets/sheet1.xml\"/></Relationships>"
            ),
        ),
        (
            "xl/worksheets/sheet1.xml",
            format!(
                "<worksheet xmlns=\"{main}\"><sheetData><row r=\"1\"><c r=\"A1\" t=\"inlineStr\"><is><t>name</t></is></c><c r=\"B1\" t=\"inlineStr\"><is><t>mos</t></is></c></row><row r=\"2\"><c r=\"A2\" t=\"inlineStr\"><is><t>a.png</t></is></c><c r=\"B2\"><v>1.5</v></c></row><row r=\"3\"><c r=\"B3\"><f>B2</f><v/></c></row></sheetData><mergeCells count=\"1\"><mergeCell ref=\"A2:A3\"/></mergeCells></worksheet>"
            ),
        ),
    ] {
        archive.start_file(name, SimpleFileOptions::default()).expect("in memory");
        archive.write_all(text.as_bytes()).expect("in memory");
    }
    archive.finish().expect("in memory").into_inner()
}

fn mat() -> Vec<u8> {
    let element = |ty: u32, data: &[u8]| {
        let mut bytes = [ty.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    };
    let header =
        |class: u8, n: u8| [element(6, &[class, 0, 0, 0, 0, 0, 0, 0]), element(5, &[1, 0, 0, 0, n, 0, 0, 0])].concat();
    let text = element(14, &[header(4, 2), element(1, b""), element(4, &[97, 0, 98, 0])].concat());
    let names = element(14, &[header(1, 2), element(1, b"n"), text.clone(), text].concat());
    let mos = element(
        14,
        &[header(6, 2), element(1, b"mos"), element(9, &[1.5_f64, 2.0].map(f64::to_le_bytes).concat())].concat(),
    );
    let mut bytes = b"MATLAB 5.0 MAT-file".to_vec();
    bytes.resize(126, b' ');
    [bytes, b"IM".to_vec(), names, mos].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

fn seeds() -> Vec<(Vec<u8>, usize)> {
    let csv = "name,mos,prompt\r\na.png,1.5,\"two, \"\"quoted\"\"\nlines\"\nb.png,NA,é\n".as_bytes().to_vec();
    let utf16: Vec<u8> = "name;mos\na.png;1,5\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let json =
        br#"{"data": [{"name": "a.png", "mos": NaN, "of": {"x": [1, {"y": null}]}}, {"name": "b\ud83d"}]}"#.to_vec();
    vec![
        (gzip(&csv), 2),
        (csv, 3),
        (utf16, 2),
        (json, 2),
        (b"{\"name\":\"a\",\"mos\":1}\n{\"name\":\"b\",\"mos\":2}\n".to_vec(), 2),
        (br#"{"name":{"0":"a","1":"b"},"mos":[1,2]}"#.to_vec(), 2),
        (b"5.4 I01_01_1.bmp\n5.3 \"I 2.bmp\"\n".to_vec(), 2),
        (parquet(), 3),
        (workbook(), 2),
        (mat(), 2),
    ]
}

/// Reads every cell.
fn walk(table: &Table) -> usize {
    let mut n = 0;
    for at in 0..table.n_rows() {
        let _ = table.place(at);
        if let Ok(row) = table.row(at) {
            n += (0..table.columns().len()).filter_map(|column| row.trimmed(column)).map(str::len).sum::<usize>();
        }
    }
    n
}

#[test]
fn whole_tables_of_every_format_are_read() {
    for (bytes, n_columns) in seeds() {
        let table = read(bytes, &Reading::default()).expect("a whole table");
        assert!(walk(&table) > 0);
        assert!(table.columns().len() >= n_columns, "{:?}", table.columns());
    }
    let table = read(mat(), &Reading::default()).expect("labels");
    assert_eq!(table.row(0).map(|row| (row.cell(0), row.cell(1))).ok(), Some((Some("ab"), Some("1.5"))));
}

#[test]
fn damaged_tables_are_errors_or_tables() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for (bytes, _) in seeds() {
        for round in 0..400 {
            let mut damaged = bytes.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(damaged.len());
                match random.below(5) {
                    0 => damaged[at] = random.below(256) as u8,
                    1 => damaged[at] ^= 1 << random.below(8),
                    2 => damaged.truncate(at + 1),
                    3 => damaged.insert(at, b",;\t\"\n{}[]\0"[random.below(10)]),
                    _ => drop(damaged.splice(at..at, bytes[..random.below(bytes.len())].iter().copied())),
                }
            }
            let reading = Reading { no_header: round % 5 == 0, decimal_comma: round % 7 == 0, ..Reading::default() };
            if let Ok(table) = read(damaged, &reading) {
                walk(&table);
            }
        }
    }
}
