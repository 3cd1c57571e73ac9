//! Aggregates and window functions: SQLite keeps the handle of an instance for each group of rows.

use core::ffi::c_int;

use libsqlite3_sys as ffi;

use super::Failure;
use super::calls::{Messages, NO_VALUES, answer, call};
use super::functions::{callbacks_of, function_of};
use crate::abi;
use crate::wire::params::Value;

pub unsafe extern "C" fn step(
    context: *mut ffi::sqlite3_context,
    count: c_int,
    values: *mut *mut ffi::sqlite3_value,
) {
    const MESSAGES: Messages = Messages {
        raised: c"user-defined aggregate's 'step' method raised error",
        no_method: c"user-defined aggregate's 'step' method not defined",
    };
    // SAFETY: SQLite's arguments, passed on; the instance's handle is read and written in between.
    unsafe {
        let Some(instance) = instance(context) else {
            return;
        };
        let handle = *instance;
        call(
            callbacks_of(context),
            context,
            abi::CALLBACK_STEP,
            handle,
            (values, count),
            &MESSAGES,
        );
    }
}

pub unsafe extern "C" fn inverse(
    context: *mut ffi::sqlite3_context,
    count: c_int,
    values: *mut *mut ffi::sqlite3_value,
) {
    const MESSAGES: Messages = Messages {
        raised: c"user-defined aggregate's 'inverse' method raised error",
        no_method: c"user-defined aggregate's 'inverse' method not defined",
    };
    // SAFETY: SQLite's arguments, passed on.
    unsafe {
        let handle = started_instance(context);
        if handle != 0 {
            call(
                callbacks_of(context),
                context,
                abi::CALLBACK_INVERSE,
                handle,
                (values, count),
                &MESSAGES,
            );
        }
    }
}

pub unsafe extern "C" fn value(context: *mut ffi::sqlite3_context) {
    const MESSAGES: Messages = Messages {
        raised: c"user-defined aggregate's 'value' method raised error",
        no_method: c"user-defined aggregate's 'value' method not defined",
    };
    // SAFETY: SQLite's argument, passed on.
    unsafe {
        let handle = started_instance(context);
        if handle != 0 {
            answer(
                callbacks_of(context),
                context,
                abi::CALLBACK_VALUE,
                handle,
                NO_VALUES,
                &MESSAGES,
            );
        }
    }
}

/// Called once for every instance, also for one whose statement failed.
pub unsafe extern "C" fn finalize(context: *mut ffi::sqlite3_context) {
    const MESSAGES: Messages = Messages {
        raised: c"user-defined aggregate's 'finalize' method raised error",
        no_method: c"user-defined aggregate's 'finalize' method not defined",
    };
    // SAFETY: SQLite's argument, passed on.
    unsafe {
        let handle = started_instance(context);
        if handle != 0 {
            answer(
                callbacks_of(context),
                context,
                abi::CALLBACK_FINALIZE,
                handle,
                NO_VALUES,
                &MESSAGES,
            );
        }
    }
}

/// Where the handle of the running aggregate's instance stands, made if there is none; `None` after an error.
///
/// # Safety
/// `context` is that of an aggregate's step.
unsafe fn instance<'a>(context: *mut ffi::sqlite3_context) -> Option<&'a mut u32> {
    const MESSAGES: Messages =
        Messages::of(c"user-defined aggregate's '__init__' method raised error");
    // SAFETY: the caller's promise; SQLite zeroes the memory, aligns it to 8 bytes and frees it itself.
    unsafe {
        let place =
            ffi::sqlite3_aggregate_context(context, size_of::<u32>() as c_int).cast::<u32>();
        let Some(place) = place.as_mut() else {
            ffi::sqlite3_result_error_nomem(context);
            return None;
        };
        if *place == 0 {
            let function = function_of(context);
            let handle = function.handle.number();
            let made = (*function.callbacks).call(
                abi::CALLBACK_NEW,
                handle,
                |out| out.array(0),
                |value| match value {
                    Value::Integer(handle) => u32::try_from(handle).unwrap_or(0),
                    _ => 0,
                },
            );
            match made {
                Ok(handle) if handle != 0 => *place = handle,
                Ok(_) => MESSAGES.put(context, Failure::Raised),
                Err(failure) => MESSAGES.put(context, failure),
            }
        }
        (*place != 0).then_some(place)
    }
}

/// The handle of the running aggregate's instance, 0 if it was never stepped or could not be made.
///
/// # Safety
/// `context` is that of an aggregate.
unsafe fn started_instance(context: *mut ffi::sqlite3_context) -> u32 {
    // SAFETY: the caller's promise; a size of 0 makes nothing.
    unsafe {
        let place = ffi::sqlite3_aggregate_context(context, 0).cast::<u32>();
        place.as_ref().copied().unwrap_or(0)
    }
}
