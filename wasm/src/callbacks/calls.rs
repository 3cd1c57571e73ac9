//! A call of an SQL function, with its arguments and its result, on its way to the host and back.

use core::ffi::{CStr, c_int};
use core::slice;

use libsqlite3_sys as ffi;

use super::{Callbacks, Failure};
use crate::error::{Error, Result};
use crate::wire::params::Value;
use crate::wire::rows::Encoder;

/// Arguments as SQLite passes them.
pub type Values = (*mut *mut ffi::sqlite3_value, c_int);
pub const NO_VALUES: Values = (core::ptr::null_mut(), 0);

/// Calls the host and makes its answer the function's result.
///
/// # Safety
/// As `call`.
pub unsafe fn answer(
    callbacks: &Callbacks,
    context: *mut ffi::sqlite3_context,
    kind: i32,
    handle: u32,
    values: Values,
    messages: &Messages,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let result = callbacks.call(
            kind,
            handle,
            |out| encode_values(values, out),
            |value| put_result(context, value),
        );
        if let Err(failure) = result {
            messages.put(context, failure);
        }
    }
}

/// Calls the host for what it does.
///
/// # Safety
/// `context` and `values` are what SQLite passed to a function that `define` registered.
pub unsafe fn call(
    callbacks: &Callbacks,
    context: *mut ffi::sqlite3_context,
    kind: i32,
    handle: u32,
    values: Values,
    messages: &Messages,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let result = callbacks.call(kind, handle, |out| encode_values(values, out), |_| ());
        if let Err(failure) = result {
            messages.put(context, failure);
        }
    }
}

/// sqlite3's words for what went wrong.
pub struct Messages {
    pub raised: &'static CStr,
    pub no_method: &'static CStr,
}

impl Messages {
    pub const fn of(raised: &'static CStr) -> Self {
        Self {
            raised,
            no_method: raised,
        }
    }

    /// # Safety
    /// `context` is that of the running function.
    pub unsafe fn put(&self, context: *mut ffi::sqlite3_context, failure: Failure) {
        // SAFETY: the caller's promise; the messages end in a NUL.
        unsafe {
            match failure {
                Failure::NoMemory => ffi::sqlite3_result_error_nomem(context),
                Failure::TooLarge => ffi::sqlite3_result_error_toobig(context),
                Failure::Raised => ffi::sqlite3_result_error(context, self.raised.as_ptr(), -1),
                Failure::NoMethod => {
                    ffi::sqlite3_result_error(context, self.no_method.as_ptr(), -1)
                }
            }
        }
    }
}

/// # Safety
/// `values` are what SQLite passed to the running function.
unsafe fn encode_values((values, count): Values, out: &mut Encoder) -> Result<()> {
    let count = count as usize;
    out.array(count)?;
    for index in 0..count {
        // SAFETY: the caller's promise; the type is asked for before any conversion.
        unsafe {
            let value = *values.add(index);
            match ffi::sqlite3_value_type(value) {
                ffi::SQLITE_INTEGER => out.integer(ffi::sqlite3_value_int64(value))?,
                ffi::SQLITE_FLOAT => out.float(ffi::sqlite3_value_double(value))?,
                ffi::SQLITE_TEXT => {
                    let text = ffi::sqlite3_value_text(value);
                    out.text(bytes(text, ffi::sqlite3_value_bytes(value))?)?;
                }
                ffi::SQLITE_BLOB => {
                    let blob = ffi::sqlite3_value_blob(value).cast();
                    let length = ffi::sqlite3_value_bytes(value);
                    // A zero-length blob has no address.
                    out.blob(if length == 0 {
                        &[]
                    } else {
                        bytes(blob, length)?
                    })?;
                }
                _ => out.null()?,
            }
        }
    }
    Ok(())
}

/// # Safety
/// `start` is NULL or has `length` bytes that live during `'a`.
unsafe fn bytes<'a>(start: *const u8, length: c_int) -> Result<&'a [u8]> {
    if start.is_null() {
        return Err(Error::out_of_memory());
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { slice::from_raw_parts(start, length as usize) })
}

/// # Safety
/// `context` is that of the running function.
unsafe fn put_result(context: *mut ffi::sqlite3_context, value: Value<'_>) {
    // SAFETY: the caller's promise; SQLite copies text and blobs.
    unsafe {
        match value {
            Value::Null => ffi::sqlite3_result_null(context),
            Value::Integer(value) => ffi::sqlite3_result_int64(context, value),
            Value::Float(value) => ffi::sqlite3_result_double(context, value),
            Value::Text(text) => ffi::sqlite3_result_text64(
                context,
                text.as_ptr().cast(),
                text.len() as u64,
                ffi::SQLITE_TRANSIENT(),
                ffi::SQLITE_UTF8 as u8,
            ),
            Value::Blob(blob) => ffi::sqlite3_result_blob64(
                context,
                blob.as_ptr().cast(),
                blob.len() as u64,
                ffi::SQLITE_TRANSIENT(),
            ),
            Value::TooLarge => ffi::sqlite3_result_error_toobig(context),
            Value::Unsupported(_) => {
                ffi::sqlite3_result_error(context, c"unsupported type".as_ptr(), -1)
            }
        }
    }
}
