//! Excel workbooks: sheets, merged cells, formulas, titles, and cells far away.

use super::*;

/// A workbook of `sheets`: name, rows of XML, and what follows them. A sheet without rows is a chart sheet.
fn workbook(sheets: &[(&str, &str, &str)]) -> Vec<u8> {
    let main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
    let documents = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
    let package = "http://schemas.openxmlformats.org/package/2006/relationships";
    let types = "http://schemas.openxmlformats.org/package/2006/content-types";
    let relation = |n: usize, kind: &str, target: &str| {
        format!("<Relationship Id=\"r{n}\" Type=\"{documents}/{kind}\" Target=\"{target}\"/>")
    };
    let mut files = vec![
        ("[Content_Types].xml".to_owned(), format!("<Types xmlns=\"{types}\"/>")),
        (
            "_rels/.rels".to_owned(),
            format!(
                "<Relationships xmlns=\"{package}\">{}</Relationships>",
                relation(1, "officeDocument", "xl/workbook.xml")
            ),
        ),
    ];
    let (mut names, mut relations) = (String::new(), String::new());
    for (at, (name, rows, behind)) in sheets.iter().enumerate() {
        let n = at + 1;
        names.push_str(&format!("<sheet name=\"{name}\" sheetId=\"{n}\" r:id=\"r{n}\"/>"));
        if rows.is_empty() {
            relations.push_str(&relation(n, "chartsheet", &format!("chartsheets/sheet{n}.xml")));
            files.push((format!("xl/chartsheets/sheet{n}.xml"), format!("<chartsheet xmlns=\"{main}\"/>")));
        } else {
            relations.push_str(&relation(n, "worksheet", &format!("worksheets/sheet{n}.xml")));
            let sheet = format!("<worksheet xmlns=\"{main}\"><sheetData>{rows}</sheetData>{behind}</worksheet>");
            files.push((format!("xl/worksheets/sheet{n}.xml"), sheet));
        }
    }
    let workbook = format!("<workbook xmlns=\"{main}\" xmlns:r=\"{documents}\"><sheets>{names}</sheets></workbook>");
    files.push(("xl/workbook.xml".to_owned(), workbook));
    let relations = format!("<Relationships xmlns=\"{package}\">{relations}</Relationships>");
    files.push(("xl/_rels/workbook.xml.rels".to_owned(), relations));
    zip_of(&files.iter().map(|(name, text)| (name.as_str(), text.clone())).collect::<Vec<_>>())
}

/// A row of cells at places such as `B2`; numbers are numbers, `=…` is a formula without a value.
fn row(n: usize, cells: &[(&str, &str)]) -> String {
    let cell = |(column, text): &(&str, &str)| match (text.strip_prefix('='), text.parse::<f64>()) {
        (Some(formula), _) => format!("<c r=\"{column}{n}\"><f>{formula}</f><v/></c>"),
        (None, Ok(number)) => format!("<c r=\"{column}{n}\"><v>{number}</v></c>"),
        (None, Err(_)) => format!("<c r=\"{column}{n}\" t=\"inlineStr\"><is><t>{text}</t></is></c>"),
    };
    format!("<row r=\"{n}\">{}</row>", cells.iter().map(cell).collect::<String>())
}

fn table() -> String {
    let rows = [("a.png", "1.5"), ("b.jpg", "2.25"), ("c.webp", "3")];
    let data = rows.iter().enumerate().map(|(at, (name, mos))| row(at + 2, &[("A", name), ("B", mos)]));
    row(1, &[("A", "name"), ("B", "mos")]) + &data.collect::<String>()
}

#[test]
fn a_cell_in_the_last_corner_costs_nothing_and_is_named() {
    let dir = with_three_images();
    dir.write("t.xlsx", workbook(&[("S", &(table() + &row(1_048_576, &[("XFD", "x")])), "")]));
    ingest(&dir, "t.xlsx", &[]).exits(0).says("3 images").says("the first is XFD1048576");
    let header = row(1, &[("A", "name"), ("B", "mos"), ("XFD", "far")]);
    dir.write("t.xlsx", workbook(&[("S", &table().replace(&row(1, &[("A", "name"), ("B", "mos")]), &header), "")]));
    ingest(&dir, "t.xlsx", &[]).exits(0).says("3 images");
    dir.write("t.xlsx", workbook(&[("S", &(table() + &row(900_000, &[("A", "x")])), "")]));
    ingest(&dir, "t.xlsx", &[]).exits(1).says("3 images, 1 rejected (1 bad-mos)");
}

#[test]
fn the_first_sheet_with_a_table_is_read_and_the_others_are_named() {
    let dir = with_three_images();
    let note = row(1, &[("A", "see the other sheet")]);
    let columns: &[&str] = &["--sheet", "scores"];
    dir.write("t.xlsx", workbook(&[("README", &note, ""), ("scores", &table(), "")]));
    ingest(&dir, "t.xlsx", &[]).exits(2).says("this is sheet `README`, and `--sheet` chooses another: `scores`");
    ingest(&dir, "t.xlsx", columns).exits(0).says("3 images");
    ingest(&dir, "t.xlsx", &["--sheet", "score"]).exits(2).says("the sheets are: `README`, `scores`");
    dir.write("t.xlsx", workbook(&[("chart", "", ""), ("scores", &table(), "")]));
    ingest(&dir, "t.xlsx", &[]).exits(0).says("3 images");
    let blank = row(1, &[]);
    dir.write("t.xlsx", workbook(&[("blank", &blank, ""), ("scores", &table(), "")]));
    ingest(&dir, "t.xlsx", &[]).exits(0).says("read sheet `scores`; the others are `blank`");
}

#[test]
fn a_merged_cell_counts_for_every_row_that_it_spans() {
    let rows = row(1, &[("A", "generator"), ("B", "name"), ("C", "mos")])
        + &row(2, &[("A", "SD"), ("B", "a.png"), ("C", "1")])
        + &row(3, &[("B", "b.jpg"), ("C", "2")])
        + &row(4, &[("B", "c.webp"), ("C", "3")]);
    let merged = "<mergeCells count=\"2\"><mergeCell ref=\"A2:A3\"/><mergeCell ref=\"E9:XFD1048576\"/></mergeCells>";
    let dir = with_three_images();
    dir.write("t.xlsx", workbook(&[("S", &rows, merged)]));
    ingest(&dir, "t.xlsx", &["--column", "generator=generator"]).exits(0);
    let generators: Vec<Option<String>> = written(&dir).0.rows.into_iter().map(|row| row.generator).collect();
    assert_eq!(generators, [Some("SD".to_owned()), Some("SD".to_owned()), None]);
}

#[test]
fn a_title_above_the_header_is_skipped_and_a_formula_without_value_is_named() {
    let dir = with_three_images();
    let rows = row(1, &[("A", "Pilot study 2024")])
        + &row(2, &[("A", "name"), ("B", "r1"), ("C", "mos")])
        + &row(3, &[("A", "a.png"), ("B", "1.5"), ("C", "=B3*2")])
        + &row(5, &[("A", "b.jpg"), ("B", "2"), ("C", "3")]);
    let merged = "<mergeCells count=\"1\"><mergeCell ref=\"A1:C1\"/></mergeCells>";
    dir.write("t.xlsx", workbook(&[("S", &rows, merged)]));
    ingest(&dir, "t.xlsx", &[])
        .exits(1)
        .says("the row `Pilot study 2024` was taken for a title")
        .says("1 formula has no stored value, the first in cell C3")
        .says("1 images, 1 rejected (1 bad-mos)");
    let (_, rejects) = written(&dir);
    assert!(rejects[0].message.contains("row 1 (sheet row 3)"), "{}", rejects[0].message);
}

#[test]
fn a_sheet_without_a_header_is_read_by_number() {
    let dir = with_three_images();
    let rows = row(1, &[("A", "a.png"), ("B", "1.5")]) + &row(2, &[("A", "b.jpg"), ("B", "2")]);
    dir.write("t.xlsx", workbook(&[("S", &rows, "")]));
    ingest(&dir, "t.xlsx", &[]).exits(2).says("`--no-header` reads it as a row");
    let args = GENERIC.map(|arg| match arg {
        "name=name" => "name=1",
        "mos=mos" => "mos=2",
        arg => arg,
    });
    let args: Vec<&str> = args.into_iter().chain(["t.xlsx", "--no-header"]).collect();
    dir.agiqa(&args).exits(0).says("2 images");
}
