//! SQLite as a library: set up once per instance, before the first connection.
//! <https://sqlite.org/c3ref/initialize.html>, <https://sqlite.org/c3ref/config.html>

use core::ffi::{c_char, c_int, c_void};
use core::ptr;

use libsqlite3_sys as ffi;

use crate::error::{Error, Result};
use crate::host;
use crate::sqlite::localtime::Civil;
use crate::sqlite::statement::bytes_of;

/// Changesets are passed in pieces of about this size; each takes a host call.
const PIECE_BYTES: c_int = 65_536;

/// Configures and initialises SQLite, which registers the VFS; later calls do nothing.
pub fn initialize() -> Result<()> {
    let log: unsafe extern "C" fn(*mut c_void, c_int, *const c_char) = log;
    // SAFETY: before `sqlite3_initialize`, with the arguments these options take; it is refused, with no
    // effect, once SQLite is initialised.
    unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOG, log, ptr::null_mut::<c_void>()) };
    // SAFETY: no other thread exists.
    let code = unsafe { ffi::sqlite3_initialize() };
    if code != ffi::SQLITE_OK {
        return Err(Error::new(
            crate::abi::ERROR_SQLITE,
            code,
            "SQLite could not be initialised",
        ));
    }
    let mut piece_bytes = PIECE_BYTES;
    // SAFETY: this option takes an `int*`.
    unsafe {
        let value = (&raw mut piece_bytes).cast();
        ffi::sqlite3session_config(ffi::SQLITE_SESSION_CONFIG_STRMSIZE, value)
    };
    // SAFETY: 2 says that a function follows, which SQLite asks instead of the C library from then on.
    unsafe {
        ffi::sqlite3_test_control(
            ffi::SQLITE_TESTCTRL_LOCALTIME_FAULT,
            2,
            civil_time as LocalTime,
        )
    };
    Ok(())
}

/// Passes on what an operator wants to know. Errors of single statements reach their caller anyway, and their log
/// lines would contain literals of the SQL.
unsafe extern "C" fn log(_: *mut c_void, code: c_int, message: *const c_char) {
    let worth_it = matches!(
        code & 0xff,
        ffi::SQLITE_CORRUPT
            | ffi::SQLITE_IOERR
            | ffi::SQLITE_NOTADB
            | ffi::SQLITE_NOTICE
            | ffi::SQLITE_MISUSE
    );
    if worth_it {
        // SAFETY: SQLite's message ends in a NUL and lives during the call.
        let message = unsafe { bytes_of(message) };
        let text = format!("SQLite ({code}): {}", String::from_utf8_lossy(message));
        host::log(text.as_bytes());
    }
}

type LocalTime = unsafe extern "C" fn(*const c_void, *mut c_void) -> c_int;

/// The leading fields of C's `struct tm`.
#[repr(C)]
struct Tm {
    second: c_int,
    minute: c_int,
    hour: c_int,
    day: c_int,
    month: c_int,
    year: c_int,
    weekday: c_int,
    yearday: c_int,
    is_dst: c_int,
}

/// `localtime_r` with the host's time zone: wasm's C library only knows UTC. Not 0: the time is unknown.
unsafe extern "C" fn civil_time(seconds: *const c_void, tm: *mut c_void) -> c_int {
    // SAFETY: SQLite passes a `time_t`, 64 bits wide in WASI, and a `struct tm`.
    let seconds = unsafe { seconds.cast::<i64>().read() };
    let Some(local) = host::localtime(seconds).and_then(|offset| seconds.checked_add(offset))
    else {
        return 1;
    };
    let Some(civil) = Civil::of_seconds(local) else {
        return 1;
    };
    // SAFETY: as above; SQLite zeroed the fields that are not written.
    unsafe {
        tm.cast::<Tm>().write(Tm {
            second: civil.second,
            minute: civil.minute,
            hour: civil.hour,
            day: civil.day,
            month: civil.month - 1,
            year: civil.year - 1900,
            weekday: civil.weekday,
            yearday: civil.yearday,
            is_dst: -1,
        });
    }
    0
}
