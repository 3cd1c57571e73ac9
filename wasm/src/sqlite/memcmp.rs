//! C's functions on bytes, replacing wasi-libc's at link time.
//!
//! <https://pubs.opengroup.org/onlinepubs/9799919799/basedefs/string.h.html>
//!
//! `memcmp` compares eight bytes at a time; wasi-libc's compares single bytes, and SQLite compares keys, names and
//! JSON with it, which was a tenth of the time of some queries. `memcpy`, `memmove` and `memset` use WebAssembly's
//! own instructions, which are calls of the host, only where that pays: not for short ranges, and not for ranges in
//! the arena (`vfs::arena`), which only loads and stores reach. SQLite calls `strspn` and `strcspn` with few characters
//! on short spans; wasi-libc's versions build a table each time.

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
                let (x, y) = (ends(a, len), ends(b, len));
                if x == y { 0 } else { order(x, y) }
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

/// The first and the last four bytes, which may overlap, as one big-endian number.
///
/// # Safety
/// `bytes` is readable for `len` bytes, from 4 to 7.
#[inline(always)]
unsafe fn ends(bytes: *const u8, len: usize) -> u64 {
    // SAFETY: the caller's promise.
    let (head, tail): (u32, u32) = unsafe { (load(bytes, 0), load(bytes, len - 4)) };
    (u64::from(head) | u64::from(tail) << 32).to_be()
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

/// The most bytes that are copied with a few loads and stores.
#[cfg(any(test, target_arch = "wasm32"))]
const SHORT_BYTES: usize = 64;

/// The most bytes that a loop copies or fills faster than a call of the host.
#[cfg(any(test, target_arch = "wasm32"))]
const LOOP_BYTES: usize = 512;

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
            33.. => {
                // One by one: the compiler would put pairs on the stack.
                let (first, second): (Wide, Wide) = (load(from, 0), load(from, 16));
                let (third, last): (Wide, Wide) = (load(from, len - 32), load(from, len - 16));
                store(to, 0, first);
                store(to, 16, second);
                store(to, len - 32, third);
                store(to, len - 16, last);
            }
            16..=32 => copy_ends::<Wide>(to, from, len),
            8..=15 => copy_ends::<u64>(to, from, len),
            4..=7 => copy_ends::<u32>(to, from, len),
            2..=3 => copy_ends::<u16>(to, from, len),
            1 => store(to, 0, load::<u8>(from, 0)),
            0 => {}
        }
    }
}

/// Copies pieces of 32 bytes in ascending order; the last piece overlaps the one before.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes, at least 32, and they do not overlap.
#[inline(always)]
#[cfg_attr(not(any(test, target_arch = "wasm32")), allow(dead_code))]
unsafe fn copy_by_pieces(to: *mut u8, from: *const u8, len: usize) {
    let mut at = 0;
    loop {
        // SAFETY: the caller's promise; `at` stays at or below `len - 32`.
        unsafe {
            let (first, second): (Wide, Wide) = (load(from, at), load(from, at + 16));
            store(to, at, first);
            store(to, at + 16, second);
        }
        if at + 32 == len {
            return;
        }
        at = (at + 32).min(len - 32);
    }
}

/// Fills with `byte`, by the largest stores that fit; the last ones overlap.
///
/// # Safety
/// `to` is writable for `len` bytes.
#[inline(always)]
#[cfg_attr(not(any(test, target_arch = "wasm32")), allow(dead_code))]
unsafe fn fill_by_pieces(to: *mut u8, byte: u8, len: usize) {
    let word = u64::from_ne_bytes([byte; 8]);
    // SAFETY: the caller's promise; each piece lies within `len`.
    unsafe {
        match len {
            8.. => {
                let mut at = 0;
                while at + 8 < len {
                    store(to, at, word);
                    at += 8;
                }
                store(to, len - 8, word);
            }
            4..=7 => {
                store(to, 0, word as u32);
                store(to, len - 4, word as u32);
            }
            _ => (0..len).for_each(|at| store(to, at, byte)),
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
        } else if len <= LOOP_BYTES && from.addr().abs_diff(to.addr()) >= len {
            copy_by_pieces(to, from, len);
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
        if len <= SHORT_BYTES {
            fill_by_pieces(to, byte as u8, len);
        } else if is_in_arena(to) {
            fill_by_stores(to, byte as u8, len);
        } else {
            ptr::write_bytes(to, byte as u8, len);
        }
    }
    to
}

/// How many of the first bytes of `text` are among `set` (`wanted`), or are not.
///
/// # Safety
/// Both end in a NUL.
#[inline(always)]
#[cfg_attr(not(any(test, target_arch = "wasm32")), allow(dead_code))]
unsafe fn span(text: *const u8, set: *const u8, wanted: bool) -> usize {
    let mut len = 0;
    // SAFETY: nothing is read behind either NUL.
    unsafe {
        loop {
            let byte: u8 = load(text, len);
            let mut at = 0;
            let is_in_set = loop {
                match load::<u8>(set, at) {
                    0 => break false,
                    each if each == byte => break true,
                    _ => at += 1,
                }
            };
            if byte == 0 || is_in_set != wanted {
                return len;
            }
            len += 1;
        }
    }
}

#[cfg(target_arch = "wasm32")]
#[unsafe(no_mangle)]
unsafe extern "C" fn strspn(text: *const u8, set: *const u8) -> usize {
    // SAFETY: the contract of the C function is the same.
    unsafe { span(text, set, true) }
}

#[cfg(target_arch = "wasm32")]
#[unsafe(no_mangle)]
unsafe extern "C" fn strcspn(text: *const u8, set: *const u8) -> usize {
    // SAFETY: the contract of the C function is the same.
    unsafe { span(text, set, false) }
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
    fn pieces_copy_and_fill_every_length() {
        let source: Vec<u8> = (0..=255).cycle().take(600).collect();
        for len in 0..=LOOP_BYTES {
            let mut copied = vec![0xff; 600];
            let mut expected = copied.clone();
            if len >= 32 {
                expected[5..5 + len].copy_from_slice(&source[3..3 + len]);
                // SAFETY: all lies within the vectors.
                unsafe { copy_by_pieces(copied.as_mut_ptr().add(5), source.as_ptr().add(3), len) };
                assert_eq!(copied, expected, "length {len}");
            }

            expected[7..7 + len].fill(9);
            // SAFETY: as above.
            unsafe { fill_by_pieces(copied.as_mut_ptr().add(7), 9, len) };
            assert_eq!(copied, expected, "length {len}");
        }
    }

    #[test]
    fn spans_end_at_the_first_other_byte_or_the_end() {
        for (text, set, within, without) in [
            ("  x ", " \t", 2, 0),
            ("abc", "", 0, 3),
            ("", "a", 0, 0),
            ("aab\u{ff}a", "ab", 3, 0),
            ("..$[", "[.", 2, 0),
            ("key.$[", "[.", 0, 3),
        ] {
            let (text, set) = (format!("{text}\0"), format!("{set}\0"));
            // SAFETY: both end in a NUL.
            let found = unsafe {
                (
                    span(text.as_ptr(), set.as_ptr(), true),
                    span(text.as_ptr(), set.as_ptr(), false),
                )
            };
            assert_eq!(found, (within, without), "{text:?} of {set:?}");
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
