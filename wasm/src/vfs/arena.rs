//! The part of the address space where the host maps files, beyond the maximum size of our memory.
//!
//! Only what the host has mapped is accessible there, and only to loads and stores of wasm code: to `memory.copy`,
//! WASI's functions and the host itself, addresses beyond the memory's size do not exist. So a page that vanishes
//! traps this instance wherever it is touched.

use core::ptr::{NonNull, with_exposed_provenance_mut};
use std::sync::{Mutex, PoisonError};

use crate::abi;

const UNIT_BYTES: usize = 32 << 10;
const UNITS: usize = abi::WINDOWS_BYTES as usize / UNIT_BYTES;
const BITS: usize = u64::BITS as usize;

static USED: Mutex<[u64; UNITS / BITS]> = Mutex::new([0; UNITS / BITS]);

/// Returns an aligned range of `bytes`, a power of two of at least `UNIT_BYTES`; `None` if there is no space.
pub fn take(bytes: usize) -> Option<NonNull<u8>> {
    debug_assert!(bytes.is_power_of_two() && bytes >= UNIT_BYTES);
    let count = bytes / UNIT_BYTES;
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    let first = (0..UNITS)
        .step_by(count)
        .find(|first| (*first..first + count).all(|unit| used[unit / BITS] & bit(unit) == 0))?;
    (first..first + count).for_each(|unit| used[unit / BITS] |= bit(unit));
    NonNull::new(with_exposed_provenance_mut(
        abi::WINDOWS_START as usize + first * UNIT_BYTES,
    ))
}

/// Returns a range from `take`, in which nothing is mapped any more.
pub fn give(address: NonNull<u8>, bytes: usize) {
    let first = (address.as_ptr().addr() - abi::WINDOWS_START as usize) / UNIT_BYTES;
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    (first..first + bytes / UNIT_BYTES).for_each(|unit| used[unit / BITS] &= !bit(unit));
}

fn bit(unit: usize) -> u64 {
    1 << (unit % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_disjoint_aligned_and_used_again() {
        let small = take(UNIT_BYTES).expect("the arena is empty");
        let large = take(512 * UNIT_BYTES).expect("there is room");
        let other = take(UNIT_BYTES).expect("there is room");

        let offset = |address: NonNull<u8>| address.as_ptr().addr() - abi::WINDOWS_START as usize;
        assert_eq!(
            (offset(small), offset(large), offset(other)),
            (0, 512 * UNIT_BYTES, UNIT_BYTES)
        );

        give(small, UNIT_BYTES);
        assert_eq!(take(UNIT_BYTES), Some(small));
        for (address, bytes) in [
            (small, UNIT_BYTES),
            (other, UNIT_BYTES),
            (large, 512 * UNIT_BYTES),
        ] {
            give(address, bytes);
        }

        let mut addresses = Vec::new();
        addresses.extend(core::iter::from_fn(|| take(512 * UNIT_BYTES)));
        assert_eq!(addresses.len(), UNITS / 512);
        assert_eq!(take(UNIT_BYTES), None);
    }
}
