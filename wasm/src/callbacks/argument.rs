//! An argument for a function of SQLite's that no statement has: see sqlite_prelude.h.

use core::ffi::{c_int, c_uchar, c_void};
use core::ptr;

use libsqlite3_sys as ffi;

use super::{Failed, NO_MEMORY};
use crate::wire::params::Value;

unsafe extern "C" {
    fn rapsqlite_value_new(db: *mut ffi::sqlite3) -> *mut ffi::sqlite3_value;
    fn rapsqlite_value_set_null(value: *mut ffi::sqlite3_value);
    fn rapsqlite_value_set_int64(value: *mut ffi::sqlite3_value, to: i64);
    fn rapsqlite_value_set_double(value: *mut ffi::sqlite3_value, to: f64);
    fn rapsqlite_value_set_bytes(
        value: *mut ffi::sqlite3_value,
        length: c_int,
        bytes: *const c_void,
        encoding: c_uchar,
        destroy: ffi::sqlite3_destructor_type,
    );
}

/// A value that no statement holds, null before it is first set.
pub struct Argument(*mut ffi::sqlite3_value);

impl Default for Argument {
    fn default() -> Self {
        Self(ptr::null_mut())
    }
}

impl Drop for Argument {
    fn drop(&mut self) {
        // SAFETY: null or made by `set`.
        unsafe { ffi::sqlite3_value_free(self.0) };
    }
}

impl Argument {
    /// As functions are passed their arguments; null before `set`.
    pub fn as_mut_ptr(&mut self) -> *mut *mut ffi::sqlite3_value {
        &mut self.0
    }

    /// Whether SQLite takes it for true. <https://sqlite.org/lang_expr.html#boolean_expressions>
    ///
    /// # Safety
    /// It was set.
    pub unsafe fn is_true(&self) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            match ffi::sqlite3_value_type(self.0) {
                ffi::SQLITE_NULL => false,
                ffi::SQLITE_INTEGER => ffi::sqlite3_value_int64(self.0) != 0,
                _ => ffi::sqlite3_value_double(self.0) != 0.0,
            }
        }
    }

    pub fn set(&mut self, to: Value<'_>) -> core::result::Result<(), Failed> {
        if self.0.is_null() {
            // SAFETY: a value of no connection.
            self.0 = unsafe { rapsqlite_value_new(ptr::null_mut()) };
        }
        if self.0.is_null() {
            return Err(NO_MEMORY);
        }
        match to {
            // SAFETY: the value is there.
            Value::Integer(to) => unsafe { rapsqlite_value_set_int64(self.0, to) },
            // SAFETY: as above.
            Value::Float(to) => unsafe { rapsqlite_value_set_double(self.0, to) },
            Value::Text(text) => return self.set_bytes(text, ffi::SQLITE_UTF8),
            Value::Blob(blob) => return self.set_bytes(blob, 0),
            // SAFETY: as above.
            _ => unsafe { rapsqlite_value_set_null(self.0) },
        }
        Ok(())
    }

    /// Copies a text, or a blob, whose encoding is 0. Where there is no room SQLite says so by leaving NULL there.
    fn set_bytes(&mut self, bytes: &[u8], encoding: c_int) -> core::result::Result<(), Failed> {
        // SAFETY: the value is there, and SQLite copies the bytes.
        let kind = unsafe {
            rapsqlite_value_set_bytes(
                self.0,
                bytes.len() as c_int,
                bytes.as_ptr().cast(),
                encoding as c_uchar,
                ffi::SQLITE_TRANSIENT(),
            );
            ffi::sqlite3_value_type(self.0)
        };
        if kind == ffi::SQLITE_NULL {
            return Err(NO_MEMORY);
        }
        Ok(())
    }
}
