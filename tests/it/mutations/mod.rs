//! Mutated images, tables and checkpoints: no panic, no hang, bounded memory, and every file and row accounted for.
//!
//! `cargo test --release --test it mutations -- --ignored` tries ten thousand and prints what became of them.

mod inputs;
mod tally;

#[path = "../../../fuzz/readers/checkpoint.rs"]
mod checkpoint_reader;
#[path = "../../../fuzz/readers/provenance.rs"]
mod provenance_reader;
#[path = "../../../fuzz/readers/table.rs"]
mod table_reader;

use std::process::Command;
use std::time::{Duration, Instant};

use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::{images, rejects};

use crate::baseline::{params, picture};
use crate::checkpoint::state_dict;
use crate::features::pictures;
use crate::ingest::of_every_form;
use crate::maniqa::{OURS, write_weights};
use crate::testdir::TestDir;
use inputs::{Draws, mutated};
use tally::Tally;

/// Names the work of [`readers_take_mutated_bytes`]: a reader, a seed, and a number of inputs or of seconds (`600s`).
const READ: &str = "AGIQA_READ";

/// Number of seeds of [`ten_thousand_are_told_or_read`], each with 250 inputs.
const SEEDS: &str = "AGIQA_SEEDS";

/// Takes any bytes, and panics if they break a promise.
type Reader = fn(&[u8]);

fn events(stdout: &str) -> impl Iterator<Item = serde_json::Value> {
    stdout.lines().map(|line| serde_json::from_str(line).expect("JSON"))
}

/// Numbers of rows that went into a stage, came out of it, and that it rejected.
fn counts(stdout: &str) -> Option<[u64; 3]> {
    let stage = events(stdout).find(|event| event["type"] == "stage")?;
    Some(["n_in", "n_out", "n_rejected"].map(|name| stage["rows"][name].as_u64().expect("a count")))
}

/// Scores `n` mutated images in one command.
fn try_images(n: usize, draws: &mut Draws, tally: &mut Tally) {
    let (dir, originals) = (TestDir::new(), inputs::pictures());
    dir.write("images/whole.png", picture(1, 112, 104));
    for i in 0..n {
        let original = &originals[draws.below(originals.len())];
        dir.write(&format!("images/{i:05}"), mutated(original, draws));
    }
    tally.n_images += n;
    let params = params().display().to_string();
    let base = ["baseline", "--methods", "brisque", "--params", &params, "--images", "images", "--store", "store"];
    let command = dir.command(&[&base[..], &["--json", "--threads", "2"]].concat());
    let Some(stdout) = tally.run(dir.path(), &command, &[0, 1]) else { return };
    let left_out = events(&stdout).filter(|event| event["type"] == "left-out");
    let n_left_out: u64 = left_out.map(|event| event["n_files"].as_u64().expect("a count")).sum();
    let [n_in, n_out, n_rejected] = counts(&stdout).expect("the stage ran");
    tally.balance(n as u64 + 1, n_in + n_left_out, "files");
    tally.balance(n_in, n_out + n_rejected, "images");
    let rejects = rejects::read(&store(&dir), "baseline").expect("readable rejects");
    tally.balance(n_rejected, rejects.len() as u64, "rejects of images");
    tally.balance(0, rejects.iter().filter(|reject| reject.kind == "internal-error").count() as u64, "caught panics");
}

fn store(dir: &TestDir) -> Store {
    let folder = dir.path().join("store");
    Store::open(folder.to_str().expect("UTF-8"), OpenMode::Existing).expect("the store that was written")
}

/// Reads `n` mutated tables in one process, and ingests `n_commands` others by a command each.
fn try_tables(n: usize, n_commands: usize, draws: &mut Draws, tally: &mut Tally) {
    let (dir, originals) = (TestDir::new(), of_every_form());
    read_mutated(&dir, "table", n, draws, tally);
    for _ in 0..n_commands {
        dir.write("t", mutated(&originals[draws.below(originals.len())], draws));
        let base =
            ["ingest", "--adapter", "generic", "--dataset", "d", "--no-images", "--mos-scale", "0..5", "--force"];
        let columns = ["--column", "name=1", "--column", "mos=2", "--table", "t", "--store", "store", "--json"];
        let printed = tally.run(dir.path(), &dir.command(&[&base[..], &columns].concat()), &[0, 1, 2]);
        let Some([n_in, n_out, n_rejected]) = printed.as_deref().and_then(counts) else { continue };
        tally.balance(n_in, n_out + n_rejected, "rows");
        let images = images::read(&store(&dir), &"d".parse().expect("a name")).expect("a readable table");
        let rejects = rejects::read(&store(&dir), "ingest").expect("readable rejects");
        tally.balance(n_in, (images.rows.len() + rejects.len()) as u64, "rows in the store");
    }
    tally.n_tables += n + n_commands;
}

/// Reads `n` mutated checkpoints in one process, and `n_commands` others by a command each.
fn try_checkpoints(n: usize, n_commands: usize, draws: &mut Draws, tally: &mut Tally) {
    let dir = TestDir::new();
    let folder = write_weights(&dir, OURS[0]);
    let file = folder.join("model.safetensors");
    let safetensors = std::fs::read(&file).expect("written");
    pictures(&dir, [1]);
    read_mutated(&dir, "checkpoint", n, draws, tally);
    // Values change nothing but numbers, so headers alone are mutated.
    let (header, values) = safetensors.split_at(n_header(&safetensors));
    for i in 0..n_commands {
        let bytes = match i % 2 {
            0 => mutated(&state_dict(), draws),
            _ => [&mutated(header, draws)[..], values].concat(),
        };
        std::fs::write(&file, bytes).expect("it can be written");
        let weights = folder.display().to_string();
        let base = ["extract", "--extractor", "maniqa", "--weights", &weights, "--images", "images"];
        let more = ["--store", "store", "--threads", "1", "--device", "cpu"];
        tally.run(dir.path(), &dir.command(&[&base[..], &more].concat()), &[0, 1, 2]);
    }
    tally.n_checkpoints += n + n_commands;
}

/// Number of bytes before the values of a file of safetensors.
fn n_header(safetensors: &[u8]) -> usize {
    8 + u64::from_le_bytes(std::array::from_fn(|i| safetensors[i])) as usize
}

/// Gives `n` mutated inputs to a reader in a process of its own, so that its memory is known.
fn read_mutated(dir: &TestDir, reader: &str, n: usize, draws: &mut Draws, tally: &mut Tally) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "mutations::readers_take_mutated_bytes", "--ignored"]);
    command.env(READ, format!("{reader} {} {n}", draws.below(1 << 30)));
    tally.run(dir.path(), &command, &[0]);
}

/// Some inputs in this process, by the same code as the targets of `fuzz/`: `AGIQA_READ="table 7 600s"` reads mutated
/// tables for ten minutes, `"checkpoint 7 100"` a hundred checkpoints, `"provenance …"` images' metadata.
#[test]
#[ignore = "a part of others, and takes as long as it is told"]
fn readers_take_mutated_bytes() {
    let Ok(work) = std::env::var(READ) else { return };
    let [reader, seed, n] = work.split(' ').collect::<Vec<_>>()[..] else { panic!("{READ}={work}") };
    let (read, originals): (Reader, Vec<Vec<u8>>) = match reader {
        "table" => (table_reader::read, of_every_form()),
        "provenance" => (provenance_reader::read, inputs::pictures()),
        "checkpoint" => {
            let dir = TestDir::new();
            let weights = std::fs::read(write_weights(&dir, OURS[0]).join("model.safetensors")).expect("written");
            (checkpoint_reader::read, vec![state_dict(), weights[..n_header(&weights)].to_vec()])
        }
        _ => panic!("{READ}={work}: expected `table`, `checkpoint` or `provenance`"),
    };
    let seconds = n.strip_suffix('s').map(|n| Duration::from_secs(n.parse().expect("a number of seconds")));
    let n_inputs = seconds.map_or_else(|| n.parse().expect("a number of inputs"), |_| u64::MAX);
    let (started, mut slowest, mut n_read) = (Instant::now(), Duration::ZERO, 0);
    // Inputs build on mutated inputs, so that they go further than one mutation from a whole file.
    let (mut pool, mut draws) = (originals.clone(), Draws(seed.parse().expect("a seed")));
    while n_read < n_inputs && seconds.is_none_or(|seconds| started.elapsed() < seconds) {
        let bytes = mutated(&pool[draws.below(pool.len())], &mut draws);
        let before = Instant::now();
        if let Err(panic) = std::panic::catch_unwind(|| read(&bytes)) {
            let kept = std::env::temp_dir().join(format!("agiqa-{reader}-{seed}-{n_read}"));
            std::fs::write(&kept, &bytes).expect("it can be written");
            eprintln!("panicked on {}", kept.display());
            std::panic::resume_unwind(panic);
        }
        slowest = slowest.max(before.elapsed());
        n_read += 1;
        match draws.below(8) {
            0 if bytes.len() <= 16 << 10 && pool.len() < 64 => pool.push(bytes),
            1 if pool.len() > originals.len() => {
                drop(pool.swap_remove(originals.len() + draws.below(pool.len() - originals.len())))
            }
            _ => {}
        }
    }
    if seconds.is_some() {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak").trim();
        eprintln!("{reader}: {n_read} inputs, 0 panics, the slowest took {slowest:?}, largest peak: {peak}");
        assert!(peak.trim_end_matches(" kB").parse::<u64>().expect("a number") < 1 << 20, "over 1 GiB");
    }
    assert!(slowest < Duration::from_secs(10) || seconds.is_none(), "{slowest:?}");
}

/// The whole, with `AGIQA_SEEDS` for a part of it. In its own process, as the memory of another test would count for the
/// commands that it starts.
#[test]
fn some_hundred_are_told_or_read() {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "mutations::ten_thousand_are_told_or_read", "--ignored"]).env(SEEDS, "1");
    let output = command.output().expect("this program can be started");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}{}", String::from_utf8_lossy(&output.stdout));
    assert!(stderr.contains("250 inputs (150 images, 50 tables, 50 checkpoints): 0 panics, 0 hangs"), "{stderr}");
}

#[test]
#[ignore = "takes minutes"]
fn ten_thousand_are_told_or_read() {
    let n_seeds = std::env::var(SEEDS).map_or(40, |n| n.parse().expect("a number of seeds"));
    let mut tally = Tally::default();
    for seed in 0..n_seeds {
        let mut draws = Draws(1000 + seed);
        (0..3).for_each(|_| try_images(50, &mut draws, &mut tally));
        try_tables(45, 5, &mut draws, &mut tally);
        try_checkpoints(46, 4, &mut draws, &mut tally);
    }
    tally.end();
}
