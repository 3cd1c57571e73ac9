//! SQLite's errors. <https://sqlite.org/c3ref/errcode.html>

use core::ffi::CStr;

use libsqlite3_sys as ffi;

use crate::abi;
use crate::buffers::{joined, lossy};
use crate::error::Error;

impl Error {
    /// An error with SQLite's or an extension's message, which may be long.
    pub fn quoting(class: u8, code: i32, message: &[u8]) -> Self {
        match lossy(message).and_then(|text| joined(&[text.as_bytes()])) {
            Ok(text) => Self::new(class, code, String::from_utf8(text).expect("made of a str")),
            Err(error) => error,
        }
    }

    /// SQLite's error of the last call on `db`.
    pub(crate) fn last(db: *mut ffi::sqlite3) -> Self {
        // SAFETY: `db` is open; SQLite's message ends in a NUL and lives until the next call.
        let (code, message, offset) = unsafe {
            let message = CStr::from_ptr(ffi::sqlite3_errmsg(db));
            (
                ffi::sqlite3_extended_errcode(db),
                message.to_bytes(),
                ffi::sqlite3_error_offset(db),
            )
        };
        Self {
            offset,
            ..Self::quoting(abi::ERROR_SQLITE, code, message)
        }
    }

    /// The error of a call that returned `code`: SQLite's message if it belongs to this code.
    pub(crate) fn of_code(db: *mut ffi::sqlite3, code: i32) -> Self {
        let last = Self::last(db);
        if last.code & 0xff == code & 0xff {
            return last;
        }
        // SAFETY: a constant of SQLite's that ends in a NUL, for any code.
        let message = unsafe { CStr::from_ptr(ffi::sqlite3_errstr(code)) };
        Self::quoting(abi::ERROR_SQLITE, code, message.to_bytes())
    }
}
