//! `memcmp`, eight bytes at a time. That of wasi-libc goes byte by byte, and SQLite compares keys, names and
//! JSON with it: a tenth of the time of some queries. This one takes its place at link time.

use core::ffi::c_int;

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

/// Negative, 0 or positive, as the first bytes that differ.
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
        // The last piece may reach back into what was equal already.
        offset = (offset + 8).min(len - 8);
    }
}

#[cfg(target_arch = "wasm32")]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> c_int {
    // SAFETY: the contract of the C function is the same.
    unsafe { compare(a, b, len) }
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
    fn the_first_difference_decides_at_every_length_and_place() {
        for len in 0..70 {
            let a: Vec<u8> = (0..len).map(|byte| byte * 3).collect();
            assert_eq!(compared(&a, &a), Ordering::Equal, "length {len}");
            for place in 0..a.len() {
                for other in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut b = a.clone();
                    b[place] = other;
                    // What stands behind it must not count.
                    for behind in &mut b[place + 1..] {
                        *behind = !*behind;
                    }
                    let expected = if a[place] == other {
                        a.cmp(&b)
                    } else {
                        a[place].cmp(&other)
                    };
                    assert_eq!(compared(&a, &b), expected, "length {len}, place {place}");
                }
            }
        }
    }
}
