//! The part of the address space that files are laid over: the host's, beyond what our memory can grow to.
//!
//! Nothing is there but what the host has mapped. Only loads and stores of wasm code reach it: `memory.copy`, the
//! functions of WASI and the host itself know no memory beyond its size, so that a page that vanishes is a trap of
//! this instance wherever it is touched.

use core::ptr::{NonNull, with_exposed_provenance_mut};
use std::sync::{Mutex, PoisonError};

use crate::abi;

const UNIT_BYTES: usize = 32 << 10;
const UNITS: usize = abi::WINDOWS_BYTES as usize / UNIT_BYTES;
const BITS: usize = u64::BITS as usize;

static USED: Mutex<[u64; UNITS / BITS]> = Mutex::new([0; UNITS / BITS]);

/// Returns a place of `bytes`, a power of two from `UNIT_BYTES` on, aligned alike; `None` if there is no more.
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

/// Gives back what `take` returned, over which nothing is laid any more.
pub fn give(place: NonNull<u8>, bytes: usize) {
    let first = (place.as_ptr().addr() - abi::WINDOWS_START as usize) / UNIT_BYTES;
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

        let offset = |place: NonNull<u8>| place.as_ptr().addr() - abi::WINDOWS_START as usize;
        assert_eq!(
            (offset(small), offset(large), offset(other)),
            (0, 512 * UNIT_BYTES, UNIT_BYTES)
        );

        give(small, UNIT_BYTES);
        assert_eq!(take(UNIT_BYTES), Some(small));
        for (place, bytes) in [
            (small, UNIT_BYTES),
            (other, UNIT_BYTES),
            (large, 512 * UNIT_BYTES),
        ] {
            give(place, bytes);
        }

        let mut places = Vec::new();
        places.extend(core::iter::from_fn(|| take(512 * UNIT_BYTES)));
        assert_eq!(places.len(), UNITS / 512);
        assert_eq!(take(UNIT_BYTES), None);
    }
}
