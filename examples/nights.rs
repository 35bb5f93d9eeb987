//! Shows what a second night costs, and that a killed night is no other than an undisturbed one.
//!
//! ```sh
//! cargo run --release --example nights                 # 400 images, 20 kills
//! cargo run --release --example nights -- 4000 20      # ten times as many
//! ```
//!
//! It invents pictures in three kinds of sources (a folder, a tar file, a Parquet file with image bytes), scores a first night and
//! a second of which 95 % is known, and counts by inotify which files of the folder the second night opens. Then it scores a
//! night in another store, kills it with SIGKILL at a random moment, ends it, and compares all tables row by row, again and again.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use rustix::fs::inotify;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let numbers: Vec<u32> = std::env::args().skip(1).map(|text| text.parse()).collect::<std::result::Result<_, _>>()?;
    let (n_images, n_kills) = (numbers.first().copied().unwrap_or(400), numbers.get(1).copied().unwrap_or(20));
    let folder = tempfile::tempdir()?;
    let nights = Nights { folder: folder.path().to_owned() };
    nights.write_sources(n_images)?;
    nights.second_night(n_images)?;
    nights.kill_and_resume(n_kills)
}

/// A picture that no other `seed` gives, as PNG.
fn picture(seed: u32) -> Result<Vec<u8>> {
    let mut state = u64::from(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let image = image::RgbImage::from_fn(128, 128, |x, y| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let wave = (f64::from(x) * 0.1).sin() * (f64::from(y) * 0.07).cos() * 80.0 + 128.0;
        image::Rgb([(wave + (state >> 59) as f64) as u8; 3])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

/// `target/release/agiqa`, which lies above this example.
fn program() -> Result<PathBuf> {
    let example = std::env::current_exe()?;
    Ok(example.parent().and_then(Path::parent).ok_or("the example has no folder")?.join("agiqa"))
}

struct Nights {
    folder: PathBuf,
}

/// Columns of each table that a killed night must share with an undisturbed one.
const TABLES: [&str; 5] = [
    "uri, version, state, first_night, name, container, bytes, image_id, width, height, format, prompt FROM inventory",
    "dataset, image_id, name, path, bytes, width, height, format, prompt, cached FROM images",
    "scorer, fingerprint, image_id, score FROM scores",
    "scorer, night, image_id, uri, name, prompt, score, cached FROM night_scores",
    "scorer, night, scope, n, n_new, n_rejected, mean, std, p50, bin_low, bin_width FROM nights",
];

impl Nights {
    /// Half of the images in a folder, a quarter each in a tar and a Parquet file.
    fn write_sources(&self, n: u32) -> Result<()> {
        std::fs::create_dir(self.folder.join("out"))?;
        for seed in 0..n / 2 {
            std::fs::write(self.folder.join(format!("out/{seed:06}.png")), picture(seed)?)?;
        }
        let mut archive = tar::Builder::new(std::fs::File::create(self.folder.join("a.tar"))?);
        for seed in n / 2..3 * n / 4 {
            let bytes = picture(seed)?;
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, format!("{seed:06}.png"), bytes.as_slice())?;
        }
        archive.into_inner()?;
        let pictures = (3 * n / 4..n).map(picture).collect::<Result<Vec<_>>>()?;
        let prompts = (3 * n / 4..n).map(|seed| format!("prompt {}", seed % 10));
        let batch = RecordBatch::try_from_iter([
            ("image", Arc::new(BinaryArray::from_iter_values(&pictures)) as ArrayRef),
            ("prompt", Arc::new(StringArray::from_iter_values(prompts)) as ArrayRef),
        ])?;
        let mut writer =
            ArrowWriter::try_new(std::fs::File::create(self.folder.join("b.parquet"))?, batch.schema(), None)?;
        writer.write(&batch)?;
        writer.close()?;
        Ok(())
    }

    /// Starts `agiqa score` of all sources. Small parts, so that a kill leaves some.
    fn score(&self, store: &str, night: &str) -> Result<Child> {
        let params = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/handcrafted");
        let args =
            ["score", "out", "a.tar", "b.parquet", "--corpus", "gen", "--method", "brisque", "--part-rows", "32"];
        let mut command = Command::new(program()?);
        command.current_dir(&self.folder).args(args).args(["--store", store, "--night", night, "--params"]).arg(params);
        Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }

    fn second_night(&self, n: u32) -> Result<()> {
        let started = Instant::now();
        assert!(self.score("undisturbed", "n1")?.wait()?.success(), "the first night is scored");
        println!("first night: {n} images in {:.1} s", started.elapsed().as_secs_f64());
        // One image in twenty is new.
        for seed in n..n + n / 20 {
            std::fs::write(self.folder.join(format!("out/{seed:06}.png")), picture(seed)?)?;
        }
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK)?;
        for name in ["out", "a.tar", "b.parquet"] {
            inotify::add_watch(&watch, self.folder.join(name), inotify::WatchFlags::OPEN)?;
        }
        let started = Instant::now();
        let mut child = self.score("undisturbed", "n2")?;
        let (mut opened, mut n_containers) = (BTreeSet::new(), 0);
        let mut ended = None;
        // The queue of events is bounded, so that it is read while the night goes on, and once after its end.
        while ended.is_none() {
            ended = child.try_wait()?;
            std::thread::sleep(Duration::from_millis(5));
            let mut buffer = [MaybeUninit::uninit(); 1 << 16];
            let mut events = inotify::Reader::new(&watch, &mut buffer);
            while let Ok(event) = events.next() {
                match event.file_name() {
                    Some(name) => _ = opened.insert(name.to_string_lossy().into_owned()),
                    None if !event.events().contains(inotify::ReadFlags::ISDIR) => n_containers += 1,
                    None => {}
                }
            }
        }
        assert!(ended.is_some_and(|status| status.success()), "the second night is scored");
        let n_known = opened.iter().filter(|name| name.as_str() < format!("{n:06}.png").as_str()).count();
        println!(
            "second night: {} images, {} new, in {:.1} s; opened: {} new files, {n_known} known files, {n_containers} containers",
            n + n / 20,
            n / 20,
            started.elapsed().as_secs_f64(),
            opened.len() - n_known
        );
        assert_eq!((n_known, n_containers, opened.len()), (0, 0, n as usize / 20), "no known file is opened");
        Ok(())
    }

    /// Kills a night that begins anew each time, ends it, and compares its tables, until `n_kills` have hit a running night.
    fn kill_and_resume(&self, n_kills: u32) -> Result<()> {
        let started = Instant::now();
        assert!(self.score("whole", "n1")?.wait()?.success(), "the undisturbed night is scored");
        let whole = started.elapsed();
        let rows = |store: &str| TABLES.iter().map(|table| self.rows(store, table)).collect::<Result<Vec<_>>>();
        let expected = rows("whole")?;
        let mut state = u64::from(std::process::id()) | 1;
        let mut n_killed = 0;
        while n_killed < n_kills {
            let mut child = self.score("killed", "n1")?;
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(whole.mul_f64((state >> 40) as f64 / f64::from(1 << 24)));
            let is_running = child.try_wait()?.is_none();
            child.kill()?;
            child.wait()?;
            if is_running {
                n_killed += 1;
                assert!(self.score("killed", "n1")?.wait()?.success(), "the killed night is scored to its end");
                for (table, (expected, found)) in TABLES.iter().zip(expected.iter().zip(&rows("killed")?)) {
                    assert_eq!(expected, found, "kill {n_killed}: {table}");
                }
            }
            let store = self.folder.join("killed");
            if store.exists() {
                std::fs::remove_dir_all(store)?;
            }
        }
        for (table, rows) in TABLES.iter().zip(&expected) {
            println!("{} equal rows: {}", rows.len(), table.rsplit(' ').next().unwrap_or_default());
        }
        println!("{n_killed} kills of a night of {:.1} s, each ended: the tables are equal", whole.as_secs_f64());
        Ok(())
    }

    /// The rows of a query, sorted.
    fn rows(&self, store: &str, columns_and_table: &str) -> Result<Vec<String>> {
        let sql = format!("SELECT {columns_and_table}");
        let output = Command::new(program()?)
            .current_dir(&self.folder)
            .args(["query", &sql, "--store", store, "--format", "csv"])
            .output()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut rows: Vec<String> = String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect();
        rows.sort();
        Ok(rows)
    }
}
