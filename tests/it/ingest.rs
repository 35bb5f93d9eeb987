//! `agiqa ingest`: what becomes of every kind of row, table and image, through the command line.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use agiqa::images::{DecodeLimits, decode, read};
use agiqa::store::{OpenMode, Store};
use agiqa::tables::images::{ExtraValues, Images};
use agiqa::tables::rejects::RejectRow;
use agiqa::tables::{PartitionName, images, rejects};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use crate::testdir::{Ran, TestDir, shared};

/// A small picture that differs by `seed`, encoded.
fn picture(seed: u8, format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_fn(24, 16, |x, y| Rgb([seed, (x * 9) as u8, (y * 13) as u8 ^ seed]));
    encoded(&image.into(), format)
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("an encodable image");
    bytes.into_inner()
}

fn dataset(name: &str) -> PartitionName {
    PartitionName::new(name).expect("a valid name")
}

fn open(dir: &TestDir) -> Store {
    let folder = dir.path().join("store");
    Store::open(folder.to_str().expect("UTF-8"), OpenMode::Existing).expect("the store that was written")
}

/// The table and the rejects of dataset `d`.
fn written(dir: &TestDir) -> (Images, Vec<RejectRow>) {
    let store = open(dir);
    let images = images::read(&store, &dataset("d")).expect("a readable table");
    (images, rejects::read(&store, "ingest").expect("readable rejects"))
}

const GENERIC: [&str; 16] = [
    "ingest",
    "--adapter",
    "generic",
    "--dataset",
    "d",
    "--images",
    "img",
    "--store",
    "store",
    "--column",
    "name=name",
    "--column",
    "mos=mos",
    "--mos-scale",
    "0..5",
    "--table",
];

fn ingest(dir: &TestDir, table: &str, more: &[&str]) -> Ran {
    let args: Vec<&str> = GENERIC.iter().copied().chain([table]).chain(more.iter().copied()).collect();
    dir.agiqa(&args)
}

/// A folder `img` with `a.png`, `b.jpg` and `c.webp`.
fn with_three_images() -> TestDir {
    let dir = TestDir::new();
    dir.write("img/a.png", picture(1, ImageFormat::Png));
    dir.write("img/b.jpg", picture(2, ImageFormat::Jpeg));
    dir.write("img/c.webp", picture(3, ImageFormat::WebP));
    dir
}

/// Kinds of the rejects by name; fails unless rows in = rows out + rejects.
#[track_caller]
fn kinds(dir: &TestDir, n_in: usize) -> BTreeMap<String, String> {
    let (images, rejects) = written(dir);
    assert_eq!(images.rows.len() + rejects.len(), n_in, "a row vanished: {rejects:#?}");
    rejects.into_iter().map(|reject| (reject.path.unwrap_or_default(), reject.kind)).collect()
}

#[test]
fn the_columns_of_the_table_and_of_the_files_arrive() {
    let dir = with_three_images();
    let table =
        "name,mos,text,who,sd,kind,path\na.png,1.5,\"one, two\",G,0.5,x,7\nb.jpg,5,,,,,\nc.webp,0,three,H,,y,9\n";
    dir.write("t.csv", table);
    let columns = ["--column", "prompt=text", "--column", "generator=who", "--column", "mos_std=sd"];
    ingest(&dir, "t.csv", &columns).exits(0).says("3 images");
    let (images, rejects) = written(&dir);
    assert!(rejects.is_empty());
    let [a, b, c] = &images.rows[..] else { panic!("expected three rows, found {images:#?}") };
    assert_eq!((a.mos, a.mos_std, a.mos_align), (Some(1.5), Some(0.5), None));
    assert_eq!((a.prompt.as_deref(), a.generator.as_deref()), (Some("one, two"), Some("G")));
    assert_eq!((b.prompt.as_deref(), b.generator.as_deref(), b.mos_std), (None, None, None));
    assert_eq!([&a.format, &b.format, &c.format], ["png", "jpeg", "webp"]);
    assert_eq!((a.width_px, a.height_px), (24, 16));
    let bytes = picture(1, ImageFormat::Png);
    assert_eq!(a.n_bytes, bytes.len() as u64);
    assert_eq!(a.image_id.to_string(), blake3::hash(&bytes).to_hex()[..32]);
    assert!(Path::new(&a.path).is_absolute());
    let extra: BTreeMap<&str, &ExtraValues> =
        images.extra.iter().map(|extra| (extra.name.as_str(), &extra.values)).collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(extra["kind"], &ExtraValues::Text(vec![text("x"), None, text("y")]));
    assert_eq!(extra["table_path"], &ExtraValues::Real(vec![Some(7.0), None, Some(9.0)]), "`path` is taken");
    assert_eq!(extra["table_row"], &ExtraValues::Real(vec![Some(1.0), Some(2.0), Some(3.0)]));
}

#[test]
fn every_table_format_gives_the_same_rows() {
    let dir = with_three_images();
    let prompt = "two, \"quoted\"\nlines";
    dir.write("t.csv", "name,mos,prompt\na.png,1.5,\"two, \"\"quoted\"\"\nlines\"\nb.jpg,2,\n");
    dir.write("t.tsv", "name\tmos\tprompt\na.png\t1.5\t\"two, \"\"quoted\"\"\nlines\"\nb.jpg\t2\t\n");
    let rows = [
        serde_json::json!({"name": "a.png", "mos": 1.5, "prompt": prompt}),
        serde_json::json!({"name": "b.jpg", "mos": 2, "prompt": null}),
    ];
    dir.write("t.json", serde_json::to_vec_pretty(&rows).expect("plain data"));
    dir.write("t.jsonl", format!("{}\n{}\n", rows[0], rows[1]));
    dir.write("t.parquet", parquet_table(&["a.png", "b.jpg"], &[1.5, 2.0], &[Some(prompt), None]));
    dir.write("t.xlsx", workbook(&[&["name", "mos", "prompt"], &["a.png", "1.5", prompt], &["b.jpg", "2", ""]]));
    let mut tables = Vec::new();
    for format in ["csv", "tsv", "json", "jsonl", "parquet", "xlsx"] {
        ingest(&dir, &format!("t.{format}"), &["--column", "prompt=prompt"]).exits(0).says("2 images");
        tables.push(written(&dir).0);
    }
    assert_eq!(tables[0].rows[0].prompt.as_deref(), Some(prompt));
    for table in &tables[1..] {
        assert_eq!(table, &tables[0]);
    }
}

fn parquet_table(names: &[&str], mos: &[f32], prompts: &[Option<&str>]) -> Vec<u8> {
    use arrow::array::{ArrayRef, Float32Array, LargeStringArray, RecordBatch, StringArray};
    use std::sync::Arc;
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("name", Arc::new(StringArray::from_iter_values(names)) as ArrayRef, false),
        ("mos", Arc::new(Float32Array::from(mos.to_vec())) as ArrayRef, true),
        ("prompt", Arc::new(LargeStringArray::from(prompts.to_vec())) as ArrayRef, true),
    ])
    .expect("columns of one length");
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a plain schema");
    writer.write(&batch).expect("in memory");
    writer.into_inner().expect("in memory")
}

/// A minimal xlsx workbook: a zip archive of stored files; cells that are numbers are written as such.
fn workbook(rows: &[&[&str]]) -> Vec<u8> {
    let mut sheet = String::new();
    for (row, cells) in rows.iter().enumerate() {
        sheet.push_str(&format!("<row r=\"{}\">", row + 1));
        for (column, cell) in cells.iter().enumerate().filter(|(_, cell)| !cell.is_empty()) {
            let place = format!("{}{}", char::from(b'A' + column as u8), row + 1);
            let escaped = cell.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
            sheet.push_str(&match cell.parse::<f64>() {
                Ok(number) => format!("<c r=\"{place}\"><v>{number}</v></c>"),
                Err(_) => format!("<c r=\"{place}\" t=\"inlineStr\"><is><t>{escaped}</t></is></c>"),
            });
        }
        sheet.push_str("</row>");
    }
    let main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
    let relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
    let package = "http://schemas.openxmlformats.org/package/2006/relationships";
    let types = "http://schemas.openxmlformats.org/package/2006/content-types";
    zip_of(&[
        (
            "[Content_Types].xml",
            format!("<Types xmlns=\"{types}\"><Default Extension=\"xml\" ContentType=\"application/xml\"/></Types>"),
        ),
        (
            "_rels/.rels",
            format!(
                "<Relationships xmlns=\"{package}\"><Relationship Id=\"r1\" Type=\"{relations}/officeDocument\" Target=\"xl/workbook.xml\"/></Relationships>"
            ),
        ),
        (
            "xl/workbook.xml",
            format!(
                "<workbook xmlns=\"{main}\" xmlns:r=\"{relations}\"><sheets><sheet name=\"S\" sheetId=\"1\" r:id=\"r1\"/></sheets></workbook>"
            ),
        ),
        (
            "xl/_rels/workbook.xml.rels",
            format!(
                "<Relationships xmlns=\"{package}\"><Relationship Id=\"r1\" Type=\"{relations}/worksheet\" Target=\"worksheets/sheet1.xml\"/></Relationships>"
            ),
        ),
        ("xl/worksheets/sheet1.xml", format!("<worksheet xmlns=\"{main}\"><sheetData>{sheet}</sheetData></worksheet>")),
    ])
}

/// A zip archive of `files`, stored without compression.
fn zip_of(files: &[(&str, String)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, text) in files {
        let offset = bytes.len() as u32;
        let mut header = Vec::new();
        header.extend_from_slice(&[20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0]); // version, flags, stored, time, date
        header.extend_from_slice(&crc32(text.as_bytes()).to_le_bytes());
        header.extend_from_slice(&(text.len() as u32).to_le_bytes());
        header.extend_from_slice(&(text.len() as u32).to_le_bytes());
        header.extend_from_slice(&(name.len() as u16).to_le_bytes());
        header.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(b"PK\x03\x04");
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(text.as_bytes());
        directory.extend_from_slice(b"PK\x01\x02\x14\x00");
        directory.extend_from_slice(&header);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
    }
    let n_files = files.len() as u16;
    let offset = bytes.len() as u32;
    let n_directory = directory.len() as u32;
    bytes.extend_from_slice(&directory);
    bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    bytes.extend_from_slice(&n_files.to_le_bytes());
    bytes.extend_from_slice(&n_files.to_le_bytes());
    bytes.extend_from_slice(&n_directory.to_le_bytes());
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_do_no_harm() {
    let dir = with_three_images();
    dir.write("t.csv", "\u{FEFF}name,mos\r\na.png,1\r\nb.jpg,2\r\n");
    ingest(&dir, "t.csv", &[]).exits(0);
    assert_eq!(written(&dir).0.rows.len(), 2);
}

#[test]
fn rows_with_bad_cells_are_rejected_with_their_number_and_the_rest_is_kept() {
    let dir = with_three_images();
    let table = "name,mos,sd\n\
        a.png,1,0.1\n\
        b.jpg,good,0.1\n\
        b.jpg,,0.1\n\
        b.jpg,nan,0.1\n\
        b.jpg,5.01,0.1\n\
        b.jpg,1,big\n\
        ,1,0.1\n\
        ../t.csv,1,0.1\n\
        /etc/hostname,1,0.1\n\
        c.webp,1\n\
        ./a.png,1,0.1\n\
        b.jpg,4,nan\n";
    dir.write("t.csv", table);
    ingest(&dir, "t.csv", &["--column", "mos_std=sd"]).exits(1).says("2 images, 10 rejected (3 bad-mos");
    let (images, rejects) = written(&dir);
    let names: Vec<&str> = images.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["a.png", "b.jpg"]);
    assert_eq!(images.rows[1].mos_std, None);
    let found: Vec<(u64, &str)> =
        rejects.iter().map(|reject| (reject.row.unwrap_or(0), reject.kind.as_str())).collect();
    let expected = [
        (2, "bad-mos"),
        (3, "bad-mos"),
        (4, "bad-mos"),
        (5, "mos-out-of-scale"),
        (6, "bad-number"),
        (7, "empty-name"),
        (8, "escapes-folder"),
        (9, "escapes-folder"),
        (10, "ragged-row"),
        (11, "duplicate-name"),
    ];
    assert_eq!(found, expected);
    assert_eq!(rejects[3].message, "`t.csv`, row 5 (line 6): column `mos`: expected a number from 0 to 5, found 5.01");
    assert_eq!(
        rejects[9].message,
        "`t.csv`, row 11 (line 12): column `name`: `./a.png` names the same file as row 1, which is kept"
    );
}

#[test]
fn images_that_cannot_be_used_are_rejected_by_kind() {
    let dir = with_three_images();
    let jpeg = picture(9, ImageFormat::Jpeg);
    dir.write("img/empty.png", "");
    dir.write("img/cut.jpg", &jpeg[..jpeg.len() * 2 / 3]);
    let png = picture(9, ImageFormat::Png);
    dir.write("img/cut.png", &png[..png.len() / 2]);
    dir.write("img/page.jpg", "<html>not found</html>");
    dir.write("img/again.dat", picture(1, ImageFormat::Png));
    dir.write("img/bomb.png", bomb());
    dir.write("img/sub/x.txt", "");
    let names =
        ["a.png", "empty.png", "cut.jpg", "cut.png", "page.jpg", "again.dat", "bomb.png", "sub", "gone.png", "b.jpg"];
    let rows: String = names.iter().map(|name| format!("{name},1\n")).collect();
    dir.write("t.csv", format!("name,mos\n{rows}"));
    ingest(&dir, "t.csv", &[])
        .exits(1)
        .says("2 images, 8 rejected")
        .says("all listed in `rejects/stage=ingest/part-d.parquet`");
    let expected = [
        ("again.dat", "duplicate-image"),
        ("bomb.png", "too-large"),
        ("cut.jpg", "truncated"),
        ("cut.png", "truncated"),
        ("empty.png", "empty"),
        ("gone.png", "missing"),
        ("page.jpg", "not-an-image"),
        ("sub", "unreadable"),
    ];
    assert_eq!(kinds(&dir, names.len()), expected.map(|(name, kind)| (name.to_owned(), kind.to_owned())).into());
    let again = written(&dir).1.into_iter().find(|reject| reject.kind == "duplicate-image").expect("rejected above");
    assert!(again.message.contains("`again.dat`") && again.message.contains("`a.png` of row 1"), "{}", again.message);
    assert_eq!(again.image_id, Some(written(&dir).0.rows[0].image_id));
}

/// A PNG header that claims 60,000 × 60,000 pixels.
fn bomb() -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend_from_slice(&60_000_u32.to_be_bytes());
    header.extend_from_slice(&60_000_u32.to_be_bytes());
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0D".to_vec();
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&crc32(&header).to_be_bytes());
    bytes.extend_from_slice(b"\0\0\0\0IDAT\x35\xAF\x06\x1E");
    bytes
}

#[test]
fn unusual_but_valid_images_are_kept() {
    let dir = TestDir::new();
    let rgb = RgbImage::from_fn(9, 7, |x, y| Rgb([(x * 20) as u8, (y * 30) as u8, 5]));
    let image = DynamicImage::from(rgb);
    dir.write("img/grey.png", encoded(&image.to_luma8().into(), ImageFormat::Png));
    dir.write("img/grey.jpg", encoded(&image.to_luma8().into(), ImageFormat::Jpeg));
    dir.write("img/deep.png", encoded(&image.to_rgb16().into(), ImageFormat::Png));
    dir.write("img/alpha.png", encoded(&image.to_rgba8().into(), ImageFormat::Png));
    dir.write("img/palette.gif", encoded(&image.to_rgba8().into(), ImageFormat::Gif));
    dir.write("img/cmyk.jpg", cmyk_jpeg());
    dir.write("img/turned.jpg", with_exif_rotation(&encoded(&image, ImageFormat::Jpeg)));
    let names = ["grey.png", "grey.jpg", "deep.png", "alpha.png", "palette.gif", "cmyk.jpg", "turned.jpg"];
    let rows: String = names.iter().map(|name| format!("{name},1\n")).collect();
    dir.write("t.csv", format!("name,mos\n{rows}"));
    ingest(&dir, "t.csv", &[]).exits(0).says("7 images");
    let turned = &written(&dir).0.rows[6];
    assert_eq!((turned.width_px, turned.height_px), (9, 7), "pixels count as they are stored");
}

/// A CMYK JPEG of 16 × 8 pixels, 20 % cyan and nothing else, with Adobe's marker and hence inverted values.
fn cmyk_jpeg() -> Vec<u8> {
    let mut compress = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_CMYK);
    compress.set_size(16, 8);
    compress.set_quality(95.0);
    let mut started = compress.start_compress(Vec::new()).expect("in memory");
    started.write_scanlines(&[204, 255, 255, 255].repeat(16 * 8)).expect("in memory");
    started.finish().expect("in memory")
}

/// `jpeg` with an EXIF block that asks viewers to turn it by 90 degrees.
fn with_exif_rotation(jpeg: &[u8]) -> Vec<u8> {
    let exif = b"Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend_from_slice(&[0xFF, 0xE1]);
    bytes.extend_from_slice(&(exif.len() as u16 + 2).to_be_bytes());
    bytes.extend_from_slice(exif);
    bytes.extend_from_slice(&jpeg[2..]);
    bytes
}

#[test]
fn a_cmyk_jpeg_has_the_colours_that_pillow_gives_it() {
    let (info, image) = decode(&cmyk_jpeg(), &DecodeLimits::default()).expect("a valid file");
    assert_eq!((info.width_px, info.height_px), (16, 8));
    assert_eq!(image.pixels[..3], [204, 255, 255]);
}

#[test]
fn a_missing_column_names_those_there_are_and_the_nearest() {
    let dir = with_three_images();
    dir.write("t.csv", "name,MOS,prompt\na.png,1,x\n");
    ingest(&dir, "t.csv", &[]).exits(2).says(
        "MOS table `t.csv` has no column `mos` (for `mos`); there are: `name`, `MOS`, `prompt`; did you mean `MOS`?",
    );
}

#[test]
fn a_table_without_data_rows_is_an_error() {
    let dir = with_three_images();
    for text in ["name,mos\n", "name,mos", "", "\n\n"] {
        dir.write("t.csv", text);
        ingest(&dir, "t.csv", &[]).exits(2).says("t.csv");
    }
    dir.write("t.json", "[]");
    ingest(&dir, "t.json", &[]).exits(2).says("has no data rows");
}

#[test]
fn one_row_is_enough() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\nb.jpg,3");
    ingest(&dir, "t.csv", &[]).exits(0).says("1 images");
}

#[test]
fn where_every_row_is_rejected_the_table_is_empty_and_says_so() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\nx.png,3\ny.png,3\n");
    ingest(&dir, "t.csv", &[]).exits(1).says("0 images, 2 rejected (2 missing)").says("every row was rejected");
    assert_eq!(kinds(&dir, 2).len(), 2);
}

#[test]
fn tables_that_are_no_tables_are_errors_that_say_why() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\na.png,\"1\nb.jpg,2\n");
    ingest(&dir, "t.csv", &[]).exits(2).says("the quote opened in the row that starts in line 2 is never closed");
    dir.write("u.csv", b"\xFF\xFEn\0a\0m\0e\0");
    ingest(&dir, "u.csv", &[]).exits(2).says("UTF-16");
    dir.write("t.txt", "name,mos\na.png,1\n");
    ingest(&dir, "t.txt", &[]).exits(2).says("name it with `format`");
    ingest(&dir, "t.txt", &["--format", "csv"]).exits(0);
    dir.write("t.parquet", "PAR1");
    ingest(&dir, "t.parquet", &[]).exits(2).says("not valid Parquet");
    dir.write("t.xlsx", "PK");
    ingest(&dir, "t.xlsx", &[]).exits(2).says("not a valid xlsx workbook");
    dir.write("t.json", "{\"name\": 1");
    ingest(&dir, "t.json", &[]).exits(2).says("not valid JSON");
    ingest(&dir, "absent.csv", &[]).exits(2).says("cannot read MOS table `absent.csv`");
}

#[test]
fn settings_that_make_no_sense_are_errors_that_say_what_is_needed() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\na.png,1\n");
    let plain =
        ["ingest", "--adapter", "generic", "--dataset", "d", "--table", "t.csv", "--images", "img", "--store", "s"];
    let with = |more: &[&'static str]| dir.agiqa(&[&plain[..], more].concat());
    with(&[]).exits(2).says("`mos_scale`: is required");
    with(&["--mos-scale", "0..5"]).exits(2).says("`columns.name`: is required");
    with(&["--mos-scale", "5..0"]).exits(2).says("ascending order");
    with(&["--mos-scale", "5"]).exits(2).says("`0..5`");
    with(&["--column", "mso=mos"]).exits(2).says("did you mean `mos`?");
    with(&["--generator", "before=_"]).exits(2).says("before-first=TEXT");
    ingest(&dir, "t.csv", &["--images", "img"]).exits(2);
    let other = ["ingest", "--adapter", "aigcqa-20k", "--table", "t.csv", "--images", "nowhere", "--store", "s"];
    dir.write("t.csv", "name,mos,prompt\na.png,1,\n");
    dir.agiqa(&other).exits(2).says("cannot open image folder `nowhere`");
}

#[test]
fn generators_and_other_columns_follow_from_names() {
    let dir = TestDir::new();
    dir.write("img/x/sd_low_01.png", picture(1, ImageFormat::Png));
    dir.write("img/y/plain.png", picture(2, ImageFormat::Png));
    dir.write("t.csv", "name,mos\nx/sd_low_01.png,1\ny/plain.png,1\n");
    let rules =
        ["--generator", "before-last=_", "--derive", "folder=parent-folder", "--derive", "model=before-first=_"];
    ingest(&dir, "t.csv", &rules).exits(0);
    let (images, _) = written(&dir);
    assert_eq!(images.rows[0].generator.as_deref(), Some("sd_low"));
    assert_eq!(images.rows[1].generator, None);
    assert_eq!(images.column_text("folder"), Some(vec![Some("x".to_owned()), Some("y".to_owned())]));
    assert_eq!(images.column_text("model"), Some(vec![Some("sd".to_owned()), None]));
}

#[test]
fn an_unchanged_dataset_is_skipped_and_any_change_is_noticed() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\na.png,1\nb.jpg,2\nlater.png,3\n");
    ingest(&dir, "t.csv", &[]).exits(1).says("ingest d: not ingested yet").says("2 images, 1 rejected");
    ingest(&dir, "t.csv", &[]).exits(1).says("ingest d: skipped: nothing changed: 2 images, 1 rejected");
    ingest(&dir, "t.csv", &["--force"]).exits(1).says("asked for in any case");
    dir.write("img/later.png", picture(7, ImageFormat::Png));
    ingest(&dir, "t.csv", &[]).exits(0).says("image files changed").says("3 images");
    assert!(written(&dir).1.is_empty(), "the rejects are those of the last ingest");
    dir.write("t.csv", "name,mos\na.png,1\nb.jpg,2\n");
    ingest(&dir, "t.csv", &[]).exits(0).says("the MOS table changed").says("2 images");
    ingest(&dir, "t.csv", &["--max-pixels", "100"]).exits(1).says("the settings changed").says("2 too-large");
    ingest(&dir, "t.csv", &[]).exits(0).says("the settings changed");
    let part = dir.path().join("store/images/dataset=d/part-0.parquet");
    let bytes = std::fs::read(&part).expect("the part");
    std::fs::write(&part, &bytes[..bytes.len() / 2]).expect("writable");
    ingest(&dir, "t.csv", &[]).exits(0).says("the `images` table cannot be read").says("2 images");
    ingest(&dir, "t.csv", &[]).exits(0).says("skipped");
}

#[test]
fn rows_keep_the_order_of_the_table_whatever_the_number_of_threads() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\nc.webp,1\na.png,1\nb.jpg,2\n");
    for threads in ["1", "3"] {
        ingest(&dir, "t.csv", &["--force", "--threads", threads]).exits(0);
        let names: Vec<String> = written(&dir).0.rows.into_iter().map(|row| row.name).collect();
        assert_eq!(names, ["c.webp", "a.png", "b.jpg"]);
    }
}

#[test]
fn two_ingests_into_one_store_at_once_both_arrive() {
    let dir = TestDir::new();
    let mut table = "name,mos\n".to_owned();
    for seed in 0..40 {
        dir.write(&format!("img/{seed}.png"), picture(seed, ImageFormat::Png));
        table.push_str(&format!("{seed}.png,1\n"));
    }
    dir.write("t.csv", table);
    let start = |name: &str, adapter_args: &[&str]| {
        let args = [&GENERIC[..], &["t.csv"], adapter_args].concat();
        let args: Vec<&str> = args.into_iter().map(|arg| if arg == "d" { name } else { arg }).collect();
        dir.command(&args).stderr(std::process::Stdio::null()).spawn().expect("agiqa can be started")
    };
    let running = [start("d", &[]), start("e", &[]), start("d", &["--force"]), start("d", &["--force"])];
    for mut child in running {
        assert_eq!(child.wait().expect("a child of this process").code(), Some(0));
    }
    let store = open(&dir);
    for name in ["d", "e"] {
        assert_eq!(images::read(&store, &dataset(name)).expect("readable").rows.len(), 40, "{name}");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("store/runs")).expect("records").count(), 4);
}

#[test]
fn what_was_done_is_recorded_with_balanced_counts() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\na.png,1\nb.jpg,9\n");
    let ran = ingest(&dir, "t.csv", &["--json"]).exits(1).prints("\"type\":\"stage\"");
    let event: serde_json::Value = serde_json::from_str(ran.stdout.trim()).expect("one JSON line");
    let rows = serde_json::json!({"n_in": 2, "n_out": 1, "n_cached": 0, "n_rejected": 1, "n_left": 0});
    assert_eq!(event["rows"], rows);
    let runs = std::fs::read_dir(dir.path().join("store/runs")).expect("records");
    let record = runs.flatten().next().expect("one record").path();
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(record).expect("readable")).expect("JSON");
    assert_eq!((&record["exit_code"], &record["stages"][0]["rows"]), (&serde_json::json!(1), &rows));
}

#[test]
fn a_store_that_cannot_be_a_folder_is_an_error() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\na.png,1\n");
    dir.write("store", "a file");
    ingest(&dir, "t.csv", &[]).exits(2).says("cannot open store folder `store`");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_asks_for_a_retry() {
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\na.png,1\n");
    std::fs::create_dir(dir.path().join("small")).expect("a folder");
    // A file system of 64 KiB that only this command sees, and that another file fills.
    let script = "mount -t tmpfs -o size=64k none small || exit 99; head -c 65536 /dev/zero > small/fill; exec \"$@\"";
    let args: Vec<&str> = GENERIC.iter().copied().chain(["t.csv"]).collect();
    let args = args.into_iter().map(|arg| if arg == "store" { "small/store" } else { arg });
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_agiqa")])
        .args(args)
        .current_dir(dir.path())
        .output();
    let output = match output {
        Ok(output) if !matches!(output.status.code(), Some(99)) && !stderr_of(&output).contains("unshare") => output,
        _ => {
            println!("skipped: this machine lets no one mount a small file system");
            return;
        }
    };
    assert_eq!(output.status.code(), Some(75), "{}", stderr_of(&output));
    assert!(stderr_of(&output).contains("No space left on device"), "{}", stderr_of(&output));
}

#[cfg(target_os = "linux")]
fn stderr_of(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends SIGTERM to `child`.
#[cfg(unix)]
fn terminate(child: &std::process::Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a running child");
}

#[cfg(unix)]
#[test]
fn an_interrupted_ingest_exits_130_and_leaves_the_dataset_as_it_was() {
    use std::io::Write;
    let dir = with_three_images();
    dir.write("t.csv", "name,mos\na.png,1\n");
    ingest(&dir, "t.csv", &[]).exits(0);
    // The table is a pipe: agiqa waits for its rows until the signal has arrived for certain.
    let pipe = dir.path().join("pipe.csv");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo exists").success());
    let args = [&GENERIC[..], &["pipe.csv", "--force"]].concat();
    let child = dir.command(&args).stderr(std::process::Stdio::piped()).spawn().expect("agiqa can be started");
    let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe).expect("agiqa opens the other end");
    terminate(&child);
    writer.write_all(b"name,mos\na.png,2\nb.jpg,2\n").expect("agiqa reads");
    drop(writer);
    let output = child.wait_with_output().expect("a child of this process");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("interrupted; the dataset is as it was"), "{stderr}");
    let rows = written(&dir).0.rows;
    assert_eq!((rows.len(), rows[0].mos), (1, Some(1.0)));
}

/// The first `n_rows` rows of a real table, with the header.
fn slice(table: &Path, n_rows: usize) -> Vec<u8> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_path(table).expect("a readable table");
    let mut writer = csv::Writer::from_writer(Vec::new());
    for record in reader.records().take(n_rows + 1) {
        writer.write_record(&record.expect("a whole row")).expect("in memory");
    }
    writer.into_inner().expect("in memory")
}

#[test]
fn a_slice_of_agiqa_3k_arrives_with_its_generators() {
    let (Some(table), Some(folder)) = (shared("datasets/agiqa-3k/data.csv"), shared("datasets/agiqa-3k/images")) else {
        return;
    };
    let dir = TestDir::new();
    dir.write("data.csv", slice(&table, 60));
    let folder = folder.to_str().expect("UTF-8");
    let args = ["ingest", "--adapter", "agiqa-3k", "--table", "data.csv", "--images", folder, "--store", "store"];
    dir.agiqa(&args).exits(0).says("ingest agiqa-3k: ran: 60 images");
    let images = images::read(&open(&dir), &dataset("agiqa-3k")).expect("readable");
    let first = &images.rows[0];
    assert_eq!((first.name.as_str(), first.format.as_str()), ("AttnGAN_normal_000.jpg", "jpeg"));
    assert_eq!((first.width_px, first.height_px, first.prompt.as_deref()), (512, 512, Some("statue of a man")));
    assert_eq!((first.mos, first.mos_std, first.mos_align), (Some(0.965602553), Some(0.223270101), Some(0.40889324)));
    assert_eq!(first.generator.as_deref(), Some("AttnGAN_normal"));
    assert_eq!(images.column_text("generator_model").expect("derived")[0].as_deref(), Some("AttnGAN"));
    let extra: Vec<&str> = images.extra.iter().map(|extra| extra.name.as_str()).collect();
    assert_eq!(extra, ["table_row", "generator_model", "adj1", "adj2", "style", "std_align"]);
}

#[test]
fn aigcqa_20k_without_images_is_rejected_row_by_row_in_both_its_forms() {
    let (Some(table), Some(workbook)) =
        (shared("datasets/aigcqa-20k/info_train.csv"), shared("datasets/aigcqa-20k/info_train.xlsx"))
    else {
        return;
    };
    let mut messages = Vec::new();
    for table in [table, workbook] {
        let dir = TestDir::new();
        dir.write("img/DALLE2_0000.png", picture(1, ImageFormat::Png));
        dir.write("img/LCM_SD1.5_0001.png", picture(2, ImageFormat::Png));
        let table = table.to_str().expect("UTF-8");
        let args = ["ingest", "--adapter", "aigcqa-20k", "--table", table, "--images", "img", "--store", "store"];
        dir.agiqa(&args).exits(1).says("rejected (1399");
        let store = open(&dir);
        let images = images::read(&store, &dataset("aigcqa-20k")).expect("readable");
        let rejects = rejects::read(&store, "ingest").expect("readable");
        assert_eq!(images.rows.len() + rejects.len(), 14_000);
        assert!(rejects.iter().all(|reject| reject.kind == "missing"));
        let first = &images.rows[0];
        assert_eq!((first.mos, first.generator.as_deref()), (Some(3.6638868235), Some("DALLE2")));
        messages.push((images.rows.len(), first.prompt.clone(), rejects[13_000].path.clone(), rejects[13_000].row));
    }
    assert_eq!(messages[0], messages[1]);
}

#[test]
fn decoded_pixels_are_those_of_the_reference_decoder() {
    let (Some(expected), Some(folder)) =
        (shared("parity/preprocess_maniqa/expected.json"), shared("datasets/agiqa-3k/images"))
    else {
        return;
    };
    let beside = expected.parent().expect("a file in a folder").to_owned();
    let expected: serde_json::Value = serde_json::from_slice(&read(&expected).expect("readable")).expect("JSON");
    let cases = expected["images"].as_object().expect("an object of images");
    assert!(!cases.is_empty());
    for case in cases.values() {
        let file = case["file"].as_str().expect("a name");
        let root = if case["source"] == "dataset" { &folder } else { &beside };
        let (_, image) = decode(&read(&root.join(file)).expect("readable"), &DecodeLimits::default()).expect("valid");
        assert_eq!(sums(&image.pixels), numbers(&case["decoded_channel_sums"]), "{file}");
    }
    let tensors = read(&beside.join("expected.safetensors")).expect("readable");
    let tensors = safetensors::SafeTensors::deserialize(&tensors).expect("valid");
    for name in ["sd1.5_normal_120", "midjourney_lowstep_077"] {
        let crop = tensors.tensor(&format!("{name}.decoded_crop_u8")).expect("rows and columns 200..264");
        let bytes = read(&folder.join(format!("{name}.jpg"))).expect("readable");
        let (_, image) = decode(&bytes, &DecodeLimits::default()).expect("valid");
        let rows = image.pixels.chunks_exact(3 * 512).skip(200).take(64);
        let found: Vec<u8> = rows.flat_map(|row| &row[3 * 200..3 * 264]).copied().collect();
        assert_eq!(found, crop.data(), "{name}");
    }
    let Some(expected) = shared("parity/handcrafted/expected.json") else { return };
    let expected: serde_json::Value = serde_json::from_slice(&read(&expected).expect("readable")).expect("JSON");
    let cases = expected["images"].as_array().expect("an array of images");
    assert_eq!(cases.len(), 24);
    for case in cases {
        let file = case["name"].as_str().expect("a name");
        let (_, image) = decode(&read(&folder.join(file)).expect("readable"), &DecodeLimits::default()).expect("valid");
        assert_eq!(sums(&image.pixels), numbers(&case["rgb_sum"]), "{file}");
    }
}

fn sums(pixels: &[u8]) -> Vec<u64> {
    (0..3).map(|channel| pixels.iter().skip(channel).step_by(3).map(|value| u64::from(*value)).sum()).collect()
}

fn numbers(value: &serde_json::Value) -> Vec<u64> {
    value.as_array().expect("an array").iter().map(|number| number.as_u64().expect("a count")).collect()
}

#[test]
fn a_damaged_real_file_never_panics() {
    let Some(folder) = shared("datasets/agiqa-3k/images") else { return };
    let path: PathBuf = folder.join("glide_normal_101.jpg");
    let whole = read(&path).expect("readable");
    let mut state = 20_u64;
    for round in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..1 + round % 8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 24) as u8;
        }
        if round % 3 == 0 {
            bytes.truncate((state >> 33) as usize % whole.len() + 1);
        }
        let _ = decode(&bytes, &DecodeLimits::default());
    }
}
