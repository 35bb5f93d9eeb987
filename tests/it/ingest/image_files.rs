//! Image files: what is kept, what is rejected and as what, and the decoded pixels.

use std::io::Write;

use agiqa_synth::reference_file;

use super::*;

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
    dir.write("img/palette.png", palette_png());
    let names =
        ["grey.png", "grey.jpg", "deep.png", "alpha.png", "palette.gif", "cmyk.jpg", "turned.jpg", "palette.png"];
    let rows: String = names.iter().map(|name| format!("{name},1\n")).collect();
    dir.write("t.csv", format!("name,mos\n{rows}"));
    ingest(&dir, "t.csv", &[]).exits(0).says("8 images");
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

/// A PNG of 3 × 2 pixels of 4 bits that point into a palette of three colours, the second of them half transparent.
fn palette_png() -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], body: &[u8]| {
        let named = [&kind[..], body].concat();
        bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&named);
        bytes.extend_from_slice(&crc32(&named).to_be_bytes());
    };
    // Width, height, bits, colour type 3 (palette), deflate, filters, not interlaced.
    chunk(b"IHDR", &[0, 0, 0, 3, 0, 0, 0, 2, 4, 3, 0, 0, 0]);
    chunk(b"PLTE", &[250, 10, 20, 30, 240, 50, 60, 70, 230]);
    chunk(b"tRNS", &[255, 128]);
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    // Each line begins with its filter, which is none.
    packed.write_all(&[0, 0x01, 0x20, 0, 0x21, 0x00]).expect("in memory");
    chunk(b"IDAT", &packed.finish().expect("in memory"));
    chunk(b"IEND", &[]);
    bytes
}

/// What a valid image file's `bytes` decode to, three values a pixel.
#[track_caller]
fn pixels(bytes: &[u8]) -> Vec<u8> {
    decode(bytes, &DecodeLimits::default()).expect("a valid file").1.pixels
}

#[test]
fn sixteen_bits_and_floats_are_scaled_to_eight_bits_and_rounded() {
    let levels = vec![0_u16, 128, 129, 256, 385, 386, 65_406, 65_407, 65_535];
    let deep = image::ImageBuffer::from_raw(3, 1, levels).expect("three pixels");
    let png = encoded(&DynamicImage::ImageRgb16(deep), ImageFormat::Png);
    assert_eq!(png[24], 16, "the header's bits a channel");
    // Divided by 257: 0.498 and 0.502, 1.498 and 1.502, 254.498 and 254.502 lie beside the halves.
    assert_eq!(pixels(&png), [0, 0, 1, 1, 1, 2, 254, 255, 255]);
    let real = image::ImageBuffer::from_raw(2, 1, vec![0.0_f32, 0.25, 0.5, 1.0, -1.0, 2.0]).expect("two pixels");
    let tiff = encoded(&DynamicImage::ImageRgb32F(real), ImageFormat::Tiff);
    assert_eq!(pixels(&tiff), [0, 64, 128, 255, 0, 255]);
}

#[test]
fn grey_is_repeated_in_all_three_channels() {
    let level = |x: u32, y: u32| (16 * y + x) as u8;
    let grey = image::GrayImage::from_fn(16, 16, |x, y| image::Luma([level(x, y)]));
    let expected: Vec<u8> = grey.as_raw().iter().flat_map(|value| [*value; 3]).collect();
    let veiled = image::GrayAlphaImage::from_fn(16, 16, |x, y| image::LumaA([level(x, y), (17 * x) as u8]));
    let deep = image::ImageBuffer::from_fn(16, 16, |x, y| image::Luma([257 * u16::from(level(x, y))]));
    let grey = DynamicImage::ImageLuma8(grey);
    for image in [&grey, &DynamicImage::ImageLumaA8(veiled), &DynamicImage::ImageLuma16(deep)] {
        assert_eq!(pixels(&encoded(image, ImageFormat::Png)), expected, "{:?}", image.color());
    }
    let found = pixels(&encoded(&grey, ImageFormat::Jpeg));
    assert!(found.chunks_exact(3).all(|pixel| pixel == [pixel[0]; 3]), "{found:?}");
    assert!(found.iter().zip(&expected).all(|(found, expected)| found.abs_diff(*expected) <= 16), "{found:?}");
}

#[test]
fn colours_of_a_palette_are_looked_up_and_its_transparency_is_dropped() {
    let [first, second, third] = [[250_u8, 10, 20], [30, 240, 50], [60, 70, 230]];
    assert_eq!(pixels(&palette_png()), [first, second, third, third, second, first].concat());
}

#[test]
fn alpha_is_dropped_and_not_composited() {
    // From wholly transparent on the left to nearly opaque on the right.
    let pixel = |x: u32, y: u32| [(x * 20) as u8, (y * 30) as u8, 5, (x * 30) as u8];
    let image = image::RgbaImage::from_fn(9, 7, |x, y| image::Rgba(pixel(x, y)));
    let expected: Vec<u8> = image.pixels().flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    assert_eq!(pixels(&encoded(&image.into(), ImageFormat::Png)), expected);
}

#[test]
fn of_an_animation_the_first_frame_counts() {
    let frame =
        |blue: u8| image::RgbaImage::from_fn(9, 7, |x, y| image::Rgba([(x * 20) as u8, (y * 30) as u8, blue, 255]));
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    encoder.encode_frames([5, 200].map(|blue| image::Frame::new(frame(blue)))).expect("in memory");
    drop(encoder);
    let expected: Vec<u8> = frame(5).pixels().flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    assert_eq!(pixels(&bytes), expected);
}

#[test]
fn a_rotation_by_exif_is_ignored_but_in_a_tiff() {
    let exif = b"MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let rgb = DynamicImage::from(RgbImage::from_fn(9, 7, |x, y| Rgb([(x * 20) as u8, (y * 30) as u8, 5])));
    let [jpeg, png, webp] =
        [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP].map(|format| encoded(&rgb, format));
    let chunk = [b"eXIf", &exif[..]].concat();
    let chunk = [&(exif.len() as u32).to_be_bytes()[..], &chunk, &crc32(&chunk).to_be_bytes()].concat();
    let in_png = [&png[..33], &chunk, &png[33..]].concat();
    // The extended form, with the flag of EXIF and the sides less one, around the picture's own chunk.
    let extended = [b"WEBPVP8X\x0A\0\0\0\x08\0\0\0\x08\0\0\x06\0\0", &webp[12..], b"EXIF"].concat();
    let extended = [&extended[..], &(exif.len() as u32).to_le_bytes(), exif].concat();
    let in_webp = [b"RIFF", &(extended.len() as u32).to_le_bytes()[..], &extended].concat();
    for (stored, turned) in [(&jpeg, with_exif_rotation(&jpeg)), (&png, in_png), (&webp, in_webp)] {
        let (info, image) = decode(&turned, &DecodeLimits::default()).expect("a valid file");
        assert_eq!((info.width_px, info.height_px, image.width_px, image.height_px), (9, 7, 9, 7), "{}", info.format);
        assert_eq!(image.pixels, pixels(stored), "{}", info.format);
    }
}

#[test]
fn a_tiff_is_turned_by_its_orientation_as_pillow_turns_it() {
    // Pillow 13: `Image.frombytes("L", (2, 3), bytes(range(1, 7)))`, saved with each orientation and opened again.
    let expected: [(u32, &[u8]); 8] = [
        (2, &[1, 2, 3, 4, 5, 6]),
        (2, &[2, 1, 4, 3, 6, 5]),
        (2, &[6, 5, 4, 3, 2, 1]),
        (2, &[5, 6, 3, 4, 1, 2]),
        (3, &[1, 3, 5, 2, 4, 6]),
        (3, &[5, 3, 1, 6, 4, 2]),
        (3, &[6, 4, 2, 5, 3, 1]),
        (3, &[2, 4, 6, 1, 3, 5]),
    ];
    for (orientation, (width, values)) in (1_u32..).zip(expected) {
        let sides = [(256, 3, 1, 2), (257, 3, 1, 3), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 200)];
        let more = [(274, 3, 1, orientation), (277, 3, 1, 1), (278, 3, 1, 3), (279, 4, 1, 6)];
        let bytes = tiff_of(&[&sides[..], &more].concat(), &[1, 2, 3, 4, 5, 6]);
        let (info, image) = decode(&bytes, &DecodeLimits::default()).expect("a valid file");
        assert_eq!((info.width_px, image.width_px), (width, width), "{orientation}");
        assert_eq!(agiqa_images::probe(&bytes).expect("a valid header"), info);
        let grey: Vec<u8> = image.pixels.iter().step_by(3).copied().collect();
        assert_eq!(grey, values, "{orientation}");
    }
}

#[test]
fn a_cmyk_jpeg_has_the_colours_that_pillow_gives_it() {
    let (info, image) = decode(&cmyk_jpeg(), &DecodeLimits::default()).expect("a valid file");
    assert_eq!((info.width_px, info.height_px), (16, 8));
    assert_eq!(image.pixels[..3], [204, 255, 255]);
}

#[test]
fn decoded_pixels_are_pillows() {
    let tensors = reference_file("preprocess.safetensors");
    let tensors = safetensors::SafeTensors::deserialize(&tensors).expect("valid");
    for name in crate::resizing::PICTURES {
        let (_, image) = decode(&reference_file(&format!("images/{name}")), &DecodeLimits::default()).expect("valid");
        let expected = tensors.tensor(&format!("{name}.decoded")).expect("one per picture");
        assert_eq!(expected.shape(), [image.height_px as usize, image.width_px as usize, 3], "{name}");
        assert!(image.pixels == expected.data(), "{name}");
    }
}

#[test]
fn decoded_pixels_of_the_dataset_are_those_of_the_reference_decoder() {
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
    let whole = reference_file("images/halved_colour.jpg");
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

/// `jpeg` with a segment before its scan that promises a restart marker after every block, which do not come.
fn without_its_restarts(jpeg: &[u8]) -> Vec<u8> {
    let scan = jpeg.windows(2).position(|pair| pair == [0xFF, 0xDA]).expect("a scan");
    [&jpeg[..scan], &[0xFF, 0xDD, 0, 4, 0, 1], &jpeg[scan..]].concat()
}

fn progressive_jpeg() -> Vec<u8> {
    let mut compress = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    compress.set_size(24, 16);
    compress.set_progressive_mode();
    let mut started = compress.start_compress(Vec::new()).expect("in memory");
    let pixels: Vec<u8> = (0..24 * 16 * 3_u32).map(|i| (i * i % 251) as u8).collect();
    started.write_scanlines(&pixels).expect("in memory");
    started.finish().expect("in memory")
}

/// `jpeg` without its segments of this marker.
fn without_segment(jpeg: &[u8], marker: u8) -> Vec<u8> {
    let at = jpeg.windows(2).position(|pair| pair == [0xFF, marker]).expect("the segment");
    let n = 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
    [&jpeg[..at], &jpeg[at + n..]].concat()
}

#[test]
fn a_whole_picture_without_its_end_is_kept_and_damage_within_it_is_a_kind_of_its_own() {
    let dir = TestDir::new();
    let (jpeg, progressive, png) = (picture(1, ImageFormat::Jpeg), progressive_jpeg(), picture(3, ImageFormat::Png));
    let last_scan = progressive.windows(2).rposition(|pair| pair == [0xFF, 0xDA]).expect("scans");
    let without_end = |bytes: &[u8]| bytes[..bytes.len() - 2].to_vec();
    let padded = |bytes: &[u8]| [bytes, &[0; 500]].concat();
    let files = [
        ("whole.jpg", jpeg.clone(), ""),
        ("no-end.jpg", without_end(&picture(4, ImageFormat::Jpeg)), ""),
        ("zeros.jpg", padded(&without_end(&picture(5, ImageFormat::Jpeg))), ""),
        ("text.jpg", [&without_end(&picture(6, ImageFormat::Jpeg))[..], b"trailing text"].concat(), ""),
        ("no-end-progressive.jpg", without_end(&progressive), ""),
        ("no-end.png", png[..png.len() - 12].to_vec(), ""),
        ("half-an-end.png", picture(7, ImageFormat::Png).split_last_chunk::<5>().expect("longer").0.to_vec(), ""),
        ("cut.jpg", jpeg[..jpeg.len() - 9].to_vec(), "truncated"),
        ("cut-and-zeros.jpg", padded(&jpeg[..jpeg.len() * 9 / 10]), "truncated"),
        ("lost-scan.jpg", progressive[..last_scan].to_vec(), "truncated"),
        ("cut-progressive.jpg", progressive[..last_scan + 15].to_vec(), "truncated"),
        ("cut-in-data.png", png[..png.len() - 20].to_vec(), "truncated"),
        ("lost-restarts.jpg", without_its_restarts(&jpeg), "damaged-scan"),
    ];
    let mut rows = "name,mos\n".to_owned();
    for (name, bytes, _) in &files {
        dir.write(&format!("img/{name}"), bytes);
        rows += &format!("{name},1\n");
    }
    dir.write("t.csv", rows);
    ingest(&dir, "t.csv", &[]).exits(1).says("7 images, 6 rejected");
    let found = kinds(&dir, files.len());
    for (name, _, kind) in &files {
        assert_eq!(found.get(*name).map_or("", String::as_str), *kind, "{name}");
    }
    let damaged = written(&dir).1.into_iter().find(|reject| reject.kind == "damaged-scan").expect("rejected above");
    assert!(damaged.message.contains("Corrupt JPEG data"), "{}", damaged.message);
    assert_eq!(pixels(&without_end(&jpeg)), pixels(&jpeg));
}

#[test]
fn flipped_bits_of_a_scan_are_told_or_change_colours_only() {
    let jpeg = reference_file("images/halved_colour.jpg");
    let scan = jpeg.windows(2).position(|pair| pair == [0xFF, 0xDA]).expect("a scan");
    let mut n_damaged = 0;
    for at in (scan + 14..jpeg.len() - 2).step_by(jpeg.len() / 60) {
        let mut bytes = jpeg.clone();
        bytes[at] ^= 0x55;
        match decode(&bytes, &DecodeLimits::default()) {
            Ok((info, image)) => assert_eq!(image.pixels.len() as u32, 3 * info.width_px * info.height_px),
            Err(error) => {
                assert!(["damaged-scan", "truncated", "damaged"].contains(&error.kind()), "{error}");
                n_damaged += usize::from(error.kind() == "damaged-scan");
            }
        }
    }
    assert!(n_damaged > 5, "{n_damaged} of about 60 are told");
}

#[test]
fn a_cmyk_jpeg_is_inverted_whether_or_not_adobe_says_so() {
    let jpeg = cmyk_jpeg();
    assert_eq!(pixels(&without_segment(&jpeg, 0xEE)), pixels(&jpeg));
}

/// A TIFF of one directory: tag, type and number of values, and the values or their place; then `data`, from byte 200 on.
fn tiff_of(entries: &[(u16, u16, u32, u32)], data: &[u8]) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, ty, n, value) in entries {
        bytes.extend([&tag.to_le_bytes()[..], &ty.to_le_bytes(), &n.to_le_bytes(), &value.to_le_bytes()].concat());
    }
    bytes.resize(200, 0);
    [&bytes, data].concat()
}

#[test]
fn a_palette_of_a_tiff_is_looked_up() {
    let colours = (0..3_u16).flat_map(|channel| (0..256).map(move |i| (i << 8) / (channel + 1)));
    let data: Vec<u8> = colours.flat_map(u16::to_le_bytes).chain([0, 200, 7]).collect();
    let entries = [(256, 3, 1, 3), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 3), (273, 4, 1, 1736)];
    let bytes = tiff_of(&[&entries[..], &[(277, 3, 1, 1), (279, 4, 1, 3), (320, 3, 768, 200)]].concat(), &data);
    assert_eq!(pixels(&bytes), [0, 0, 0, 200, 100, 66, 7, 3, 2]);
}

/// A TIFF of one pixel of 8 bits a channel, with further tags.
fn pixel_tiff(pixel: &[u8], more: &[(u16, u16, u32, u32)]) -> Vec<u8> {
    let n = pixel.len() as u32;
    let entries =
        [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, if n == 1 { 1 } else { 2 })];
    let (place, length) = ([(273, 4, 1, 200), (277, 3, 1, n)], [(279, 4, 1, n)]);
    let mut entries = [&entries[..], &place, &length, more].concat();
    entries.sort_unstable();
    tiff_of(&entries, pixel)
}

/// A TIFF of one grey pixel with this compression and kind of colours.
fn compressed_tiff(compression: u32, colours: u32, data: &[u8]) -> Vec<u8> {
    let sides = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, colours)];
    let more = [(273, 4, 1, 200), (277, 3, 1, 1), (279, 4, 1, data.len() as u32)];
    tiff_of(&[&sides[..], &more].concat(), data)
}

#[test]
fn colours_of_a_tiff_are_divided_by_the_alpha_that_they_are_multiplied_by() {
    assert_eq!(pixels(&pixel_tiff(&[10, 50, 100, 100], &[(338, 3, 1, 1)])), [25, 127, 255]);
    assert_eq!(pixels(&pixel_tiff(&[10, 50, 100, 100], &[(338, 3, 1, 2)])), [10, 50, 100]);
    assert_eq!(pixels(&pixel_tiff(&[10, 50, 100, 0], &[(338, 3, 1, 1)])), [10, 50, 100]);
}

/// A TIFF of one tile for each of three channels.
fn planar_tiles() -> Vec<u8> {
    let sides = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3)];
    let tiles = [(284, 3, 1, 2), (322, 3, 1, 16), (323, 3, 1, 16), (324, 4, 3, 200), (325, 4, 3, 212)];
    let places = [224_u32, 480, 736, 256, 256, 256].map(u32::to_le_bytes).concat();
    tiff_of(&[&sides[..], &tiles].concat(), &[&places[..], &[9; 768]].concat())
}

#[test]
fn floats_of_another_scale_and_formats_that_are_not_read_are_unsupported() {
    let dir = TestDir::new();
    let tiff = |values: [f32; 3]| {
        let image = image::ImageBuffer::from_raw(1, 1, values.to_vec()).expect("a pixel");
        encoded(&DynamicImage::ImageRgb32F(image), ImageFormat::Tiff)
    };
    let brand = |brand: &[u8; 4]| [b"\0\0\0\x14ftyp", &brand[..], b"\0\0\0\0mif1"].concat();
    let files = [
        ("a.png", brand(b"avif"), "the format AVIF is not read"),
        ("b.jpg", brand(b"heic"), "the format HEIC is not read"),
        ("c.jpg", b"\0\0\0\x0CJXL \r\n\x87\n".to_vec(), "the format JPEG XL is not read"),
        ("d.jpg", b"\xFF\x0A\x01".to_vec(), "the format JPEG XL is not read"),
        ("e.jpg", b"\0\0\0\x0CjP  \r\n\x87\n".to_vec(), "the format JPEG 2000 is not read"),
        ("f.png", b"8BPS\0\x01".to_vec(), "the format Photoshop is not read"),
        ("g.png", b"\0\0\x01\0\x01\0\x10\x10\0\0".to_vec(), "the format icon is not read"),
        ("h.tif", tiff([0.0, 100.0, 255.0]), "a float value of 100: expected 0 to 1"),
        ("i.tif", tiff([0.0, f32::NAN, 1.0]), "a float value of NaN: expected 0 to 1"),
        ("j.tif", planar_tiles(), "its tiles hold one channel each"),
        ("k.tif", pixel_tiff(&[7], &[(266, 3, 1, 2)]), "the bits of its bytes are in reverse order"),
        ("l.tif", compressed_tiff(3, 1, &[7]), "its compression is CCITT fax group 3"),
        ("m.tif", compressed_tiff(6, 6, &[7]), "its compression is old-style JPEG"),
        ("n.tif", compressed_tiff(34_676, 32_845, &[7]), "its compression is SGI LogLuv"),
        ("o.tif", compressed_tiff(50_000, 1, &[7]), "its compression is Zstandard"),
        ("p.tif", compressed_tiff(5, 1, &[0, 1, 7]), "its compression is old-style LZW"),
        ("q.tif", compressed_tiff(1, 8, &[7]), "its colours are CIELab"),
    ];
    let mut rows = "name,mos\n".to_owned();
    for (name, bytes, _) in &files {
        dir.write(&format!("img/{name}"), bytes);
        rows += &format!("{name},1\n");
    }
    dir.write("t.csv", rows);
    ingest(&dir, "t.csv", &[]).exits(1).says("0 images, 17 rejected (17 unsupported)");
    for reject in written(&dir).1 {
        let name = reject.path.as_deref().unwrap_or_default();
        let (_, _, words) = files.iter().find(|(other, ..)| *other == name).expect("one of them");
        assert!(reject.message.contains(words), "{}", reject.message);
    }
}
