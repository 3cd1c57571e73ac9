//! Aggregates and window functions: SQLite stores the handle of an instance for each group of rows.
//! <https://sqlite.org/c3ref/aggregate_context.html>, <https://sqlite.org/windowfunctions.html#udfwinfunc>

use core::ffi::c_int;

use libsqlite3_sys as ffi;

use super::calls::{Messages, STEP, callbacks_of, function_of, put_result};
use super::{Callee, During, Failure, INTERRUPTED, NOTHING};
use crate::abi;
use crate::wire::params::Value;

const VALUE: Messages = Messages {
    raised: c"user-defined aggregate's 'value' method raised error",
    no_method: c"user-defined aggregate's 'value' method not defined",
};
const FINALIZE: Messages = Messages {
    raised: c"user-defined aggregate's 'finalize' method raised error",
    no_method: c"user-defined aggregate's 'finalize' method not defined",
};
const NEW: Messages = Messages::of(c"user-defined aggregate's '__init__' method raised error");

pub unsafe extern "C" fn step(
    context: *mut ffi::sqlite3_context,
    count: c_int,
    values: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite's arguments are passed on; the instance's handle is read and written in between.
    unsafe {
        if let Some(instance) = instance(context) {
            take_step(context, i64::from(*instance), count, values);
        }
    }
}

pub unsafe extern "C" fn inverse(
    context: *mut ffi::sqlite3_context,
    count: c_int,
    values: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite's arguments, passed on.
    unsafe {
        let handle = started_instance(context);
        if handle != 0 {
            take_step(context, -i64::from(handle), count, values);
        }
    }
}

/// # Safety
/// `context`, `count` and `values` are what SQLite passed to a method of an aggregate.
unsafe fn take_step(
    context: *mut ffi::sqlite3_context,
    handle: i64,
    count: c_int,
    values: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let callbacks = callbacks_of(context);
        let stepped = callbacks.deferral.step(callbacks, handle, (values, count));
        if let Err(failed) = stepped {
            STEP.put(context, failed);
        }
    }
}

pub unsafe extern "C" fn value(context: *mut ffi::sqlite3_context) {
    // SAFETY: SQLite's argument, passed on.
    unsafe {
        if callbacks_of(context).is_cancelled() {
            VALUE.put(context, INTERRUPTED); // as for a scalar function
            return;
        }
        answer(context, abi::CALLBACK_VALUE, &VALUE);
    }
}

/// Called once for every instance, even after its statement failed.
pub unsafe extern "C" fn finalize(context: *mut ffi::sqlite3_context) {
    // SAFETY: SQLite's argument, passed on.
    unsafe { answer(context, abi::CALLBACK_FINALIZE, &FINALIZE) }
}

/// Has the host run the deferred steps and then answer.
///
/// # Safety
/// `context` is what SQLite passed to a method of an aggregate.
unsafe fn answer(context: *mut ffi::sqlite3_context, kind: i32, messages: &Messages) {
    // SAFETY: the caller's promise.
    unsafe {
        let handle = started_instance(context);
        if handle == 0 {
            return;
        }
        let receive = |value: Value<'_>| put_result(context, value);
        let result = callbacks_of(context).call_with_steps(Callee::new(kind, handle), receive);
        if let Err(failed) = result {
            messages.put(context, failed);
        }
    }
}

/// Where the handle of the running aggregate's instance is stored; creates the instance if there is none. `None`
/// after an error.
///
/// # Safety
/// `context` belongs to an aggregate's step.
unsafe fn instance<'a>(context: *mut ffi::sqlite3_context) -> Option<&'a mut u32> {
    // SAFETY: the caller's promise; SQLite zeroes the memory, aligns it to 8 bytes and frees it itself.
    unsafe {
        let instance =
            ffi::sqlite3_aggregate_context(context, size_of::<u32>() as c_int).cast::<u32>();
        let Some(instance) = instance.as_mut() else {
            ffi::sqlite3_result_error_nomem(context);
            return None;
        };
        if *instance == 0 {
            let function = function_of(context);
            let maker = function.handle.callee(abi::CALLBACK_NEW);
            let callbacks = &*function.callbacks;
            let number = |value: Value<'_>| match value {
                Value::Integer(handle) => u32::try_from(handle).unwrap_or(0),
                _ => 0,
            };
            match callbacks.call_with(maker, NOTHING, number) {
                Ok(handle) if handle != 0 => *instance = handle,
                Ok(_) => NEW.put(context, (Failure::Raised, During::Call)),
                Err(failed) => NEW.put(context, failed),
            }
        }
        (*instance != 0).then_some(instance)
    }
}

/// The handle of the running aggregate's instance, 0 if it was never stepped or could not be created.
///
/// # Safety
/// `context` belongs to an aggregate.
unsafe fn started_instance(context: *mut ffi::sqlite3_context) -> u32 {
    // SAFETY: the caller's promise; a size of 0 allocates nothing.
    unsafe {
        let instance = ffi::sqlite3_aggregate_context(context, 0).cast::<u32>();
        instance.as_ref().copied().unwrap_or(0)
    }
}
