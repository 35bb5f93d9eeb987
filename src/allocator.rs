//! Keeps freed memory in the process.
//!
//! A network frees and allocates the same tens of megabytes for every layer. glibc gives such blocks back to the system
//! and gets them anew, zeroed page by page: 1.4 million page faults for 48 images at 392 px, and a seventh of the time.

/// Tells glibc to keep large freed blocks for the next allocation; elsewhere nothing happens.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    set_thresholds();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "no safe binding to mallopt exists")]
fn set_thresholds() {
    // SAFETY: mallopt takes two integers by value and locks the arena itself. A value that it does not like it refuses by
    // returning 0, which leaves the defaults: slower, and as correct.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
