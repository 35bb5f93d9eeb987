//! Commands that are measured, and what became of the inputs.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use wait4::Wait4 as _;

/// Processor time that a process may take, and time on the clock for one that waits for ever.
const MAX_CPU_SECS: u64 = 10;
const MAX_TIME: Duration = Duration::from_secs(300);

/// Memory that a process may take.
const MAX_BYTES: u64 = 1 << 30;

/// The signal for a process that took more processor time than it may.
const SIGXCPU: i32 = 24;

/// What became of the inputs.
#[derive(Default)]
pub struct Tally {
    pub n_images: usize,
    pub n_tables: usize,
    pub n_checkpoints: usize,
    n_panics: usize,
    n_hangs: usize,
    n_other_codes: usize,
    n_unaccounted: u64,
    n_over_memory: usize,
    peak_bytes: u64,
    faults: Vec<String>,
}

impl Tally {
    /// Runs a command in `dir` to its end, within the limits. Returns what it printed unless it was stopped.
    pub fn run(&mut self, dir: &Path, command: &Command, codes: &[i32]) -> Option<String> {
        let (status, peak_bytes, printed) = measured(dir, command);
        let [stdout, stderr] = printed;
        self.peak_bytes = self.peak_bytes.max(peak_bytes);
        let ended = status.map_or_else(|| "stopped".to_owned(), |status| status.to_string());
        let words = || format!("{ended}, {} MiB: {command:?} in {}:\n{stderr}", peak_bytes >> 20, dir.display());
        if peak_bytes > MAX_BYTES {
            self.n_over_memory += 1;
            self.faults.push(words());
        }
        let code = status.and_then(|status| status.code());
        let is_slow = status.is_none_or(|status| status.signal() == Some(SIGXCPU));
        if is_slow {
            self.n_hangs += 1;
        } else if code == Some(101) || stderr.contains("panicked") || stderr.contains("gave up") {
            self.n_panics += 1;
        } else if code.is_none_or(|code| !codes.contains(&code)) {
            self.n_other_codes += 1;
        } else {
            return Some(stdout);
        }
        self.faults.push(words());
        None
    }

    /// Counts the difference between the numbers of rows or files that went in and that came out.
    pub fn balance(&mut self, n_in: u64, n_out: u64, subject: &str) {
        if n_in != n_out {
            self.n_unaccounted += n_in.abs_diff(n_out);
            self.faults.push(format!("{subject}: {n_in} in, {n_out} out"));
        }
    }

    /// Prints the summary, also where the output of tests is captured, and fails if anything went wrong.
    #[track_caller]
    pub fn end(&self) {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "{self}");
        assert!(self.faults.is_empty(), "{self}\n{}", self.faults.join("\n"));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_images, n_tables, n_checkpoints, n_panics, n_hangs, n_other_codes, n_unaccounted, .. } = self;
        write!(
            f,
            "{} inputs ({n_images} images, {n_tables} tables, {n_checkpoints} checkpoints): {n_panics} panics, {n_hangs} \
             hangs over {MAX_CPU_SECS} s, {n_other_codes} undocumented exit codes, {} peaks over 1 GiB (largest peak: {} \
             MiB), {n_unaccounted} rows or files unaccounted for",
            n_images + n_tables + n_checkpoints,
            self.n_over_memory,
            self.peak_bytes >> 20,
        )
    }
}

/// Runs a command: its end, its greatest memory in bytes, and what it printed. `None` if it waited for ever.
fn measured(dir: &Path, command: &Command) -> (Option<ExitStatus>, u64, [String; 2]) {
    let files = ["stdout", "stderr"].map(|name| dir.join(name));
    let [stdout, stderr] = files.each_ref().map(|path| std::fs::File::create(path).expect("a file"));
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -t {MAX_CPU_SECS}; exec \"$0\" \"$@\"")]).arg(command.get_program());
    limited.args(command.get_args()).current_dir(dir).stdout(stdout).stderr(stderr);
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (started, mut child) = (Instant::now(), limited.spawn().expect("a shell"));
    let ended = loop {
        match child.try_wait4().expect("a child") {
            Some(ended) => break Some(ended),
            None if started.elapsed() > MAX_TIME => {
                child.kill().expect("it runs");
                child.wait4().expect("it was killed");
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let printed = files.map(|path| String::from_utf8_lossy(&std::fs::read(path).expect("a file")).into_owned());
    (ended.map(|ended| ended.status), ended.map_or(0, |ended| ended.rusage.maxrss), printed)
}
