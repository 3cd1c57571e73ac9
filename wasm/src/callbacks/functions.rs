//! SQL functions, aggregates and window functions implemented by the host.
//! <https://sqlite.org/c3ref/create_function.html>

use core::ffi::{c_int, c_void};
use std::rc::Rc;

use libsqlite3_sys as ffi;

use super::aggregates::{finalize, inverse, step, value};
use super::calls::{Function, SCALAR, function_of, put_result};
use super::{Callbacks, Handle, INTERRUPTED};
use crate::abi;
use crate::buffers::{c_string, joined};
use crate::error::{Error, Result};
use crate::wire::params::Value;

/// SQLite's identification of a function.
pub struct Signature<'a> {
    pub name: &'a [u8],
    /// -1 for any number.
    pub argument_count: c_int,
    /// `SQLITE_DETERMINISTIC` and other `SQLITE_*` flags.
    pub flags: c_int,
    /// `abi::FUNCTION_*`.
    pub kind: i64,
}

/// A function as bytecode listings show it: the name in lower case, then the number of arguments.
fn shown(signature: &Signature<'_>) -> Result<Box<[u8]>> {
    let count = format!("({})", signature.argument_count);
    let mut shown = joined(&[signature.name, count.as_bytes()])?;
    shown.make_ascii_lowercase();
    Ok(shown.into())
}

type Method = unsafe extern "C" fn(*mut ffi::sqlite3_context, c_int, *mut *mut ffi::sqlite3_value);
type Ending = unsafe extern "C" fn(*mut ffi::sqlite3_context);

/// The functions SQLite calls for one kind.
#[derive(Default)]
struct Methods {
    scalar: Option<Method>,
    step: Option<Method>,
    finalize: Option<Ending>,
    value: Option<Ending>,
    inverse: Option<Method>,
}

impl Methods {
    fn of(kind: i64) -> Self {
        let scalar = Self {
            scalar: Some(scalar),
            ..Self::default()
        };
        let aggregate = Self {
            step: Some(step),
            finalize: Some(finalize),
            ..Self::default()
        };
        match kind {
            abi::FUNCTION_SCALAR => scalar,
            abi::FUNCTION_AGGREGATE => aggregate,
            _ => Self {
                value: Some(value),
                inverse: Some(inverse),
                ..aggregate
            },
        }
    }
}

/// Defines a function, or removes it without a handle.
///
/// # Safety
/// `callbacks` lives, where it is, until `db` is closed.
pub unsafe fn define(
    db: *mut ffi::sqlite3,
    callbacks: &Callbacks,
    handle: Option<Handle>,
    signature: &Signature<'_>,
) -> Result<()> {
    let name = c_string(signature.name)?;
    let methods = match handle {
        Some(_) => Methods::of(signature.kind),
        None => Methods::default(),
    };
    let (context, destroy): (*mut c_void, Option<unsafe extern "C" fn(*mut c_void)>) = match handle
    {
        Some(handle) => {
            let function = defined(callbacks, handle, signature)?;
            (Box::into_raw(Box::new(function)).cast(), Some(forget))
        }
        None => (core::ptr::null_mut(), None),
    };
    let flags = ffi::SQLITE_UTF8 | signature.flags;
    let (db, name, count) = (db, name.as_ptr(), signature.argument_count);
    // SAFETY: SQLite owns `context` from here on, and passes it to `forget` even if it rejects the function.
    let code = unsafe {
        if signature.kind == abi::FUNCTION_WINDOW {
            ffi::sqlite3_create_window_function(
                db,
                name,
                count,
                flags,
                context,
                methods.step,
                methods.finalize,
                methods.value,
                methods.inverse,
                destroy,
            )
        } else {
            ffi::sqlite3_create_function_v2(
                db,
                name,
                count,
                flags,
                context,
                methods.scalar,
                methods.step,
                methods.finalize,
                destroy,
            )
        }
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        ffi::SQLITE_MISUSE => Err(refused(signature.kind)),
        _ => Err(Error::last(db)),
    }
}

fn defined(callbacks: &Callbacks, handle: Handle, signature: &Signature<'_>) -> Result<Function> {
    let is_deterministic = signature.flags & ffi::SQLITE_DETERMINISTIC != 0;
    let signature = shown(signature)?;
    Ok(Function {
        handle: Rc::new(handle),
        callbacks,
        number: callbacks.deferral.define(signature, is_deterministic)?,
    })
}

/// SQLite reports only that the name or the number of arguments is invalid.
fn refused(kind: i64) -> Error {
    let message = match kind {
        abi::FUNCTION_SCALAR => "Error creating function",
        abi::FUNCTION_AGGREGATE => "Error creating aggregate",
        _ => return Error::programming("bad parameter or other API misuse"),
    };
    Error::new(abi::ERROR_SQLITE, ffi::SQLITE_ERROR, message)
}

/// # Safety
/// SQLite calls it once, with the context of a function that it does not call any more.
unsafe extern "C" fn forget(context: *mut c_void) {
    // SAFETY: made by `define` of a box.
    let function = unsafe { Box::from_raw(context.cast::<Function>()) };
    // SAFETY: the callbacks outlive the connection, which calls this.
    unsafe { (*function.callbacks).deferral.forget(function.number) };
}

unsafe extern "C" fn scalar(
    context: *mut ffi::sqlite3_context,
    count: c_int,
    values: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite's arguments, passed on.
    unsafe {
        let function = function_of(context);
        let callbacks = &*function.callbacks;
        if callbacks.is_cancelled() {
            // SQLite itself notices only after hundreds of calls.
            SCALAR.put(context, INTERRUPTED);
            return;
        }
        let values = (values, count);
        let called = callbacks
            .deferral
            .call(callbacks, function, context, values)
            .unwrap_or_else(|| {
                let receive = |value: Value<'_>| put_result(context, value);
                callbacks.call_function(&function.handle, values, receive)
            });
        if let Err(failed) = called {
            SCALAR.put(context, failed);
        }
    }
}
