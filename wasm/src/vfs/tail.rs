//! The end of a WAL, mapped for writing: a commit is then a few stores to memory instead of a host call.
//!
//! Only while this connection holds the writer's lock, when nobody else appends to the WAL or cuts it. The host
//! first makes the file as long as the mapping, with real blocks, so that a full disk shows before anything is
//! stored, and then SQLite's write goes through the host, which reports it. As in `window.rs` a file that somebody
//! cuts all the same makes a store fail: the instance traps, the connection ends, nothing was acknowledged.
//!
//! A sync of the file covers what was stored, and everyone who reads the file sees it: Linux has one page cache
//! for both, and the host maps nothing elsewhere.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::alloc::{Layout, alloc, dealloc};

use libsqlite3_sys as ffi;

use crate::host::{self, Code, Fd};

/// How much is mapped at a time, and what the file grows by.
const TAIL_BYTES: usize = 1 << 20;
/// A wasm page, which any page of the host divides.
const ALIGN_BYTES: usize = 64 << 10;

static WRITES: AtomicU64 = AtomicU64::new(0);

/// How many of SQLite's writes were stores.
pub fn writes() -> u64 {
    WRITES.load(Ordering::Relaxed)
}

/// What is mapped of one WAL.
#[derive(Default)]
pub struct Tail {
    place: Option<NonNull<u8>>,
    start: i64,
    /// Of `index::writer_epoch`: since then nobody else can have cut the file.
    epoch: u64,
    is_mapped: bool,
    /// The host has refused: do not ask again.
    refused: bool,
    /// There was no room for it in this epoch.
    full: u64,
}

impl Tail {
    /// Sees to it that `len` bytes at `offset` of the file can be stored; false: the host must write them.
    pub fn reach(&mut self, fd: Fd, epoch: u64, len: usize, offset: i64) -> bool {
        if self.refused || self.full == epoch || len > TAIL_BYTES - ALIGN_BYTES {
            return false;
        }
        if !(self.is_mapped && self.covers(len, offset)) {
            self.start = offset - offset % ALIGN_BYTES as i64;
            self.is_mapped = false;
        }
        if !self.is_mapped || self.epoch != epoch {
            self.is_mapped = self.map(fd, epoch);
            self.epoch = epoch;
        }
        self.is_mapped
    }

    /// Stores `data` at `offset`, which `reach` has just made sure of.
    pub fn store(&mut self, data: &[u8], offset: i64) {
        assert!(self.is_mapped && self.covers(data.len(), offset));
        let place = self.place.expect("what is mapped has a place");
        WRITES.fetch_add(1, Ordering::Relaxed);
        // SAFETY: this much of the file is mapped at `place`, for this alone, and `data` is other memory.
        unsafe { copy_in(place.as_ptr().add((offset - self.start) as usize), data) };
    }

    fn covers(&self, len: usize, offset: i64) -> bool {
        offset >= self.start && offset + len as i64 <= self.start + TAIL_BYTES as i64
    }

    /// Has the host lay the file from `start` over our block, or look whether it is still as long as that.
    fn map(&mut self, fd: Fd, epoch: u64) -> bool {
        let Some(place) = self.place.or_else(|| {
            // SAFETY: the layout is not empty.
            NonNull::new(unsafe { alloc(layout()) })
        }) else {
            return false;
        };
        self.place = Some(place);
        // SAFETY: the block is ours while the file is open; only `copy_in` touches it.
        match unsafe { host::tail_map(fd, place, TAIL_BYTES, self.start) } {
            Ok(()) => return true,
            Err(ffi::SQLITE_FULL) => self.full = epoch, // a smaller write may still fit
            Err(_) => self.refused = true,
        }
        false
    }

    /// The file is about to be cut: look at its length before the next store.
    pub fn doubt(&mut self) {
        self.epoch = 0;
    }

    /// Takes the mapping off.
    pub fn close(&mut self) -> Result<(), Code> {
        let Some(place) = self.place.take() else {
            return Ok(());
        };
        // SAFETY: the block that `map` gave to the host; on failure it leaks: something may still be mapped there.
        unsafe { host::window_unmap(place, TAIL_BYTES) }?;
        // SAFETY: allocated in `map` with this layout, and plain memory again.
        unsafe { dealloc(place.as_ptr(), layout()) };
        Ok(())
    }
}

fn layout() -> Layout {
    Layout::from_size_align(TAIL_BYTES, ALIGN_BYTES).expect("a power of two")
}

/// Copies into a mapping with stores of its own, for the reasons of `window::copy_out`.
///
/// # Safety
/// `data.len()` bytes from `target` are mapped for writing, and are not part of `data`.
#[inline(never)]
unsafe fn copy_in(target: *mut u8, data: &[u8]) {
    const WORD: usize = size_of::<u64>();
    let head = target.align_offset(WORD).min(data.len());
    let (before, rest) = data.split_at(head);
    let (words, after) = rest.as_chunks::<WORD>();
    // SAFETY: every access stays within the mapped bytes; `next` is aligned by the choice of `head`.
    unsafe {
        for (index, byte) in before.iter().enumerate() {
            target.add(index).write_volatile(*byte);
        }
        let mut next = target.add(head).cast::<u64>();
        for word in words {
            next.write_volatile(u64::from_ne_bytes(*word));
            next = next.add(1);
        }
        for (index, byte) in after.iter().enumerate() {
            next.cast::<u8>().add(index).write_volatile(*byte);
        }
    }
}
