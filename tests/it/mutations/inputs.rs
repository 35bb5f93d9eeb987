//! Inputs: whole files and seeded changes to them.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat};

use crate::baseline::picture;

/// Seeded random numbers (splitmix64).
pub struct Draws(pub u64);

impl Draws {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}

/// `bytes` with one to six changes: bits, bytes, extreme numbers, and parts that are cut, repeated, moved or filled.
pub fn mutated(bytes: &[u8], draws: &mut Draws) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + draws.below(6) {
        let n = bytes.len().max(1);
        // Headers decide more than data do, so every second change is among the first bytes.
        let at = if draws.below(2) == 0 { draws.below(n.min(512)) } else { draws.below(n) };
        let end = (at + 1 + draws.below(64)).min(bytes.len());
        match draws.below(8) {
            0 => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << draws.below(8)),
            1 => bytes.get_mut(at).into_iter().for_each(|byte| *byte = draws.below(256) as u8),
            2 => bytes.truncate(at),
            3 => {
                let value = [[0xFF; 4], [0; 4], [0x7F, 0xFF, 0xFF, 0xFF], [0, 0, 0, 0x80]][draws.below(4)];
                bytes.iter_mut().skip(at).zip(value).for_each(|(byte, value)| *byte = value);
            }
            4 => drop(bytes.drain(at.min(end)..end)),
            5 => {
                let part = bytes.get(at..end).unwrap_or_default().to_vec();
                let to = draws.below(bytes.len());
                bytes.splice(to..to, part);
            }
            6 => bytes.get_mut(at..end).unwrap_or_default().fill(0),
            _ => bytes.get_mut(at..end).unwrap_or_default().reverse(),
        }
    }
    bytes
}

/// A picture in every format that is read.
pub fn pictures() -> Vec<Vec<u8>> {
    let image = image::load_from_memory(&picture(7, 112, 104)).expect("a picture");
    let encoded = |image: &DynamicImage, format| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).expect("it can be encoded");
        bytes.into_inner()
    };
    let formats =
        [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::Pnm];
    let mut files: Vec<Vec<u8>> = formats.into_iter().map(|format| encoded(&image, format)).collect();
    files.push(encoded(&image.to_rgba8().into(), ImageFormat::Gif));
    files.push(encoded(&image.to_luma16().into(), ImageFormat::Png));
    files.push(encoded(&image.to_rgb32f().into(), ImageFormat::Tiff));
    let mut compress = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    compress.set_size(112, 104);
    compress.set_progressive_mode();
    let mut started = compress.start_compress(Vec::new()).expect("in memory");
    started.write_scanlines(image.to_rgb8().as_raw()).expect("in memory");
    files.push(started.finish().expect("in memory"));
    files
}
