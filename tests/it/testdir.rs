//! A folder and a command per test; a failure prints the command, its output and the folder.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use agiqa_store::store::{OpenMode, Store};
use agiqa_store::tables::PartitionName;
use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

pub use agiqa_synth::{reference, shared};

/// A temporary folder that a test runs `agiqa` in.
pub struct TestDir {
    folder: tempfile::TempDir,
}

/// What one command printed and returned.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    report: String,
}

impl TestDir {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The store `store` in this folder.
    pub fn store(&self) -> Store {
        open_store(&self.path().join("store"))
    }

    /// Writes a file, making its folders. Returns its path.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("inside the folder")).expect("folders can be made");
        std::fs::write(&path, bytes).expect("a file can be written");
        path
    }

    /// `agiqa` with this folder as its current one, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agiqa"));
        command.current_dir(self.path()).args(args).env_remove("NO_COLOR");
        command
    }

    /// Runs `agiqa` with `args` to its end.
    pub fn agiqa(&self, args: &[&str]) -> Ran {
        self.agiqa_with(args, |_| {})
    }

    /// Runs `agiqa` with `args` to its end, after `set_up` changed the command, e.g. its environment.
    pub fn agiqa_with(&self, args: &[&str], set_up: impl FnOnce(&mut Command)) -> Ran {
        let mut command = self.command(args);
        set_up(&mut command);
        let output = command.output().expect("agiqa can be started");
        self.ran(args, &output)
    }

    /// Starts `agiqa` with `args` and ends it by SIGKILL as soon as the file `written`, if there is one, is another than it
    /// was.
    pub fn kill_once(&self, args: &[&str], written: impl Fn() -> Option<PathBuf>) {
        let state = || written().and_then(|path| std::fs::metadata(path).ok()?.modified().ok());
        let before = state();
        let mut child = self.command(args).spawn().expect("agiqa can be started");
        while state().is_none() || state() == before {
            assert!(child.try_wait().expect("a child").is_none(), "it ended before it was killed");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().expect("a running child");
        child.wait().expect("a child");
    }

    fn ran(&self, args: &[&str], output: &Output) -> Ran {
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut report = format!("$ agiqa {}\n{}\n", args.join(" "), output.status);
        let _ = write!(report, "-- stdout\n{stdout}\n-- stderr\n{stderr}\n-- folder\n{}", listing(self.path()));
        Ran { code: output.status.code(), stdout, stderr, report }
    }
}

impl Ran {
    /// Fails unless the exit code is `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code\n{}", self.report);
        self
    }

    /// Fails unless stderr holds `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "stderr lacks {text:?}\n{}", self.report);
        self
    }

    /// Fails unless stdout holds `text`.
    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "stdout lacks {text:?}\n{}", self.report);
        self
    }
}

/// The store in `folder`, which is made where it is absent.
pub fn open_store(folder: &Path) -> Store {
    Store::open(&folder.display().to_string(), OpenMode::CreateIfMissing).expect("a store can be made")
}

/// `text` as the name of a dataset, a run or another partition.
pub fn name(text: &str) -> PartitionName {
    text.parse().expect("a valid name")
}

/// The rows of `batch` as a Parquet file.
pub fn parquet(batch: &RecordBatch, properties: Option<WriterProperties>) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), properties).expect("a plain schema");
    writer.write(batch).expect("in memory");
    writer.into_inner().expect("in memory")
}

fn listing(folder: &Path) -> String {
    walkdir::WalkDir::new(folder)
        .sort_by_file_name()
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| format!("{}\n", entry.path().strip_prefix(folder).unwrap_or(entry.path()).display()))
        .collect()
}

/// A file in the weights folder; none, said plainly and counted, where it was not fetched.
///
/// With `AGIQA_REQUIRE_WEIGHTS=1` its absence fails the test.
#[track_caller]
pub fn weights(path: &str) -> Option<PathBuf> {
    agiqa_synth::required_or_skipped(agiqa_weights::folder().join(path), "AGIQA_REQUIRE_WEIGHTS")
}
