//! Forms of tables: compression, encodings, delimiters, headers, shapes of JSON, types of Parquet, pipes.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, DictionaryArray, Float64Array, ListArray, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Float64Type, Int32Type};
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::*;

const CSV: &str = "name,mos\na.png,1.5\nb.jpg,2.25\nc.webp,3\n";

/// Ingests `bytes` as `t.csv` and fails unless all three images arrive with their MOS.
#[track_caller]
fn gives_three(bytes: impl AsRef<[u8]>, more: &[&str]) -> Ran {
    let dir = with_three_images();
    dir.write("t.csv", bytes);
    let ran = ingest(&dir, "t.csv", more).exits(0).says("3 images");
    let mos: Vec<Option<f64>> = written(&dir).0.rows.iter().map(|row| row.mos).collect();
    assert_eq!(mos, [Some(1.5), Some(2.25), Some(3.0)]);
    ran
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(bytes).collect()
}

#[test]
fn compressed_tables_are_read_whatever_their_name() {
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(CSV.as_bytes()).expect("in memory");
    let lines =
        "{\"name\":\"a.png\",\"mos\":1.5}\n{\"name\":\"b.jpg\",\"mos\":2.25}\n{\"name\":\"c.webp\",\"mos\":3}\n";
    gives_three(gzip(CSV.as_bytes()), &[]);
    gives_three([gzip(&CSV.as_bytes()[..20]), gzip(&CSV.as_bytes()[20..])].concat(), &[]);
    gives_three(zstd::encode_all(CSV.as_bytes(), 3).expect("in memory"), &[]);
    gives_three(zlib.finish().expect("in memory"), &[]);
    gives_three(gzip(lines.as_bytes()), &[]);
    gives_three([gzip(CSV.as_bytes()), vec![0; 512]].concat(), &[]);
    gives_three(gzip(&parquet_of(Compression::SNAPPY)), &[]);
    let dir = with_three_images();
    let whole = gzip(CSV.repeat(50).as_bytes());
    dir.write("cut.csv.gz", &whole[..whole.len() - 12]);
    ingest(&dir, "cut.csv.gz", &[]).exits(2).says("gzip compression is damaged or cut short");
    let endless = std::io::repeat(b'a').take(300 << 20);
    dir.write("bomb.csv.zst", zstd::encode_all(endless, 1).expect("in memory"));
    ingest(&dir, "bomb.csv.zst", &[]).exits(2).says("unpacks to more than 256 MiB");
}

#[test]
fn encodings_are_recognised_or_named() {
    gives_three(utf16(CSV, u16::to_le_bytes), &[]);
    gives_three(utf16(CSV, u16::to_be_bytes), &[]);
    gives_three(utf16(&format!("\u{FEFF}{CSV}"), u16::to_le_bytes), &[]);
    gives_three(format!("\u{FEFF}{CSV}"), &[]);
    let prompt = |bytes: &[u8], more: &[&str]| {
        let dir = with_three_images();
        dir.write("t.csv", [b"name,mos,prompt\na.png,1,".as_slice(), bytes, b"\n"].concat());
        let ran = ingest(&dir, "t.csv", &[&["--column", "prompt=prompt"], more].concat()).exits(0);
        (written(&dir).0.rows[0].prompt.clone().expect("a prompt"), ran)
    };
    let (text, ran) = prompt(b"caf\xE9", &[]);
    assert_eq!(text, "café");
    ran.says("read as windows-1252 (Latin-1)");
    assert_eq!(prompt(b"\xC3\xA8", &["--encoding", "gbk"]).0, "猫");
    let dir = with_three_images();
    dir.write("t.csv", CSV);
    ingest(&dir, "t.csv", &["--encoding", "klingon"]).exits(2).says("unknown encoding `klingon`");
}

#[test]
fn delimiters_are_recognised_or_given() {
    gives_three(CSV.replace(',', ";"), &[]);
    gives_three(CSV.replace(',', "\t"), &["--format", "csv"]);
    gives_three(CSV.replace(',', "|"), &[]);
    gives_three(CSV.replace(',', "  "), &[]);
    gives_three(CSV.replace(',', ":"), &["--delimiter", ":"]);
    gives_three(CSV.replace(',', ", "), &[]);
    gives_three(format!("sep=;\r\n{}", CSV.replace(',', ";")), &[]);
    gives_three(format!("\"sep=;\"\n{}", CSV.replace(',', ";")), &[]);
    gives_three(CSV.replace('\n', "\r"), &[]);
    gives_three(CSV.replace("name,mos", " name , mos "), &[]);
    gives_three(CSV.replace('\n', ",\n").replacen(",\n", "\n", 1), &[]);
    gives_three(format!("Pilot study 2024\n{CSV}"), &[]).says("taken for a title");
    gives_three(format!("# by us, in 2024, in two parts\n{CSV}"), &[]).says("taken for a title");
    gives_three(format!("# {}", CSV.replace(',', " ")), &[]);
    gives_three(CSV.replace("name,mos", "'name','mos'"), &[]);
    gives_three(CSV.replace("mos", " \"mos\"").replace(",3", ", \"3\""), &[]);
    gives_three(format!("{CSV}\0\0\0\0"), &[]);
    let markdown = CSV.lines().map(|line| format!("| {} |\n", line.replace(',', " | "))).collect::<String>();
    gives_three(markdown.replacen("|\n", "|\n|:--|--:|\n", 1), &[]);
    gives_three(CSV.replace(',', " | ").replacen('\n', "\n------+----\n", 1), &[]);
    gives_three(CSV.replace(',', "  ").replacen('\n', "\n------  ----\n", 1), &[]);
    let dir = with_three_images();
    dir.write("colons.csv", CSV.replace(',', ":"));
    ingest(&dir, "colons.csv", &[])
        .exits(2)
        .says("; if another character divides the cells, give it with `--delimiter`");
    dir.write("t.csv", CSV);
    ingest(&dir, "t.csv", &["--delimiter", "comma or so"]).exits(2).says("`semicolon`");
    ingest(&dir, "t.csv", &["--delimiter", ";"]).exits(2).says("the columns are: `name,mos`");
}

#[test]
fn tables_with_row_names_are_read_and_prose_with_commas_is_not_taken_for_one() {
    let rows = [("a.png", "1.5"), ("b.jpg", "2.25"), ("c.webp", "3")];
    let lines = |row: fn((usize, &(&str, &str))) -> String| (1..).zip(&rows).map(row).collect::<String>();
    let quoted = lines(|(n, (name, mos))| format!("\"{n}\" \"{name}\" {mos}\n"));
    gives_three(format!("\"name\" \"mos\"\n{quoted}"), &[]).says("the first is the row's name, column 1, `row_name`");
    gives_three(format!("\"name\",\"mos\"\n{}", quoted.replace(' ', ",")), &[]);
    gives_three(format!("name mos\n{}", quoted.replace('"', "")), &[]);
    gives_three(format!("name\tmos\n{}", quoted.replace('"', "").replace(' ', "\t")), &[]);
    gives_three(format!("  name  mos\n{}", lines(|(n, (name, mos))| format!("{n}  {name}  {mos}\n"))), &[]);
    gives_three(format!(",name,mos\n{}", quoted.replace('"', "").replace(' ', ",")), &[]);
    // The images' names are the rows' names.
    let names = lines(|(_, (name, mos))| format!("{name} {mos} 0.1\n"));
    gives_three(format!("mos sd\n{names}"), &["--set", "columns.name=row_name"]);
    let dir = with_three_images();
    dir.write("t.csv", "name,mos,prompt\na.png,1,two, dogs\nb.jpg,2,red, cat\n");
    ingest(&dir, "t.csv", &[]).exits(1).says("0 images, 2 rejected (2 ragged-row)");
    dir.write("t.csv", "name,prompt,mos\na.png,\"the \\\"red\\\" cat, big\",1\nb.jpg,\"a \\\"b\\\", c\",2\n");
    ingest(&dir, "t.csv", &["--column", "prompt=prompt"]).exits(0).says("2 images");
    assert_eq!(written(&dir).0.rows[0].prompt.as_deref(), Some("the \"red\" cat, big"));
}

#[test]
fn a_decimal_comma_is_read_on_request_and_hinted_at() {
    let table = "name;mos;x\na.png;1,5;0,5\nb.jpg;2,25;1,5\nc.webp;3,0;2,5\n";
    let ran = gives_three(table, &["--decimal-comma"]);
    assert!(!ran.stderr.contains("give `--decimal-comma`"));
    let dir = with_three_images();
    dir.write("t.csv", table);
    ingest(&dir, "t.csv", &[]).exits(1).says("found `1,5`; if its comma is a decimal mark, give `--decimal-comma`");
    dir.write("u.csv", "name,mos\na.png,\"1,5\"\nb.jpg,\"2,25\"\nc.webp,\"3,0\"\n");
    ingest(&dir, "u.csv", &["--decimal-comma"]).exits(0).says("3 images");
    assert_eq!(written(&dir).0.rows[1].mos, Some(2.25));
}

#[test]
fn words_for_no_value_are_no_value_in_every_column() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos,sd,prompt,n\na.png,1,NA,None,3\nb.jpg,2,-,null,#N/A\nc.webp,3,nan,x,NULL\n,NA,,,\n");
    let columns = ["--column", "mos_std=sd", "--column", "prompt=prompt"];
    ingest(&dir, "t.csv", &columns).exits(1).says("3 images, 1 rejected (1 empty-name)");
    let (images, _) = written(&dir);
    assert!(images.rows.iter().all(|row| row.mos_std.is_none()));
    assert_eq!(images.rows[0].prompt, None);
    let n = images.extra.iter().find(|extra| extra.name == "n").expect("an extra column");
    assert_eq!(n.values, ExtraValues::Real(vec![Some(3.0), None, None]));
    dir.write("u.csv", "name,mos,sd\na.png,-,1\nb.jpg,NA,1\nc.webp,3,?\n");
    ingest(&dir, "u.csv", &["--column", "mos_std=sd"]).exits(1).says("3 rejected (2 bad-mos, 1 bad-number)");
}

#[test]
fn two_columns_of_one_name_are_refused_with_their_positions() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos,x,mos\na.png,1,2,3\n");
    ingest(&dir, "t.csv", &[]).exits(2).says("more than one column `mos`: column 2, column 4");
    ingest(&dir, "t.csv", &["--column", "prompt=x"]).exits(2);
    dir.write("t.jsonl", "{\"name\":\"a.png\",\"mos\":1,\"mos\":9}\n{\"name\":\"b.jpg\",\"mos\":2}\n");
    ingest(&dir, "t.jsonl", &[]).exits(1).says("(line 1): duplicate key `mos`");
}

#[test]
fn every_shape_of_json_is_read_or_named() {
    let rows = r#"{"name":"a.png","mos":1.5},{"name":"b.jpg","mos":2.25},{"name":"c.webp","mos":3}"#;
    for text in [
        format!("[{rows}]"),
        format!("[\n  {}\n]", rows.replace("},", "},\n  ")),
        rows.replace("},", "}\n"),
        format!(r#"{{"data": [{rows}]}}"#),
        format!(r#"{{"info": {{"v": 1}}, "images": [{rows}]}}"#),
        r#"{"a.png": {"mos": 1.5}, "b.jpg": {"mos": 2.25}, "c.webp": {"mos": 3}}"#.to_owned(),
        r#"{"name": ["a.png", "b.jpg", "c.webp"], "mos": [1.5, 2.25, 3]}"#.to_owned(),
        r#"{"name": {"0": "a.png", "1": "b.jpg", "2": "c.webp"}, "mos": {"0": 1.5, "1": 2.25, "2": 3}}"#.to_owned(),
        r#"[["name", "mos"], ["a.png", 1.5], ["b.jpg", 2.25], ["c.webp", 3]]"#.to_owned(),
    ] {
        gives_three(text, &[]);
    }
    let arrays = r#"[["a.png", 1.5], ["b.jpg", 2.25], ["c.webp", 3.0]]"#;
    let dir = with_three_images();
    dir.write("t.json", arrays);
    ingest(&dir, "t.json", &[]).exits(2).says("the table has no header: give the number of a column");
    let by_number = GENERIC.map(|arg| match arg {
        "name=name" => "name=1",
        "mos=mos" => "mos=2",
        arg => arg,
    });
    let args: Vec<&str> = by_number.into_iter().chain(["t.json"]).collect();
    dir.agiqa(&args).exits(0).says("3 images");
}

#[test]
fn what_json_has_no_word_for_is_no_value_or_a_replaced_character() {
    let dir = with_three_images();
    let table = r#"[{"name":"a.png","mos":NaN,"sd":1},{"name":"b.jpg","mos":2,"sd":NaN},{"name":"c.webp","mos":3,"sd":Infinity,"p":"\ud83d"}]"#;
    dir.write("t.json", table);
    ingest(&dir, "t.json", &["--column", "mos_std=sd"]).exits(1).says("1 images, 2 rejected");
    assert_eq!(kinds(&dir, 3)["a.png"], "bad-mos");
    dir.write("u.json", r#"[{"name":"a.png","mos":1,"p":"\ud83d"}]"#);
    ingest(&dir, "u.json", &["--column", "prompt=p"]).exits(0);
    assert_eq!(written(&dir).0.rows[0].prompt.as_deref(), Some("\u{FFFD}"));
    dir.write("two.json", r#"{"train": [{"name":"a.png","mos":1}], "test": [{"name":"b.jpg","mos":2}]}"#);
    ingest(&dir, "two.json", &[]).exits(2).says("several tables: `train`, `test`; choose one with `--sheet`");
    ingest(&dir, "two.json", &["--sheet", "test"]).exits(0).says("1 images");
}

fn parquet_of(compression: Compression) -> Vec<u8> {
    let names: ArrayRef = Arc::new(StringArray::from(vec!["a.png", "b.jpg", "c.webp"]));
    let mos: ArrayRef = Arc::new(Float64Array::from(vec![1.5, 2.25, 3.0]));
    written_as([("name", names), ("mos", mos)], compression)
}

fn written_as<const N: usize>(columns: [(&str, ArrayRef); N], compression: Compression) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let properties = WriterProperties::builder().set_compression(compression).build();
    crate::testdir::parquet(&batch, Some(properties))
}

#[test]
fn every_codec_of_parquet_is_read_also_under_another_name() {
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4_RAW,
        Compression::LZ4,
        Compression::ZSTD(ZstdLevel::default()),
    ] {
        gives_three(parquet_of(compression), &[]);
    }
}

#[test]
fn columns_of_every_type_are_text_or_left_out_with_a_word() {
    let names: ArrayRef = Arc::new(BinaryArray::from(vec![&b"a.png"[..], b"b.jpg", b"c.webp"]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x", "y", "z"]));
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![&b"\x89PNG\xFF"[..], b"\0", b"\xFE"]));
    let image = StructArray::try_from(vec![("bytes", bytes.clone()), ("path", text)]).expect("columns of one length");
    let times = TimestampMicrosecondArray::from(vec![0, 1, 2]).with_timezone("America/Sao_Paulo");
    let words: DictionaryArray<Int32Type> = ["u", "v", "u"].into_iter().collect();
    let list = ListArray::from_iter_primitive::<Float64Type, _, _>([Some([Some(1.0)]), None, Some([None])]);
    let mos: ArrayRef = Arc::new(Float64Array::from(vec![1.5, 2.25, 3.0]));
    let columns: [(&str, ArrayRef); 7] = [
        ("name", names),
        ("image", Arc::new(image)),
        ("at", Arc::new(times)),
        ("word", Arc::new(words)),
        ("all", Arc::new(list)),
        ("raw", bytes),
        ("mos", mos),
    ];
    let dir = with_three_images();
    dir.write("t.parquet", written_as(columns, Compression::SNAPPY));
    ingest(&dir, "t.parquet", &[]).exits(0).says("3 images").says(
        "left out, because they hold neither text nor numbers: `image.bytes` (bytes), `all` (nested), `raw` (bytes)",
    );
    let (images, _) = written(&dir);
    let extra: Vec<&str> = images.extra.iter().map(|extra| extra.name.as_str()).collect();
    assert_eq!(extra, ["table_row", "image.path", "at", "word"]);
    assert_eq!(images.column_text("at").expect("a column")[0].as_deref(), Some("1970-01-01T00:00:00Z"));
    assert_eq!(images.column_text("word").expect("a column")[2].as_deref(), Some("u"));
    ingest(&dir, "t.parquet", &["--column", "prompt=raw"]).exits(2).says("has no column `raw`").says("`raw` (bytes)");
    ingest(&dir, "t.parquet", &["--column", "prompt=image"]).exits(0);
    assert_eq!(written(&dir).0.rows[1].prompt.as_deref(), Some("y"));
}

#[test]
fn files_that_are_no_tables_are_named_for_what_they_are() {
    let dir = with_three_images();
    for (bytes, word) in [
        (&b"<!DOCTYPE html><html><body>Sign in</body></html>"[..], "a web page (HTML)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"\x89PNG\r\n\x1a\n", "a picture (PNG)"),
        (b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", "an old Excel"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"ORC\x0a", "an ORC file"),
        (b"BZh91AY", "compressed by bzip2"),
        (b"\x01\x02\0\x03\x9f", "binary data of no known format"),
        (b"PK\x03\x04", "not a valid xlsx workbook"),
        (b"", "it is empty"),
    ] {
        dir.write("t.csv", bytes);
        let ran = ingest(&dir, "t.csv", &[]).exits(2).says(word);
        assert!(!ran.stderr.contains('\u{FFFD}') && !ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    // A column's name may begin like another program's file.
    for column in ["ORCHID", "FEA1"] {
        dir.write("t.csv", format!("{column},name,mos\n1,a.png,1.5\n2,b.jpg,2\n3,c.webp,3\n"));
        ingest(&dir, "t.csv", &[]).exits(0);
    }
    dir.write("t.zip", zip_of(&[("ratings.csv", CSV.to_owned())]));
    ingest(&dir, "t.zip", &[]).exits(2).says("it is a zip archive of `ratings.csv`; unpack it first");
    dir.write("real.csv", CSV);
    ingest(&dir, "real.csv", &["--format", "parquet"]).exits(2).says("it is text, not Parquet");
    ingest(&dir, "img", &[]).exits(2).says("it is a folder");
}

#[test]
fn a_table_from_a_pipe_is_read_once() {
    for table in ["/dev/stdin", "-"] {
        for bytes in [CSV.as_bytes().to_vec(), gzip(CSV.as_bytes()), parquet_of(Compression::SNAPPY)] {
            let dir = with_three_images();
            let args: Vec<&str> = GENERIC.iter().copied().chain([table]).collect();
            let mut command = dir.command(&args);
            let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("agiqa can be started");
            child.stdin.take().expect("a pipe").write_all(&bytes).expect("the pipe is read");
            let output = child.wait_with_output().expect("a child of this process");
            assert_eq!(output.status.code(), Some(0), "{table}: {}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(written(&dir).0.rows.len(), 3);
        }
    }
}

#[test]
fn a_table_is_ingested_without_images_where_that_is_asked_for() {
    let dir = TestDir::new();
    dir.write("t.csv", format!("{CSV}d.png,9\n"));
    let args =
        ["ingest", "--adapter", "generic", "--dataset", "d", "--no-images", "--store", "store", "--table", "t.csv"];
    let columns = ["--column", "name=name", "--column", "mos=mos", "--mos-scale", "0..5"];
    let args: Vec<&str> = args.into_iter().chain(columns).collect();
    dir.agiqa(&args).exits(1).says("3 images, 1 rejected (1 mos-out-of-scale)");
    let (images, _) = written(&dir);
    assert_eq!((images.rows[0].name.as_str(), images.rows[0].mos, images.rows[0].n_bytes), ("a.png", Some(1.5), 0));
    dir.agiqa(&args).exits(1).says("skipped: nothing changed");
    dir.agiqa(&[&args[..5], &args[6..]].concat()).exits(2).says("--images");
}
