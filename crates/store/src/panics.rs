//! Panics of libraries as errors. A library that meets a file it did not expect may panic; the user should read which file
//! it was and what the library said, and a scheduler should see one of the documented exit codes.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::path_text::text_of;

/// A caught panic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}a library gave up: {words}{}; this is a bug of agiqa, please report it",
    file.as_ref().map_or_else(String::new, |file| format!("`{}`: ", text_of(file))),
    place.as_ref().map_or_else(String::new, |place| format!(" ({place})"))
)]
pub struct Panicked {
    /// The file that was read, if it is known.
    pub file: Option<PathBuf>,
    /// The panic's message.
    pub words: String,
    /// File and line of the code that panicked.
    pub place: Option<String>,
}

/// The latest panic of any thread. A thread that waits for another one may get a panic without its message.
static LATEST: Mutex<Option<Panicked>> = Mutex::new(None);

thread_local! {
    /// The file that this thread reads.
    static FILE: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

/// Message of the panic by which a scope tells that one of its threads panicked.
const OF_A_SCOPE: &str = "a scoped thread panicked";

/// Keeps panics for [`caught`] instead of printing them. With `RUST_BACKTRACE` they are printed, too.
pub fn keep() {
    let print = std::panic::take_hook();
    let is_verbose = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    std::panic::set_hook(Box::new(move |info| {
        let words = info.payload_as_str().unwrap_or("no message").to_owned();
        if words == OF_A_SCOPE {
            return;
        }
        let file = FILE.try_with(|file| file.try_borrow().ok().and_then(|file| file.clone())).ok().flatten();
        let panicked = Panicked { file, words, place: info.location().map(ToString::to_string) };
        *LATEST.lock().unwrap_or_else(PoisonError::into_inner) = Some(panicked);
        if is_verbose {
            print(info);
        }
    }));
}

/// The latest panic of any thread since [`keep`].
pub fn latest() -> Option<Panicked> {
    LATEST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Runs `work`, which reads the file at `path`: a panic within it names the file.
pub fn of_file<T>(path: &Path, work: impl FnOnce() -> T) -> T {
    /// Puts the earlier file back, also after a panic.
    struct Earlier(Option<PathBuf>);
    impl Drop for Earlier {
        fn drop(&mut self) {
            FILE.set(self.0.take());
        }
    }
    let _earlier = Earlier(FILE.replace(Some(path.to_owned())));
    work()
}

/// Runs `work`.
///
/// # Errors
/// It panics.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let words =
            payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
        match (words, latest()) {
            // The panic of another thread, which a scope passes on without its message.
            (Some(OF_A_SCOPE) | None, Some(latest)) => latest,
            (Some(words), Some(latest)) if words == latest.words => latest,
            (words, _) => Panicked { file: None, words: words.unwrap_or("no message").to_owned(), place: None },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_names_the_file_and_the_words_even_from_another_thread() {
        keep();
        let read = || of_file(Path::new("a.xlsx"), || panic!("no sheet {}", 3));
        let here: Result<(), _> = caught(read);
        let in_scope = caught(|| std::thread::scope(|scope| drop(scope.spawn(|| -> () { read() }))));
        for panicked in [here.expect_err("it panics"), in_scope.expect_err("it panics")] {
            let text = panicked.to_string();
            assert!(text.starts_with("`a.xlsx`: a library gave up: no sheet 3 (crates/store/src/panics.rs:"), "{text}");
        }
        assert_eq!(caught(|| 7), Ok(7));
    }
}
