//! Giving freed memory back to the system.

/// The allocator keeps what thousands of streams have freed, for reuse; a router that is idle again should be small again.
pub(super) fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim only releases free memory at the ends of heaps and whole free pages; it is thread-safe.
    unsafe {
        libc::malloc_trim(0);
    }
}
