//! Registers the VFS and implements its methods for names, time and randomness.
//! <https://sqlite.org/c3ref/vfs.html>

use core::ffi::{CStr, c_char, c_int, c_void};
use std::time::{SystemTime, UNIX_EPOCH};

use libsqlite3_sys as ffi;

use crate::host::{self, code};
use crate::vfs::{file, io_methods, locks};

/// Maximum length of a name, as in SQLite's own VFS for Unix, including the terminator.
const MAX_NAME: usize = 4096 + 1;

/// Julian day number of 1970-01-01 00:00, in milliseconds.
const UNIX_EPOCH_JULIAN_MS: i64 = 210_866_760_000_000;

/// Called once by `sqlite3_initialize`.
#[unsafe(no_mangle)]
pub extern "C" fn sqlite3_os_init() -> c_int {
    let vfs = Box::leak(Box::new(ffi::sqlite3_vfs {
        iVersion: 2,
        szOsFile: io_methods::SIZE_BYTES,
        mxPathname: MAX_NAME as c_int,
        pNext: core::ptr::null_mut(),
        zName: io_methods::VFS_NAME.as_ptr(),
        pAppData: core::ptr::null_mut(),
        xOpen: Some(io_methods::open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: None, // these four: callbacks/extensions.rs
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: None,
        xGetLastError: None,
        xCurrentTimeInt64: Some(current_time),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }));
    // SAFETY: the structure lives forever, and only SQLite changes it from here on.
    unsafe { ffi::sqlite3_vfs_register(vfs, 1) }
}

/// Called by `sqlite3_shutdown`; the VFS owns nothing that needs freeing.
#[unsafe(no_mangle)]
pub extern "C" fn sqlite3_os_end() -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_directory: c_int,
) -> c_int {
    // SAFETY: SQLite passes a terminated name.
    let name = unsafe { CStr::from_ptr(name) };
    // Earlier writes must come first: deleting a journal commits.
    code(file::flush().and_then(|()| host::file_delete(name.to_bytes(), sync_directory & 1 != 0)))
}

unsafe extern "C" fn access(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    answer: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes a terminated name.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let found = if flags == ffi::SQLITE_ACCESS_EXISTS && locks::is_missing(name) {
        Ok(false)
    } else {
        file::flush().and_then(|()| host::file_access(name, flags))
    };
    match found {
        Ok(yes) => {
            // SAFETY: SQLite passes the address of an int that it owns.
            unsafe { *answer = yes.into() };
            ffi::SQLITE_OK
        }
        Err(code) => code,
    }
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    capacity: c_int,
    full: *mut c_char,
) -> c_int {
    // SAFETY: SQLite passes a terminated name and `capacity` bytes that it owns.
    let (name, full) = unsafe {
        full.write_bytes(0, capacity as usize);
        (
            CStr::from_ptr(name),
            core::slice::from_raw_parts_mut(full.cast::<u8>(), capacity as usize),
        )
    };
    // SQLITE_OK_SYMLINK arrives as an "error", which is what SQLite expects.
    code(host::path_full(name.to_bytes(), full))
}

unsafe extern "C" {
    /// wasi-libc over WASI's `random_get`; at most 256 bytes a call.
    fn getentropy(buffer: *mut c_void, len: usize) -> c_int;
}

unsafe extern "C" fn randomness(
    _vfs: *mut ffi::sqlite3_vfs,
    len: c_int,
    buffer: *mut c_char,
) -> c_int {
    let len = len as usize;
    for start in (0..len).step_by(256) {
        let part = 256.min(len - start);
        // SAFETY: SQLite passes `len` bytes that it owns, and the part lies within them.
        if unsafe { getentropy(buffer.add(start).cast(), part) } != 0 {
            return start as c_int;
        }
    }
    len as c_int
}

unsafe extern "C" fn sleep(_vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    super::give_back_locks();
    host::sleep(microseconds);
    microseconds
}

unsafe extern "C" fn current_time(
    _vfs: *mut ffi::sqlite3_vfs,
    julian_ms: *mut ffi::sqlite3_int64,
) -> c_int {
    let unix_ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_millis() as i64,
        Err(before) => -(before.duration().as_millis() as i64),
    };
    // SAFETY: SQLite passes the address of an integer that it owns.
    unsafe { *julian_ms = UNIX_EPOCH_JULIAN_MS + unix_ms };
    ffi::SQLITE_OK
}
