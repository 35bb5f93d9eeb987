//! Mutated images, tables and checkpoints: no panic, no hang, bounded memory, and every file and row
//! accounted for.
//!
//! `cargo test --release --test it mutations -- --ignored` tries ten thousand.

use std::io::Cursor;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use agiqa_intake::Reading;
use image::{DynamicImage, ImageFormat};

use crate::baseline::{params, picture};
use crate::checkpoint::state_dict;
use crate::features::pictures;
use crate::ingest::of_every_form;
use crate::maniqa::{OURS, write_weights};
use crate::testdir::TestDir;

/// Time that one command may take over its files, and memory that it may take.
const MAX_TIME: Duration = Duration::from_secs(120);
const MAX_KIB: u64 = 1 << 20;

/// Seeded random numbers (splitmix64).
struct Draws(u64);

impl Draws {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}

/// `bytes` with one to six changes: bits, bytes, extreme numbers, and parts that are cut, repeated, moved or filled.
fn mutated(bytes: &[u8], draws: &mut Draws) -> Vec<u8> {
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
fn originals() -> Vec<Vec<u8>> {
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

/// Runs `agiqa` to its end. Fails if it panics, takes too long or too much memory, or ends with another code.
fn run(dir: &TestDir, args: &[&str], codes: &[i32]) -> String {
    let started = Instant::now();
    let out = dir.path().join("stdout");
    let file = std::fs::File::create(&out).expect("a file");
    let mut child = dir.command(args).stdout(file).stderr(Stdio::piped()).spawn().expect("agiqa can be started");
    let mut n_kib = 0;
    let status = loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        n_kib = n_kib.max(peak.unwrap_or(0));
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if started.elapsed() > MAX_TIME {
            child.kill().expect("it runs");
            panic!("{args:?} hangs in {}", dir.path().display());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let stderr = std::io::read_to_string(child.stderr.take().expect("piped")).unwrap_or_default();
    assert!(status.code().is_some_and(|code| codes.contains(&code)), "{status}: {stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("gave up"), "{stderr}");
    assert!(n_kib < MAX_KIB, "{n_kib} KiB: {stderr}");
    std::fs::read_to_string(out).expect("text")
}

fn events(stdout: &str) -> impl Iterator<Item = serde_json::Value> {
    stdout.lines().map(|line| serde_json::from_str(line).expect("JSON"))
}

/// Numbers of rows that went into a stage and that it rejected. Fails if the rest is not what came out of it.
fn balanced(stdout: &str) -> Option<[u64; 2]> {
    let stage = events(stdout).find(|event| event["type"] == "stage")?;
    let [n_in, n_out, n_rejected] =
        ["n_in", "n_out", "n_rejected"].map(|name| stage["rows"][name].as_u64().expect("a count"));
    assert_eq!(n_out + n_rejected, n_in);
    Some([n_in, n_rejected])
}

/// Scores `n` mutated images in one command.
fn try_images(n: usize, draws: &mut Draws) {
    let (dir, originals) = (TestDir::new(), originals());
    dir.write("images/whole.png", picture(1, 112, 104));
    for i in 0..n {
        let original = &originals[draws.below(originals.len())];
        dir.write(&format!("images/{i:05}"), mutated(original, draws));
    }
    let params = params().display().to_string();
    let base = ["baseline", "--methods", "brisque", "--params", &params, "--images", "images", "--store", "store"];
    let stdout = run(&dir, &[&base[..], &["--json", "--threads", "2"]].concat(), &[0, 1]);
    let left_out = events(&stdout).filter(|event| event["type"] == "left-out");
    let n_left_out: u64 = left_out.map(|event| event["n_files"].as_u64().expect("a count")).sum();
    let [n_in, n_rejected] = balanced(&stdout).expect("the stage ran");
    assert_eq!(n_in + n_left_out, n as u64 + 1, "every file is accounted for");
    let kinds = ["query", "--store", "store", "SELECT count(*) AS n FROM rejects WHERE kind = 'internal-error'"];
    if n_rejected > 0 {
        assert_eq!(run(&dir, &[&kinds[..], &["--format", "csv"]].concat(), &[0]), "n\n0\n");
    }
}

/// Reads `n` mutated tables, and `n_commands` of them through the command line.
fn try_tables(n: usize, n_commands: usize, draws: &mut Draws) {
    let (dir, originals) = (TestDir::new(), of_every_form());
    for i in 0..n {
        let bytes = mutated(&originals[draws.below(originals.len())], draws);
        let reading = Reading { no_header: draws.below(4) == 0, ..Reading::default() };
        if let Ok(table) = agiqa_intake::read(bytes.clone(), &reading) {
            let rows = (0..table.n_rows()).filter_map(|at| table.row(at).ok());
            let cells = rows.flat_map(|row| (0..table.columns().len()).filter_map(move |column| row.cell(column)));
            assert!(cells.map(str::len).sum::<usize>() <= 64 << 20);
        }
        if i < n_commands {
            dir.write("t", bytes);
            let base =
                ["ingest", "--adapter", "generic", "--dataset", "d", "--no-images", "--mos-scale", "0..5", "--force"];
            let columns = ["--column", "name=1", "--column", "mos=2", "--table", "t", "--store", "store", "--json"];
            balanced(&run(&dir, &[&base[..], &columns].concat(), &[0, 1, 2]));
        }
    }
}

/// Reads `n` mutated checkpoints, and `n_commands` of them through the command line.
fn try_checkpoints(n: usize, n_commands: usize, draws: &mut Draws) {
    let dir = TestDir::new();
    let folder = write_weights(&dir, OURS[0]);
    let file = folder.join("model.safetensors");
    let safetensors = std::fs::read(&file).expect("written");
    pictures(&dir, [1]);
    // Values change nothing but numbers, so headers alone are mutated, with as many values as they claim.
    let n_header = 8 + u64::from_le_bytes(std::array::from_fn(|i| safetensors[i])) as usize;
    let originals = [state_dict(), safetensors[..n_header].to_vec()];
    for i in 0..n {
        let which = draws.below(2);
        let bytes = mutated(&originals[which], draws);
        if let Ok(tensors) = agiqa_checkpoint::read_file(Path::new("mutated"), &bytes) {
            tensors.iter().for_each(|(_, tensor)| assert!(tensor.is_inside(bytes.len() as u64)));
        }
        if i < n_commands {
            let values: &[u8] = if which == 1 { &safetensors[n_header..] } else { &[] };
            std::fs::write(&file, [&bytes[..], values].concat()).expect("it can be written");
            let weights = folder.display().to_string();
            let base = ["extract", "--extractor", "maniqa", "--weights", &weights, "--images", "images"];
            run(&dir, &[&base[..], &["--store", "store", "--threads", "1", "--device", "cpu"]].concat(), &[0, 1, 2]);
        }
    }
}

#[test]
fn some_hundred_are_told_or_read() {
    let mut draws = Draws(20);
    try_images(300, &mut draws);
    try_tables(300, 3, &mut draws);
    try_checkpoints(300, 3, &mut draws);
}

#[test]
#[ignore = "takes minutes"]
fn ten_thousand_are_told_or_read() {
    for seed in 0..40 {
        let mut draws = Draws(1000 + seed);
        try_images(150, &mut draws);
        try_tables(50, 5, &mut draws);
        try_checkpoints(50, 5, &mut draws);
    }
}
