//! The process's own memory.

/// Gives memory back that the allocator keeps for later (glibc's `malloc_trim`); without effect with other C libraries. A burst of
/// pods leaves megabytes of it, in pieces that glibc does not return by itself. Takes milliseconds.
#[allow(unsafe_code, reason = "a call into the C library")]
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it only touches what is free, under the allocator's own locks; any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
