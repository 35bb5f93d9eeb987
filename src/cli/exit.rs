//! Exit codes. Schedulers act on them, so they are part of the program's interface.

use std::error::Error;
use std::io::ErrorKind;

use crate::engine::is_allocation_failure;
use agiqa_store::interrupt::EXIT_INTERRUPTED;

/// The end of a command that could run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All work is done: code 0.
    Done,
    /// The work is done, but rows were rejected or a check failed: code 1.
    Rejected,
    /// The command was interrupted after it committed its finished work: code 130.
    Interrupted,
}

impl Exit {
    /// Process exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Rejected => 1,
            Self::Interrupted => EXIT_INTERRUPTED,
        }
    }

    /// The more severe of two ends: interrupted before rejected before done.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Interrupted, _) | (_, Self::Interrupted) => Self::Interrupted,
            (Self::Rejected, _) | (_, Self::Rejected) => Self::Rejected,
            (Self::Done, Self::Done) => Self::Done,
        }
    }
}

/// Code of a command that could not run. An unchanged retry would fail again.
pub const EXIT_CANNOT_RUN: u8 = 2;

/// Code of a command that failed because storage or memory was short. A retry may succeed.
pub const EXIT_RETRY: u8 = 75;

/// Exit code of `error`: 75 if a shortage of storage or memory is in its chain of causes, else 2.
pub fn code_of_error(error: &anyhow::Error) -> u8 {
    if error.chain().any(is_shortage) { EXIT_RETRY } else { EXIT_CANNOT_RUN }
}

fn is_shortage(cause: &(dyn Error + 'static)) -> bool {
    let io_shortage = cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
        matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge | ErrorKind::OutOfMemory)
            // An error that only wraps another error hides it from the chain.
            || error.get_ref().is_some_and(|inner| is_shortage(inner as &(dyn Error + 'static)))
    });
    io_shortage || is_allocation_failure(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_anywhere_in_the_chain_asks_for_a_retry() {
        let cause = std::io::Error::other(std::io::Error::from(ErrorKind::StorageFull));
        assert_eq!(code_of_error(&anyhow::Error::new(cause).context("cannot write")), EXIT_RETRY);
        assert_eq!(code_of_error(&anyhow::anyhow!("no such column")), EXIT_CANNOT_RUN);
    }
}
