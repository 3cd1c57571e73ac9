//! The WAL index: regions of the host's `-shm` file, mapped into the arena.
//!
//! Other processes change the regions at any time. SQLite reads them through `volatile` pointers and orders its
//! accesses with `xShmBarrier`; Rust never reads them.
//!
//! <https://sqlite.org/walformat.html#the_wal_index_file_format>

use core::ffi::c_int;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use libsqlite3_sys as ffi;

use super::arena;
use crate::host::{self, Code, Fd};

/// SQLite always requests regions of this size.
const REGION_BYTES: usize = 32_768;

/// The mapped regions of one database file, by number.
#[derive(Default)]
pub struct Shm {
    regions: Vec<NonNull<u8>>,
    read_only: bool,
}

impl Shm {
    /// Returns the address of region `number`, null if it does not exist and may not be created; the code is
    /// `SQLITE_READONLY` with a valid address if the index is not writable.
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
        let address = arena::take(REGION_BYTES).ok_or(ffi::SQLITE_IOERR_NOMEM)?;
        let number = self.regions.len() as c_int;
        // SAFETY: the range is ours until `unmap`, page-aligned, and used only by SQLite.
        match unsafe { host::shm_map(fd, number, REGION_BYTES as c_int, extend, address) } {
            Ok(true) => {}
            Err(ffi::SQLITE_READONLY) => self.read_only = true,
            refused => {
                arena::give(address, REGION_BYTES);
                return refused;
            }
        }
        self.regions.push(address);
        Ok(true)
    }

    /// Unmaps all regions and lets the host close its file, after deleting it if requested.
    pub fn unmap(&mut self, fd: Fd, delete: bool) -> Result<(), Code> {
        // On failure the ranges are lost: something may still be mapped there.
        let regions = core::mem::take(&mut self.regions);
        self.read_only = false;
        host::shm_unmap(fd, delete)?;
        for address in regions {
            arena::give(address, REGION_BYTES);
        }
        Ok(())
    }
}

/// All loads and stores before the barrier complete before any after it.
pub fn barrier() {
    fence(Ordering::SeqCst);
}
