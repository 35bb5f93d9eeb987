//! `agiqa ingest`: what becomes of every kind of row, table and image, through the command line.

mod forms;
mod image_files;
mod label_files;
mod names;
mod runs;
mod tables;
mod workbooks;

use std::collections::BTreeMap;
use std::io::{Cursor, Write as _};
use std::path::Path;

use agiqa_images::{DecodeLimits, decode, read};
use agiqa_store::tables::images::{ExtraValues, Images};
use agiqa_store::tables::rejects::RejectRow;
use agiqa_store::tables::{PartitionName, images, rejects};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

pub use tables::of_every_form;

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

/// The table and the rejects of dataset `d`.
fn written(dir: &TestDir) -> (Images, Vec<RejectRow>) {
    let store = dir.store();
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

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// A zip archive of `files`, stored without compression.
fn zip_of(files: &[(&str, String)]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, text) in files {
        archive.start_file(*name, stored).expect("in memory");
        archive.write_all(text.as_bytes()).expect("in memory");
    }
    archive.finish().expect("in memory").into_inner()
}
