//! C's `free` and `realloc` for SQLite and the crate: large blocks return their pages.
//!
//! The memory of an instance never shrinks, but pages whose content the host has dropped take no physical memory.

use core::ffi::c_void;

use super::import::memory_unused;

/// Smaller blocks keep their pages: one that is used again and again would need new ones each time, which costs more
/// than a millisecond for each value of 5 MiB.
const LARGE_BYTES: usize = 8 << 20;
/// The C library keeps its own data at both ends of a free block, and nowhere in between.
const EDGE_BYTES: usize = 64;

unsafe extern "C" {
    fn free(block: *mut c_void);
    fn realloc(block: *mut c_void, size: usize) -> *mut c_void;
    fn malloc_usable_size(block: *mut c_void) -> usize;
}

/// # Safety
/// The contract of C's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn rapsqlite_free(block: *mut c_void) {
    // SAFETY: the contract of C's functions is the same, and nothing reads what is about to be freed.
    unsafe {
        give_back(block, 0, malloc_usable_size(block));
        free(block);
    }
}

/// # Safety
/// The contract of C's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn rapsqlite_realloc(block: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the contract of C's functions is the same. Nothing was allocated since, so the old place of the
    // block, or the part by which it shrank, is free.
    unsafe {
        let before = malloc_usable_size(block);
        let resized = realloc(block, size);
        if !resized.is_null() {
            let kept = match resized == block {
                true => malloc_usable_size(resized),
                false => 0,
            };
            give_back(block, kept + EDGE_BYTES, before.saturating_sub(EDGE_BYTES));
        }
        resized
    }
}

/// Lets the host drop the pages from `start` to `end` of a block, if there are many.
///
/// # Safety
/// Nothing reads these bytes before they are written.
unsafe fn give_back(block: *mut c_void, start: usize, end: usize) {
    if end.saturating_sub(start) >= LARGE_BYTES {
        // SAFETY: the caller's promise.
        unsafe { memory_unused(block.cast::<u8>().add(start), end - start) };
    }
}
