//! The crate's own memory, at a limit.
//!
//! SQLite returns SQLITE_NOMEM if it gets no memory; Rust's collections abort the process, and with it the
//! connection. So large allocations are made through `buffers`, and fail with an error. Everything else is small
//! and short-lived (a message, a file's object) and comes from a reserve when the heap is exhausted.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::{Cell, UnsafeCell};
use core::ptr;
use std::alloc::System;

const SLOT_BYTES: usize = 256;
const SLOTS: usize = 128;
/// Larger allocations never come from the reserve.
const LARGEST: usize = 4096;
const ALIGN: usize = 16;

#[repr(C, align(16))]
struct Block([u8; SLOT_BYTES * SLOTS]);

/// The heap, and after it the reserve: memory that nothing else can use up.
pub struct Allocator {
    block: UnsafeCell<Block>,
    /// One bit for each slot in use.
    used: Cell<u128>,
    /// The caller can do without the memory.
    is_optional: Cell<bool>,
}

// SAFETY: an instance runs on one thread.
unsafe impl Sync for Allocator {}

#[cfg(target_arch = "wasm32")]
#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new();

/// Calls `ask`, whose allocations may fail: they leave the reserve to allocations that may not.
#[cfg(target_arch = "wasm32")]
pub fn optional<T>(ask: impl FnOnce() -> T) -> T {
    let before = ALLOCATOR.is_optional.replace(true);
    let result = ask();
    ALLOCATOR.is_optional.set(before);
    result
}

#[cfg(not(target_arch = "wasm32"))]
pub fn optional<T>(ask: impl FnOnce() -> T) -> T {
    ask()
}

impl Allocator {
    #[cfg(any(test, target_arch = "wasm32"))]
    const fn new() -> Self {
        Self {
            block: UnsafeCell::new(Block([0; SLOT_BYTES * SLOTS])),
            used: Cell::new(0),
            is_optional: Cell::new(false),
        }
    }

    /// Null if there is no space, or it is not for this allocation.
    fn take(&self, layout: Layout) -> *mut u8 {
        if self.is_optional.get() || layout.size() > LARGEST || layout.align() > ALIGN {
            return ptr::null_mut();
        }
        let wanted = mask(layout);
        let count = wanted.count_ones() as usize;
        for first in 0..=SLOTS - count {
            let here = wanted << first;
            if self.used.get() & here == 0 {
                self.used.set(self.used.get() | here);
                // SAFETY: the slots lie in the block.
                return unsafe { self.start().add(first * SLOT_BYTES) };
            }
        }
        ptr::null_mut()
    }

    fn start(&self) -> *mut u8 {
        self.block.get().cast()
    }

    fn holds(&self, pointer: *mut u8) -> bool {
        (pointer as usize).wrapping_sub(self.start() as usize) < SLOT_BYTES * SLOTS
    }

    fn give_back(&self, pointer: *mut u8, layout: Layout) {
        let first = (pointer as usize - self.start() as usize) / SLOT_BYTES;
        self.used.set(self.used.get() & !(mask(layout) << first));
    }
}

/// The C library's heap, whose large blocks return their pages (`host::large_blocks`).
#[cfg(target_arch = "wasm32")]
mod heap {
    use core::alloc::Layout;
    use core::ffi::c_void;
    use core::ptr;

    /// The alignment of every block of the C library.
    const ALIGN: usize = 8;

    unsafe extern "C" {
        fn rapsqlite_free(block: *mut c_void);
        fn rapsqlite_realloc(block: *mut c_void, size: usize) -> *mut c_void;
    }

    pub unsafe fn free(pointer: *mut u8, _: Layout) {
        // SAFETY: the caller's promise; the system's allocator has it from the C library.
        unsafe { rapsqlite_free(pointer.cast()) }
    }

    /// Null if that is impossible.
    pub unsafe fn resize(pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() > ALIGN {
            return ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { rapsqlite_realloc(pointer.cast(), size).cast() }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod heap {
    use std::alloc::{GlobalAlloc, Layout, System};

    pub unsafe fn free(pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    pub unsafe fn resize(pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// As many bits as slots are needed, from the lowest on.
fn mask(layout: Layout) -> u128 {
    let count = layout.size().div_ceil(SLOT_BYTES).max(1);
    (1 << count) - 1
}

// SAFETY: pointers come from the system's allocator or are slots that are not shared until they are freed, which are
// aligned for every layout that gets some.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let pointer = unsafe { System.alloc(layout) };
        if pointer.is_null() {
            return self.take(layout);
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if self.holds(pointer) {
            return self.give_back(pointer, layout);
        }
        // SAFETY: the caller's promise, and it is none of the slots.
        unsafe { heap::free(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.holds(pointer) {
            // SAFETY: the caller's promise, and it is none of the slots.
            let larger = unsafe { heap::resize(pointer, layout, size) };
            if !larger.is_null() {
                return larger;
            }
        }
        // SAFETY: the caller's promise for `size`; what is copied lies in both pointers.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                ptr::copy_nonoverlapping(pointer, moved, layout.size().min(size));
                self.dealloc(pointer, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).expect("a power of two")
    }

    #[test]
    fn the_reserve_holds_what_was_taken_until_it_is_given_back() {
        let allocator = Allocator::new();
        let pointers: Vec<_> = (0..SLOTS).map(|_| allocator.take(layout(1))).collect();
        assert!(pointers.iter().all(|pointer| allocator.holds(*pointer)));
        assert!(allocator.take(layout(1)).is_null());

        for pointer in &pointers[3..7] {
            allocator.give_back(*pointer, layout(1));
        }
        assert_eq!(allocator.take(layout(4 * SLOT_BYTES)), pointers[3]);
        assert!(allocator.take(layout(1)).is_null());
    }

    #[test]
    fn the_reserve_is_for_what_is_small_and_needed() {
        let allocator = Allocator::new();
        assert!(allocator.take(layout(LARGEST + 1)).is_null());
        assert!(!allocator.take(layout(LARGEST)).is_null());
        allocator.is_optional.set(true);
        assert!(allocator.take(layout(1)).is_null());
    }

    #[test]
    fn what_moves_keeps_its_bytes() {
        let allocator = Allocator::new();
        let pointer = allocator.take(layout(5));
        // SAFETY: each pointer has the requested size.
        unsafe {
            pointer.copy_from_nonoverlapping(b"kept!".as_ptr(), 5);
            let moved = allocator.realloc(pointer, layout(5), 5000);
            assert!(!allocator.holds(moved));
            assert_eq!(core::slice::from_raw_parts(moved, 5), b"kept!");
            allocator.dealloc(moved, layout(5000));
        }
        assert_eq!(allocator.used.get(), 0);
    }
}
