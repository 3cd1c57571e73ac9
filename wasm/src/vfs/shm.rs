//! The WAL index: regions of the host's `-shm` file, laid over places of the arena.
//!
//! Other processes change the regions at any time. SQLite reads them through `volatile` pointers and
//! orders its accesses with `xShmBarrier`; Rust never looks at them.

use core::ffi::c_int;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use libsqlite3_sys as ffi;

use super::arena;
use crate::host::{self, Code, Fd};

/// SQLite asks for regions of this size, always.
const REGION_BYTES: usize = 32_768;

/// The regions of one database file that are mapped, by number.
#[derive(Default)]
pub struct Shm {
    regions: Vec<NonNull<u8>>,
    read_only: bool,
}

impl Shm {
    /// Returns the address of region `number`, null if it does not exist and may not be made; the
    /// code is `SQLITE_READONLY` along with a valid address if the index may not be written.
    pub fn map(&mut self, fd: Fd, number: c_int, size: c_int, extend: bool) -> (*mut u8, c_int) {
        if size as usize != REGION_BYTES {
            return (core::ptr::null_mut(), ffi::SQLITE_IOERR_SHMMAP);
        }
        while self.regions.len() <= number as usize {
            match self.map_next(fd, extend) {
                Ok(true) => {}
                Ok(false) => return (core::ptr::null_mut(), self.code()),
                Err(code) => return (core::ptr::null_mut(), code),
            }
        }
        (self.regions[number as usize].as_ptr(), self.code())
    }

    fn code(&self) -> c_int {
        if self.read_only {
            ffi::SQLITE_READONLY
        } else {
            ffi::SQLITE_OK
        }
    }

    fn map_next(&mut self, fd: Fd, extend: bool) -> Result<bool, Code> {
        let place = arena::take(REGION_BYTES).ok_or(ffi::SQLITE_IOERR_NOMEM)?;
        let number = self.regions.len() as c_int;
        // SAFETY: the place is ours until `unmap`, page-aligned, and touched by nobody but SQLite.
        match unsafe { host::shm_map(fd, number, REGION_BYTES as c_int, extend, place) } {
            Ok(true) => {}
            Err(ffi::SQLITE_READONLY) => self.read_only = true,
            refused => {
                arena::give(place, REGION_BYTES);
                return refused;
            }
        }
        self.regions.push(place);
        Ok(true)
    }

    /// Takes all mappings off and lets the host close its file, after deleting it if so asked.
    pub fn unmap(&mut self, fd: Fd, delete: bool) -> Result<(), Code> {
        // On failure the places are lost: something may still be mapped over them.
        let regions = core::mem::take(&mut self.regions);
        self.read_only = false;
        host::shm_unmap(fd, delete)?;
        for place in regions {
            arena::give(place, REGION_BYTES);
        }
        Ok(())
    }
}

/// All loads and stores before the barrier are done before any after it.
pub fn barrier() {
    fence(Ordering::SeqCst);
}
