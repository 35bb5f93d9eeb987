//! The boundary that no panic of a library crosses.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a reader of foreign bytes. A panic becomes an error with the library's words, and prints nothing itself.
pub(crate) fn contained<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let outer = take_hook();
        set_hook(Box::new(move |info| {
            if !IS_CONTAINED.get() {
                outer(info);
            }
        }));
    });
    let was_contained = IS_CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    IS_CONTAINED.set(was_contained);
    result.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("it is damaged; the library that reads it says: {}", words.unwrap_or("nothing")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_the_words_of_the_library() {
        let error = contained::<()>(|| panic!("no page {}", 3)).expect_err("it panics");
        assert_eq!(error, "it is damaged; the library that reads it says: no page 3");
        assert_eq!(contained(|| Ok(7)), Ok(7));
    }
}
