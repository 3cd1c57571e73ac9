//! A call of an SQL function, with its arguments and its result.
//! <https://sqlite.org/c3ref/value_blob.html>, <https://sqlite.org/c3ref/result_blob.html>

use core::ffi::{CStr, c_int};
use core::slice;
use std::rc::Rc;

use libsqlite3_sys as ffi;

use super::{Callbacks, During, Failed, Failure, Handle};
use crate::abi;
use crate::callbacks::argument_block;
use crate::callbacks::argument_block::Arguments;
use crate::error::{Error, Result, code};
use crate::wire::params::Value;
use crate::wire::rows::Encoder;

/// SQLite passes this with every call, and drops it when the function is removed.
pub struct Function {
    pub handle: Rc<Handle>,
    pub(super) callbacks: *const Callbacks,
    /// The number by which `Deferral` knows it.
    pub number: usize,
}

/// # Safety
/// `context` is the one SQLite passed to a function that `define` registered.
pub(super) unsafe fn function_of<'a>(context: *mut ffi::sqlite3_context) -> &'a Function {
    // SAFETY: the caller's promise; `forget` is not called while the function runs.
    unsafe { &*ffi::sqlite3_user_data(context).cast::<Function>() }
}

/// # Safety
/// As `function_of`.
pub(super) unsafe fn callbacks_of<'a>(context: *mut ffi::sqlite3_context) -> &'a Callbacks {
    // SAFETY: the caller's promise; the callbacks outlive the connection.
    unsafe { &*function_of(context).callbacks }
}

/// Arguments as SQLite passes them.
pub type Values = (*mut *mut ffi::sqlite3_value, c_int);

impl Callbacks {
    /// Calls a function of the host; a single argument is passed as it is.
    ///
    /// # Safety
    /// `values` are what SQLite passed to the running function.
    pub unsafe fn call_function<R>(
        &self,
        handle: &Handle,
        values: Values,
        receive: impl FnOnce(Value<'_>) -> R,
    ) -> core::result::Result<R, Failed> {
        let callee = handle.callee(abi::CALLBACK_FUNCTION);
        let (first, count) = values;
        if count != 1 {
            // SAFETY: the caller's promise.
            let encode = |out: &mut Encoder| unsafe { encode_values(values, out) };
            return self.call(callee, encode, receive);
        }
        // SAFETY: the caller's promise; there is one.
        let value = unsafe { value_of(*first) }.map_err(|_| super::NO_MEMORY)?;
        self.call_with(callee, Arguments::One(value), receive)
    }
}

/// The wording of sqlite3's error messages.
pub struct Messages {
    pub raised: &'static CStr,
    pub no_method: &'static CStr,
}

pub const STEP: Messages = Messages {
    raised: c"user-defined aggregate's 'step' method raised error",
    no_method: c"user-defined aggregate's 'step' method not defined",
};
const INVERSE: Messages = Messages {
    raised: c"user-defined aggregate's 'inverse' method raised error",
    no_method: c"user-defined aggregate's 'inverse' method not defined",
};

/// For a function that is not an aggregate.
pub const SCALAR: Messages = Messages::of(c"user-defined function raised exception");

impl Messages {
    pub const fn of(raised: &'static CStr) -> Self {
        Self {
            raised,
            no_method: raised,
        }
    }

    /// The statement's error, as SQLite would report it for a result that is one.
    pub fn error(&self, (failure, _): Failed) -> Error {
        let (code, message) = match failure {
            Failure::NoMemory => return Error::out_of_memory(),
            Failure::Interrupted => return Error::interrupted(),
            Failure::TooLarge => (code::TOOBIG, c"string or blob too big"),
            Failure::Raised => (code::ERROR, self.raised),
            Failure::NoMethod => (code::ERROR, self.no_method),
        };
        Error::quoting(abi::ERROR_SQLITE, code, message.to_bytes())
    }

    /// Makes a failure the result: the function's own, or the failure of a deferred step.
    ///
    /// # Safety
    /// `context` belongs to the running function.
    pub unsafe fn put(&self, context: *mut ffi::sqlite3_context, (failure, during): Failed) {
        let messages = match during {
            During::Step => &STEP,
            During::Inverse => &INVERSE,
            During::Call => self,
        };
        // SAFETY: the caller's promise; the messages end in a NUL.
        unsafe {
            match failure {
                Failure::NoMemory => ffi::sqlite3_result_error_nomem(context),
                Failure::Interrupted => {
                    ffi::sqlite3_result_error_code(context, ffi::SQLITE_INTERRUPT)
                }
                Failure::TooLarge => ffi::sqlite3_result_error_toobig(context),
                Failure::Raised => ffi::sqlite3_result_error(context, messages.raised.as_ptr(), -1),
                Failure::NoMethod => {
                    ffi::sqlite3_result_error(context, messages.no_method.as_ptr(), -1)
                }
            }
        }
    }
}

/// # Safety
/// `values` are what SQLite passed to the running function.
pub unsafe fn encode_values(values: Values, out: &mut Encoder) -> Result<()> {
    out.array(values.1 as usize)?;
    // SAFETY: the caller's promise.
    unsafe { encode_each(values, out) }
}

/// # Safety
/// As `encode_values`, without the array around them.
pub unsafe fn encode_each((values, count): Values, out: &mut Encoder) -> Result<()> {
    for index in 0..count as usize {
        // SAFETY: the caller's promise.
        let value = unsafe { value_of(*values.add(index))? };
        argument_block::encode(&value, out)?;
    }
    Ok(())
}

/// # Safety
/// `value` is one that SQLite lends, except for unprotected values; the result lives as long as it does.
pub unsafe fn value_of<'a>(value: *mut ffi::sqlite3_value) -> Result<Value<'a>> {
    // SAFETY: the caller's promise; the type is read before any conversion.
    unsafe {
        Ok(match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_INTEGER => Value::Integer(ffi::sqlite3_value_int64(value)),
            ffi::SQLITE_FLOAT => Value::Float(ffi::sqlite3_value_double(value)),
            ffi::SQLITE_TEXT => {
                let text = ffi::sqlite3_value_text(value);
                Value::Text(bytes(text, ffi::sqlite3_value_bytes(value))?)
            }
            ffi::SQLITE_BLOB => {
                let blob = ffi::sqlite3_value_blob(value).cast();
                // A zero-length blob has no address.
                Value::Blob(match ffi::sqlite3_value_bytes(value) {
                    0 => &[],
                    length => bytes(blob, length)?,
                })
            }
            _ => Value::Null,
        })
    }
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
/// `context` belongs to the running function.
pub unsafe fn put_result(context: *mut ffi::sqlite3_context, value: Value<'_>) {
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
