//! C's functions on bytes, replacing wasi-libc's at link time.
//!
//! `memcmp` compares eight bytes at a time; wasi-libc's compares single bytes, and SQLite compares keys, names and
//! JSON with it, which was a tenth of the time of some queries. `memcpy`, `memmove` and `memset` are WebAssembly's
//! own instructions, except for ranges in the arena (`vfs::arena`), which only loads and stores reach.

use core::ffi::c_int;
#[cfg(target_arch = "wasm32")]
use core::ptr;

#[cfg(target_arch = "wasm32")]
use crate::abi;

/// # Safety
/// `bytes` is readable for the size of `T` from `offset` on; any bit pattern is a `T`.
#[inline(always)]
unsafe fn load<T: Copy>(bytes: *const u8, offset: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { bytes.add(offset).cast::<T>().read_unaligned() }
}

/// The order of two different pieces, read as big-endian numbers.
#[inline(always)]
fn order<T: Ord>(a: T, b: T) -> c_int {
    if a < b { -1 } else { 1 }
}

/// Negative, 0 or positive, according to the first bytes that differ.
///
/// # Safety
/// Both are readable for `len` bytes.
#[inline(always)]
pub unsafe fn compare(a: *const u8, b: *const u8, len: usize) -> c_int {
    // SAFETY: the caller's promise; each piece lies within `len`.
    unsafe {
        match len {
            8.. => compare_long(a, b, len),
            4..=7 => {
                let (x, y): (u32, u32) = (load(a, 0), load(b, 0));
                if x != y {
                    return order(x.to_be(), y.to_be());
                }
                let (x, y): (u32, u32) = (load(a, len - 4), load(b, len - 4));
                if x == y {
                    0
                } else {
                    order(x.to_be(), y.to_be())
                }
            }
            _ => {
                for offset in 0..len {
                    let (x, y): (u8, u8) = (load(a, offset), load(b, offset));
                    if x != y {
                        return order(x, y);
                    }
                }
                0
            }
        }
    }
}

/// # Safety
/// Both are readable for `len` bytes, at least 8.
#[inline(always)]
unsafe fn compare_long(a: *const u8, b: *const u8, len: usize) -> c_int {
    let mut offset = 0;
    loop {
        // SAFETY: the caller's promise; `offset` stays at or below `len - 8`.
        let (x, y): (u64, u64) = unsafe { (load(a, offset), load(b, offset)) };
        if x != y {
            return order(x.to_be(), y.to_be());
        }
        if offset + 8 == len {
            return 0;
        }
        // The last piece may overlap what has already compared equal.
        offset = (offset + 8).min(len - 8);
    }
}

#[cfg(target_arch = "wasm32")]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> c_int {
    // SAFETY: the contract of the C function is the same.
    unsafe { compare(a, b, len) }
}

#[cfg(target_arch = "wasm32")]
type Wide = core::arch::wasm32::v128;
#[cfg(not(target_arch = "wasm32"))]
type Wide = u128;

/// What is copied and filled with a few loads and stores, which is faster than the instructions for arbitrary
/// lengths.
#[cfg(any(test, target_arch = "wasm32"))]
const SHORT_BYTES: usize = 64;

/// # Safety
/// `bytes` is writable for the size of `T` from `offset` on.
#[inline(always)]
unsafe fn store<T>(bytes: *mut u8, offset: usize, value: T) {
    // SAFETY: the caller's promise.
    unsafe { bytes.add(offset).cast::<T>().write_unaligned(value) }
}

/// Copies the first and the last `T`, which may overlap.
///
/// # Safety
/// As for `copy_short`; `len` is the size of `T` or more.
#[inline(always)]
unsafe fn copy_ends<T: Copy>(to: *mut u8, from: *const u8, len: usize) {
    let last = len - size_of::<T>();
    // SAFETY: the caller's promise. Everything is loaded before anything is stored.
    unsafe {
        let (head, tail): (T, T) = (load(from, 0), load(from, last));
        store(to, 0, head);
        store(to, last, tail);
    }
}

/// # Safety
/// `from` is readable and `to` writable for `len` bytes, at most `SHORT_BYTES`; they may overlap.
#[inline(always)]
#[cfg_attr(not(any(test, target_arch = "wasm32")), allow(dead_code))]
unsafe fn copy_short(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's promise; each piece lies within `len`.
    unsafe {
        match len {
            33.. => copy_ends::<[Wide; 2]>(to, from, len),
            16..=32 => copy_ends::<Wide>(to, from, len),
            8..=15 => copy_ends::<u64>(to, from, len),
            4..=7 => copy_ends::<u32>(to, from, len),
            2..=3 => copy_ends::<u16>(to, from, len),
            1 => store(to, 0, load::<u8>(from, 0)),
            0 => {}
        }
    }
}

/// Copies with its own stores, in ascending order; volatile, so that the compiler does not turn them into a
/// `memory.copy`.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes; no byte of `from` is behind the same one of `to`.
#[inline(never)]
#[cfg_attr(not(any(test, target_arch = "wasm32")), allow(dead_code))]
unsafe fn copy_by_stores(to: *mut u8, from: *const u8, len: usize) {
    let head = to.align_offset(8).min(len);
    let words = (len - head) / 8;
    // SAFETY: the caller's promise; the pieces lie within `len` one after the other, and words are aligned by `head`.
    unsafe {
        (0..head).for_each(|at| to.add(at).write_volatile(from.add(at).read()));
        for at in (head..head + 8 * words).step_by(8) {
            to.add(at).cast::<u64>().write_volatile(load(from, at));
        }
        (head + 8 * words..len).for_each(|at| to.add(at).write_volatile(from.add(at).read()));
    }
}

/// As `copy_by_stores`: `byte` everywhere.
///
/// # Safety
/// `to` is writable for `len` bytes.
#[inline(never)]
#[cfg_attr(not(any(test, target_arch = "wasm32")), allow(dead_code))]
unsafe fn fill_by_stores(to: *mut u8, byte: u8, len: usize) {
    let head = to.align_offset(8).min(len);
    let words = (len - head) / 8;
    // SAFETY: as in `copy_by_stores`.
    unsafe {
        (0..head).for_each(|at| to.add(at).write_volatile(byte));
        for at in (head..head + 8 * words).step_by(8) {
            to.add(at)
                .cast::<u64>()
                .write_volatile(u64::from_ne_bytes([byte; 8]));
        }
        (head + 8 * words..len).for_each(|at| to.add(at).write_volatile(byte));
    }
}

#[cfg(target_arch = "wasm32")]
#[inline(always)]
fn is_in_arena(at: *const u8) -> bool {
    at.addr() >= abi::WINDOWS_START as usize
}

/// # Safety
/// As for C's `memmove`; what is in the arena does not overlap.
#[cfg(target_arch = "wasm32")]
#[inline(always)]
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if len <= SHORT_BYTES {
            copy_short(to, from, len);
        } else if is_in_arena(to) || is_in_arena(from) {
            copy_by_stores(to, from, len);
        } else {
            ptr::copy(from, to, len);
        }
    }
}

#[cfg(target_arch = "wasm32")]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the contract of the C function is the same.
    unsafe { copy(to, from, len) };
    to
}

#[cfg(target_arch = "wasm32")]
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the contract of the C function is the same, and nothing is moved within the arena.
    unsafe { copy(to, from, len) };
    to
}

#[cfg(target_arch = "wasm32")]
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: c_int, len: usize) -> *mut u8 {
    // SAFETY: the contract of the C function is the same.
    unsafe {
        if is_in_arena(to) {
            fill_by_stores(to, byte as u8, len);
        } else {
            ptr::write_bytes(to, byte as u8, len);
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use core::cmp::Ordering;

    use super::*;

    fn compared(a: &[u8], b: &[u8]) -> Ordering {
        assert_eq!(a.len(), b.len());
        // SAFETY: both slices have that length.
        unsafe { compare(a.as_ptr(), b.as_ptr(), a.len()) }.cmp(&0)
    }

    #[test]
    fn stores_copy_and_fill_every_length_at_every_position() {
        let source: Vec<u8> = (0..64).collect();
        for start in 0..9 {
            for len in 0..40 {
                let mut copied = vec![0xff; 64];
                let mut expected = copied.clone();
                expected[start..start + len].copy_from_slice(&source[3..3 + len]);

                // SAFETY: all lies within the vectors.
                unsafe {
                    copy_by_stores(copied.as_mut_ptr().add(start), source.as_ptr().add(3), len)
                };
                assert_eq!(copied, expected, "start {start}, length {len}");

                expected[start..start + len].fill(7);
                // SAFETY: as above.
                unsafe { fill_by_stores(copied.as_mut_ptr().add(start), 7, len) };
                assert_eq!(copied, expected, "start {start}, length {len}");
            }
        }
    }

    #[test]
    fn short_copies_move_every_length_also_onto_themselves() {
        for len in 0..=SHORT_BYTES {
            for to in 0..20 {
                let mut moved: Vec<u8> = (0..100).collect();
                let mut expected = moved.clone();
                expected.copy_within(10..10 + len, to);

                // SAFETY: all lies within the vector.
                unsafe { copy_short(moved.as_mut_ptr().add(to), moved.as_ptr().add(10), len) };

                assert_eq!(moved, expected, "length {len} to {to}");
            }
        }
    }

    #[test]
    fn the_first_difference_decides_at_every_length_and_position() {
        for len in 0..70 {
            let a: Vec<u8> = (0..len).map(|byte| byte * 3).collect();
            assert_eq!(compared(&a, &a), Ordering::Equal, "length {len}");
            for at in 0..a.len() {
                for other in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut b = a.clone();
                    b[at] = other;
                    // What stands behind it must not count.
                    for behind in &mut b[at + 1..] {
                        *behind = !*behind;
                    }
                    let expected = if a[at] == other {
                        a.cmp(&b)
                    } else {
                        a[at].cmp(&other)
                    };
                    assert_eq!(compared(&a, &b), expected, "length {len}, at {at}");
                }
            }
        }
    }
}
