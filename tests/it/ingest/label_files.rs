//! Label files of known datasets, as they are published, with invented values.

use super::*;

fn pictures(names: &[&str]) -> TestDir {
    let dir = TestDir::new();
    for (seed, name) in names.iter().enumerate() {
        dir.write(&format!("img/{name}"), picture(seed as u8, ImageFormat::Png));
    }
    dir
}

/// Ingests `table` with `adapter` and gives names and MOS.
#[track_caller]
fn adapted(dir: &TestDir, adapter: &str, table: &str, more: &[&str]) -> Vec<(String, f64)> {
    let args =
        ["ingest", "--dataset", "d", "--images", "img", "--store", "store", "--adapter", adapter, "--table", table];
    dir.agiqa(&[&args, more].concat()).exits(0);
    let rows = written(dir).0.rows;
    rows.into_iter().map(|row| (row.name, row.mos.expect("a MOS"))).collect()
}

fn named(name: &str, mos: f64) -> (String, f64) {
    (name.to_owned(), mos)
}

#[test]
fn a_list_without_a_header_is_read_by_number_and_a_header_of_data_is_warned_of() {
    let dir = pictures(&["00000.png", "00001.png"]);
    let args = |table: &'static str, name: &'static str, mos: &'static str, more: &[&'static str]| {
        let generic = ["--column", name, "--column", mos, "--mos-scale", "0..5", "--table", table];
        let all = [
            &["ingest", "--adapter", "generic", "--dataset", "d", "--images", "img", "--store", "store"],
            &generic[..],
            more,
        ];
        dir.agiqa(&all.concat())
    };
    for (file, text) in [
        ("a.csv", "00000.png,0.81\r\n00001.png,0.80\r\n"),
        ("b.txt", "00000.png, 0.81\n00001.png, 0.80\n"),
        ("c.txt", "00000.png\t0.81\n00001.png\t0.80\n"),
        ("d.txt", "00000.png 0.81\n00001.png 0.80\n"),
    ] {
        dir.write(file, text);
        args(file, "name=1", "mos=2", &["--no-header", "--force"]).exits(0).says("2 images");
        args(file, "name=1", "mos=2", &["--force"]).exits(0).says("1 images").says("was read as the header");
        args(file, "name=name", "mos=mos", &[]).exits(2).says("`--no-header` reads it as a row");
    }
    dir.write("one.csv", "00000.png,0.81\n");
    args("one.csv", "name=1", "mos=2", &[]).exits(2).says("has no data rows; the first row looks like data");
    dir.write("e.csv", "image,3\n00000.png,4\n");
    args("e.csv", "name=image", "mos=2", &["--force"]).exits(0).says("was read as the header");
}

#[test]
fn lists_of_text_are_read_as_published() {
    let dir = pictures(&["I01_01_1.png", "i02.bmp"]);
    dir.write("dmos.csv", "dist_img,ref_img,dmos,var\nI01_01_1.png,I01.png,4.57,0.5\ni02.bmp,I02.png,1.1,0.2\n");
    assert_eq!(adapted(&dir, "kadid-10k", "dmos.csv", &[]), [named("I01_01_1.png", 4.57), named("i02.bmp", 1.1)]);
    dir.write("mos_with_names.txt", "5.51429 I01_01_1.png\r\n0.10000 i02.bmp\r\n");
    let tid = adapted(&dir, "tid2013", "mos_with_names.txt", &[]);
    assert_eq!(tid, [named("I01_01_1.png", 5.51429), named("i02.bmp", 0.1)]);
    dir.write("A0001.txt", "I01_01_1.png,1527.9848\ni02.bmp,1437.0798\n");
    assert_eq!(adapted(&dir, "pipal", "A0001.txt", &[])[0], named("I01_01_1.png", 1527.9848));
    let koniq = "\"image_name\",\"c1\",\"c2\",\"c3\",\"c4\",\"c5\",\"c_total\",\"MOS\",\"SD\",\"MOS_zscore\"\n\
                 \"I01_01_1.png\",0,0,25,73,7,105,3.828,0.527,77.38\n\"i02.bmp\",0,3,45,47,1,96,3.479,NA,68.03\n";
    dir.write("koniq10k_scores_and_distributions.csv", koniq);
    let mos = adapted(&dir, "koniq-10k", "koniq10k_scores_and_distributions.csv", &[]);
    assert_eq!(mos, [named("I01_01_1.png", 3.828), named("i02.bmp", 3.479)]);
    assert_eq!(written(&dir).0.rows[0].mos_std, Some(0.527));
    dir.write("labels_image.csv", "name,mos,mos_patch_1,is_valid\nI01_01_1.png,77.5,70.1,True\ni02.bmp,61.2,,False\n");
    assert_eq!(adapted(&dir, "paq-2-piq", "labels_image.csv", &[])[1], named("i02.bmp", 61.2));
    let list = r#"[{"id": "a->3.4", "image": "I01_01_1.png", "gt_score": 3.46,
        "conversations": [{"from": "human", "value": "<|image|>?"}]}, {"image": "i02.bmp", "gt_score": 2.0}]"#;
    dir.write("test_koniq.json", list);
    let q_align = adapted(&dir, "q-align", "test_koniq.json", &["--mos-scale", "1..5"]);
    assert_eq!(q_align, [named("I01_01_1.png", 3.46), named("i02.bmp", 2.0)]);
    dir.write("agin.csv", "filename,MOS_nat,MOS_tech,MOS_rat\nI01_01_1.png,3.2,3,4\ni02.bmp,2.5,2,3\n");
    assert_eq!(adapted(&dir, "agin", "agin.csv", &["--mos-scale", "0..5"])[1], named("i02.bmp", 2.5));
}

#[test]
fn pku_i2iqa_is_read_as_published_with_its_generators() {
    let dir = pictures(&["SD_animal_1.png", "MJ_animal_1.png"]);
    dir.write(
        "I2IQA_annotation.csv",
        "Image_prompt,Generated_image,MOS_q,MOS_a,MOS_c\np1.png,SD_animal_1.png,1.71,1.4086,3.5814\n\
         p1.png,MJ_animal_1.png,4.278,4.13,4.211\n",
    );
    let mos = adapted(&dir, "pku-i2iqa", "I2IQA_annotation.csv", &[]);
    assert_eq!(mos, [named("SD_animal_1.png", 1.71), named("MJ_animal_1.png", 4.278)]);
    let rows = written(&dir).0.rows;
    assert_eq!((rows[0].generator.as_deref(), rows[1].generator.as_deref()), (Some("SD"), Some("MJ")));
    assert_eq!(rows[1].mos_align, Some(4.211));
}

#[test]
fn names_that_a_dataset_does_not_write_are_made() {
    let dir = pictures(&["awgn/1600.AWGN.1.png", "jpeg2000/trolley.jpeg2000.5.png", "DatabaseImage0007.JPG"]);
    dir.write(
        "csiq.csv",
        "image,dst_idx,dst_type,dst_lev,dmos_std,dmos\n1600,1,noise,1,0.1,0.062\ntrolley,5,jpeg 2000,5,0.1,0.9\n",
    );
    let csiq = adapted(&dir, "csiq", "csiq.csv", &[]);
    assert_eq!(csiq[0], named("awgn/1600.AWGN.1.png", 1.0 - 0.062));
    assert_eq!(csiq[1].0, "jpeg2000/trolley.jpeg2000.5.png");
    dir.write("DatabaseGrades.csv", "Image Number,Average Subjective Grade,std\n7,2.65,0.9\n");
    assert_eq!(adapted(&dir, "bid", "DatabaseGrades.csv", &[]), [named("DatabaseImage0007.JPG", 2.65)]);
    dir.write("spaq.csv", "Image name,MOS,Brightness\nDatabaseImage0007.JPG,41.5,50\n");
    assert_eq!(adapted(&dir, "spaq", "spaq.csv", &[]), [named("DatabaseImage0007.JPG", 41.5)]);
}

#[test]
fn labels_of_matlab_are_columns() {
    let dir = pictures(&["0.png", "1.png", "t1.bmp", "3.bmp"]);
    dir.write("mosz1.mat", mat(&[("MOSz", numbers(&[52.1, 61.9]))]));
    assert_eq!(adapted(&dir, "aigciqa2023", "mosz1.mat", &[]), [named("0.png", 52.1), named("1.png", 61.9)]);
    dir.write("AllImages_release.mat", mat(&[("AllImages_release", cells(&["t1.bmp", "3.bmp"]))]));
    dir.write("AllMOS_release.mat", mat(&[("AllMOS_release", numbers(&[63.9, 35.2]))]));
    dir.write("AllStdDev_release.mat", mat(&[("AllStdDev_release", numbers(&[18.1, 19.2]))]));
    let live_itw = adapted(&dir, "live-itw", "AllMOS_release.mat", &[]);
    assert_eq!(live_itw, [named("t1.bmp", 63.9), named("3.bmp", 35.2)]);
    assert_eq!(written(&dir).0.rows[1].mos_std, Some(19.2));
    dir.write("AllStdDev_release.mat", mat(&[("AllStdDev_release", numbers(&[18.1]))]));
    let args = ["ingest", "--images", "img", "--store", "s", "--adapter", "live-itw", "--table", "AllMOS_release.mat"];
    dir.agiqa(&args).exits(2).says("it has 2 rows, and `AllStdDev_release.mat` has 1");
    let dir = TestDir::new();
    for (seed, name) in ["jp2k/img1.bmp", "jp2k/img227.bmp", "jpeg/img1.bmp"].iter().enumerate() {
        dir.write(&format!("img/{name}"), picture(seed as u8, ImageFormat::Png));
    }
    let dmos: Vec<f64> = (0..228).map(f64::from).map(|n| n / 4.0).collect();
    dir.write("dmos.mat", mat(&[("dmos", numbers(&dmos)), ("orgs", numbers(&vec![0.0; 228]))]));
    let args =
        ["ingest", "--dataset", "d", "--images", "img", "--store", "store", "--adapter", "live", "--table", "dmos.mat"];
    dir.agiqa(&args).exits(1).says("3 images, 225 rejected (225 missing)");
    let rows = written(&dir).0.rows;
    assert_eq!((rows[1].name.as_str(), rows[1].mos), ("jp2k/img227.bmp", Some(100.0 - 226.0 / 4.0)));
    assert_eq!(rows[2].name, "jpeg/img1.bmp");
}

/// Class, number of rows and data of a MATLAB variable.
type Content = (u8, usize, Vec<u8>);

/// A MATLAB v5 file of variables: name and content.
fn mat(variables: &[(&str, Content)]) -> Vec<u8> {
    let mut bytes = b"MATLAB 5.0 MAT-file".to_vec();
    bytes.resize(126, b' ');
    bytes.extend(b"IM");
    for (name, content) in variables {
        bytes.extend(matrix(name, content));
    }
    bytes
}

fn element(ty: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = [ty.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn matrix(name: &str, (class, n, data): &(u8, usize, Vec<u8>)) -> Vec<u8> {
    let size = [1_u32.to_le_bytes(), (*n as u32).to_le_bytes()].concat();
    element(
        14,
        &[element(6, &[*class, 0, 0, 0, 0, 0, 0, 0]), element(5, &size), element(1, name.as_bytes()), data.clone()]
            .concat(),
    )
}

fn numbers(values: &[f64]) -> (u8, usize, Vec<u8>) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    (6, values.len(), element(9, &bytes))
}

fn cells(texts: &[&str]) -> (u8, usize, Vec<u8>) {
    let units = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let cell = |text: &&str| matrix("", &(4, text.len(), element(4, &units(text))));
    (1, texts.len(), texts.iter().flat_map(cell).collect())
}
