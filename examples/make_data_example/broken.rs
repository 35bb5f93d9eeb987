//! The second table, `broken.csv`, and the folder `broken/`: one row for each thing that goes wrong with real ones.

use super::random::Rng;
use super::render::{Damage, render};
use super::scene::{Scene, Subject};
use super::{COLUMNS, jpeg, png};
use image::{DynamicImage, RgbImage};
use std::{fs, path::Path};

/// Writes the table and its images.
///
/// The table starts with a byte order mark and ends its lines with CR LF, as spreadsheets write them, and a prompt has a
/// line break in it; these three are no errors.
pub fn write(root: &Path, seed: u64) -> anyhow::Result<()> {
    let folder = root.join("broken");
    fs::create_dir_all(&folder)?;
    let picture = |subject, k: u64| draw(subject, seed + k);

    let sound = jpeg(&picture(Subject::House, 0), 85)?;
    fs::write(folder.join("sound_000.jpg"), &sound)?;
    fs::write(folder.join("samebytes_001.jpg"), &sound)?;
    fs::write(folder.join("empty_002.jpg"), [])?;
    let whole = jpeg(&picture(Subject::Sea, 1), 85)?;
    fs::write(folder.join("truncated_003.jpg"), &whole[..whole.len() * 2 / 5])?;
    fs::write(folder.join("text_004.jpg"), "This file holds a sentence and is called .jpg all the same.\n")?;
    fs::write(folder.join("nomos_005.jpg"), jpeg(&picture(Subject::Flowers, 2), 85)?)?;
    fs::write(folder.join("offscale_006.jpg"), jpeg(&picture(Subject::City, 3), 85)?)?;
    fs::write(root.join("secret.jpg"), jpeg(&picture(Subject::Shapes, 4), 85)?)?;

    let rgb = DynamicImage::ImageRgb8(picture(Subject::Portrait, 5));
    fs::write(folder.join("sixteenbit_008.png"), png(&DynamicImage::ImageRgb16(rgb.to_rgb16()))?)?;
    let rgb = DynamicImage::ImageRgb8(picture(Subject::Landscape, 6));
    fs::write(folder.join("grey_009.png"), png(&DynamicImage::ImageLuma8(rgb.to_luma8()))?)?;
    fs::write(folder.join("palette_010.png"), palette_png(&picture(Subject::StillLife, 7)))?;
    let mut rgba = DynamicImage::ImageRgb8(picture(Subject::Flowers, 8)).to_rgba8();
    for (column, row, pixel) in rgba.enumerate_pixels_mut() {
        pixel[3] = if (column / 16 + row / 16) % 2 == 0 { 255 } else { 90 };
    }
    fs::write(folder.join("alpha_011.png"), png(&DynamicImage::ImageRgba8(rgba))?)?;

    let rows = [
        ("sound_000.jpg", "a house, nothing wrong with it", "3.10"),
        ("samebytes_001.jpg", "the same house under another name", "3.05"),
        ("empty_002.jpg", "a file of no bytes", "2.20"),
        ("truncated_003.jpg", "a boat, cut off after two fifths of the file", "2.90"),
        ("text_004.jpg", "not an image", "2.50"),
        ("nomos_005.jpg", "flowers nobody rated", "n/a"),
        ("offscale_006.jpg", "a city rated on a scale of 100", "57.30"),
        ("missing_007.jpg", "a file that is not there", "1.75"),
        ("sixteenbit_008.png", "a portrait,\nwith 16 bits a channel", "3.60"),
        ("grey_009.png", "mountains in grey", "3.20"),
        ("palette_010.png", "\"fruit\", sixteen colours", "2.80"),
        ("alpha_011.png", "flowers, partly transparent", "2.40"),
        ("sound_000.jpg", "the first row's name again", "1.00"),
        ("../secret.jpg", "a name that climbs out of the folder", "4.00"),
    ];
    let mut table = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(vec![0xef, 0xbb, 0xbf]);
    table.write_record(COLUMNS)?;
    for (name, prompt, mos) in rows {
        table.write_record([name, prompt, "", "", "", mos, "0.50", "2.50", "0.50"])?;
    }
    fs::write(root.join("broken.csv"), table.into_inner()?)?;
    Ok(())
}

fn draw(subject: Subject, seed: u64) -> RgbImage {
    render(&Scene::new(subject, seed), 1.0, Damage::Cast(0.0), (160, 160), seed)
}

/// A PNG of 4 bits a pixel that point into a palette, which the `image` crate reads but does not write.
fn palette_png(picture: &RgbImage) -> Vec<u8> {
    let mut rng = Rng::new(0, 0);
    let palette: Vec<[u8; 3]> =
        (0..16).map(|_| picture.get_pixel(rng.below(160) as u32, rng.below(160) as u32).0).collect();
    let nearest = |pixel: [u8; 3]| {
        let squares = |c: &[u8; 3]| (0..3).map(|i| (i32::from(c[i]) - i32::from(pixel[i])).pow(2)).sum::<i32>();
        (0..16u8).min_by_key(|&k| squares(&palette[usize::from(k)])).expect("the palette has sixteen colours")
    };
    let mut lines = Vec::new();
    for row in picture.rows() {
        lines.push(0); // this line's filter: none
        let pixels: Vec<u8> = row.map(|pixel| nearest(pixel.0)).collect();
        lines.extend(pixels.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]));
    }
    // A zlib stream of one stored block (RFC 1950 and 1951).
    let length = u16::try_from(lines.len()).expect("a stored block holds 65535 bytes");
    let mut stream = vec![0x78, 0x01, 0x01];
    stream.extend(length.to_le_bytes());
    stream.extend((!length).to_le_bytes());
    stream.extend(&lines);
    let (low, high) = lines.iter().fold((1u32, 0u32), |(a, b), &byte| {
        let a = (a + u32::from(byte)) % 65521;
        (a, (b + a) % 65521)
    });
    stream.extend((high << 16 | low).to_be_bytes());

    let mut header = Vec::new();
    header.extend(picture.width().to_be_bytes());
    header.extend(picture.height().to_be_bytes());
    header.extend([4, 3, 0, 0, 0]); // bits, colour type 3 (palette), deflate, filters, not interlaced
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let chunks: [(&[u8; 4], &[u8]); 4] =
        [(b"IHDR", &header), (b"PLTE", palette.as_flattened()), (b"IDAT", &stream), (b"IEND", &[])];
    for (kind, body) in chunks {
        let named = [kind, body].concat();
        file.extend((body.len() as u32).to_be_bytes());
        file.extend(&named);
        file.extend(crc32(&named).to_be_bytes());
    }
    file
}

/// The checksum of a PNG's chunks (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 })
    })
}
