//! MOS tables: formats, columns, cells, settings, and the two real tables.

use super::*;

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

/// A table of ratings in every form.
pub fn of_every_form() -> Vec<Vec<u8>> {
    let csv = b"name,mos,prompt\r\na.png,1.5,\"two, \"\"quoted\"\"\nlines\"\nb.png,NA,x\nc.png,4,\n".to_vec();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&csv).expect("in memory");
    vec![
        gzip.finish().expect("in memory"),
        zstd::encode_all(&csv[..], 0).expect("in memory"),
        "name;mos\na.png;1,5\nb.png;2\n".encode_utf16().flat_map(u16::to_le_bytes).collect(),
        csv,
        br#"{"data": [{"name": "a.png", "mos": NaN, "of": {"x": [1]}}, {"name": "b\ud83d", "mos": 2}]}"#.to_vec(),
        b"{\"name\":\"a.png\",\"mos\":1}\n{\"name\":\"b.png\",\"mos\":2}\n".to_vec(),
        parquet_table(&["a.png", "b.png"], &[1.5, 2.0], &[None, Some("x")]),
        workbook(&[&["name", "mos"], &["a.png", "1.5"], &["b.png", "2"]]),
    ]
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
    crate::testdir::parquet(&batch, None)
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
fn a_missing_column_names_those_there_are_and_the_nearest() {
    let dir = with_three_images();
    dir.write("t.csv", "name,MOS,prompt\na.png,1,x\n");
    ingest(&dir, "t.csv", &[])
        .exits(2)
        .says("table `t.csv` has no column `mos`; the columns are: `name`, `MOS`, `prompt`; did you mean `MOS`?");
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
    dir.write("t.parquet", "PAR1");
    ingest(&dir, "t.parquet", &[]).exits(2).says("not valid Parquet");
    dir.write("t.xlsx", "PK\x03\x04");
    ingest(&dir, "t.xlsx", &[]).exits(2).says("not a valid xlsx workbook");
    dir.write("t.json", "{\"name\": 1");
    ingest(&dir, "t.json", &[]).exits(2).says("not valid JSON");
    ingest(&dir, "absent.csv", &[]).exits(2).says("cannot read table `absent.csv`");
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
    dir.agiqa(&["ingest", "--adapter", "koniq", "--table", "t.csv", "--images", "img", "--store", "s"])
        .exits(2)
        .says("koniq-10k");
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
    let images = images::read(&dir.store(), &dataset("agiqa-3k")).expect("readable");
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
        let store = dir.store();
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
