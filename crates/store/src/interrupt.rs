//! Ctrl-C and SIGTERM: the first signal asks the running stage to commit its finished work and stop. The second signal
//! ends the process at once. The signal of a file-size limit is ignored.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of an interrupted command that has committed its finished work.
pub const EXIT_INTERRUPTED: u8 = 130;

/// A flag that the signal handlers raise. It is cheap to clone and readable from any thread.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Installs handlers for SIGINT and SIGTERM that raise the flag. A second signal ends the process with code 130.
    pub fn install() -> std::io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // This handler must be registered first: it must see the flag before the same signal raises it.
            signal_hook::flag::register_conditional_shutdown(signal, i32::from(EXIT_INTERRUPTED), Arc::clone(&flag))?;
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        // A file-size limit then is an error of writing instead of the end of the process.
        signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
        Ok(Self(flag))
    }

    /// Whether a signal has arrived.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Raises the flag as a signal would.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
