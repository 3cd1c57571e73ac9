//! Reads from mapped ranges: parts of a file that the host maps into the arena. <https://sqlite.org/mmap.html>
//!
//! A range is shared with everyone who writes the file, so it is never stale. If the file is truncated, a load
//! fails: the instance traps and the connection ends, but not the process. That holds only for loads of wasm code.
//! Therefore only `copy_out` reads ranges, and their addresses are never passed to SQLite, to the host, or to
//! `memory.copy`, for which they are outside the memory.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::host::{self, Fd};
use crate::vfs::arena;

const RANGE_BYTES: usize = 16 << 20;
/// MappedRanges of all files: three quarters of the arena.
const MOST_RANGES: usize = 48;
/// MappedRanges of one file that are open or candidates.
const MOST_CANDIDATES: usize = 128;
/// Misses after which a range is mapped. A connection that reads a row or two does without: around each page that it
/// reads from a mapped file, the kernel maps fifteen others.
const MISSES_TO_MAP: u32 = 8;
/// The same for mapping a range again because the file has grown.
const MISSES_TO_EXTEND: u32 = 3;
/// The same if another range must be evicted: random reads of a huge file go to the host one by one.
const MISSES_TO_REPLACE: u32 = 64;

static OPEN_RANGES: AtomicUsize = AtomicUsize::new(0);
static HITS: AtomicU64 = AtomicU64::new(0);
static MISSES: AtomicU64 = AtomicU64::new(0);

/// How many reads of databases and WALs were served from ranges, and how many by the host.
pub fn hits_and_misses() -> (u64, u64) {
    (HITS.load(Ordering::Relaxed), MISSES.load(Ordering::Relaxed))
}

/// The ranges of one file.
#[derive(Default)]
pub struct MappedRanges {
    ranges: Vec<MappedRange>,
    /// The range of the last read.
    last: usize,
    reads: u64,
    /// The host has refused to map this file, or there is no space: do not ask again.
    refused: bool,
}

struct MappedRange {
    /// Which part of the file, in units of `RANGE_BYTES`.
    index: i64,
    address: Option<NonNull<u8>>,
    /// How many of its bytes exist in the file.
    len: usize,
    misses: u32,
    last_used: u64,
}

impl MappedRanges {
    /// Fills `data` from `offset`, or returns false: then the host must read.
    pub fn read(&mut self, fd: Fd, data: &mut [u8], offset: i64) -> bool {
        let served = self.serve(fd, data, offset);
        let counter = if served { &HITS } else { &MISSES };
        counter.fetch_add(1, Ordering::Relaxed);
        served
    }

    fn serve(&mut self, fd: Fd, data: &mut [u8], offset: i64) -> bool {
        let index = offset / RANGE_BYTES as i64;
        let start = (offset % RANGE_BYTES as i64) as usize;
        let end = start + data.len();
        if self.refused || end > RANGE_BYTES {
            return false;
        }
        let number = self.find(index);
        if self.ranges[number].len < end && !self.miss(fd, number, end) {
            return false;
        }
        self.reads += 1;
        self.last = number;
        let range = &mut self.ranges[number];
        range.last_used = self.reads;
        let address = range.address.expect("a range with bytes has an address");
        // SAFETY: `end` bytes of the file are mapped at `address`, and `data` is other memory.
        unsafe { copy_out(address.as_ptr().add(start), data) };
        true
    }

    fn find(&mut self, index: i64) -> usize {
        if self
            .ranges
            .get(self.last)
            .is_some_and(|range| range.index == index)
        {
            return self.last;
        }
        if let Some(number) = self.ranges.iter().position(|range| range.index == index) {
            return number;
        }
        if self.ranges.len() >= MOST_CANDIDATES {
            self.ranges.retain(|range| range.address.is_some());
        }
        self.ranges.push(MappedRange {
            index,
            address: None,
            len: 0,
            misses: 0,
            last_used: 0,
        });
        self.ranges.len() - 1
    }

    /// Maps range `number` if it has become worthwhile; true if it then holds its first `end` bytes.
    fn miss(&mut self, fd: Fd, number: usize, end: usize) -> bool {
        let crowded = OPEN_RANGES.load(Ordering::Relaxed) >= MOST_RANGES;
        let range = &mut self.ranges[number];
        let enough = match range.address {
            Some(_) => MISSES_TO_EXTEND,
            None if crowded => MISSES_TO_REPLACE,
            None => MISSES_TO_MAP,
        };
        range.misses += 1;
        if range.misses < enough {
            return false;
        }
        range.misses = 0;
        let offset = range.index * RANGE_BYTES as i64;
        let Ok(size) = host::file_size(fd) else {
            return false;
        };
        let len = (size - offset).clamp(0, RANGE_BYTES as i64) as usize;
        if len < end {
            return false;
        }
        let Some(address) = self.address_for(number, crowded) else {
            return false;
        };
        // SAFETY: the range is ours while the range is open; only `copy_out` reads it.
        if unsafe { host::window_map(fd, address, RANGE_BYTES, offset) }.is_err() {
            self.refused = true;
            return false;
        }
        self.ranges[number].len = len;
        true
    }

    fn address_for(&mut self, number: usize, crowded: bool) -> Option<NonNull<u8>> {
        if self.ranges[number].address.is_none() {
            if crowded {
                let oldest = self
                    .ranges
                    .iter_mut()
                    .filter(|range| range.address.is_some());
                oldest.min_by_key(|range| range.last_used)?.close();
            }
            let address = arena::take(RANGE_BYTES);
            self.refused = address.is_none();
            self.ranges[number].address = address;
            OPEN_RANGES.fetch_add(address.is_some().into(), Ordering::Relaxed);
        }
        self.ranges[number].address
    }

    /// Unmaps what lies beyond the file's new end.
    pub fn cut(&mut self, size_bytes: i64) {
        for range in &mut self.ranges {
            if range.index * RANGE_BYTES as i64 + range.len as i64 > size_bytes {
                range.close();
            }
        }
    }
}

impl Drop for MappedRanges {
    fn drop(&mut self) {
        self.ranges.iter_mut().for_each(MappedRange::close);
    }
}

impl MappedRange {
    fn close(&mut self) {
        let (address, len) = (self.address.take(), core::mem::take(&mut self.len));
        let Some(address) = address else { return };
        OPEN_RANGES.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: mapped in `miss` if it has bytes.
        if len > 0 && unsafe { host::window_unmap(address, RANGE_BYTES) }.is_err() {
            return; // the range is lost: something may still be mapped there
        }
        arena::give(address, RANGE_BYTES);
    }
}

/// Copies out of a range with its own loads, because a range is outside the memory for `memory.copy`. They are
/// volatile, so that the compiler does not turn them into a `memory.copy`.
///
/// # Safety
/// `data.len()` bytes from `source` are mapped, and are not part of `data`.
#[inline(never)]
unsafe fn copy_out(source: *const u8, data: &mut [u8]) {
    const WORD: usize = size_of::<u64>();
    let head = source.align_offset(WORD).min(data.len());
    let (before, rest) = data.split_at_mut(head);
    // SAFETY: every access stays within the mapped bytes; `words` is aligned by the choice of `head`.
    unsafe {
        for (index, byte) in before.iter_mut().enumerate() {
            *byte = source.add(index).read_volatile();
        }
        let words = source.add(head).cast::<u64>();
        let mut chunks = rest.chunks_exact_mut(4 * WORD);
        let mut next = words;
        for chunk in &mut chunks {
            for part in 0..4 {
                let word = next.add(part).read_volatile();
                chunk
                    .as_mut_ptr()
                    .cast::<u64>()
                    .add(part)
                    .write_unaligned(word);
            }
            next = next.add(4);
        }
        for (index, byte) in chunks.into_remainder().iter_mut().enumerate() {
            *byte = next.cast::<u8>().add(index).read_volatile();
        }
    }
}
