//! Handles of host objects, and calling them.

use core::cell::Cell;
use core::num::NonZeroU32;

use crate::abi;
use crate::callbacks::{NOTHING, argument_block};

/// Handle of a host object; released when dropped.
#[derive(Debug)]
pub struct Handle {
    number: NonZeroU32,
    /// The table index at which the host has put a function for this handle, 0 if none yet.
    slot: Cell<u32>,
}

impl Handle {
    pub fn new(number: u32) -> Option<Self> {
        let slot = Cell::new(abi::NO_FUNCTION);
        NonZeroU32::new(number).map(|number| Self { number, slot })
    }

    pub fn number(&self) -> u32 {
        self.number.get()
    }

    /// For frequent calls: always of the same `kind`, which the slot is bound to.
    pub fn callee(&self, kind: i32) -> Callee<'_> {
        Callee {
            slot: Some(&self.slot),
            ..Callee::new(kind, self.number())
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        argument_block::call_host(Callee::new(abi::CALLBACK_RELEASE, self.number()), NOTHING);
    }
}

/// Which callback is called.
#[derive(Clone, Copy)]
pub struct Callee<'a> {
    pub kind: i32,
    /// 0 for kinds without a handle.
    pub number: u32,
    /// Where to store the slot; without it, calls always use the import.
    pub slot: Option<&'a Cell<u32>>,
}

impl Callee<'_> {
    pub const fn new(kind: i32, number: u32) -> Self {
        Self {
            kind,
            number,
            slot: None,
        }
    }
}
